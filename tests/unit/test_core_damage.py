"""What missing WAL costs, against a world that is looked at in quarters of segments."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tests.fix_core_plan import SIZE, full_backup, histories, lsn
from walkeeper.core.coverage import Path, WalHoldings, reach
from walkeeper.core.damage import Break, LostMoments, find_breaks, loss_of_backup, loss_of_break
from walkeeper.core.lsn import Lsn
from walkeeper.core.segment_set import SegmentRange, SegmentRuns, SegmentSet
from walkeeper.core.timeline import TimelineHistory
from walkeeper.core.wal import WalSegment

ONE: Path = TimelineHistory(1).legs
TWO: Path = histories((2, ((1, 4.5),)))[2].legs


def held(**numbers: list[int]) -> WalHoldings:
    return WalHoldings(
        SIZE, {int(name[1:]): SegmentSet.from_ordered(known) for name, known in numbers.items()}
    )


def test_each_gap_is_a_break_with_the_segments_that_are_missing() -> None:
    breaks = find_breaks(held(t1=[1, 2, 5, 8, 9]), ONE, lsn(1), lsn(2))
    assert breaks == (
        Break(lsn(3), lsn(5), (SegmentRange(1, 3, 5),)),
        Break(lsn(6), lsn(8), (SegmentRange(1, 6, 8),)),
    )


def test_a_gap_over_a_fork_names_segments_of_both_timelines() -> None:
    (found,) = find_breaks(held(t1=[1, 2], t2=[6]), TWO, lsn(1), lsn(2))
    assert found.missing == (SegmentRange(1, 3, 4), SegmentRange(2, 4, 6))


def test_wal_that_a_backup_needs_and_nothing_follows_is_a_break() -> None:
    (found,) = find_breaks(held(t1=[1], t2=[]), TWO, lsn(1), lsn(5.5))
    assert found == Break(lsn(2), None, (SegmentRange(1, 2, 4), SegmentRange(2, 4, 6)))
    assert find_breaks(held(t1=[1, 2]), ONE, lsn(1), lsn(2.5)) == ()


def test_damage_behind_all_that_is_held_is_a_break() -> None:
    damaged = [SegmentRange(1, 3, 4), SegmentRange(1, 1, 2), SegmentRange(2, 9, 10)]
    (found,) = find_breaks(held(t1=[1, 2]), ONE, lsn(1), lsn(2), damaged)
    assert found == Break(lsn(3), None, (SegmentRange(1, 3, 4),))


def test_a_break_costs_the_backups_it_cuts_and_all_until_the_next_one_ends() -> None:
    backups = [full_backup(1, 1, 2), full_backup(1, 3, 4), full_backup(1, 6, 7)]
    gap = Break(lsn(3.5), lsn(5), ())
    loss = loss_of_break(gap, ONE, backups, ())
    assert loss.backups == (backups[1].id,)
    assert loss.moments == (LostMoments(1, lsn(3.5), backups[2].id, lsn(7)),)
    without = loss_of_break(gap, ONE, backups, {backups[2].id})
    assert without.moments == (LostMoments(1, lsn(3.5), None, None),)


def test_before_the_end_of_the_first_backup_there_was_nothing_to_lose() -> None:
    backups = [full_backup(1, 1, 3), full_backup(1, 5, 6)]
    loss = loss_of_break(Break(lsn(2), lsn(4), ()), ONE, backups, ())
    assert loss.moments == (LostMoments(1, lsn(3), backups[1].id, lsn(6)),)
    broken = loss_of_break(Break(lsn(2), lsn(4), ()), ONE, backups, {backups[0].id})
    assert broken.moments == ()


def test_a_broken_backup_costs_moments_only_where_no_earlier_one_leads() -> None:
    backups = [full_backup(1, 1, 2), full_backup(1, 4, 5), full_backup(1, 7, 8)]
    middle = backups[1]
    none = loss_of_backup(middle, [ONE, TWO], [(), ()], backups, {middle.id})
    assert (none.backups, none.moments) == ((middle.id,), ())
    gap = (Break(lsn(3), lsn(4), ()),)
    loss = loss_of_backup(middle, [ONE], [gap], backups, {middle.id})
    assert loss.moments == (LostMoments(1, lsn(5), backups[2].id, lsn(8)),)
    first = loss_of_backup(backups[0], [ONE], [()], backups[:1], {backups[0].id})
    assert first.moments == (LostMoments(1, lsn(2), None, None),)


@given(st.sets(st.integers(0, 12)), st.sets(st.integers(0, 12)), st.integers(0, 8))
def test_from_behind_each_break_wal_goes_on_to_the_next(
    one: set[int], two: set[int], start: int
) -> None:
    """And every segment on the way is either read or within a break."""
    wal = held(t1=sorted(one), t2=sorted(two))
    position = lsn(start)
    for found in find_breaks(wal, TWO, position, lsn(0)):
        way = reach(wal, TWO, position)
        assert way.end == found.begin
        assert found.end is not None
        assert found.begin < found.end
        for part in found.missing:
            for number in range(part.begin, part.end):
                assert not wal.holds(part.timeline, number)
                assert found.covers(TWO, part.timeline, number, SIZE)
        position = found.end
    assert reach(wal, TWO, position).gap is None


@given(st.sets(st.integers(0, 30)), st.sets(st.integers(0, 30)))
def test_numbers_are_taken_out_of_a_set_and_put_into_it(one: set[int], other: set[int]) -> None:
    known = SegmentSet.from_ordered(sorted(one))
    assert known.without(other) == SegmentSet.from_ordered(sorted(one - other))
    for number in other - one:
        known = known.with_one(number)
    assert known == SegmentSet.from_ordered(sorted(one | other))


@given(st.sets(st.integers(0, 30)))
def test_runs_built_from_a_listing_are_the_set_of_it(numbers: set[int]) -> None:
    runs = SegmentRuns()
    for number in sorted(numbers):
        runs.add(number)
    assert runs.finish() == SegmentSet.from_ordered(sorted(numbers))


def test_a_segment_on_no_leg_covers_nothing() -> None:
    gap = Break(lsn(3), lsn(6), ())
    assert gap.covers(TWO, 1, 4, SIZE)
    assert not gap.covers(TWO, 1, 5, SIZE)
    assert not gap.covers(TWO, 2, 3, SIZE)
    assert WalSegment.numbered(1, 3, SIZE).begin(SIZE) == Lsn(3 * SIZE.bytes)
