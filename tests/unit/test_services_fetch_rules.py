"""Which segments belong to a path, held against a walk along it byte by byte."""

from __future__ import annotations

from itertools import islice

from hypothesis import given
from hypothesis import strategies as st

from tests.fix_archive import ONE_MIB
from tests.fix_fetch import lsn_in, segment
from walkeeper.core.lsn import Lsn
from walkeeper.core.timeline import TimelineHistory, TimelineSwitch
from walkeeper.core.wal import WalSegment
from walkeeper.services.fetch_rules import (
    ClientIdentity,
    FetchRequest,
    later_on_path,
    lies_on_path,
    next_on_path,
)

STEP = ONE_MIB.bytes // 4
LAST = 8 * 4
"""Positions are looked at in quarters of a segment, up to segment 8."""


@st.composite
def paths(draw: st.DrawFn) -> TimelineHistory:
    count = draw(st.integers(0, 3))
    at = [draw(st.integers(1, LAST)) for _ in range(count)]  # they may go back
    switches = [TimelineSwitch(parent, Lsn(step * STEP)) for parent, step in enumerate(at, 1)]
    return TimelineHistory(count + 1, tuple(switches))


segments = st.builds(segment, st.integers(1, 5), st.integers(0, 8))
ends = st.none() | st.integers(1, LAST + 8).map(lambda step: Lsn(step * STEP))


def positions(path: TimelineHistory, wal: WalSegment) -> list[int]:
    """The quarters of a segment that belong to the path."""
    begin = wal.number(ONE_MIB) * 4
    return [
        step
        for step in range(begin, begin + 4)
        if path.timeline_at(Lsn(step * STEP)) == wal.timeline
    ]


@given(paths(), segments, ends)
def test_a_segment_lies_on_the_path_when_one_of_its_bytes_does(
    path: TimelineHistory, wal: WalSegment, end: Lsn | None
) -> None:
    needed = [s for s in positions(path, wal) if end is None or s * STEP < end.value]
    assert lies_on_path(path, wal, ONE_MIB, end) == bool(needed)


@given(paths(), segments)
def test_what_is_later_on_the_path_are_the_segments_that_hold_its_later_bytes(
    path: TimelineHistory, wal: WalSegment
) -> None:
    own = positions(path, wal)
    if not own:
        return
    later = {
        segment(path.timeline_at(Lsn(step * STEP)), step // 4)
        for step in range(own[-1] + 1, LAST + 4)
    } - {wal}
    found = {
        segment(part.timeline, number)
        for part in later_on_path(path, wal, ONE_MIB)
        for number in range(part.begin, min(part.end, 9))
    }
    assert found == later


@given(paths(), segments, ends)
def test_what_follows_is_in_order_of_the_newest_timeline_and_stops_at_the_end(
    path: TimelineHistory, wal: WalSegment, end: Lsn | None
) -> None:
    following = list(islice(next_on_path(path, wal, ONE_MIB, end), 4))
    for number, found in enumerate(following, wal.number(ONE_MIB) + 1):
        newest = path.timeline_at(Lsn((number + 1) * ONE_MIB.bytes - 1))
        assert found == segment(newest, number)
        assert end is None or lsn_in(number) < end
    if end is not None and len(following) < 4:
        assert lsn_in(wal.number(ONE_MIB) + 1 + len(following)) >= end


@given(st.booleans(), st.booleans())
def test_timeline_and_end_count_in_an_archive_recovery_alone(standby: bool, recovery: bool) -> None:
    request = FetchRequest(segment(1, 1), ClientIdentity(1, 2), standby, recovery, 1.0, 3, Lsn(7))
    counts = recovery and not standby
    assert request.path_timeline == (3 if counts else None)
    assert request.path_end == (Lsn(7) if counts else None)
