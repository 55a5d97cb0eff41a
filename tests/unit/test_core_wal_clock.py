"""When WAL was written, from what is known of a few positions."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from tests.fix_core_plan import at, lsn
from walkeeper.core.lsn import Lsn
from walkeeper.core.wal_clock import WalClock

POINTS = st.lists(
    st.tuples(st.integers(0, 1000).map(Lsn), st.integers(0, 10_000).map(float)), max_size=20
)


def test_nothing_is_known_without_a_point() -> None:
    clock = WalClock.of([])
    assert clock.find_time(lsn(1)) is None
    assert clock.find_position(at(1)) is None
    assert clock.span is None
    assert not clock.covers(lsn(0))


def test_between_two_points_time_passes_evenly() -> None:
    clock = WalClock.of([(lsn(1), at(1).timestamp()), (lsn(3), at(5).timestamp())])
    assert clock.find_time(lsn(1)) == at(1)
    assert clock.find_time(lsn(2)) == at(3)
    assert clock.find_time(lsn(2.5)) == at(4)


def test_outside_of_what_is_known_the_nearest_moment_counts() -> None:
    clock = WalClock.of([(lsn(1), at(1).timestamp()), (lsn(3), at(5).timestamp())])
    assert clock.find_time(lsn(0)) == at(1)
    assert clock.find_time(lsn(9)) == at(5)
    assert clock.find_position(at(0)) == lsn(1)
    assert clock.find_position(at(6)) is None
    assert clock.covers(lsn(3))
    assert not clock.covers(lsn(4))


def test_an_upload_that_was_late_does_not_make_earlier_wal_younger_than_later_wal() -> None:
    clock = WalClock.of([(lsn(1), at(9).timestamp()), (lsn(2), at(3).timestamp())])
    assert clock.find_time(lsn(1)) == at(3)


@given(points=POINTS, positions=st.lists(st.integers(0, 1100).map(Lsn)))
def test_later_positions_are_never_earlier_in_time(
    points: list[tuple[Lsn, float]], positions: list[Lsn]
) -> None:
    clock = WalClock.of(points)
    times = [clock.find_time(position) for position in sorted(positions)]
    known = [time for time in times if time is not None]
    assert len(known) in {0, len(times)}
    assert all(early <= late for early, late in pairwise(known))


@given(points=POINTS)
def test_no_position_is_placed_after_a_moment_at_which_it_had_been_written(
    points: list[tuple[Lsn, float]],
) -> None:
    clock = WalClock.of(points)
    for position, seconds in points:
        found = clock.find_time(position)
        assert found is not None
        assert found <= datetime.fromtimestamp(seconds, UTC)


@given(points=POINTS, seconds=st.integers(0, 11_000))
def test_what_was_written_before_a_moment_lies_before_the_position_found_for_it(
    points: list[tuple[Lsn, float]], seconds: int
) -> None:
    clock = WalClock.of(points)
    moment = datetime.fromtimestamp(seconds, UTC)
    found = clock.find_position(moment)
    behind = [position for position, _ in points if found is None or position < found]
    for position in behind:
        time = clock.find_time(position)
        assert time is not None
        assert time < moment + timedelta(seconds=1)
        assert found is None or time < moment
