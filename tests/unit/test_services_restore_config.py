"""The small decisions around a restored directory: room, owners, mappings, least settings."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from tests.fix_core_plan import full_backup
from walkeeper.core.backup import Manifest, PartRecord, RestoreSettings, TablespaceRecord
from walkeeper.core.backup_id import BackupId
from walkeeper.core.layout import BackupPart
from walkeeper.errors import RecoveryError, StorageFull, UsageError
from walkeeper.services.restore_config import directory_mode, too_low
from walkeeper.services.restore_target import (
    UNFINISHED_FILE,
    Destination,
    FileOwner,
    choose_destination,
    map_tablespaces,
    measure_room,
    require_room,
)
from walkeeper.services.restore_write import write_file

LEAST = {
    "max_connections": 200,
    "max_worker_processes": 8,
    "max_wal_senders": 10,
    "max_prepared_transactions": 5,
    "max_locks_per_transaction": 64,
}
SETTINGS = RestoreSettings(
    max_connections=200,
    max_worker_processes=8,
    max_wal_senders=10,
    max_prepared_xacts=5,
    max_locks_per_xact=64,
    data_directory_mode=0o700,
)


def test_settings_are_raised_only_where_the_directory_leaves_them_too_low() -> None:
    assert too_low("", LEAST) == {"max_connections": 200, "max_prepared_transactions": 5}
    conf = "max_connections = 300 # many\nMAX_PREPARED_TRANSACTIONS '9'\n"
    assert too_low(conf, LEAST) == {}
    assert too_low(conf + "max_connections=20\n", LEAST) == {"max_connections": 200}


def test_a_data_directory_gets_one_of_the_two_modes_that_postgresql_takes() -> None:
    modes = {
        given: directory_mode(msgspec.structs.replace(SETTINGS, data_directory_mode=given))
        for given in (0o700, 0o750, 0o755, 0o1700)
    }
    assert modes == {0o700: 0o700, 0o750: 0o750, 0o755: 0o750, 0o1700: 0o700}


def facts_with(*tablespaces: tuple[int, str]):
    return msgspec.structs.replace(
        full_backup(1, 1, 2),
        tablespaces=tuple(TablespaceRecord(oid, location) for oid, location in tablespaces),
    )


def test_tablespaces_are_moved_by_location_or_by_oid() -> None:
    facts = facts_with((16400, "/srv/a"), (16401, "/srv/b"))
    moved = map_tablespaces(facts, [("/srv/a", "/new/a"), ("16401", "/new/b/")])
    assert [(space.oid, space.location) for space in moved.tablespaces] == [
        (16400, "/new/a"),
        (16401, "/new/b"),
    ]


@pytest.mark.parametrize(
    ("mapping", "said"),
    [
        ([("/srv/x", "/new")], "no tablespace of this backup lies at"),
        ([("/srv/a", "new")], "absolute path"),
        ([("/srv/a", "/new"), ("16400", "/newer")], "twice"),
        ([("/srv/a", "/srv/b/inside")], "share the directory"),
    ],
)
def test_a_mapping_without_a_meaning_is_refused(mapping: list[tuple[str, str]], said: str) -> None:
    facts = facts_with((16400, "/srv/a"), (16401, "/srv/b"))
    with pytest.raises(UsageError, match=said):
        map_tablespaces(facts, mapping)


def test_directories_must_be_absent_or_empty_and_never_in_each_other(tmp_path: Path) -> None:
    data, space = tmp_path / "data", tmp_path / "space"
    facts = facts_with((16400, str(space)))
    assert choose_destination(data, facts, []).roots == (data, space)
    data.mkdir()
    assert choose_destination(data, facts, []).data_dir == data

    with pytest.raises(UsageError, match="would lie in each other"):
        choose_destination(data, facts, [("16400", str(data / "inside"))])
    with pytest.raises(UsageError, match="would lie in each other"):
        choose_destination(space / "inside", facts, [])
    (tmp_path / "link").symlink_to(data)
    with pytest.raises(UsageError, match="would lie in each other"):
        choose_destination(data, facts, [("16400", str(tmp_path / "link" / "x"))])
    (data / "file").touch()
    with pytest.raises(RecoveryError, match="is not empty: file is in it"):
        choose_destination(data, facts, [])
    (data / UNFINISHED_FILE).touch()
    with pytest.raises(RecoveryError, match="an unfinished restore lies in"):
        choose_destination(data, facts, [])


def test_what_does_not_fit_is_refused_with_figures(tmp_path: Path) -> None:
    backup = BackupId.parse(full_backup(1, 1, 2).id)
    part = PartRecord(
        number=1,
        stored_bytes=1,
        stored_sha256="0" * 64,
        list_name=BackupPart(backup, None, 1).files_name,
        list_bytes=1,
        list_sha256="0" * 64,
        size_bytes=1 << 60,
        files=1,
    )
    manifest = Manifest(facts=full_backup(1, 1, 2), parts=(part,), settings=SETTINGS)
    there = Destination(tmp_path / "absent" / "data", {}, FileOwner("me"))

    (volume,) = measure_room(there, manifest, wal_bytes=5 << 40)

    assert volume.path == tmp_path
    assert volume.needed_bytes == (1 << 60) + (1 << 30)  # WAL takes turns in pg_wal
    with pytest.raises(StorageFull, match=f"needs {volume.needed_bytes} bytes"):
        require_room([volume])


def test_a_file_is_replaced_as_a_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "conf"
    write_file(path, [b"a", b"b"], FileOwner("me"))

    def broken():
        yield b"c"
        raise RecoveryError("in the middle")

    with pytest.raises(RecoveryError, match="in the middle"):
        write_file(path, broken(), FileOwner("me"))
    assert path.read_bytes() == b"ab"
    assert path.stat().st_mode & 0o777 == 0o600
