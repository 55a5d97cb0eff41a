"""How far recovery can go: stored segments along the timelines that it follows.

A **path** is the ancestry of a timeline as legs, oldest first, each from where its timeline forked
off to where the next one did; the last has no end. Of a timeline only what lies on its leg counts.
A segment in which a fork lies exists on both timelines, and the newer one begins with a copy of
the older one's bytes (src/backend/access/transam/xlog.c, XLogInitNewTimeline): PostgreSQL asks for
the newest first (xlogrecovery.c, XLogFileReadAnyTLI), and either will do up to the fork.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from walkeeper.core.backup import BackupFacts
from walkeeper.core.backup_id import BackupId
from walkeeper.core.lsn import Lsn
from walkeeper.core.segment_set import SegmentRange, SegmentSet
from walkeeper.core.timeline import Leg
from walkeeper.core.wal import SegmentSize, WalSegment

Path = tuple[Leg, ...]


@dataclass(frozen=True, slots=True)
class WalHoldings:
    """The WAL that an archive holds.

    ``complete`` has the complete segments of each timeline. ``fragments`` says for segments of
    which a tail or cut-off objects are stored how far the best of these holds valid WAL; it may
    list segments that are complete as well.
    """

    size: SegmentSize
    complete: Mapping[int, SegmentSet] = field(default_factory=dict)
    fragments: Mapping[WalSegment, Lsn] = field(default_factory=dict)

    def holds(self, timeline: int, number: int) -> bool:
        """Whether the complete segment is there."""
        return number in self.complete.get(timeline, _NOTHING)

    def fragment(self, timeline: int, number: int) -> Lsn | None:
        """How far a segment's tail and cut-off objects go, or None."""
        return self.fragments.get(WalSegment.numbered(timeline, number, self.size))


@dataclass(frozen=True, slots=True)
class Gap:
    """Missing segments with later WAL behind them; ``begin`` is the first byte that is missing."""

    begin: Lsn
    missing: tuple[SegmentRange, ...]
    size: SegmentSize

    def __str__(self) -> str:
        return ", ".join(part.named(self.size) for part in self.missing)


