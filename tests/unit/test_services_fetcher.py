"""What a restore_command is told: the file, "absent" when the archive said so, else an error."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.fix_archive import TestKeys
from tests.fix_fetch import FetchBench, content_of, lsn_in, make_bench, segment
from walkeeper.core.layout import wal_object
from walkeeper.core.wal import BackupHistoryFile, PartialSegment, WalSegment
from walkeeper.errors import (
    IntegrityError,
    KeyUnavailable,
    NoSuchSegment,
    StorageDenied,
    StorageError,
    StorageUnavailable,
    UsageError,
    WrongKey,
)
from walkeeper.storage.memory import MemoryStorage

MODES = ("recovery", "standby", "pg_rewind")
UNPREPARED = ("recovery", "pg_rewind")
FAILURES: list[StorageError] = [
    StorageUnavailable("connection refused"),
    StorageDenied("403"),
]


@pytest.fixture
async def bench(pool: ThreadPoolExecutor, keys: TestKeys, tmp_path: Path) -> FetchBench:
    return await make_bench(MemoryStorage(), keys, pool, tmp_path)


async def fork(bench: FetchBench) -> None:
    """Timeline 2 leaves 1 in the middle of segment 5."""
    await bench.put_history(2, (1, lsn_in(5, 4096)))


@pytest.mark.parametrize("mode", MODES)
async def test_a_complete_segment_is_served_whole(bench: FetchBench, mode: str) -> None:
    await bench.put_segments(1, 3)
    assert await bench.fetch(segment(1, 3), mode) == content_of(segment(1, 3))
    assert bench.fetcher.statistics.fetched == 1


@pytest.mark.parametrize("mode", MODES)
async def test_the_end_of_the_archive_is_absent(bench: FetchBench, mode: str) -> None:
    await bench.put_segments(1, 1, 2, 3)
    assert await bench.fetch(segment(1, 4), mode) is None
    assert bench.fetcher.statistics.absent == 1


@pytest.mark.parametrize("mode", MODES)
async def test_an_archive_without_any_wal_has_no_segment(bench: FetchBench, mode: str) -> None:
    assert await bench.fetch(segment(1, 1), mode) is None
    assert await bench.fetch(segment(3, 1), mode) is None


@pytest.mark.parametrize("mode", UNPREPARED)
async def test_a_segment_with_later_wal_behind_it_is_a_hole_that_names_both(
    bench: FetchBench, mode: str
) -> None:
    await bench.put_segments(1, 1, 9)
    with pytest.raises(NoSuchSegment) as hole:
        await bench.fetch(segment(1, 2), mode)
    assert str(segment(1, 2)) in str(hole.value)
    assert str(segment(1, 9)) in str(hole.value)
    assert bench.fetcher.statistics.holes == 1


@pytest.mark.parametrize("mode", UNPREPARED)
async def test_a_cut_off_segment_behind_a_missing_one_makes_it_a_hole(
    bench: FetchBench, mode: str
) -> None:
    await bench.put_segments(1, 1)
    await bench.put_cut_off(1, 3)
    with pytest.raises(NoSuchSegment):
        await bench.fetch(segment(1, 2), mode)


async def test_other_objects_of_later_segments_are_no_wal(bench: FetchBench) -> None:
    await bench.put(BackupHistoryFile(segment(1, 4), 0x28), b"START WAL LOCATION")
    assert await bench.fetch(segment(1, 2)) is None


async def test_a_hole_is_looked_at_again_because_uploads_run_in_parallel(
    bench: FetchBench,
) -> None:
    await bench.put_segments(1, 1, 9)
    with pytest.raises(NoSuchSegment):
        await bench.fetch(segment(1, 2))
    assert bench.naps == [1.0, 1.0]


async def test_a_standby_asks_again_at_a_hole_and_it_is_counted(bench: FetchBench) -> None:
    await bench.put_segments(1, 1, 9)
    assert await bench.fetch(segment(1, 2), "standby") is None
    statistics = bench.fetcher.statistics
    assert (statistics.holes, statistics.errors, statistics.absent) == (1, 1, 0)
    assert str(segment(1, 2)) in (statistics.last_error or "")
    assert bench.naps == []


class BecomesDurable(MemoryStorage):
    """A store in which an upload ends just after its object was first asked for in vain."""

    upload: Callable[[], object] | None = None

    def _find(self, name: str) -> tuple[bytes, object]:  # type: ignore[override]
        try:
            return super()._find(name)
        finally:
            if self.upload is not None and name.endswith(wal_object(segment(1, 2))):
                upload, self.upload = self.upload, None
                upload()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("later", [False, True])
async def test_before_absent_or_hole_the_segment_is_asked_for_once_more(
    pool: ThreadPoolExecutor, keys: TestKeys, tmp_path: Path, mode: str, later: bool
) -> None:
    storage = BecomesDurable()
    bench = await make_bench(storage, keys, pool, tmp_path)
    wal = segment(1, 2)
    if later:
        await bench.put_segments(1, 5)
    with bench.archive.sealer.seal(wal_object(wal), [content_of(wal)]) as sealed:
        body = bytes(sealed.body())
    storage.upload = lambda: storage._create(bench.archive.path(wal_object(wal)), body)
    assert await bench.fetch(wal, mode) == content_of(wal)


# With --end


async def test_before_the_end_a_missing_segment_is_a_hole(bench: FetchBench) -> None:
    await bench.put_segments(1, 1)
    with pytest.raises(NoSuchSegment, match=str(lsn_in(4, 1))):
        await bench.fetch(segment(1, 4), timeline=1, end=lsn_in(4, 1))


@pytest.mark.parametrize("number", [4, 7])
async def test_at_or_past_the_end_a_missing_segment_is_absent_though_others_are_stranded(
    bench: FetchBench, number: int
) -> None:
    await bench.put_segments(1, 3, 9)
    assert await bench.fetch(segment(1, number), timeline=1, end=lsn_in(4)) is None


@pytest.mark.parametrize(
    ("wal", "hole"),
    [
        (segment(1, 4), True),  # before the fork
        (segment(1, 5), True),  # holds the fork, and bytes of both
        (segment(2, 5), True),
        (segment(2, 6), True),
        (segment(1, 6), False),  # the dead branch
        (segment(2, 4), False),  # before timeline 2 began
        (segment(2, 8), False),  # past the end
        (segment(3, 6), False),  # not on the path at all
    ],
    ids=str,
)
async def test_with_an_end_only_what_lies_on_the_path_before_it_is_needed(
    bench: FetchBench, wal: WalSegment, hole: bool
) -> None:
    await fork(bench)
    await bench.put_history(3, (1, lsn_in(2)))
    if hole:
        with pytest.raises(NoSuchSegment):
            await bench.fetch(wal, timeline=2, end=lsn_in(8))
    else:
        assert await bench.fetch(wal, timeline=2, end=lsn_in(8)) is None


async def test_without_a_timeline_the_end_counts_on_the_path_of_the_highest(
    bench: FetchBench,
) -> None:
    await fork(bench)
    await bench.look_for_latest()
    assert await bench.fetch(segment(1, 6), end=lsn_in(8)) is None
    with pytest.raises(NoSuchSegment):
        await bench.fetch(segment(2, 6), end=lsn_in(8))


@pytest.mark.parametrize("mode", ["standby", "pg_rewind"])
async def test_the_end_holds_only_for_archive_recovery(bench: FetchBench, mode: str) -> None:
    await bench.put_segments(1, 1)
    assert await bench.fetch(segment(1, 2), mode, timeline=1, end=lsn_in(5)) is None


async def test_a_path_whose_history_is_nowhere_cannot_be_judged(bench: FetchBench) -> None:
    await bench.put_segments(2, 1)
    with pytest.raises(NoSuchSegment, match=r"no history of 2"):
        await bench.fetch(segment(2, 3), timeline=2, end=lsn_in(9))


# Forks without --end


@pytest.mark.parametrize("mode", UNPREPARED)
async def test_wal_of_a_descendant_on_the_path_makes_a_miss_on_its_parent_a_hole(
    bench: FetchBench, mode: str
) -> None:
    await fork(bench)
    await bench.put_segments(1, 1, 2)
    await bench.put_segments(2, 7)
    for wal in (segment(1, 3), segment(1, 5), segment(2, 5), segment(2, 6)):
        with pytest.raises(NoSuchSegment, match=str(segment(2, 7))):
            await bench.fetch(wal, mode)


@pytest.mark.parametrize("mode", UNPREPARED)
async def test_wal_of_a_dead_branch_is_not_later(bench: FetchBench, mode: str) -> None:
    await fork(bench)
    await bench.put_segments(1, 5, 6, 7, 8)
    await bench.put_segments(2, 5)
    assert await bench.fetch(segment(2, 6), mode) is None
    assert await bench.fetch(segment(1, 9), mode) is None


async def test_a_recovery_along_another_timeline_than_the_highest_is_judged_on_its_own(
    bench: FetchBench,
) -> None:
    await bench.put_history(2, (1, lsn_in(5)))
    await bench.put_history(3, (1, lsn_in(2)))
    await bench.put_segments(2, 5, 7)
    with pytest.raises(NoSuchSegment):
        await bench.fetch(segment(2, 6))
    assert await bench.fetch(segment(2, 8)) is None


# What the archive cannot tell


@pytest.mark.parametrize("error", FAILURES, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("mode", UNPREPARED)
async def test_an_outage_is_never_absent(bench: FetchBench, mode: str, error: StorageError) -> None:
    bench.storage.fail_all = error
    with pytest.raises(type(error)):
        await bench.fetch(segment(1, 1), mode)
    assert bench.fetcher.statistics.errors == 1


@pytest.mark.parametrize("error", FAILURES, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("mode", UNPREPARED)
async def test_a_miss_that_cannot_be_judged_is_never_absent(
    bench: FetchBench, mode: str, error: StorageError
) -> None:
    bench.storage.fail_list = error
    with pytest.raises(type(error)):
        await bench.fetch(segment(1, 1), mode)


@pytest.mark.parametrize("error", FAILURES, ids=lambda error: type(error).__name__)
async def test_an_outage_makes_a_standby_ask_again(bench: FetchBench, error: StorageError) -> None:
    bench.storage.fail_all = error
    assert await bench.fetch(segment(1, 1), "standby") is None
    statistics = bench.fetcher.statistics
    assert (statistics.errors, statistics.absent) == (1, 0)


async def damage(bench: FetchBench, wal: WalSegment, content: bytes, *, cut: int = 0) -> None:
    with bench.archive.sealer.seal(wal_object(wal), [content]) as sealed:
        body = bytearray(sealed.body())
    body[-100] ^= 1
    await bench.storage.put(bench.archive.path(wal_object(wal)), bytes(body[: len(body) - cut]))


@pytest.mark.parametrize("cut", [0, 1, 200])
@pytest.mark.parametrize("mode", MODES)
async def test_a_damaged_segment_is_an_error_and_a_standby_asks_again(
    bench: FetchBench, mode: str, cut: int
) -> None:
    await damage(bench, segment(1, 1), content_of(segment(1, 1)), cut=cut)
    if mode == "standby":
        assert await bench.fetch(segment(1, 1), mode) is None
    else:
        with pytest.raises(IntegrityError):
            await bench.fetch(segment(1, 1), mode)
    assert bench.fetcher.statistics.errors == 1


@pytest.mark.parametrize("change", [-1, 1])
async def test_a_segment_of_another_size_is_never_handed_out(
    bench: FetchBench, change: int
) -> None:
    wal = segment(1, 1)
    await bench.put(wal, (content_of(wal) + b"!")[: len(content_of(wal)) + change])
    with pytest.raises(IntegrityError):
        await bench.fetch(wal)


@pytest.mark.parametrize("mode", MODES)
async def test_a_wrong_key_is_an_error_and_a_standby_asks_again(
    pool: ThreadPoolExecutor, keys: TestKeys, tmp_path: Path, mode: str
) -> None:
    storage, other = MemoryStorage(), TestKeys.generate()
    writer = await make_bench(storage, keys, pool, tmp_path)
    await writer.put_segments(1, 1)
    mixed = TestKeys(other.identity, other.recipient, keys.writer_key, keys.writer)
    bench = await make_bench(storage, mixed, pool, tmp_path)
    if mode == "standby":
        assert await bench.fetch(segment(1, 1), mode) is None
    else:
        with pytest.raises(WrongKey):
            await bench.fetch(segment(1, 1), mode)


async def test_without_an_identity_nothing_is_absent_that_is_there(
    pool: ThreadPoolExecutor, keys: TestKeys, tmp_path: Path
) -> None:
    bench = await make_bench(MemoryStorage(), keys, pool, tmp_path, can_read=False)
    await bench.put_segments(1, 1)
    with pytest.raises(KeyUnavailable):
        await bench.fetch(segment(1, 1))


# Other names


async def test_a_backup_history_file_is_served_or_absent(bench: FetchBench) -> None:
    wal = BackupHistoryFile(segment(1, 4), 0x28)
    assert await bench.fetch(wal) is None
    await bench.put(wal, b"START WAL LOCATION: 0/400028")
    assert await bench.fetch(wal) == b"START WAL LOCATION: 0/400028"


@pytest.mark.parametrize("mode", MODES)
async def test_a_question_without_meaning_is_refused_also_in_standby_mode(
    bench: FetchBench, mode: str
) -> None:
    with pytest.raises(UsageError):
        await bench.fetch(PartialSegment(segment(1, 1)), mode)


async def test_an_answer_that_takes_too_long_is_an_error_before_the_client_gives_up(
    bench: FetchBench,
) -> None:
    bench.storage.delay_s = 60
    with pytest.raises(StorageUnavailable, match="in time"):
        await bench.fetch(segment(1, 1), timeout_s=0.1)
    assert await bench.fetch(segment(1, 1), "standby", timeout_s=0.1) is None
