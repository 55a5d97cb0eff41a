"""archive_status is read as PostgreSQL's archiver reads it."""

import asyncio
import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing

import pytest
import watchfiles

from walkeeper.core.wal import TimelineHistoryFile, WalSegment, parse_wal_file
from walkeeper.errors import PostgresError
from walkeeper.postgres.wal_dir import WalDirectory, scan_wal_directory


@pytest.fixture
def wal_dir(tmp_path):
    path = tmp_path / "pg_wal"
    (path / "archive_status").mkdir(parents=True)
    return path


@pytest.fixture
def directory(wal_dir):
    with ThreadPoolExecutor(1) as executor:
        yield WalDirectory(wal_dir, executor)


def mark(wal_dir, *names):
    for name in names:
        (wal_dir / "archive_status" / name).touch()


def test_histories_come_first_then_the_oldest_segment(wal_dir):
    names = [
        "000000020000000000000003",
        "000000010000000000000003.partial",
        "000000010000000000000002.00000028.backup",
        "000000010000000000000002",
        "00000003.history",
        "00000002.history",
        "0000000100000000000000FF",
    ]
    mark(wal_dir, *(f"{name}.ready" for name in names))

    scan = scan_wal_directory(wal_dir)

    assert [str(file) for file in scan.ready] == [
        "00000002.history",
        "00000003.history",
        "000000010000000000000002",
        "000000010000000000000002.00000028.backup",
        "000000010000000000000003.partial",
        "0000000100000000000000FF",
        "000000020000000000000003",
    ]


def test_done_strange_and_other_files_are_told_apart(wal_dir):
    mark(wal_dir, "000000010000000000000001.done", "RECOVERYXLOG.ready", "x.tmp", "README")
    (wal_dir / "00000002.history").touch()
    (wal_dir / "000000010000000000000001").touch()

    scan = scan_wal_directory(wal_dir)

    assert scan.ready == ()
    assert scan.done == {WalSegment.parse("000000010000000000000001")}
    assert scan.history == (TimelineHistoryFile(2),)
    assert scan.strange == ("RECOVERYXLOG",)


async def test_a_directory_that_cannot_be_read_is_not_an_empty_one(directory, wal_dir):
    (wal_dir / "archive_status").rmdir()
    with pytest.raises(PostgresError, match="archive_status"):
        await directory.scan()
    wal_dir.rmdir()
    with pytest.raises(PostgresError):
        await directory.identity()


async def test_a_file_is_the_same_until_it_is_written_or_replaced(directory, wal_dir):
    segment = parse_wal_file("000000010000000000000001")
    assert await directory.find_identity(segment) is None
    path = wal_dir / str(segment)
    path.write_bytes(b"one")
    first = await directory.find_identity(segment)
    assert await directory.find_identity(segment) == first

    other = wal_dir / "other"
    other.write_bytes(b"one")
    os.utime(other, ns=(first.mtime_ns, first.mtime_ns))
    other.rename(path)

    assert await directory.find_identity(segment) != first


async def test_a_link_and_what_it_leads_to_are_one_directory(directory, wal_dir, tmp_path):
    link = tmp_path / "link"
    link.symlink_to(wal_dir)
    with ThreadPoolExecutor(1) as executor:
        linked = WalDirectory(link, executor)
        assert await linked.identity() == await directory.identity()
        mark(wal_dir, "00000002.history.ready")
        assert (await linked.scan()).ready == (TimelineHistoryFile(2),)


async def test_a_new_ready_file_wakes_at_once(directory, wal_dir):
    async with aclosing(directory.watch(poll_interval_s=30)) as watch:
        waiting = asyncio.ensure_future(anext(watch))
        await asyncio.sleep(0.3)
        assert not waiting.done()
        mark(wal_dir, "00000002.history.ready")
        async with asyncio.timeout(5):
            await waiting


async def test_without_events_the_interval_wakes(directory):
    async with asyncio.timeout(10), aclosing(directory.watch(poll_interval_s=0.2)) as watch:
        for _ in range(3):
            await anext(watch)


async def test_where_changes_cannot_be_watched_the_interval_remains(
    directory, wal_dir, monkeypatch
):
    async def no_inotify(*paths, **options):
        raise OSError(28, "inotify watch limit reached")
        yield

    monkeypatch.setattr(watchfiles, "awatch", no_inotify)
    pauses = []

    async def sleep(seconds):
        pauses.append(seconds)

    async with aclosing(directory.watch(poll_interval_s=7, sleep=sleep)) as watch:
        for _ in range(3):
            await anext(watch)
    assert pauses == [7, 7, 7]


async def test_a_directory_that_does_not_exist_yet_is_polled(directory, wal_dir):
    (wal_dir / "archive_status").rmdir()
    async with asyncio.timeout(10), aclosing(directory.watch(poll_interval_s=0.1)) as watch:
        for _ in range(3):
            await anext(watch)


async def test_the_watch_can_be_cancelled(directory):
    async def follow():
        async with aclosing(directory.watch(poll_interval_s=60)) as watch:
            async for _ in watch:
                pass

    task = asyncio.create_task(follow())
    await asyncio.sleep(0.2)
    task.cancel()
    async with asyncio.timeout(5):
        with pytest.raises(asyncio.CancelledError):
            await task
