"""A history probe is absent only above everything that the archive holds or ever held."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.fix_archive import TestKeys
from tests.fix_fetch import FetchBench, lsn_in, make_bench, segment
from walkeeper.core.layout import wal_object
from walkeeper.core.timeline import TimelineHistory
from walkeeper.core.wal import TimelineHistoryFile
from walkeeper.errors import (
    IntegrityError,
    KeyUnavailable,
    NoSuchSegment,
    ObjectFrozen,
    StorageDenied,
    StorageError,
    StorageUnavailable,
)
from walkeeper.storage.memory import MemoryStorage

MODES = ("recovery", "standby", "pg_rewind")
OUTAGES: list[StorageError] = [StorageUnavailable("connection refused"), StorageDenied("403")]


@pytest.fixture
async def bench(pool: ThreadPoolExecutor, keys: TestKeys, tmp_path: Path) -> FetchBench:
    return await make_bench(MemoryStorage(), keys, pool, tmp_path)


@pytest.mark.parametrize("mode", MODES)
async def test_a_stored_history_is_served_byte_for_byte(bench: FetchBench, mode: str) -> None:
    content = await bench.put_history(2, (1, lsn_in(5)))
    assert await bench.fetch_history(2, mode) == content


@pytest.mark.parametrize("mode", MODES)
async def test_a_timeline_above_everything_stored_is_absent(bench: FetchBench, mode: str) -> None:
    assert await bench.fetch_history(2, mode) is None
    await bench.put_segments(1, 1, 2)
    assert await bench.fetch_history(2, mode) is None
    await bench.put_history(2, (1, lsn_in(5)))
    assert await bench.fetch_history(3, mode) is None
    assert bench.fetcher.statistics.absent == 3


@pytest.mark.parametrize("mode", MODES)
async def test_timeline_1_has_no_history_which_a_promotion_asks_for_also_in_an_outage(
    bench: FetchBench, mode: str
) -> None:
    await bench.put_history(2, (1, lsn_in(5)))
    assert await bench.fetch_history(1, mode) is None
    bench.storage.fail_all = StorageUnavailable("connection refused")
    assert await bench.fetch_history(1, mode) is None


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("timeline", [2, 3])
async def test_a_timeline_with_wal_but_no_history_is_in_use(
    bench: FetchBench, mode: str, timeline: int
) -> None:
    await bench.put_segments(1, 1)
    await bench.put_segments(3, 6)
    with pytest.raises(NoSuchSegment, match=f"no history of {timeline}"):
        await bench.fetch_history(timeline, mode)


@pytest.mark.parametrize("mode", MODES)
async def test_a_history_that_only_a_higher_one_names_is_rebuilt_from_it(
    bench: FetchBench, mode: str
) -> None:
    switches = [(1, lsn_in(2)), (2, lsn_in(4)), (4, lsn_in(7))]
    await bench.put_history(5, *switches)
    content = await bench.fetch_history(4, mode)
    assert content is not None
    rebuilt = TimelineHistory.parse(4, content.decode())
    assert [(switch.parent, switch.at) for switch in rebuilt.switches] == switches[:2]
    with pytest.raises(NoSuchSegment):
        await bench.fetch_history(3, mode)


@pytest.mark.parametrize("mode", MODES)
async def test_a_damaged_history_is_an_error_also_in_standby_mode(
    bench: FetchBench, mode: str
) -> None:
    name = wal_object(TimelineHistoryFile(2))
    with bench.archive.sealer.seal(name, [b"1\t0/500000\tno reason\n"]) as sealed:
        await bench.storage.put(bench.archive.path(name), bytes(sealed.body())[:-1])
    for _ in range(2):
        with pytest.raises(IntegrityError):
            await bench.fetch_history(2, mode)
    assert await bench.fetch_history(3, mode) is None


async def test_what_is_stored_as_a_history_but_is_none_is_refused(bench: FetchBench) -> None:
    await bench.put(TimelineHistoryFile(2), b"no history\n")
    with pytest.raises(IntegrityError, match="malformed"):
        await bench.fetch_history(2)


async def test_a_host_that_cannot_read_never_calls_a_stored_history_absent(
    pool: ThreadPoolExecutor, keys: TestKeys, tmp_path: Path
) -> None:
    bench = await make_bench(MemoryStorage(), keys, pool, tmp_path, can_read=False)
    await bench.put_history(2, (1, lsn_in(5)))
    await bench.history.refresh()
    with pytest.raises(KeyUnavailable):
        await bench.fetch_history(2, "standby")


@pytest.mark.parametrize("error", OUTAGES, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("mode", MODES)
async def test_an_outage_before_the_archive_was_ever_seen_is_an_error(
    bench: FetchBench, mode: str, error: StorageError
) -> None:
    bench.storage.fail_all = error
    with pytest.raises(type(error)):
        await bench.fetch_history(2, mode)


async def test_what_an_earlier_version_has_kept_of_unsigned_timelines_is_not_believed(
    bench: FetchBench, keys: TestKeys
) -> None:
    await bench.put_segments(1, 1)
    kept = bench.directory / "history" / bench.archive.record.archive
    kept.mkdir(parents=True)
    (kept / "listed-00000099").touch()
    other = await make_bench(bench.storage, keys, bench.pool, bench.directory)
    assert other.history.highest is None
    assert await other.fetch_history(2) is None


async def reborn(bench: FetchBench, keys: TestKeys) -> FetchBench:
    """Another process on the same host, which finds the archive and then loses it."""
    other = await make_bench(bench.storage, keys, bench.pool, bench.directory)
    other.storage.fail_all = StorageUnavailable("connection refused")
    return other


@pytest.mark.parametrize("mode", MODES)
async def test_in_an_outage_known_histories_are_served(
    bench: FetchBench, keys: TestKeys, mode: str
) -> None:
    content = await bench.put_history(2, (1, lsn_in(5)))
    higher = await bench.put_history(4, (1, lsn_in(5)), (3, lsn_in(7)))
    await bench.history.refresh()
    for other in (bench, await reborn(bench, keys)):
        other.storage.fail_all = StorageUnavailable("connection refused")
        assert await other.fetch_history(2, mode) == content
        assert await other.fetch_history(4, mode) == higher
        rebuilt = await other.fetch_history(3, mode)
        assert rebuilt is not None
        assert b"1\t0/500000" in rebuilt
        other.storage.fail_all = None


async def test_in_an_outage_a_standby_is_told_absent_only_above_all_that_is_known(
    bench: FetchBench, keys: TestKeys
) -> None:
    await bench.put_history(2, (1, lsn_in(5)))
    await bench.put_segments(4, 9)
    await bench.history.refresh()
    for other in (bench, await reborn(bench, keys)):
        other.storage.fail_all = StorageUnavailable("connection refused")
        for used in (3, 4):
            with pytest.raises(StorageUnavailable):
                await other.fetch_history(used, "standby")
        assert await other.fetch_history(5, "standby") is None
        assert other.fetcher.statistics.errors == 3
        assert other.fetcher.statistics.absent == 0
        with pytest.raises(StorageUnavailable):
            await other.fetch_history(5, "recovery")
        other.storage.fail_all = None


async def test_a_standby_does_not_wait_long_for_an_archive_that_does_not_answer(
    bench: FetchBench,
) -> None:
    await bench.put_history(3, (1, lsn_in(5)), (2, lsn_in(6)))
    await bench.history.refresh()
    bench.storage.delay_s = 60
    for mode in ("recovery", "standby"):
        rebuilt = await bench.fetch_history(2, mode, timeout_s=0.1)
        assert rebuilt is not None
    assert await bench.fetch_history(4, "standby", timeout_s=0.1) is None
    with pytest.raises(StorageUnavailable):
        await bench.fetch_history(4, "recovery", timeout_s=0.1)


async def test_a_number_that_was_seen_stays_in_use_when_its_objects_are_gone(
    bench: FetchBench, keys: TestKeys
) -> None:
    content = await bench.put_history(2, (1, lsn_in(5)))
    await bench.history.refresh()
    await bench.storage.delete(bench.archive.path(wal_object(TimelineHistoryFile(2))))
    other = await make_bench(bench.storage, keys, bench.pool, bench.directory)
    assert await other.fetch_history(2) == content


async def test_a_listing_that_breaks_off_makes_nothing_absent(bench: FetchBench) -> None:
    bench.storage.fail_list = StorageUnavailable("cut")
    with pytest.raises(StorageUnavailable):
        await bench.fetch_history(2, "standby")


async def test_a_stored_history_is_served_though_nothing_can_be_listed(bench: FetchBench) -> None:
    content = await bench.put_history(2, (1, lsn_in(5)))
    bench.storage.fail_list = StorageUnavailable("cut")
    bench.storage.delay_s = 0.05  # the listing has failed by then
    assert await bench.fetch_history(2) == content
    with pytest.raises(StorageUnavailable, match="cut"):
        await bench.fetch_history(3)


async def test_a_history_that_arrives_late_is_found(bench: FetchBench) -> None:
    await bench.put_segments(2, 6)
    await bench.put_history(3, (1, lsn_in(2)))
    with pytest.raises(NoSuchSegment):
        await bench.fetch_history(2)
    content = await bench.put_history(2, (1, lsn_in(5)))
    assert await bench.fetch_history(2) == content


async def test_a_damaged_file_on_this_host_is_removed_and_fetched_again(
    bench: FetchBench, keys: TestKeys
) -> None:
    content = await bench.put_history(2, (1, lsn_in(5)))
    assert await bench.fetch_history(2) == content
    (kept,) = bench.directory.rglob("*.history")
    assert kept.read_bytes() == content
    assert kept.stat().st_mode & 0o777 == 0o600
    kept.write_bytes(b"torn")
    other = await make_bench(bench.storage, keys, bench.pool, bench.directory)
    assert await other.fetch_history(2) == content
    assert kept.read_bytes() == content


async def test_histories_are_served_where_none_can_be_kept(
    pool: ThreadPoolExecutor, keys: TestKeys, tmp_path: Path
) -> None:
    bench = await make_bench(MemoryStorage(), keys, pool, tmp_path)
    (tmp_path / "history").write_text("in the way")
    content = await bench.put_history(2, (1, lsn_in(5)))
    assert await bench.fetch_history(2) == content
    assert await bench.fetch_history(3) is None


async def test_a_probe_costs_one_read_and_one_listing_once_the_timelines_are_known(
    bench: FetchBench,
) -> None:
    await bench.put_segments(1, *range(1, 4))
    for timeline in range(2, 6):
        await bench.put_history(timeline, *[(t, lsn_in(t)) for t in range(1, timeline)])
    await bench.history.refresh()
    bench.storage.reads.clear()
    assert await bench.fetch_history(6) is None
    assert bench.storage.reads == [bench.archive.path(wal_object(TimelineHistoryFile(6)))]


PLANTED = [
    "wal/00000099/00000000/000000990000000000000005.zst.age",
    "wal/00000099/00000000/000000990000000000000006.zst.age",
    "wal/00000099.history.zst.age",
]


@pytest.mark.parametrize("mode", MODES)
async def test_what_nobody_signed_makes_no_timeline(
    bench: FetchBench, keys: TestKeys, mode: str
) -> None:
    await bench.put_segments(1, 5)
    signed = bench.archive.path(wal_object(segment(1, 5)))
    async with bench.storage.read(signed) as chunks:
        moved = b"".join([chunk async for chunk in chunks])
    for name, body in zip(PLANTED, (b"garbage", moved, b""), strict=True):
        await bench.storage.put(bench.archive.path(name), body)
    assert await bench.fetch_history(2, mode) is None
    assert bench.history.highest == 1
    with pytest.raises(IntegrityError):  # it is there, whatever it is
        await bench.fetch_history(0x99, mode)
    assert await bench.fetch_history(2, mode) is None
    other = await reborn(bench, keys)
    assert other.history.highest == 1


async def test_a_timeline_with_damaged_segments_is_known_by_a_sound_one(bench: FetchBench) -> None:
    for number in range(15):
        name = bench.archive.path(wal_object(segment(3, number)))
        await bench.storage.put(name, b"garbage")
    await bench.put_segments(3, 15)
    with pytest.raises(NoSuchSegment):
        await bench.fetch_history(2)


async def test_behind_many_objects_that_nobody_signed_nothing_is_called_absent(
    bench: FetchBench,
) -> None:
    for number in range(16):
        name = bench.archive.path(wal_object(segment(3, number)))
        await bench.storage.put(name, b"garbage")
    with pytest.raises(StorageError, match="cannot be told"):
        await bench.fetch_history(2)


async def test_a_timeline_whose_objects_cannot_be_read_now_is_not_called_absent(
    bench: FetchBench,
) -> None:
    await bench.put_segments(3, 5)
    bench.storage.fail_read = {"000000030000000000000005.zst.age": StorageUnavailable("503")}
    with pytest.raises(StorageUnavailable):
        await bench.fetch_history(2)
    bench.storage.fail_read = {"000000030000000000000005.zst.age": ObjectFrozen("GLACIER")}
    with pytest.raises(NoSuchSegment):
        await bench.fetch_history(2)
