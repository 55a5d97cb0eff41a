"""Which bytes a recovery is given: ancestors end at forks, tails and cut-offs only at the end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from tests.fix_archive import ONE_MIB, TestKeys
from tests.fix_fetch import FetchBench, lsn_in, make_bench, segment
from tests.fix_fetch_wal import (
    MIB,
    Lineage,
    lineage,
    put_cut_off,
    put_tail,
    recover,
    recycled,
)
from tests.fix_wal import WalWriter, main_data
from walkeeper.core.layout import CutOffSegment, wal_object
from walkeeper.core.lsn import Lsn
from walkeeper.core.wal import WalSegment
from walkeeper.core.walcheck import CutOff, SegmentCheck
from walkeeper.errors import IntegrityError, NoSuchSegment, StorageUnavailable
from walkeeper.services.segment_stand_in import find_fragment
from walkeeper.storage.memory import MemoryStorage

APART = lineage("apart")
FORK = APART.histories[2].switches[0].at
"""Where timeline 2 left 1, in the middle of segment 4."""
AT = FORK.value % MIB
LAST = 6
"""The last complete segment on every timeline."""


@pytest.fixture
async def bench(pool: ThreadPoolExecutor, keys: TestKeys, tmp_path: Path) -> FetchBench:
    return await make_bench(MemoryStorage(), keys, pool, tmp_path)


async def put_complete(bench: FetchBench, wal: WalSegment, known: Lineage = APART) -> bytes:
    content = known.content(wal)
    await bench.put(wal, content)
    return content


async def put_history_of(bench: FetchBench, timeline: int, known: Lineage = APART) -> None:
    switches = known.histories[timeline].switches
    await bench.put_history(timeline, *[(switch.parent, switch.at) for switch in switches])


def cut(content: bytes, offset: int) -> bytes:
    return content[:offset].ljust(MIB, b"\0")


# Ancestors end at their forks


@pytest.mark.parametrize("facts", [{}, {"timeline": 2}, {"timeline": 2, "end": lsn_in(6)}])
async def test_the_segment_that_holds_a_fork_is_cut_there(
    bench: FetchBench, facts: dict[str, object]
) -> None:
    await put_history_of(bench, 2)
    content = await put_complete(bench, segment(1, 4))
    await bench.look_for_latest()
    assert await bench.fetch(segment(1, 4), **facts) == cut(content, AT)  # type: ignore[arg-type]


@pytest.mark.parametrize("mode", ["recovery", "standby"])
async def test_an_ancestors_later_segments_are_absent_and_earlier_ones_whole(
    bench: FetchBench, mode: str
) -> None:
    await put_history_of(bench, 2)
    await bench.look_for_latest(mode)
    whole = await put_complete(bench, segment(1, 3))
    for number in (5, 6):
        await put_complete(bench, segment(1, number))
        assert await bench.fetch(segment(1, number), mode) is None
    assert await bench.fetch(segment(1, 3), mode) == whole


@pytest.mark.parametrize("mode", ["recovery", "standby"])
async def test_what_is_cut_never_replaces_a_file_that_postgresql_has(
    bench: FetchBench, mode: str
) -> None:
    await put_history_of(bench, 2)
    await bench.look_for_latest(mode)
    content = await put_complete(bench, segment(1, 4))
    assert await bench.fetch(segment(1, 4), mode, present=True) is None
    assert await bench.fetch(segment(1, 4), mode) == cut(content, AT)


@pytest.mark.parametrize("mode", ["recovery", "standby"])
async def test_a_whole_segment_replaces_a_file_that_postgresql_has(
    bench: FetchBench, mode: str
) -> None:
    content = await put_complete(bench, segment(1, 3))
    assert await bench.fetch(segment(1, 3), mode, present=True) == content


async def test_tools_get_complete_segments_as_they_are_stored(bench: FetchBench) -> None:
    await put_history_of(bench, 2)
    for number in (4, 5):
        content = await put_complete(bench, segment(1, number))
        for present in (False, True):
            found = await bench.fetch(segment(1, number), "pg_rewind", present=present)
            assert found == content


async def test_the_path_of_the_highest_timeline_counts_unless_another_was_prepared(
    bench: FetchBench,
) -> None:
    known = lineage("siblings")
    for timeline in (2, 3):
        await put_history_of(bench, timeline, known)
    two, three = (known.histories[timeline].switches[0].at for timeline in (2, 3))
    for number in (4, 5):
        await put_complete(bench, segment(1, number), known)
    four, five = known.content(segment(1, 4)), known.content(segment(1, 5))
    await bench.look_for_latest()
    assert await bench.fetch(segment(1, 4)) == cut(four, three.value % MIB)
    assert await bench.fetch(segment(1, 5)) is None
    assert await bench.fetch(segment(1, 4), timeline=2) == four
    assert await bench.fetch(segment(1, 5), timeline=2) == cut(five, two.value % MIB)
    assert await bench.fetch(segment(1, 5), timeline=1) == five


async def test_a_segment_fetched_ahead_is_cut_when_a_fork_has_become_known(
    bench: FetchBench,
) -> None:
    content = await put_complete(bench, segment(1, 3))
    fork = await put_complete(bench, segment(1, 4))
    task = asyncio.create_task(bench.fetcher.run())
    await asyncio.sleep(0.05)
    await bench.look_for_latest()
    assert await bench.fetch(segment(1, 3)) == content
    while not bench.fetcher._prefetcher.held:
        await asyncio.sleep(0.01)
    await put_history_of(bench, 2)
    await bench.history.refresh()
    assert await bench.fetch(segment(1, 4)) == cut(fork, AT)
    assert bench.fetcher.statistics.from_prefetch == 1
    task.cancel()


# Without a word from a prepared restore: which timeline the recovery follows


@pytest.mark.parametrize("mode", ["recovery", "standby"])
async def test_a_recovery_that_stays_on_an_older_timeline_gets_all_of_it(
    bench: FetchBench, mode: str
) -> None:
    await put_history_of(bench, 2)
    await put_complete(bench, segment(2, 4))
    await bench.look_for_latest(mode, run="another")
    for number in (3, 4, 5, 6):
        content = await put_complete(bench, segment(1, number))
        assert await bench.fetch(segment(1, number), mode) == content
    assert await bench.fetch(segment(1, 7), mode) is None


@pytest.mark.parametrize("mode", ["recovery", "standby"])
async def test_who_asks_for_a_newer_timeline_first_follows_it(bench: FetchBench, mode: str) -> None:
    for timeline in (2, 3):
        await put_history_of(bench, timeline)
    for number in (4, 5):
        await put_complete(bench, segment(1, number))
    with capture_logs() as logs:
        for _ in range(2):
            with suppress(NoSuchSegment):  # stored behind it is what lies on its path
                await bench.fetch(segment(2, 4), mode)
            found = await bench.fetch(segment(1, 4), mode)
            assert found == cut(APART.content(segment(1, 4)), AT)
        assert await bench.fetch(segment(1, 5), mode) is None
    withheld = [line for line in logs if line["event"] == "segment_withheld"]
    assert [line["segment"] for line in withheld] == [str(segment(1, 4)), str(segment(1, 5))]
    assert {(line["follows"], line["left_at"]) for line in withheld} == {(2, str(FORK))}


async def test_what_one_run_of_a_server_follows_says_nothing_of_the_next(
    bench: FetchBench,
) -> None:
    await put_history_of(bench, 2)
    content = await put_complete(bench, segment(1, 5))
    await bench.look_for_latest(run="1.1000")
    await bench.fetch(segment(2, 4), run="1.1000")
    assert await bench.fetch(segment(1, 5), run="1.1000") is None
    assert await bench.fetch(segment(1, 5), run="1.1060") == content


async def test_a_standby_that_finds_a_newer_timeline_ends_its_own_at_the_fork(
    bench: FetchBench,
) -> None:
    assert await bench.look_for_latest("standby") == 1
    await put_history_of(bench, 2)
    content = await put_complete(bench, segment(1, 4))
    await bench.history.refresh()
    assert await bench.fetch(segment(1, 4), "standby") == cut(content, AT)


async def test_an_older_timelines_lost_segment_is_a_hole_where_a_newer_one_has_gone_on(
    bench: FetchBench,
) -> None:
    """Whoever asks: a service that has just begun knows nothing of what it follows."""
    await put_history_of(bench, 2)
    await put_complete(bench, segment(2, 4))
    await put_tail(bench.archive, segment(1, 3), APART.content(segment(1, 3)), [5000])
    with pytest.raises(NoSuchSegment, match="is missing"):
        await bench.fetch(segment(1, 3))
    with pytest.raises(NoSuchSegment, match="is missing"):
        await bench.fetch(segment(1, 4))
    content = APART.content(segment(1, 4))
    await put_tail(bench.archive, segment(1, 4), content, [AT + 20_000])
    assert await bench.fetch(segment(1, 4)) == cut(content, AT + 20_000)


async def test_a_lost_segment_is_a_hole_where_any_newer_timeline_has_gone_on(
    bench: FetchBench,
) -> None:
    """A recovery told to follow 2 asks for nothing of it before its fork; 3 left 1 earlier."""
    await bench.put_history(2, (1, lsn_in(8)))
    await bench.put_history(3, (1, lsn_in(4)))
    await bench.put_segments(1, 3, 4, 5)
    await bench.put_segments(2, 8, 9)
    await bench.put_segments(3, 4, 5)
    with pytest.raises(NoSuchSegment, match=str(segment(2, 8))):
        await bench.fetch(segment(1, 6))
    assert await bench.fetch(segment(3, 6)) is None
    await bench.look_for_latest(run="latest")
    assert await bench.fetch(segment(1, 6), run="latest") is None


@pytest.mark.parametrize("latest", [False, True])
@pytest.mark.parametrize("mode", ["recovery", "standby"])
async def test_an_ancestor_of_a_timeline_that_is_not_stored_yet_is_not_served_from_its_fork_on(
    bench: FetchBench, mode: str, latest: bool
) -> None:
    """A history received by streaming is known to PostgreSQL before the archive has it."""
    for number in (3, 4, 5):
        await put_complete(bench, segment(1, number))
    if latest:
        await bench.look_for_latest(mode)
    assert await bench.fetch(segment(1, 3), mode) == APART.content(segment(1, 3))
    assert await bench.fetch(segment(2, 4), mode) is None
    for number in (4, 5):
        if mode == "standby":
            assert await bench.fetch(segment(1, number), mode) is None
        else:
            with pytest.raises(NoSuchSegment, match="timeline 2 is not known"):
                await bench.fetch(segment(1, number), mode)
    assert await bench.fetch(segment(1, 3), mode) == APART.content(segment(1, 3))
    await put_history_of(bench, 2)
    found = await bench.fetch(segment(1, 4), mode)
    assert found == cut(APART.content(segment(1, 4)), AT)


# Stand-ins


async def test_the_tail_stands_in_for_the_segment_that_was_never_completed(
    bench: FetchBench,
) -> None:
    content = APART.content(segment(1, 4))
    await put_complete(bench, segment(1, 3))
    await put_tail(bench.archive, segment(1, 4), content, [5000, 70_001])
    assert await bench.fetch(segment(1, 4)) == cut(content, 70_001)
    assert bench.fetcher.statistics.stand_ins == 1
    assert await bench.fetch(segment(1, 5)) is None


@pytest.mark.parametrize(("tail", "cut_off"), [(70_000, 500_000), (500_000, 70_000)])
async def test_whichever_of_tail_and_cut_off_holds_records_further_is_served(
    bench: FetchBench, tail: int, cut_off: int
) -> None:
    content = APART.content(segment(1, 4))
    await put_tail(bench.archive, segment(1, 4), content, [tail])
    await put_cut_off(bench.archive, segment(1, 4), recycled(content, cut_off))
    served = await bench.fetch(segment(1, 4))
    assert served is not None
    assert served[:500_000] == content[:500_000]


async def test_of_several_cut_off_segments_of_one_name_the_longest_is_served(
    bench: FetchBench,
) -> None:
    content = APART.content(segment(1, 4))
    offsets = {"a": 200_000, "b": 900_000, "c": 400_000}
    for code, offset in offsets.items():
        await put_cut_off(bench.archive, segment(1, 4), recycled(content, offset), code)
    assert await bench.fetch(segment(1, 4)) == recycled(content, 900_000)


async def test_what_stands_in_would_never_be_archived_as_the_segment(bench: FetchBench) -> None:
    wal = segment(1, 4)
    content = APART.content(wal)
    last = APART.whole_until(wal, 600_000).value % MIB
    for end in (last, last - 10, 73 * 8192, 600_001):
        names = await put_tail(bench.archive, wal, content, [end])
        served = await bench.fetch(wal)
        assert served is not None
        check = SegmentCheck(wal, ONE_MIB, 7_574_826_311_893_111_222, 15)
        check.feed(served)
        assert isinstance(check.finish(), CutOff)
        for name in names:
            await bench.storage.delete(bench.archive.path(name))


@pytest.mark.parametrize(
    ("mode", "facts"),
    [
        ("standby", {}),
        ("standby", {"present": True}),
        ("recovery", {"present": True}),
        ("recovery", {"present": True, "timeline": 1, "end": lsn_in(4, 70_000)}),
        ("pg_rewind", {}),
    ],
)
async def test_a_tail_or_cut_off_is_served_to_an_archive_recovery_that_lacks_the_file_alone(
    bench: FetchBench, mode: str, facts: dict[str, object]
) -> None:
    content = APART.content(segment(1, 4))
    await put_tail(bench.archive, segment(1, 4), content, [100_000])
    await put_cut_off(bench.archive, segment(1, 4), recycled(content, 90_000))
    assert await bench.fetch(segment(1, 4), mode, **facts) is None


@pytest.mark.parametrize("later", ["complete", "tail", "cut off"])
async def test_with_later_wal_on_the_path_a_tail_does_not_fill_the_hole(
    bench: FetchBench, later: str
) -> None:
    content = APART.content(segment(1, 4))
    await put_tail(bench.archive, segment(1, 4), content, [100_000])
    behind = APART.content(segment(1, 6))
    if later == "complete":
        await put_complete(bench, segment(1, 6))
    elif later == "tail":
        await put_tail(bench.archive, segment(1, 6), behind, [100])
    else:
        await put_cut_off(bench.archive, segment(1, 6), behind)
    with pytest.raises(NoSuchSegment, match=str(segment(1, 6))):
        await bench.fetch(segment(1, 4))


async def test_tails_of_other_timelines_and_earlier_segments_are_not_later(
    bench: FetchBench,
) -> None:
    await put_history_of(bench, 2)
    content = APART.content(segment(2, 5))
    await put_tail(bench.archive, segment(2, 5), content, [100_000])
    for other in (segment(1, 6), segment(2, 4), segment(3, 7)):
        await put_tail(bench.archive, other, b"?" * 100, [50])
    await bench.put_history(3, (1, lsn_in(3, 64)))
    assert await bench.fetch(segment(2, 5), timeline=2) == cut(content, 100_000)


# With --end

END = APART.whole_until(segment(1, 4), 100_000)


@pytest.mark.parametrize(
    ("end", "answer"),
    [
        (lsn_in(4), "absent"),
        (END, "tail"),
        (lsn_in(4, 1), "tail"),
        (END + 1, "hole"),
        (lsn_in(5), "hole"),
    ],
    ids=str,
)
async def test_before_the_end_a_tail_must_reach_it(
    bench: FetchBench, end: Lsn, answer: str
) -> None:
    content = APART.content(segment(1, 4))
    await put_tail(bench.archive, segment(1, 4), content, [100_000])
    if answer == "hole":
        with pytest.raises(NoSuchSegment):
            await bench.fetch(segment(1, 4), timeline=1, end=end)
        return
    found = await bench.fetch(segment(1, 4), timeline=1, end=end)
    assert found == (cut(content, 100_000) if answer == "tail" else None)


async def test_with_an_end_within_reach_stranded_wal_behind_it_does_not_matter(
    bench: FetchBench,
) -> None:
    content = APART.content(segment(1, 4))
    await put_tail(bench.archive, segment(1, 4), content, [100_000])
    await put_complete(bench, segment(1, 6))
    assert await bench.fetch(segment(1, 4), timeline=1, end=END) == cut(content, 100_000)


# At a fork, with the child's segment not archived yet

PARENT = ["complete", "cut off", "tail"]


async def put_parent(bench: FetchBench, *stored: str) -> bytes:
    """What the old primary stored of the fork's segment: all of it longer than the fork."""
    content = APART.content(segment(1, 4))
    if "complete" in stored:
        await bench.put(segment(1, 4), content)
    if "cut off" in stored:
        await put_cut_off(bench.archive, segment(1, 4), recycled(content, AT + 200_000))
    if "tail" in stored:
        await put_tail(bench.archive, segment(1, 4), content, [AT - 100, AT + 300_000])
    await put_history_of(bench, 2)
    return content


