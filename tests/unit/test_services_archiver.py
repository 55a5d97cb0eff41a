"""The archiver sends what is ready, ahead of the hook, and never acknowledges too early."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.fix_archive import ONE_MIB
from walkeeper.core.wal import TimelineHistoryFile, WalFile, WalSegment
from walkeeper.errors import StorageUnavailable, WalkeeperError, WalRefused
from walkeeper.postgres.wal_dir import FileIdentity, WalDirectory, WalScan
from walkeeper.services.archiver import Archiver

SEGMENTS = [WalSegment(1, 0, number) for number in range(1, 9)]


class Store:
    """Remembers what was made durable; can be slow, down, or broken for some names."""

    def __init__(self) -> None:
        self.durable: list[str] = []
        self.started: list[str] = []
        self.down = False
        self.refused: WalFile | None = None
        self.gate = asyncio.Event()
        self.gate.set()
        self.at_once = 0
        self.most_at_once = 0

    async def upload(self, wal: WalFile, identity: FileIdentity) -> None:
        self.started.append(str(wal))
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            await self.gate.wait()
            await asyncio.sleep(0)
            if self.down:
                raise StorageUnavailable("the store is down")
            if wal == self.refused:
                raise WalRefused(f"{wal} is not what its name says")
            self.durable.append(str(wal))
        finally:
            self.at_once -= 1


class PgWal:
    """A pg_wal directory with what PostgreSQL leaves in it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        (path / "archive_status").mkdir(parents=True)

    def ready(self, *files: WalFile, content: bytes = b"wal") -> None:
        for wal in files:
            draft = self.path / "draft"  # whoever looks at this moment finds all of it or nothing
            draft.write_bytes(content)
            draft.rename(self.path / str(wal))
            (self.path / "archive_status" / f"{wal}.ready").touch()

    def done(self, wal: WalFile) -> None:
        status = self.path / "archive_status"
        (status / f"{wal}.ready").rename(status / f"{wal}.done")

    def identity(self, wal: WalFile) -> FileIdentity:
        facts = (self.path / str(wal)).stat()
        return FileIdentity(facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns)


@pytest.fixture
def pg_wal(tmp_path: Path) -> PgWal:
    return PgWal(tmp_path / "pg_wal")


@pytest.fixture
async def store() -> Store:
    return Store()


@asynccontextmanager
async def running(
    pg_wal: PgWal,
    store: Store,
    pool: ThreadPoolExecutor,
    *,
    uploads: int = 4,
    allowed: bool = True,
    directory: WalDirectory | None = None,
) -> AsyncIterator[Archiver]:
    async def is_allowed() -> bool:
        return allowed

    archiver = Archiver(
        directory or WalDirectory(pg_wal.path, pool),
        store.upload,
        size=ONE_MIB,
        uploads=uploads,
        allowed=is_allowed,
        now=asyncio.get_running_loop().time,
    )
    async with asyncio.TaskGroup() as group:
        task = group.create_task(archiver.run())
        await asyncio.sleep(0)
        yield archiver
        task.cancel()


async def eventually(condition: object, timeout_s: float = 10.0) -> None:
    async with asyncio.timeout(timeout_s):
        while not condition():  # type: ignore[operator]
            await asyncio.sleep(0.01)


async def test_ready_segments_are_sent_ahead_of_the_hook(
    pg_wal: PgWal, store: Store, pool: ThreadPoolExecutor
) -> None:
    pg_wal.ready(*SEGMENTS)
    async with running(pg_wal, store, pool):
        await eventually(lambda: len(store.durable) == len(SEGMENTS))
    assert sorted(store.durable) == [str(segment) for segment in SEGMENTS]


async def test_a_segment_that_was_sent_ahead_is_acknowledged_without_being_sent_again(
    pg_wal: PgWal, store: Store, pool: ThreadPoolExecutor
) -> None:
    pg_wal.ready(SEGMENTS[0])
    async with running(pg_wal, store, pool) as archiver:
        await eventually(lambda: archiver.statistics.archived == 1)
        await archiver.push(SEGMENTS[0], pg_wal.identity(SEGMENTS[0]))
        assert archiver.statistics.answered_from_memory == 1
    assert store.durable == [str(SEGMENTS[0])]


