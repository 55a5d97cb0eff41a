"""How far recovery can go, compared with a simulation segment by segment."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fix_core_plan import (
    LAST,
    QUARTER,
    SIZE,
    World,
    at,
    full_backup,
    histories,
    lsn,
    simulate,
    worlds,
)
from walkeeper.core.coverage import (
    Path,
    WalHoldings,
    leg_at,
    leg_before,
    lies_on,
    reach,
    recoverable_windows,
)
from walkeeper.core.lsn import Lsn
from walkeeper.core.segment_set import SegmentRange, SegmentSet, collect
from walkeeper.core.timeline import Leg, TimelineHistory, TimelineSwitch
from walkeeper.core.wal import SegmentSize, WalSegment

NUMBERS = st.lists(st.integers(0, 30)).map(sorted)


@given(NUMBERS)
def test_a_set_holds_exactly_what_was_listed(numbers: list[int]) -> None:
    segments = SegmentSet.from_ordered(numbers)
    assert [n for n in range(35) if n in segments] == sorted(set(numbers))
    assert len(segments) == len(set(numbers))
    for low, high in zip(segments.ends, segments.begins[1:], strict=False):
        assert low < high


@given(NUMBERS, st.integers(0, 32), st.integers(0, 32) | st.none())
def test_runs_and_parts_of_a_set_agree_with_its_members(
    numbers: list[int], begin: int, end: int | None
) -> None:
    segments = SegmentSet.from_ordered(numbers)
    run = begin
    while run in numbers:
        run += 1
    assert segments.run_end(begin) == run
    parts = [n for low, high in segments.between(begin, end) for n in range(low, high)]
    assert parts == [n for n in sorted(set(numbers)) if begin <= n and (end is None or n < end)]


def test_a_listing_out_of_order_is_refused() -> None:
    with pytest.raises(ValueError, match="after"):
        SegmentSet.from_ordered([5, 4])
    with pytest.raises(ValueError, match="after"):
        collect([WalSegment(2, 0, 1), WalSegment(1, 0, 1)], SIZE)
    with pytest.raises(ValueError, match="segment"):
        collect([WalSegment(1, 0, 0x1000)], SegmentSize(1 << 24))


def test_a_listing_crosses_logs_and_timelines() -> None:
    size = SegmentSize(1 << 30)
    listing = [WalSegment(1, 0, 2), WalSegment(1, 0, 3), WalSegment(1, 1, 0), WalSegment(3, 0, 1)]
    assert collect(listing, size) == {
        1: SegmentSet((2,), (5,)),
        3: SegmentSet((1,), (2,)),
    }
    assert collect([], size) == {}


def test_a_million_segments_cost_one_range_and_no_time_to_follow() -> None:
    held = WalHoldings(SIZE, {1: SegmentSet.from_ordered(range(1_000_000))})
    began = time.perf_counter()
    for _ in range(1000):
        assert reach(held, (Leg(1, Lsn(0), None),), lsn(3)).end == lsn(1_000_000)
    assert time.perf_counter() - began < 1


@settings(deadline=None)
@given(worlds())
def test_the_reach_is_what_a_simulation_of_each_byte_says(world: World) -> None:
    found = reach(world.held, world.path, world.start)
    end, stranded = simulate(world)
    assert found.end == end
    assert {(p.timeline, n) for p in found.stranded for n in range(p.begin, p.end)} == stranded
    assert (found.gap is not None) == bool(stranded)


@settings(deadline=None)
@given(worlds())
def test_what_is_read_is_stored_in_order_and_leads_to_the_end(world: World) -> None:
    found = reach(world.held, world.path, world.start)
    read = [(part.timeline, n) for part in found.read for n in range(part.begin, part.end)]
    numbers = [n for _, n in read]
    assert numbers == sorted(numbers)
    assert (
        set(numbers)
        == {n for n in range(LAST + 1) if world.start < lsn(n + 1) and lsn(n) < found.end}
        or found.end == world.start
    )
    for timeline, n in read:
        partial = found.fragment == WalSegment.numbered(timeline, n, SIZE)
        assert world.held.holds(timeline, n) or partial
    if found.fragment is not None:
        assert read[-1][1] == found.fragment.number(SIZE)
        assert found.gap is None


@settings(deadline=None)
@given(worlds())
def test_a_gap_is_real_and_names_what_is_missing_on_the_path(world: World) -> None:
    found = reach(world.held, world.path, world.start)
    if found.gap is None:
        return
    assert found.gap.begin == found.end
    missing = [
        (part.timeline, n) for part in found.gap.missing for n in range(part.begin, part.end)
    ]
    assert [n for _, n in missing] == list(
        range(found.end.value // SIZE.bytes, min(part.begin for part in found.stranded))
    )
    for timeline, n in missing:
        assert not world.held.holds(timeline, n)
        assert timeline in {leg.timeline for leg in world.path}
    assert str(WalSegment.numbered(*missing[0], SIZE)) in str(found.gap)


@settings(deadline=None)
@given(worlds(), st.integers(0, LAST * 4))
def test_what_is_read_until_a_position_covers_it_and_no_more(world: World, quarter: int) -> None:
    found = reach(world.held, world.path, world.start)
    until = Lsn(quarter * QUARTER)
    part = found.read_until(until, SIZE)
    whole = {(p.timeline, n) for p in found.read for n in range(p.begin, p.end)}
    assert {(p.timeline, n) for p in part for n in range(p.begin, p.end)} == {
        (timeline, n) for timeline, n in whole if lsn(n) < until
    }


ONE = TimelineHistory(1).legs


def forked(*forks: float) -> Path:
    switches = (TimelineSwitch(n, lsn(fork)) for n, fork in enumerate(forks, start=1))
    return TimelineHistory(len(forks) + 1, tuple(switches)).legs


def held(fragments: dict[WalSegment, Lsn] | None = None, **sets: range) -> WalHoldings:
    """``t1=range(2, 5)``: timeline 1 has segments 2 to 4."""
    complete = {int(name[1:]): SegmentSet.from_ordered(numbers) for name, numbers in sets.items()}
    return WalHoldings(SIZE, complete, fragments or {})


def test_at_a_fork_either_timelines_segment_will_do_up_to_the_fork() -> None:
    path = forked(4.5)
    both = reach(held(t1=range(2, 5), t2=range(4, 7)), path, lsn(2))
    child = reach(held(t1=range(2, 4), t2=range(4, 7)), path, lsn(2))
    assert both.end == child.end == lsn(7)
    assert both.read == child.read == (SegmentRange(1, 2, 4), SegmentRange(2, 4, 7))
    parent = reach(held(t1=range(2, 7), t2=range(5, 7)), path, lsn(2))
    assert parent.read == (SegmentRange(1, 2, 5),)
    assert (parent.end, parent.timeline) == (lsn(4.5), 1)
    assert str(parent.gap) == str(WalSegment.numbered(2, 4, SIZE))
    assert parent.stranded == (SegmentRange(2, 5, 7),)


def test_a_fork_at_a_boundary_needs_both_sides() -> None:
    path = forked(4)
    assert reach(held(t1=range(2, 4), t2=range(4, 6)), path, lsn(2)).end == lsn(6)
    assert reach(held(t1=range(2, 6), t2=range(5, 6)), path, lsn(2)).end == lsn(4)


def test_the_dead_end_of_a_parent_is_never_used() -> None:
    found = reach(held(t1=range(2, 9)), forked(4.5), lsn(2))
    assert (found.end, found.gap, found.stranded) == (lsn(4.5), None, ())


def test_several_forks_in_one_segment_are_bridged_by_the_newest() -> None:
    path = forked(4.25, 4.5, 4.75)
    assert reach(held(t1=range(2, 4), t4=range(4, 6)), path, lsn(2)).end == lsn(6)
    third = reach(held(t1=range(2, 4), t3=range(4, 5)), path, lsn(2))
    assert (third.end, third.timeline) == (lsn(4.75), 3)


def test_the_end_of_the_archive_is_no_gap_but_wal_behind_a_hole_is() -> None:
    assert reach(held(t1=range(2, 5)), ONE, lsn(2)).gap is None
    holed = WalHoldings(SIZE, {1: SegmentSet.from_ordered([2, 3, 6, 7, 9])})
    found = reach(holed, ONE, lsn(2))
    first, last = WalSegment.numbered(1, 4, SIZE), WalSegment.numbered(1, 5, SIZE)
    assert str(found.gap) == f"{first} to {last}"
    assert found.stranded == (SegmentRange(1, 6, 8), SegmentRange(1, 9, 10))


TAIL = WalSegment.numbered(1, 5, SIZE)


def test_a_tail_counts_when_it_is_the_last_thing_on_the_path() -> None:
    found = reach(held({TAIL: lsn(5.3)}, t1=range(2, 5)), ONE, lsn(2))
    assert (found.end, found.fragment, found.gap) == (lsn(5.3), TAIL, None)
    behind = reach(held({TAIL: lsn(5.3)}, t1=range(2, 4)), ONE, lsn(2))
    assert (behind.end, behind.fragment) == (lsn(4), None)
    assert behind.stranded == (SegmentRange(1, 5, 6),)


def test_a_tail_with_wal_behind_it_is_a_hole() -> None:
    holed = WalHoldings(SIZE, {1: SegmentSet.from_ordered([2, 3, 4, 6])}, {TAIL: lsn(5.3)})
    found = reach(holed, ONE, lsn(2))
    assert (found.end, found.fragment) == (lsn(5), None)
    assert str(found.gap) == str(TAIL)


def test_a_tail_is_forgotten_when_its_segment_is_complete() -> None:
    found = reach(held({TAIL: lsn(5.3)}, t1=range(2, 6)), ONE, lsn(2))
    assert (found.end, found.fragment) == (lsn(6), None)


def test_the_tail_of_a_new_timeline_bridges_the_fork() -> None:
    child = WalSegment.numbered(2, 4, SIZE)
    found = reach(held({child: lsn(4.75)}, t1=range(2, 4)), forked(4.5), lsn(2))
    assert (found.end, found.timeline, found.fragment) == (lsn(4.75), 2, child)


def test_a_cut_off_segment_of_a_parent_counts_up_to_the_fork_while_the_child_has_nothing() -> None:
    parent = WalSegment.numbered(1, 4, SIZE)
    found = reach(held({parent: lsn(4.9)}, t1=range(2, 4)), forked(4.5), lsn(2))
    assert (found.end, found.timeline, found.fragment) == (lsn(4.5), 1, parent)


def test_positions_belong_to_the_leg_that_holds_them() -> None:
    path = forked(4.5)
    assert [leg_at(path, lsn(n)).timeline for n in (0, 4.25, 4.5, 9)] == [1, 1, 2, 2]
    assert [leg_before(path, lsn(n)).timeline for n in (0, 4.25, 4.5, 9)] == [1, 1, 1, 2]


def test_a_backup_lies_on_a_path_when_it_ended_before_its_timeline_was_left() -> None:
    path = forked(4.5)
    before, across = full_backup(1, 2, 4.5), full_backup(1, 3, 4.75)
    assert lies_on(path, before)
    assert not lies_on(path, across)
    assert lies_on(ONE, across)
    assert lies_on(path, full_backup(2, 4.5, 5.5))
    assert not lies_on(path, full_backup(2, 4.25, 5.5))
    assert not lies_on(ONE, full_backup(2, 4.5, 5.5))


def test_windows_begin_where_a_backup_is_consistent_and_end_at_the_first_gap() -> None:
    holed = WalHoldings(
        SIZE, {1: SegmentSet.from_ordered([2, 3, 6, 7, 8]), 2: SegmentSet.from_ordered([8, 9])}
    )
    old, new, torn = full_backup(1, 2, 2.5), full_backup(1, 6, 6.5), full_backup(1, 3, 4.5)
    paths = histories((2, ((1, 8.5),)))
    windows = recoverable_windows(holed, (old, new, torn), [paths[2].legs, ONE])
    facts = [(w.backup, w.timeline, w.begin, w.end, w.usable) for w in windows]
    assert facts == [
        (old.backup, 2, lsn(2.5), lsn(4), True),
        (new.backup, 2, lsn(6.5), lsn(10), True),
        (torn.backup, 2, lsn(4.5), lsn(4), False),
        (old.backup, 1, lsn(2.5), lsn(4), True),
        (new.backup, 1, lsn(6.5), lsn(9), True),
        (torn.backup, 1, lsn(4.5), lsn(4), False),
    ]
    assert windows[0].reach.gap is not None
    assert windows[1].reach.gap is None
    assert old.stopped_at == at(2.5)