@pytest.mark.parametrize("stored", [PARENT, *([one] for one in PARENT), PARENT[1:]])
@pytest.mark.parametrize("facts", [{}, {"timeline": 2}, {"timeline": 2, "end": FORK}])
async def test_all_that_a_parent_left_serves_up_to_the_fork_and_not_further(
    bench: FetchBench, stored: list[str], facts: dict[str, object]
) -> None:
    content = await put_parent(bench, *stored)
    await put_complete(bench, segment(1, 3))
    found = await recover(bench, APART.histories[2], 3, **facts)
    assert found.end == FORK
    assert found.replayed[MIB:] == cut(content, AT)


@pytest.mark.parametrize("facts", [{}, {"timeline": 2}])
async def test_the_childs_own_tail_goes_before_all_that_its_parent_left(
    bench: FetchBench, facts: dict[str, object]
) -> None:
    await put_parent(bench, *PARENT)
    await put_complete(bench, segment(1, 3))
    content = APART.content(segment(2, 4))
    await put_tail(bench.archive, segment(2, 4), content, [AT + 100_000])
    found = await recover(bench, APART.histories[2], 3, **facts)
    assert found.end == APART.whole_until(segment(2, 4), AT + 100_000) > FORK
    assert found.replayed[MIB:] == cut(content, AT + 100_000)


