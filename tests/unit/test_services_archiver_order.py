"""What must be durable before anything of the growing segment may be stored."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.fix_archive import ONE_MIB
from walkeeper.core.wal import TimelineHistoryFile, WalFile, WalSegment
from walkeeper.errors import StorageUnavailable
from walkeeper.postgres.wal_dir import FileIdentity, WalDirectory
from walkeeper.services.archiver import Archiver

CURRENT = WalSegment(1, 0, 5)


class Uploads:
    """Takes what it is given, or fails while it is down."""

    def __init__(self) -> None:
        self.down = True
        self.stored: list[str] = []

    async def __call__(self, wal: WalFile, identity: FileIdentity) -> None:
        if self.down:
            raise StorageUnavailable("the store is down")
        self.stored.append(str(wal))


def mark(pg_wal: Path, wal: WalFile, status: str = "ready") -> None:
    (pg_wal / str(wal)).write_bytes(b"wal")
    if status:
        (pg_wal / "archive_status" / f"{wal}.{status}").touch()


@pytest.fixture
def pg_wal(tmp_path: Path) -> Path:
    path = tmp_path / "pg_wal"
    (path / "archive_status").mkdir(parents=True)
    mark(path, CURRENT, "")
    return path


@pytest.fixture
def uploads() -> Uploads:
    return Uploads()


@asynccontextmanager
async def running(
    pg_wal: Path, uploads: Uploads, pool: ThreadPoolExecutor, *, allowed: bool = True
) -> AsyncIterator[Archiver]:
    now = 0.0

    def clock() -> float:
        nonlocal now
        now += 10.0  # nothing rests
        return now

    async def may_write() -> bool:
        return allowed

    archiver = Archiver(
        WalDirectory(pg_wal, pool),
        uploads,
        size=ONE_MIB,
        uploads=4,
        allowed=may_write,
        now=clock,
    )
    async with asyncio.TaskGroup() as group:
        task = group.create_task(archiver.run())
        await asyncio.sleep(0)
        yield archiver
        task.cancel()


async def settled(archiver: Archiver) -> None:
    async with asyncio.timeout(10):
        while await archiver.find_unsettled(CURRENT) is not None:
            await asyncio.sleep(0.01)


@pytest.mark.parametrize(
    "files",
    [
        [WalSegment(1, 0, 4)],
        [WalSegment(1, 0, 2), WalSegment(1, 0, 4)],
        [WalSegment(1, 0, 3), WalSegment(2, 0, 2)],
        [TimelineHistoryFile(2)],
        [TimelineHistoryFile(2), WalSegment(1, 0, 4)],
    ],
    ids=lambda files: ", ".join(map(str, files)),
)
async def test_older_segments_and_histories_must_be_durable_first(
    pg_wal: Path, uploads: Uploads, pool: ThreadPoolExecutor, files: list[WalFile]
) -> None:
    for wal in files:
        mark(pg_wal, wal)
    oldest = min(files, key=lambda wal: (isinstance(wal, WalSegment), getattr(wal, "seg", 0)))
    async with running(pg_wal, uploads, pool) as archiver:
        assert await archiver.find_unsettled(CURRENT) == oldest
        uploads.down = False
        await settled(archiver)
    assert set(uploads.stored) == {str(wal) for wal in files}


async def test_a_history_that_is_done_but_was_never_sent_counts(
    pg_wal: Path, uploads: Uploads, pool: ThreadPoolExecutor
) -> None:
    mark(pg_wal, TimelineHistoryFile(2), "done")
    async with running(pg_wal, uploads, pool) as archiver:
        assert await archiver.find_unsettled(CURRENT) == TimelineHistoryFile(2)
        uploads.down = False
        await settled(archiver)


async def test_the_segment_itself_and_later_ones_do_not_matter(
    pg_wal: Path, uploads: Uploads, pool: ThreadPoolExecutor
) -> None:
    mark(pg_wal, WalSegment(1, 0, 4), "done")
    mark(pg_wal, CURRENT)
    mark(pg_wal, WalSegment(1, 0, 6))
    async with running(pg_wal, uploads, pool) as archiver:
        assert await archiver.find_unsettled(CURRENT) is None


async def test_a_segment_that_a_crash_left_without_a_mark_is_sent_and_waited_for(
    pg_wal: Path, uploads: Uploads, pool: ThreadPoolExecutor
) -> None:
    mark(pg_wal, WalSegment(1, 0, 4), "")
    async with running(pg_wal, uploads, pool) as archiver:
        for _ in range(3):
            assert await archiver.find_unsettled(CURRENT) == WalSegment(1, 0, 4)
            await asyncio.sleep(0.02)
        uploads.down = False
        await settled(archiver)
        for _ in range(3):
            archiver._wake.set()  # a look ahead, which forgets what is not marked
            await asyncio.sleep(0.02)
            assert await archiver.find_unsettled(CURRENT) is None
    assert uploads.stored == ["000000010000000000000004"]


async def test_nothing_is_sent_that_is_not_allowed(
    pg_wal: Path, uploads: Uploads, pool: ThreadPoolExecutor
) -> None:
    mark(pg_wal, WalSegment(1, 0, 4), "")
    uploads.down = False
    async with running(pg_wal, uploads, pool, allowed=False) as archiver:
        assert await archiver.find_unsettled(CURRENT) == WalSegment(1, 0, 4)
        await asyncio.sleep(0.02)
    assert uploads.stored == []


async def test_expected_segments_are_sent_although_they_are_marked_done(
    pg_wal: Path, uploads: Uploads, pool: ThreadPoolExecutor
) -> None:
    older, gone = WalSegment(1, 0, 2), WalSegment(1, 0, 3)
    mark(pg_wal, older, "done")
    async with running(pg_wal, uploads, pool) as archiver:
        archiver.expect([older, gone])
        assert await archiver.find_unsettled(CURRENT) == older
        uploads.down = False
        await settled(archiver)
    assert uploads.stored == [str(older)]


async def test_an_expected_segment_that_postgresql_has_removed_is_not_waited_for(
    pg_wal: Path, uploads: Uploads, pool: ThreadPoolExecutor
) -> None:
    older = WalSegment(1, 0, 2)
    mark(pg_wal, older, "done")
    async with running(pg_wal, uploads, pool) as archiver:
        archiver.expect([older])
        assert await archiver.find_unsettled(CURRENT) == older
        (pg_wal / str(older)).unlink()
        await settled(archiver)
