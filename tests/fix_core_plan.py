"""A small world for coverage and plans: 1 MiB segments, a segment a minute, an hour at LSN 0/0."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from hypothesis import strategies as st

from walkeeper.core.backup import BackupFacts
from walkeeper.core.backup_id import BackupId
from walkeeper.core.coverage import Path, WalHoldings
from walkeeper.core.lsn import Lsn
from walkeeper.core.segment_set import SegmentSet
from walkeeper.core.timeline import Leg, TimelineHistory, TimelineSwitch
from walkeeper.core.wal import SegmentSize, WalSegment

SIZE = SegmentSize(1 << 20)
EPOCH = datetime(2026, 11, 20, 10, tzinfo=UTC)


def lsn(segments: float) -> Lsn:
    """The position so many segments after 0/0."""
    return Lsn(int(segments * SIZE.bytes))


def at(segments: float) -> datetime:
    """When that position was written."""
    return EPOCH + timedelta(minutes=segments)


def histories(*known: tuple[int, Sequence[tuple[int, float]]]) -> dict[int, TimelineHistory]:
    """``(3, ((1, 4.5), (2, 6)))``: timeline 3 came from 1, left at 4.5, and 2, left at 6."""
    return {
        timeline: TimelineHistory(
            timeline, tuple(TimelineSwitch(parent, lsn(fork)) for parent, fork in switches)
        )
        for timeline, switches in known
    }


def full_backup(timeline: int, start: float, stop: float) -> BackupFacts:
    """A backup whose WAL runs from ``start`` to ``stop``; its clock agrees with the world's."""
    begin, end = lsn(start), lsn(stop)
    chance = bytes((timeline, int(start * 4) % 256, int(stop * 4) % 256))
    return BackupFacts(
        id=str(BackupId.create(at(start), chance)),
        system_identifier="7301234567890123456",
        timeline=timeline,
        start_lsn=str(begin),
        checkpoint_lsn=str(begin),
        stop_lsn=str(end),
        started_at=at(start),
        stopped_at=at(stop),
        server_version=150018,
        segment_size=SIZE.bytes,
        size_bytes=1000,
        stored_bytes=400,
        parts=1,
        files=10,
        data_checksums=True,
        wal_first=str(WalSegment.at(timeline, begin, SIZE)),
        wal_last=str(WalSegment.before(timeline, end, SIZE)),
    )


# The oracle: a world of a few timelines, positions in quarters of a segment, looked at one by one.
QUARTER = SIZE.bytes // 4
LAST = 10


@dataclass(frozen=True)
class World:
    path: Path
    held: WalHoldings
    start: Lsn


@st.composite
def worlds(draw: st.DrawFn) -> World:
    forks = draw(st.lists(st.integers(1, LAST * 4 - 1), max_size=3))
    switches = tuple(
        TimelineSwitch(number, Lsn(fork * QUARTER)) for number, fork in enumerate(forks, start=1)
    )
    history = TimelineHistory(len(forks) + 1, switches)
    density = draw(st.sampled_from([1, 2, 8]))
    complete = {
        timeline: SegmentSet.from_ordered(
            n for n in range(LAST) if draw(st.integers(0, density)) or density == 1
        )
        for timeline in range(1, len(forks) + 2)
    }
    fragments = draw(
        st.dictionaries(
            st.builds(WalSegment, st.integers(1, len(forks) + 1), st.just(0), st.integers(0, LAST)),
            st.integers(1, 4),
            max_size=2,
        )
    )
    ends = {segment: segment.begin(SIZE) + part * QUARTER for segment, part in fragments.items()}
    start = Lsn(draw(st.integers(0, LAST * 4 - 1)) * QUARTER)
    return World(history.legs, WalHoldings(SIZE, complete, ends), start)


def begin_number(leg: Leg) -> int:
    return leg.begin.value // SIZE.bytes


def asked(path: Path, number: int) -> list[Leg]:
    return [leg for leg in reversed(path) if begin_number(leg) <= number]


def readable(world: World, quarter: int) -> bool:
    """Whether PostgreSQL gets the byte, asking newest first as XLogFileReadAnyTLI does."""
    position = Lsn(quarter * QUARTER)
    number = position.value // SIZE.bytes
    for leg in asked(world.path, number):
        if world.held.holds(leg.timeline, number):
            return leg.end is None or position < leg.end
    return False


def simulate(world: World) -> tuple[Lsn, set[tuple[int, int]]]:
    """Where recovery ends, and what is stored behind that on the path."""
    quarter = world.start.value // QUARTER
    while readable(world, quarter):
        quarter += 1
    number = quarter // 4
    stranded = {
        (leg.timeline, n)
        for leg in world.path
        if leg.end is None or Lsn(quarter * QUARTER) < leg.end
        for n in range(number + 1, LAST + 1)
        if begin_number(leg) <= n and (leg.end is None or Lsn(n * SIZE.bytes) < leg.end)
        if world.held.holds(leg.timeline, n) or world.held.fragment(leg.timeline, n) is not None
    }
    if not stranded:
        # A complete segment that ends at a fork hides no fragment of the newer timeline.
        position = Lsn(quarter * QUARTER)
        ends = [
            min(end, leg.end) if leg.end is not None else end
            for leg in asked(world.path, number)
            if (end := world.held.fragment(leg.timeline, number)) is not None
        ]
        return max([position, *ends]), stranded
    return Lsn(quarter * QUARTER), stranded