async def test_a_childs_tail_without_records_of_its_own_gives_way_to_a_parent_that_reaches_it(
    bench: FetchBench,
) -> None:
    await put_parent(bench, "tail")
    content = APART.content(segment(2, 4))
    await put_tail(bench.archive, segment(2, 4), content, [AT + 10])
    assert await bench.fetch(segment(2, 4), timeline=2) is None
    served = await bench.fetch(segment(1, 4), timeline=2)
    assert served == cut(content, AT)


async def test_a_childs_tail_without_records_of_its_own_serves_where_the_parent_left_less(
    bench: FetchBench,
) -> None:
    await put_history_of(bench, 2)
    await put_tail(bench.archive, segment(1, 4), APART.content(segment(1, 4)), [AT - 100_000])
    content = APART.content(segment(2, 4))
    await put_tail(bench.archive, segment(2, 4), content, [AT + 10])
    for facts in ({}, {"timeline": 2}, {"timeline": 2, "end": FORK}):
        assert await bench.fetch(segment(2, 4), **facts) == cut(content, AT + 10)


# What may happen meanwhile


class Watched(MemoryStorage):
    """A store in which something happens when a name is asked for."""

    happen: tuple[str, Callable[[], object]] | None = None

    def _find(self, name: str) -> tuple[bytes, object]:  # type: ignore[override]
        if self.happen is not None and self.happen[0] in name:
            then, self.happen = self.happen[1], None
            then()
        return super()._find(name)