async def test_another_file_of_the_same_name_is_sent_again(
    pg_wal: PgWal, store: Store, pool: ThreadPoolExecutor
) -> None:
    pg_wal.ready(SEGMENTS[0])
    async with running(pg_wal, store, pool) as archiver:
        await eventually(lambda: archiver.statistics.archived == 1)
        (pg_wal.path / str(SEGMENTS[0])).unlink()
        pg_wal.ready(SEGMENTS[0], content=b"something else")
        await archiver.push(SEGMENTS[0], pg_wal.identity(SEGMENTS[0]))
    assert store.durable == [str(SEGMENTS[0])] * 2


async def test_a_file_that_was_replaced_after_it_was_sent_is_sent_again_ahead_of_its_hook(
    pg_wal: PgWal, store: Store, pool: ThreadPoolExecutor
) -> None:
    pg_wal.ready(SEGMENTS[0])
    async with running(pg_wal, store, pool) as archiver:
        await eventually(lambda: archiver.statistics.archived == 1)
        (pg_wal.path / str(SEGMENTS[0])).unlink()
        pg_wal.ready(SEGMENTS[0], SEGMENTS[1], content=b"something else")
        await eventually(lambda: store.durable.count(str(SEGMENTS[0])) == 2, 60)


async def test_a_hook_is_answered_only_when_the_store_has_confirmed(
    pg_wal: PgWal, store: Store, pool: ThreadPoolExecutor
) -> None:
    store.gate.clear()
    pg_wal.ready(SEGMENTS[0])
    async with running(pg_wal, store, pool) as archiver:
        hook = asyncio.create_task(archiver.push(SEGMENTS[0], pg_wal.identity(SEGMENTS[0])))
        await eventually(lambda: store.started)
        assert not hook.done()
        store.gate.set()
        await hook
    assert store.durable == [str(SEGMENTS[0])]


async def test_a_hook_that_gives_up_does_not_stop_the_upload(
    pg_wal: PgWal, store: Store, pool: ThreadPoolExecutor
) -> None:
    store.gate.clear()
    pg_wal.ready(SEGMENTS[0])
    async with running(pg_wal, store, pool) as archiver:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await archiver.push(SEGMENTS[0], pg_wal.identity(SEGMENTS[0]))
        store.gate.set()
        await archiver.push(SEGMENTS[0], pg_wal.identity(SEGMENTS[0]))
    assert store.started == [str(SEGMENTS[0])]


async def test_while_the_store_is_down_the_hook_hears_why_and_later_everything_catches_up(
    pg_wal: PgWal, store: Store, pool: ThreadPoolExecutor
) -> None:
    store.down = True
    pg_wal.ready(*SEGMENTS)
    async with running(pg_wal, store, pool) as archiver:
        with pytest.raises(StorageUnavailable, match="the store is down"):
            await archiver.push(SEGMENTS[0], pg_wal.identity(SEGMENTS[0]))
        assert archiver.statistics.last_error is not None
        store.down = False
        for segment in SEGMENTS:
            await archiver.push(segment, pg_wal.identity(segment))
            pg_wal.done(segment)
    assert sorted(store.durable) == [str(segment) for segment in SEGMENTS]


async def test_history_files_are_durable_before_any_segment_is_sent_ahead(
    pg_wal: PgWal, store: Store, pool: ThreadPoolExecutor
) -> None:
    store.gate.clear()
    history = TimelineHistoryFile(2)
    pg_wal.ready(*SEGMENTS, history)
    async with running(pg_wal, store, pool):
        await eventually(lambda: store.started)
        await asyncio.sleep(0.2)
        assert store.started == [str(history)]
        store.gate.set()
        await eventually(lambda: len(store.durable) == len(SEGMENTS) + 1)
    assert store.durable[0] == str(history)


async def test_a_history_file_that_is_done_is_sent_all_the_same(
    pg_wal: PgWal, store: Store, pool: ThreadPoolExecutor
) -> None:
    history = TimelineHistoryFile(2)
    pg_wal.ready(history)
    pg_wal.done(history)
    async with running(pg_wal, store, pool):
        await eventually(lambda: store.durable == [str(history)])


async def test_no_more_uploads_run_at_once_than_are_allowed(
    pg_wal: PgWal, store: Store, pool: ThreadPoolExecutor
) -> None:
    pg_wal.ready(*SEGMENTS)
    store.gate.clear()
    async with running(pg_wal, store, pool, uploads=2):
        await eventually(lambda: len(store.started) == 2)
        await asyncio.sleep(0.2)
        store.gate.set()
        await eventually(lambda: len(store.durable) == len(SEGMENTS))
    assert store.most_at_once == 2


