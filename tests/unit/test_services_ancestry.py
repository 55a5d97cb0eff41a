"""After a promotion nothing of the timelines before it is left out, and nothing foreign joined."""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.fix_tail import FaultyStorage, Host
from walkeeper.core.layout import wal_object
from walkeeper.core.wal import WalSegment
from walkeeper.errors import ForeignCluster, PostgresError, StorageUnavailable
from walkeeper.repository.archive import Archive

FIRST = WalSegment(1, 0, 3)


def promote(host: Host) -> None:
    """PostgreSQL copies the segment of the fork and writes a history."""
    old = host.segment
    path = host.pg_wal / str(old)
    shutil.copy(path, host.pg_wal / str(old.on(host.timeline + 1)))
    path.rename(f"{path}.partial")
    history = host.pg_wal / f"{host.timeline:08X}.history"
    before = history.read_text() + "\n" if history.exists() else ""
    host.timeline += 1
    line = f"{before}{host.timeline - 1}\t{host.position.flushed}\tno recovery target specified\n"
    (host.pg_wal / f"{host.timeline:08X}.history").write_text(line)


async def test_what_the_old_primary_did_not_get_to_is_found(
    host: Host, tail_archive: Archive, pool: ThreadPoolExecutor
) -> None:
    host.write(4 * (1 << 20))
    await host.archive_segment(tail_archive, FIRST)
    promote(host)
    host.write(1000)
    missing = (await host.check(tail_archive, pool)).missing
    assert missing == tuple(WalSegment(1, 0, number) for number in (4, 5, 6))
    for segment in missing:
        await host.archive_segment(tail_archive, segment)
    assert (await host.check(tail_archive, pool)).missing == ()


async def test_every_timeline_on_the_path_counts_as_far_as_the_path_goes(
    host: Host, tail_archive: Archive, pool: ThreadPoolExecutor
) -> None:
    host.write(2 * (1 << 20))
    promote(host)
    host.write(2 * (1 << 20))
    promote(host)
    host.write(1000)
    stray = host.pg_wal / str(WalSegment(1, 0, 9))
    stray.write_bytes(host.content(host.segment))
    missing = (await host.check(tail_archive, pool)).missing
    assert [str(segment) for segment in missing] == [
        "000000010000000000000003",
        "000000010000000000000004",
        "000000020000000000000005",
        "000000020000000000000006",
    ]


async def test_a_server_whose_ancestors_are_not_the_archives_is_refused_on_a_new_timeline_too(
    host: Host, tail_archive: Archive, pool: ThreadPoolExecutor, tmp_path: Path
) -> None:
    host.write(1000)
    copy = host.copy(tmp_path / "copy")
    host.write(3 * (1 << 20))
    await host.archive_segment(tail_archive, FIRST)
    copy.write(3 * (1 << 20))
    promote(copy)
    copy.write(1000)
    with pytest.raises(ForeignCluster, match=f"other bytes than pg_wal/{FIRST}"):
        await copy.check(tail_archive, pool)


async def test_a_damaged_ancestor_does_not_stop_the_archiving_and_an_older_one_is_compared(
    host: Host,
    tail_archive: Archive,
    faulty: FaultyStorage,
    pool: ThreadPoolExecutor,
    tmp_path: Path,
) -> None:
    host.write(1000)
    copy = host.copy(tmp_path / "copy")
    host.write(3 * (1 << 20))
    for segment in (FIRST, FIRST.next(host.size)):
        await host.archive_segment(tail_archive, segment)
    faulty.spoil(tail_archive.path(wal_object(FIRST.next(host.size))))
    copy.write(3 * (1 << 20))
    for server in (host, copy):
        promote(server)
        server.write(1000)
    await host.check(tail_archive, pool)
    with pytest.raises(ForeignCluster, match=f"other bytes than pg_wal/{FIRST}"):
        await copy.check(tail_archive, pool)


async def test_a_copy_that_forks_where_the_archive_has_the_same_bytes_is_a_branch(
    host: Host, tail_archive: Archive, pool: ThreadPoolExecutor, tmp_path: Path
) -> None:
    host.write(2 * (1 << 20))
    copy = host.copy(tmp_path / "copy")
    host.write(3 * (1 << 20))
    for number in range(3, 8):
        await host.archive_segment(tail_archive, WalSegment(1, 0, number))
    promote(copy)
    copy.write(1000)
    assert (await copy.check(tail_archive, pool)).missing == ()


async def test_a_history_that_cannot_be_read_is_said(
    host: Host, tail_archive: Archive, pool: ThreadPoolExecutor
) -> None:
    host.write(1000)
    promote(host)
    (host.pg_wal / "00000002.history").write_text("nonsense\n")
    with pytest.raises(PostgresError, match="not understood"):
        await host.check(tail_archive, pool)


async def test_a_store_that_does_not_answer_does_not_mean_that_nothing_is_there(
    host: Host, tail_archive: Archive, faulty: FaultyStorage, pool: ThreadPoolExecutor
) -> None:
    host.write(2 * (1 << 20))
    promote(host)
    host.write(1000)
    faulty.down = True
    with pytest.raises(StorageUnavailable):
        await host.check(tail_archive, pool)