async def test_when_the_tail_is_deleted_because_the_segment_became_durable_that_is_served(
    pool: ThreadPoolExecutor, keys: TestKeys, tmp_path: Path
) -> None:
    storage = Watched()
    bench = await make_bench(storage, keys, pool, tmp_path)
    wal = segment(1, 4)
    content = APART.content(wal)
    with bench.archive.sealer.seal(wal_object(wal), [content]) as sealed:
        body = bytes(sealed.body())
    for chosen in (0, 1):
        names = await put_tail(bench.archive, wal, content, [5000, 70_000])
        paths = [bench.archive.path(name) for name in names]

        def complete(paths: list[str] = paths) -> None:
            storage._create(bench.archive.path(wal_object(wal)), body)
            for path in paths:
                storage._objects.pop(path)

        storage.happen = names[chosen], complete
        assert await bench.fetch(wal) == content
        assert storage.happen is None
        await storage.delete(bench.archive.path(wal_object(wal)))
    assert bench.fetcher.statistics.stand_ins == 0


async def test_the_segment_is_asked_for_once_more_before_its_tail_is_served(
    pool: ThreadPoolExecutor, keys: TestKeys, tmp_path: Path
) -> None:
    storage = Watched()
    bench = await make_bench(storage, keys, pool, tmp_path)
    wal = segment(1, 4)
    content = APART.content(wal)
    names = await put_tail(bench.archive, wal, content, [5000, 70_000])
    with bench.archive.sealer.seal(wal_object(wal), [content]) as sealed:
        body = bytes(sealed.body())
    path = bench.archive.path(wal_object(wal))
    storage.happen = names[1], lambda: storage._create(path, body)
    assert await bench.fetch(wal) == content