async def test_where_writing_is_not_allowed_nothing_is_sent_ahead(
    pg_wal: PgWal, store: Store, pool: ThreadPoolExecutor
) -> None:
    pg_wal.ready(*SEGMENTS)
    async with running(pg_wal, store, pool, allowed=False):
        await asyncio.sleep(0.3)
    assert store.started == []


async def test_a_draining_archiver_ends_what_is_under_way_and_starts_nothing(
    pg_wal: PgWal, store: Store, pool: ThreadPoolExecutor
) -> None:
    store.gate.clear()
    pg_wal.ready(*SEGMENTS)

    async def always() -> bool:
        return True

    archiver = Archiver(
        WalDirectory(pg_wal.path, pool),
        store.upload,
        size=ONE_MIB,
        uploads=2,
        allowed=always,
        now=asyncio.get_running_loop().time,
    )
    async with asyncio.TaskGroup() as group:
        task = group.create_task(archiver.run())
        await eventually(lambda: len(store.started) == 2)
        archiver.drain()
        store.gate.set()
        async with asyncio.timeout(60):
            await task
        with pytest.raises(WalkeeperError, match="stopping"):
            await archiver.push(SEGMENTS[5], pg_wal.identity(SEGMENTS[5]))
    assert len(store.durable) == 2


async def test_what_waits_is_what_is_ready_and_not_durable(
    pg_wal: PgWal, store: Store, pool: ThreadPoolExecutor
) -> None:
    store.down = True
    pg_wal.ready(*SEGMENTS)
    async with running(pg_wal, store, pool) as archiver:
        await eventually(lambda: archiver.statistics.failed >= 4)
        assert archiver.waiting() == SEGMENTS


class SlowDirectory(WalDirectory):
    """A pg_wal in which a look takes its time, as with many thousand files."""

    looks = 0

    async def scan(self) -> WalScan:
        self.looks += 1
        await asyncio.sleep(0.05)
        return await super().scan()


async def test_a_long_queue_is_not_looked_through_again_for_each_file(
    pg_wal: PgWal, store: Store, pool: ThreadPoolExecutor
) -> None:
    segments = [WalSegment(1, 0, number) for number in range(1, 101)]
    pg_wal.ready(*segments)
    directory = SlowDirectory(pg_wal.path, pool)
    async with running(pg_wal, store, pool, uploads=1, directory=directory):
        await eventually(lambda: len(store.durable) == len(segments), 60)
    assert store.durable == [str(segment) for segment in segments]
    assert directory.looks < len(segments)


async def test_a_segment_that_postgresql_did_not_mark_is_sent_before_the_tail(
    pg_wal: PgWal, store: Store, pool: ThreadPoolExecutor
) -> None:
    old = WalSegment(1, 0, 1)
    (pg_wal.path / str(old)).write_bytes(b"wal")
    store.gate.clear()
    async with running(pg_wal, store, pool) as archiver:
        archiver.expect([old])
        assert await archiver.find_unsettled(WalSegment(2, 0, 5)) == old
        store.gate.set()
        await eventually(lambda: store.durable == [str(old)])
        await eventually(lambda: archiver.statistics.archived == 1)
        assert await archiver.find_unsettled(WalSegment(2, 0, 5)) is None


async def test_an_unmarked_segment_that_is_not_what_its_name_says_holds_up_no_tail(
    pg_wal: PgWal, store: Store, pool: ThreadPoolExecutor
) -> None:
    old = store.refused = WalSegment(1, 0, 1)
    (pg_wal.path / str(old)).write_bytes(b"wal")
    async with running(pg_wal, store, pool) as archiver:
        archiver.expect([old])
        await eventually(lambda: archiver.statistics.failed == 1)
        assert await archiver.find_unsettled(WalSegment(2, 0, 5)) is None


async def test_an_unmarked_segment_is_waited_for_while_the_store_is_down(
    pg_wal: PgWal, store: Store, pool: ThreadPoolExecutor
) -> None:
    old = WalSegment(1, 0, 1)
    (pg_wal.path / str(old)).write_bytes(b"wal")
    store.down = True
    async with running(pg_wal, store, pool) as archiver:
        archiver.expect([old])
        await eventually(lambda: archiver.statistics.failed == 1)
        assert await archiver.find_unsettled(WalSegment(2, 0, 5)) == old
