"""What is fetched ahead is what the recovery asks for next, and nothing stays behind."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.fix_archive import TestKeys
from tests.fix_fetch import FetchBench, content_of, lsn_in, make_bench, running, segment, settle
from walkeeper.core.layout import wal_object
from walkeeper.core.wal import WalSegment
from walkeeper.errors import IntegrityError, StorageUnavailable
from walkeeper.services.fetch_rules import ClientIdentity
from walkeeper.services.prefetch import PrefetchSettings
from walkeeper.storage.memory import MemoryStorage


@pytest.fixture
async def bench(pool: ThreadPoolExecutor, keys: TestKeys, tmp_path: Path) -> FetchBench:
    return await make_bench(MemoryStorage(), keys, pool, tmp_path)


def reads_of(bench: FetchBench, wal: WalSegment) -> int:
    return sum(name.endswith(wal_object(wal)) for name in bench.storage.reads)


def open_files() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


@pytest.mark.parametrize("mode", ["recovery", "standby"])
async def test_a_sequential_recovery_is_served_from_ahead_and_reads_each_segment_once(
    bench: FetchBench, mode: str
) -> None:
    await bench.put_segments(1, *range(1, 21))
    async with running(bench):
        for number in range(1, 21):
            assert await bench.fetch(segment(1, number), mode) == content_of(segment(1, number))
    assert bench.fetcher.statistics.from_prefetch == 19
    assert all(reads_of(bench, segment(1, number)) == 1 for number in range(1, 21))


async def test_it_grows_with_success_up_to_the_limit(bench: FetchBench) -> None:
    await bench.put_segments(1, *range(1, 40))
    held = []
    async with running(bench):
        for number in range(1, 7):
            await bench.fetch(segment(1, number))
            await settle(bench)
            held.append(bench.fetcher._prefetcher.held)
    assert held == [1, 2, 4, 8, 8, 8]


async def test_a_prepared_recovery_begins_with_all_that_it_may_have_ahead(
    bench: FetchBench,
) -> None:
    await bench.put_segments(1, *range(1, 40))
    held = []
    async with running(bench):
        for number in range(1, 4):
            await bench.fetch(segment(1, number), timeline=1, end=lsn_in(10))
            await settle(bench)
            held.append(bench.fetcher._prefetcher.held)
    assert held == [8, 7, 6]  # and none past its end


@pytest.mark.parametrize(
    ("settings", "most"),
    [
        (PrefetchSettings(count=0), 0),
        (PrefetchSettings(count=3), 3),
        (PrefetchSettings(count=8, limit_bytes=(2 << 20) + 1), 2),
        (PrefetchSettings(count=8, limit_bytes=1000), 0),
    ],
)
async def test_it_is_bounded_by_count_and_by_bytes(
    pool: ThreadPoolExecutor,
    keys: TestKeys,
    tmp_path: Path,
    settings: PrefetchSettings,
    most: int,
) -> None:
    bench = await make_bench(MemoryStorage(), keys, pool, tmp_path, prefetch=settings)
    await bench.put_segments(1, *range(1, 12))
    async with running(bench):
        for number in range(1, 6):
            assert await bench.fetch(segment(1, number)) == content_of(segment(1, number))
        assert bench.fetcher._prefetcher.held == most


async def test_it_follows_the_switch_of_the_path(bench: FetchBench) -> None:
    await bench.put_history(2, (1, lsn_in(5, 100)))
    await bench.put_segments(1, *range(1, 8))
    await bench.put_segments(2, *range(5, 10))
    path = [segment(1, number) for number in range(1, 5)]
    path += [segment(2, number) for number in range(5, 10)]
    async with running(bench):
        assert await bench.fetch_history(2) is not None
        for wal in path:
            assert await bench.fetch(wal, timeline=2, end=lsn_in(10)) == content_of(wal)
    assert bench.fetcher.statistics.from_prefetch == len(path) - 1
    assert not any(reads_of(bench, segment(1, number)) for number in (5, 6, 7))


async def test_nothing_is_fetched_past_the_end(bench: FetchBench) -> None:
    await bench.put_segments(1, *range(1, 20))
    async with running(bench):
        for number in range(1, 7):
            await bench.fetch(segment(1, number), timeline=1, end=lsn_in(7))
        await settle(bench)
    assert not any(reads_of(bench, segment(1, number)) for number in range(7, 20))


async def test_the_last_segment_is_there_when_a_prepared_recovery_reads_it_again(
    bench: FetchBench,
) -> None:
    await bench.put_segments(1, *range(1, 4))
    prepared = {"timeline": 1, "end": lsn_in(4)}
    async with running(bench):
        for number in (1, 2, 3):
            await bench.fetch(segment(1, number), **prepared)
        for _ in range(2):
            assert await bench.fetch(segment(1, 4), **prepared) is None
            await settle(bench)
            reads = reads_of(bench, segment(1, 3))
            assert await bench.fetch(segment(1, 3), **prepared) == content_of(segment(1, 3))
        await settle(bench)
        assert bench.fetcher._prefetcher.held == 0
    assert reads == reads_of(bench, segment(1, 3)) == 3


async def test_behind_the_end_the_store_is_asked_once_and_at_that_moment(
    bench: FetchBench,
) -> None:
    await bench.put_segments(1, 1)
    prepared = {"timeline": 1, "end": lsn_in(2)}
    for asked in (1, 2):
        assert await bench.fetch(segment(1, 2), **prepared) is None
        assert reads_of(bench, segment(1, 2)) == asked
    await bench.put_segments(1, 2)
    assert await bench.fetch(segment(1, 2), **prepared) == content_of(segment(1, 2))
    bench.storage.fail_all = StorageUnavailable("the store is away")
    with pytest.raises(StorageUnavailable):
        await bench.fetch(segment(1, 3), **prepared)


async def test_a_recovery_that_has_not_begun_finds_its_first_segments_there(
    bench: FetchBench,
) -> None:
    await bench.put_segments(1, *range(1, 20))
    prepared = {"timeline": 1, "end": lsn_in(20)}
    async with running(bench):
        await bench.go_ahead(segment(1, 5), **prepared)
        await settle(bench)
        assert bench.fetcher._prefetcher.held == 8
        for number in range(5, 20):
            assert await bench.fetch(segment(1, number), **prepared) is not None
    assert bench.fetcher.statistics.from_prefetch == 15


async def test_a_segment_that_nobody_goes_on_from_lets_nothing_be_fetched_ahead(
    bench: FetchBench,
) -> None:
    await bench.put_segments(1, *range(1, 9))
    async with running(bench):
        assert await bench.fetch(segment(1, 1), timeline=1, end=lsn_in(9), goes_on=False)
        assert bench.fetcher._prefetcher.held == 0


async def test_two_recoveries_share_the_room_whoever_comes_first(bench: FetchBench) -> None:
    await bench.put_segments(1, *range(1, 60))
    clients = [ClientIdentity(1, 2), ClientIdentity(1, 3)]
    async with running(bench):
        for number in range(1, 9):
            await bench.fetch(segment(1, number), client=clients[0])
            await settle(bench)
        for number in range(1, 30):
            for client in clients:
                await bench.fetch(segment(1, number + 8), client=client)
                await settle(bench)
        held = bench.fetcher._prefetcher._clients
        assert [len(held[client].ahead) for client in clients] == [4, 4]


async def test_a_tool_without_a_signal_file_gets_nothing_ahead(bench: FetchBench) -> None:
    await bench.put_segments(1, *range(1, 9))
    async with running(bench):
        for number in range(1, 9):
            assert await bench.fetch(segment(1, number), "pg_rewind") is not None
    assert bench.fetcher.statistics.from_prefetch == 0
    assert len(bench.storage.reads) == 8


@pytest.mark.parametrize("number", [2, 4, 9])
async def test_who_jumps_or_goes_back_gets_nothing_old(bench: FetchBench, number: int) -> None:
    await bench.put_segments(1, *range(1, 30))
    async with running(bench):
        for before in range(1, 5):
            await bench.fetch(segment(1, before))
        await settle(bench)
        hits = bench.fetcher.statistics.from_prefetch
        assert await bench.fetch(segment(1, number)) == content_of(segment(1, number))
        assert bench.fetcher.statistics.from_prefetch == hits
        assert bench.fetcher._prefetcher.held == 1


async def test_who_takes_another_path_gets_nothing_old(bench: FetchBench) -> None:
    await bench.put_history(2, (1, lsn_in(9)))
    await bench.put_segments(1, *range(1, 9))
    async with running(bench):
        for number in range(1, 5):
            await bench.fetch(segment(1, number), timeline=1)
        hits = bench.fetcher.statistics.from_prefetch
        await bench.fetch(segment(1, 5), timeline=2)
        assert bench.fetcher.statistics.from_prefetch == hits


async def test_a_miss_is_not_remembered(bench: FetchBench) -> None:
    await bench.put_segments(1, 1, 2, 3)
    async with running(bench):
        for number in (1, 2, 3):
            await bench.fetch(segment(1, number), "standby")
        await settle(bench)
        assert await bench.fetch(segment(1, 4), "standby") is None
        await bench.put_segments(1, 4)
        assert await bench.fetch(segment(1, 4), "standby") == content_of(segment(1, 4))


async def test_what_could_not_be_fetched_ahead_is_asked_for_when_it_is_needed(
    bench: FetchBench,
) -> None:
    await bench.put_segments(1, 1, 2, 3)
    async with running(bench):
        bench.storage.fail_read[wal_object(segment(1, 2))] = StorageUnavailable("reset")
        await bench.fetch(segment(1, 1))
        await settle(bench)
        with pytest.raises(StorageUnavailable):
            await bench.fetch(segment(1, 2))
        bench.storage.fail_read.clear()
        assert await bench.fetch(segment(1, 2)) == content_of(segment(1, 2))


async def test_a_segment_that_is_damaged_is_never_served_from_ahead(bench: FetchBench) -> None:
    await bench.put_segments(1, 1)
    wal = segment(1, 2)
    with bench.archive.sealer.seal(wal_object(wal), [content_of(wal)]) as sealed:
        await bench.storage.put(bench.archive.path(wal_object(wal)), bytes(sealed.body())[:-1])
    async with running(bench):
        await bench.fetch(segment(1, 1))
        await settle(bench)
        with pytest.raises(IntegrityError):
            await bench.fetch(wal)


async def test_stopping_ends_what_is_under_way_and_leaves_no_file(bench: FetchBench) -> None:
    await bench.put_segments(1, *range(1, 20))
    before = open_files()
    async with running(bench):
        for number in range(1, 6):
            await bench.fetch(segment(1, number))
        await settle(bench)
        assert open_files() > before
        bench.storage.delay_s = 60
        await bench.fetch(segment(1, 6))
        await asyncio.sleep(0.01)
    async with asyncio.timeout(60):
        while open_files() > before:
            await asyncio.sleep(0.01)
    assert {path.name for path in bench.directory.iterdir()} == {"fetched", "history"}


async def test_a_client_that_leaves_while_it_waits_takes_nothing_with_it(
    bench: FetchBench,
) -> None:
    await bench.put_segments(1, *range(1, 6))
    async with running(bench):
        await bench.fetch(segment(1, 1))
        await settle(bench)
        bench.storage.delay_s = 60
        await bench.fetch(segment(1, 2))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await bench.fetch(segment(1, 3))
        bench.storage.delay_s = 0
        assert await bench.fetch(segment(1, 3)) == content_of(segment(1, 3))