async def test_a_tail_that_vanishes_for_nothing_is_no_end_of_the_archive(
    pool: ThreadPoolExecutor, keys: TestKeys, tmp_path: Path
) -> None:
    storage = Watched()
    bench = await make_bench(storage, keys, pool, tmp_path)
    (name,) = await put_tail(bench.archive, segment(1, 4), APART.content(segment(1, 4)), [5000])
    path = bench.archive.path(name)

    def list_it() -> None:
        storage.happen = name, show_its_header

    def show_its_header() -> None:
        storage.happen = name, lambda: storage._objects.pop(path)

    storage.happen = name, list_it
    with pytest.raises(StorageUnavailable, match="complete segment is not there"):
        await bench.fetch(segment(1, 4))
    assert await bench.fetch(segment(1, 4)) is None


async def test_a_damaged_cut_off_may_have_held_more_than_the_tail(bench: FetchBench) -> None:
    content = APART.content(segment(1, 4))
    await put_tail(bench.archive, segment(1, 4), content, [100_000])
    name = wal_object(CutOffSegment(segment(1, 4), "0" * 16))
    with bench.archive.sealer.seal(name, [content]) as sealed:
        body = bytearray(sealed.body())
    body[-40] ^= 1
    await bench.storage.put(bench.archive.path(name), bytes(body))
    with pytest.raises(IntegrityError, match=name):
        await bench.fetch(segment(1, 4))
    found = await bench.fetch(segment(1, 4), timeline=1, end=END)
    assert found == cut(content, 100_000)
    with pytest.raises(IntegrityError):
        await bench.fetch(segment(1, 4), timeline=1, end=END + 1)