@dataclass(frozen=True, slots=True)
class Reach:
    """The WAL from ``start`` to just before ``end`` that follows each other on a path.

    ``timeline`` is that of the last byte. ``read`` lists the segments that recovery reads, in
    order; when ``fragment`` is set the last of them is not complete. ``gap`` is set when there is
    WAL behind the end: these are the ``stranded`` segments, which no recovery on this path reads.
    """

    start: Lsn
    end: Lsn
    timeline: int
    read: tuple[SegmentRange, ...] = ()
    fragment: WalSegment | None = None
    gap: Gap | None = None
    stranded: tuple[SegmentRange, ...] = ()

    def read_until(self, end: Lsn, size: SegmentSize) -> tuple[SegmentRange, ...]:
        """The segments that recovery reads to get to ``end``."""
        after = -(-end.value // size.bytes)
        return tuple(
            SegmentRange(part.timeline, part.begin, min(part.end, after))
            for part in self.read
            if part.begin < after
        )


@dataclass(frozen=True, slots=True)
class Window:
    """What one backup makes recoverable along one path: every moment from ``begin`` to ``end``."""

    backup: BackupId
    timeline: int
    begin: Lsn
    reach: Reach

    @property
    def end(self) -> Lsn:
        """Where the WAL ends; before ``begin`` when the backup is not usable."""
        return self.reach.end

    @property
    def usable(self) -> bool:
        """Whether the backup's own WAL is all there."""
        return self.begin <= self.reach.end


_NOTHING = SegmentSet()


def reach(held: WalHoldings, path: Path, start: Lsn) -> Reach:
    """How far the WAL goes from ``start`` along a path without a gap.

    A tail or cut-off segment counts only as the very last thing on the path: in the middle it
    would end recovery there.
    """
    runs = list(_complete(held, path, start))
    read = [part for part, _ in runs]
    position = runs[-1][1] if runs else start
    stranded = tuple(_later(held, path, position))
    fragment = None if stranded else _last_fragment(held, path, position)
    if fragment is not None:
        last, position = fragment
        read.append(last)
    return Reach(
        start=start,
        end=position,
        timeline=leg_before(path, position).timeline,
        read=_joined(read),
        fragment=None if fragment is None else fragment[0].first(held.size),
        gap=_gap(held, path, position, stranded) if stranded else None,
        stranded=stranded,
    )


def recoverable_windows(
    held: WalHoldings, backups: Iterable[BackupFacts], paths: Iterable[Path]
) -> tuple[Window, ...]:
    """For each path and each backup on it, what can be recovered from it."""
    known = tuple(backups)
    return tuple(
        Window(backup.backup, path[-1].timeline, backup.stop, reach(held, path, backup.start))
        for path in paths
        for backup in known
        if lies_on(path, backup)
    )


def lies_on(path: Path, backup: BackupFacts) -> bool:
    """Whether a recovery along the path can begin with the backup.

    PostgreSQL asks that its checkpoint belongs to its timeline's leg and that it is consistent
    before the leg ends (xlogrecovery.c, InitWalRecovery: "is not a child of this server's
    history").
    """
    return any(
        leg.timeline == backup.timeline
        and leg.begin <= backup.checkpoint
        and (leg.end is None or backup.stop <= leg.end)
        for leg in path
    )


def leg_at(path: Path, lsn: Lsn) -> Leg:
    """The leg that holds the byte at ``lsn``."""
    return next((leg for leg in path if leg.end is None or lsn < leg.end), path[-1])


def leg_before(path: Path, lsn: Lsn) -> Leg:
    """The leg that holds the byte just before ``lsn``."""
    return next((leg for leg in path if leg.end is None or lsn <= leg.end), path[-1])


def _complete(held: WalHoldings, path: Path, start: Lsn) -> Iterator[tuple[SegmentRange, Lsn]]:
    """Runs of complete segments from ``start`` on, each with the position that it leads to."""
    position = start
    while True:
        runs = (
            _run(held, leg, number, limit)
            for leg, number, limit in _asked(held.size, path, position)
        )
        found = next((run for run in runs if run is not None), None)
        if found is None:
            return
        position = found[1]
        yield found


def _asked(size: SegmentSize, path: Path, position: Lsn) -> Iterator[tuple[Leg, int, int | None]]:
    """The legs whose timelines may hold the segment of ``position``, newest first.

    With each the segment's number and where a run from there ends at the latest, for the segment
    in which the next leg begins is asked of that one first.
    """
    number = position.value // size.bytes
    limit: int | None = None
    for leg in reversed(path):
        begin = leg.begin.value // size.bytes
        if begin > number:
            limit = begin
        elif leg.end is None or position < leg.end:
            yield leg, number, limit
            limit = number + 1


def _run(
    held: WalHoldings, leg: Leg, number: int, limit: int | None
) -> tuple[SegmentRange, Lsn] | None:
    after = held.complete.get(leg.timeline, _NOTHING).run_end(number)
    if limit is not None:
        after = min(after, limit)
    if after == number:
        return None
    end = Lsn(after * held.size.bytes)
    return (
        SegmentRange(leg.timeline, number, after),
        end if leg.end is None else min(end, leg.end),
    )


def _last_fragment(held: WalHoldings, path: Path, position: Lsn) -> tuple[SegmentRange, Lsn] | None:
    """The tail or cut-off segment that leads furthest past ``position``, and where to."""
    best: tuple[SegmentRange, Lsn] | None = None
    for leg, number, _ in _asked(held.size, path, position):
        end = held.fragment(leg.timeline, number)
        if end is not None and leg.end is not None:
            end = min(end, leg.end)
        if end is not None and end > (position if best is None else best[1]):
            best = SegmentRange(leg.timeline, number, number + 1), end
    return best


def _later(held: WalHoldings, path: Path, position: Lsn) -> Iterator[SegmentRange]:
    """What is stored on the path behind the segment of ``position``."""
    size = held.size
    after = position.value // size.bytes + 1
    for leg in path[path.index(leg_at(path, position)) :]:
        begin = max(after, leg.begin.value // size.bytes)
        end = None if leg.end is None else -(-leg.end.value // size.bytes)
        for low, high in held.complete.get(leg.timeline, _NOTHING).between(begin, end):
            yield SegmentRange(leg.timeline, low, high)
        for segment in sorted(held.fragments):
            number = segment.number(size)
            inside = begin <= number and (end is None or number < end)
            on_leg = segment.timeline == leg.timeline and inside
            if on_leg and not held.holds(leg.timeline, number):
                yield SegmentRange(leg.timeline, number, number + 1)


def _gap(held: WalHoldings, path: Path, position: Lsn, stranded: Iterable[SegmentRange]) -> Gap:
    number = position.value // held.size.bytes
    behind = min(part.begin for part in stranded)
    missing: list[SegmentRange] = []
    for leg in reversed(path):
        begin = max(number, leg.begin.value // held.size.bytes)
        if begin < behind:
            missing.insert(0, SegmentRange(leg.timeline, begin, behind))
            behind = begin
    return Gap(position, tuple(missing), held.size)


def _joined(parts: Iterable[SegmentRange]) -> tuple[SegmentRange, ...]:
    joined: list[SegmentRange] = []
    for part in parts:
        if joined and (joined[-1].timeline, joined[-1].end) == (part.timeline, part.begin):
            part = SegmentRange(part.timeline, joined.pop().begin, part.end)
        joined.append(part)
    return tuple(joined)
