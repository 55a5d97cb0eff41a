"""A tail is deleted when nobody needs it any more, and never before."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager

from structlog.testing import capture_logs

from tests.fix_tail import FaultyStorage, Host
from walkeeper.core.layout import wal_object
from walkeeper.core.wal import WalSegment
from walkeeper.repository.archive import Archive
from walkeeper.services.tail_cleanup import TailCleaner


@asynccontextmanager
async def running(archive: Archive) -> AsyncIterator[TailCleaner]:
    async def sleep(seconds: float) -> None:
        assert seconds > 1
        await asyncio.sleep(0.01)

    cleaner = TailCleaner(archive, sleep=sleep)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(cleaner.run())
        yield cleaner
        task.cancel()


async def eventually(condition: object) -> None:
    async with asyncio.timeout(10):
        while not condition():  # type: ignore[operator]
            await asyncio.sleep(0.01)


async def ship_links(
    host: Host, archive: Archive, pool: ThreadPoolExecutor, count: int
) -> WalSegment:
    """So many links of the current segment, which is then left."""
    shipper = host.shipper(archive, pool)
    for _ in range(count):
        host.write(100)
        await shipper.ship(host.position)
    segment = host.segment
    host.write(1 << 20)
    return segment


async def test_the_tail_of_a_segment_that_is_there_whole_is_deleted(
    host: Host, tail_archive: Archive, faulty: FaultyStorage, pool: ThreadPoolExecutor
) -> None:
    async with running(tail_archive) as cleaner:
        segment = await ship_links(host, tail_archive, pool, 70)
        assert len(faulty.names()) == 71
        await host.archive_segment(tail_archive, segment)
        cleaner.leave(segment)
        await eventually(lambda: not faulty.names())
    assert len(faulty.names("/wal/")) == 1


async def test_what_earlier_processes_have_left_is_deleted_at_the_start(
    host: Host, tail_archive: Archive, faulty: FaultyStorage, pool: ThreadPoolExecutor
) -> None:
    for _ in range(3):
        await host.archive_segment(tail_archive, await ship_links(host, tail_archive, pool, 2))
    await host.shipper(tail_archive, pool).ship(host.position)
    async with running(tail_archive):
        await eventually(lambda: len(faulty.names()) == 1)
    assert str(host.segment) in faulty.names()[0]


async def test_the_end_of_a_timeline_that_was_left_stays(
    host: Host, tail_archive: Archive, faulty: FaultyStorage, pool: ThreadPoolExecutor
) -> None:
    left = await ship_links(host, tail_archive, pool, 2)
    stored = faulty.names()
    async with running(tail_archive) as cleaner:
        cleaner.leave(left)
        await eventually(lambda: cleaner.requests >= 2)
        await asyncio.sleep(0.05)
    assert faulty.names() == stored


async def test_a_tail_whose_segment_arrives_later_goes_with_the_next_one(
    host: Host, tail_archive: Archive, faulty: FaultyStorage, pool: ThreadPoolExecutor
) -> None:
    first = await ship_links(host, tail_archive, pool, 2)
    async with running(tail_archive) as cleaner:
        await eventually(lambda: cleaner.requests >= 2)
        second = await ship_links(host, tail_archive, pool, 2)
        for segment in (first, second):
            await host.archive_segment(tail_archive, segment)
        cleaner.leave(second)
        await eventually(lambda: not faulty.names())


async def test_where_deleting_is_denied_everything_stays_and_it_is_said_once(
    host: Host, tail_archive: Archive, faulty: FaultyStorage, pool: ThreadPoolExecutor
) -> None:
    faulty.may_delete = False
    segments = [await ship_links(host, tail_archive, pool, 2) for _ in range(3)]
    for segment in segments:
        await host.archive_segment(tail_archive, segment)
    with capture_logs() as logs:
        async with running(tail_archive) as cleaner:
            await eventually(lambda: cleaner.denied)
            for segment in segments:
                cleaner.leave(segment)
            await asyncio.sleep(0.05)
    assert len(faulty.names()) == 6
    assert [line["event"] for line in logs] == ["tails_stay"]


async def test_a_store_that_does_not_answer_is_asked_again(
    host: Host, tail_archive: Archive, faulty: FaultyStorage, pool: ThreadPoolExecutor
) -> None:
    segment = await ship_links(host, tail_archive, pool, 2)
    await host.archive_segment(tail_archive, segment)
    faulty.down = True
    async with running(tail_archive) as cleaner:
        await eventually(lambda: cleaner.requests >= 3)
        assert len(faulty.names()) == 2
        faulty.down = False
        await eventually(lambda: not faulty.names())


async def test_a_whole_segment_that_nobody_signed_is_no_reason_to_delete(
    host: Host, tail_archive: Archive, faulty: FaultyStorage, pool: ThreadPoolExecutor
) -> None:
    segment = await ship_links(host, tail_archive, pool, 2)
    await faulty.put(tail_archive.path(wal_object(segment)), b"planted")
    async with running(tail_archive) as cleaner:
        cleaner.leave(segment)
        await eventually(lambda: cleaner.requests >= 2)
        await asyncio.sleep(0.05)
    assert len(faulty.names()) == 2


async def test_deleting_goes_on_when_it_is_allowed_again(
    host: Host, tail_archive: Archive, faulty: FaultyStorage, pool: ThreadPoolExecutor
) -> None:
    faulty.may_delete = False
    await host.archive_segment(tail_archive, await ship_links(host, tail_archive, pool, 2))
    async with running(tail_archive) as cleaner:
        await eventually(lambda: cleaner.denied)
        faulty.may_delete = True
        await eventually(lambda: not faulty.names())


async def test_it_ends_when_it_is_told_to_whatever_fails_in_that_moment(
    host: Host, tail_archive: Archive, faulty: FaultyStorage, pool: ThreadPoolExecutor
) -> None:
    faulty.may_delete = False
    await host.archive_segment(tail_archive, await ship_links(host, tail_archive, pool, 2))
    for turns in range(40):
        cleaner = TailCleaner(tail_archive, sleep=lambda _: asyncio.sleep(0))
        running = asyncio.create_task(cleaner.run())
        for _ in range(turns):
            await asyncio.sleep(0)
        running.cancel()
        _, pending = await asyncio.wait({running}, timeout=20)
        assert not pending