async def test_what_is_stored_as_cut_off_but_is_other_wal_is_refused(bench: FetchBench) -> None:
    await put_cut_off(bench.archive, segment(1, 4), APART.content(segment(1, 5)))
    with pytest.raises(IntegrityError):
        await bench.fetch(segment(1, 4))


@pytest.mark.parametrize("error", ["list", "read"])
async def test_an_outage_while_looking_for_a_tail_is_never_absent(
    bench: FetchBench, error: str
) -> None:
    content = APART.content(segment(1, 4))
    names = await put_tail(bench.archive, segment(1, 4), content, [5000])
    if error == "list":
        bench.storage.fail_list = StorageUnavailable("cut")
    else:
        bench.storage.fail_read[names[0]] = StorageUnavailable("cut")
    with pytest.raises(StorageUnavailable):
        await bench.fetch(segment(1, 4))


async def test_a_standby_gives_up_when_nothing_comes_and_not_when_it_comes_slowly(
    pool: ThreadPoolExecutor, keys: TestKeys, tmp_path: Path
) -> None:
    bench = await make_bench(MemoryStorage(), keys, pool, tmp_path)
    server = bench.fetcher._segments
    content = await put_complete(bench, segment(1, 3))
    assert await bench.fetch(segment(1, 3), "standby") == content
    server._settings = replace(server._settings, standby_patience_s=0.3)
    bench.storage.delay_s = 60
    began = asyncio.get_running_loop().time()
    assert await bench.fetch(segment(1, 3), "standby") is None
    assert asyncio.get_running_loop().time() - began < 30
    assert "nothing came for 0.3 s" in (bench.fetcher.statistics.last_error or "")
    assert bench.fetcher.statistics.absent == 0


