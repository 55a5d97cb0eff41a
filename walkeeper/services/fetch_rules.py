"""What belongs to the path of a recovery: pure rules of what ``wal-fetch`` serves.

A path is a `TimelineHistory`: the ancestors of a timeline, each up to where it was left. Of a
timeline only what lies on its leg belongs to the path.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from walkeeper.core.lsn import Lsn
from walkeeper.core.segment_set import SegmentRange
from walkeeper.core.timeline import Leg, TimelineHistory
from walkeeper.core.wal import SegmentSize, WalFile, WalSegment

_LSN_END = 1 << 64
"""Just after the last position that there can be."""


@dataclass(frozen=True, slots=True)
class ClientIdentity:
    """Device and inode of the data directory that is being recovered."""

    device: int
    inode: int


@dataclass(frozen=True, slots=True)
class FetchRequest:
    """A WAL file asked for by PostgreSQL or one of its tools.

    ``standby`` is standby mode, ``recovery`` says that recovery.signal exists; with neither it is
    a tool such as pg_rewind. ``timeline`` and ``end`` come from a prepared restore: the path to
    follow and how far its WAL is needed; they count in an archive recovery alone. ``present`` says
    that PostgreSQL already has a file of that name. ``timeout_s`` is how long the client waits.
    ``run`` tells one run of the client's server from the next; "" when no server runs. ``guard``
    asks for a look at the tablespaces that a segment creates. ``goes_on`` is False where no
    recovery is under way that would ask for what follows.
    """

    wal: WalFile
    client: ClientIdentity
    standby: bool
    recovery: bool
    timeout_s: float
    timeline: int | None = None
    end: Lsn | None = None
    present: bool = False
    run: str = ""
    guard: bool = False
    goes_on: bool = True

    @property
    def is_tool(self) -> bool:
        """Neither signal file exists: no server in recovery asks, and who asks may jump at will."""
        return not (self.standby or self.recovery)

    @property
    def is_archive_recovery(self) -> bool:
        """recovery.signal exists and standby.signal, which would win, does not."""
        return self.recovery and not self.standby

    @property
    def path_timeline(self) -> int | None:
        """The timeline that this recovery was prepared for, where that counts."""
        return self.timeline if self.is_archive_recovery else None

    @property
    def path_end(self) -> Lsn | None:
        """Up to where this recovery was promised WAL, where that counts."""
        return self.end if self.is_archive_recovery else None


@dataclass(frozen=True, slots=True)
class Hole:
    """A segment that is missing although WAL of the path lies in or behind it.

    ``later`` names what is stored behind it; None when only the end says that it is needed.
    """

    missing: WalSegment
    later: str | None
    end: Lsn | None = None

    def __str__(self) -> str:
        if self.later is None:
            return f"{self.missing} is missing, and the recovery needs WAL up to {self.end}"
        return f"{self.missing} is missing, and {self.later} behind it exists"


def leg_of(path: TimelineHistory, timeline: int) -> Leg | None:
    """The part of the path that lies on a timeline, None when there is none."""
    return next((leg for leg in path.legs if leg.timeline == timeline), None)


def part_on_path(path: TimelineHistory, segment: WalSegment, size: SegmentSize) -> range:
    """The positions of the bytes of a segment that belong to the path; empty when none does.

    It ends before the segment does where the path leaves the timeline there. Numbers, for what
    follows the very last segment is no LSN.
    """
    leg = leg_of(path, segment.timeline)
    if leg is None:
        return range(0)
    begin = segment.number(size) * size.bytes
    stop = begin + size.bytes
    if leg.end is not None:
        stop = min(stop, leg.end.value)
    return range(max(begin, leg.begin.value), stop)


def lies_on_path(
    path: TimelineHistory, segment: WalSegment, size: SegmentSize, end: Lsn | None = None
) -> bool:
    """Whether a byte of this segment belongs to the path, and lies before ``end``."""
    part = part_on_path(path, segment, size)
    return bool(part) and (end is None or part.start < end.value)


def later_on_path(
    path: TimelineHistory, segment: WalSegment, size: SegmentSize
) -> Iterator[SegmentRange]:
    """Where WAL of the path would be stored that lies behind a segment's part of it.

    First the rest of its own leg, then the descendants', oldest first. Descendants begin with the
    same position: where a fork lies in it, the newer timeline goes on in a segment of that number.
    """
    number = segment.number(size)
    for leg in path.legs:
        if leg.timeline < segment.timeline:
            continue
        begin = number + 1 if leg.timeline == segment.timeline else number
        begin = max(begin, leg.begin.value // size.bytes)
        stop = _LSN_END if leg.end is None else leg.end.value
        end = -(-stop // size.bytes)
        if begin < end:
            yield SegmentRange(leg.timeline, begin, end)


def next_on_path(
    path: TimelineHistory, segment: WalSegment, size: SegmentSize, end: Lsn | None
) -> Iterator[WalSegment]:
    """The segments that a recovery along the path reads after this one, up to ``end``.

    Where a fork lies in a segment it is the newest timeline's, which begins with a copy of its
    parent's bytes: PostgreSQL asks for that one first (xlogrecovery.c, XLogFileReadAnyTLI).
    """
    stop = _LSN_END if end is None else end.value
    for number in range(segment.number(size) + 1, -(-stop // size.bytes)):
        last_byte = Lsn((number + 1) * size.bytes - 1)
        yield WalSegment.numbered(path.timeline_at(last_byte), number, size)
