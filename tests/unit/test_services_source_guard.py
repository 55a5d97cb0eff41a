"""Which servers may archive at all, by what they say about themselves."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.fix_archive import ONE_MIB
from walkeeper.core.wal import SegmentSize
from walkeeper.errors import ForeignCluster, PostgresError
from walkeeper.postgres.facts import ServerFacts
from walkeeper.repository.records import FORMAT_VERSION, SOURCE_POSTGRESQL, ArchiveRecord
from walkeeper.services.source_guard import Verified, _find_change, _with_local_start
from walkeeper.services.source_rules import require_source

NOW = datetime(2026, 1, 1, tzinfo=UTC)
FACTS = ServerFacts(
    version_num=150020,
    system_identifier=7_000_000_000_000_000_001,
    data_directory=Path("/data"),
    config_file=Path("/data/postgresql.conf"),
    hba_file=Path("/data/pg_hba.conf"),
    ident_file=Path("/data/pg_ident.conf"),
    in_recovery=False,
    postmaster_started_at=NOW,
    timeline=1,
    archive_mode="on",
    archive_command="/usr/bin/walkeeper wal-push %p",
    archive_library="",
    archive_timeout=timedelta(seconds=60),
    wal_level="replica",
    max_wal_senders=10,
    segment_size=ONE_MIB,
    block_size=8192,
    data_checksums=True,
)
RECORD = ArchiveRecord(
    name="archive.json",
    archive="a" * 32,
    label="x",
    source=SOURCE_POSTGRESQL,
    system_identifier="7000000000000000001",
    segment_size=ONE_MIB.bytes,
    format=FORMAT_VERSION,
    created=NOW,
)


@pytest.mark.parametrize("mode", ["on", "always"])
def test_the_archives_own_server_may_write(mode: str) -> None:
    require_source(replace(FACTS, archive_mode=mode), RECORD)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"system_identifier": 7_000_000_000_000_000_002}, "belongs to the cluster 70000000000"),
        ({"segment_size": SegmentSize(16 << 20)}, "the server writes 16777216"),
    ],
)
def test_another_cluster_may_not(changes: dict[str, object], reason: str) -> None:
    with pytest.raises(ForeignCluster, match=reason):
        require_source(replace(FACTS, **changes), RECORD)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"archive_mode": "off"}, "archive_mode is off"),
        ({"archive_library": "basic_archive"}, "archive_library is 'basic_archive'"),
        ({"archive_command": "cp %p /elsewhere/%f"}, "not walkeeper's wal-push"),
        ({"archive_command": "walkeeper-old push %p"}, "not walkeeper's wal-push"),
        ({"archive_command": ""}, "not walkeeper's wal-push"),
        ({"wal_level": "minimal"}, "wal_level is minimal"),
    ],
)
def test_a_server_that_does_not_archive_through_the_hook_may_not(
    changes: dict[str, object], reason: str
) -> None:
    with pytest.raises(PostgresError, match=reason):
        require_source(replace(FACTS, **changes), RECORD)


def test_what_was_found_of_a_directory_does_not_hold_for_another_one(tmp_path: Path) -> None:
    """A directory may be replaced under its name while no server runs on it."""
    data = tmp_path / "data"
    (data / "pg_wal").mkdir(parents=True)
    (data / "postmaster.pid").write_text(f"1\n{data}\n{int(NOW.timestamp())}\n")
    found = _with_local_start(Verified(FACTS, data, NOW))
    assert _find_change(found) is None
    (data / "postmaster.pid").unlink()
    assert _find_change(found) is None  # its archiver may be in its last cycle
    data.rename(tmp_path / "before")
    (data / "pg_wal").mkdir(parents=True)
    assert "another directory" in str(_find_change(found))