# How far a fragment goes


@pytest.mark.parametrize("offset", [0, 1, 39, 100, 25_000, 100_000, 524_288, MIB - 1])
async def test_a_fragment_reaches_its_last_whole_record(
    bench: FetchBench, pool: ThreadPoolExecutor, tmp_path: Path, offset: int
) -> None:
    wal = segment(1, 4)
    await put_tail(bench.archive, wal, APART.content(wal), [offset] if offset else [])
    whole = APART.whole_until(wal, offset)
    expected = whole if whole > wal.begin(ONE_MIB) else None
    assert await find_fragment(bench.archive, pool, wal, tmp_path) == expected


async def test_a_tail_that_ends_with_a_record_begun_before_it_reaches_that_records_end(
    bench: FetchBench, pool: ThreadPoolExecutor, tmp_path: Path
) -> None:
    writer = WalWriter(segment(1, 3))
    while len(writer.data) < MIB:
        writer.append(main_data(bytes(60_000)))
    over = writer.records[-1]
    wal = segment(1, 4)
    content = bytes(writer.data[MIB:]).ljust(MIB, b"\0")
    end = over.end.value % MIB
    assert end > 8192
    await put_tail(bench.archive, wal, content, [end])
    assert await find_fragment(bench.archive, pool, wal, tmp_path) == over.end
    assert await bench.fetch(wal, timeline=1, end=over.end) == cut(content, end)


async def test_a_tail_that_ends_within_a_record_begun_before_it_reaches_nothing(
    bench: FetchBench, pool: ThreadPoolExecutor, tmp_path: Path
) -> None:
    writer = WalWriter(segment(1, 3))
    while len(writer.data) < MIB:
        writer.append(main_data(bytes(60_000)))
    wal = segment(1, 4)
    content = bytes(writer.data[MIB:]).ljust(MIB, b"\0")
    end = writer.records[-1].end.value % MIB
    await put_tail(bench.archive, wal, content, [end - 8])
    assert await find_fragment(bench.archive, pool, wal, tmp_path) is None
