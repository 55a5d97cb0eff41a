"""What missing WAL and broken backups cost: which backups, and which moments of recovery.

WAL is looked at along each path from its earliest backup on. A **break** is where it does not go
on; behind it only backups begun later lead further.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from walkeeper.core.backup import BackupFacts
from walkeeper.core.coverage import Path, WalHoldings, leg_at, lies_on, reach
from walkeeper.core.lsn import Lsn
from walkeeper.core.segment_set import SegmentRange
from walkeeper.core.wal import SegmentSize


@dataclass(frozen=True, slots=True)
class Break:
    """Where WAL ends on a path although there was more: ``begin`` is the first byte missing.

    ``end`` is where there is WAL again, None when nothing is behind it.
    """

    begin: Lsn
    end: Lsn | None
    missing: tuple[SegmentRange, ...]

    def covers(self, path: Path, timeline: int, number: int, size: SegmentSize) -> bool:
        """Whether this segment could have stood in for a part of it."""
        first = Lsn(number * size.bytes)
        inside = self.begin.value // size.bytes <= number and (self.end is None or first < self.end)
        return inside and any(
            leg.timeline == timeline
            and number >= leg.begin.value // size.bytes
            and (leg.end is None or first < leg.end)
            for leg in path
        )


@dataclass(frozen=True, slots=True, order=True)
class LostMoments:
    """Moments from ``begin`` to just before ``end`` that can no longer be recovered.

    ``until`` is the backup whose end is the next moment that can; without one they go on to the
    end of the timeline's WAL.
    """

    timeline: int
    begin: Lsn
    until: str | None
    end: Lsn | None


@dataclass(frozen=True, slots=True)
class Loss:
    """What something costs: ids of backups that cannot be restored, and moments."""

    backups: tuple[str, ...] = ()
    moments: tuple[LostMoments, ...] = ()

    def __or__(self, other: Loss) -> Loss:
        backups = sorted({*self.backups, *other.backups})
        return Loss(tuple(backups), tuple(dict.fromkeys((*self.moments, *other.moments))))


def find_breaks(
    held: WalHoldings,
    path: Path,
    start: Lsn,
    until: Lsn,
    damaged: Collection[SegmentRange] = (),
) -> tuple[Break, ...]:
    """Every break on a path from ``start`` on; there must be WAL at least up to ``until``.

    ``damaged`` are segments that are stored but not held: where they lie behind all that is held,
    they are a break too.
    """
    size = held.size
    found = []
    position = start
    while (way := reach(held, path, position)).gap is not None:
        # A segment may lie on two legs; whatever comes first is where WAL begins again.
        position = Lsn(min(part.begin for part in way.stranded) * size.bytes)
        found.append(Break(way.gap.begin, position, way.gap.missing))
    last = Break(way.end, None, ())
    behind = [
        part
        for part in damaged
        if last.covers(path, part.timeline, part.end - 1, size)
        and way.end.value < part.end * size.bytes
    ]
    absent = _absent(path, way.end, until, size) if way.end < until else ()
    if behind or absent:
        found.append(Break(way.end, None, (*absent, *behind)))
    return tuple(found)


def _absent(path: Path, begin: Lsn, end: Lsn, size: SegmentSize) -> tuple[SegmentRange, ...]:
    """The segments from ``begin`` to ``end`` that a recovery along the path asks for."""
    found: list[SegmentRange] = []
    after = -(-end.value // size.bytes)
    for leg in reversed(path):
        first = max(begin.value, leg.begin.value) // size.bytes
        if first < after:
            found.insert(0, SegmentRange(leg.timeline, first, after))
            after = first
    return tuple(found)


def loss_of_break(
    one: Break, path: Path, backups: Sequence[BackupFacts], broken: Collection[str]
) -> Loss:
    """What a break on a path costs; ``broken`` are backups that cannot be restored anyway."""
    on_path = sorted(
        (backup for backup in backups if lies_on(path, backup)), key=lambda known: known.stop
    )
    cut = [
        backup
        for backup in on_path
        if one.begin < backup.stop and (one.end is None or backup.start < one.end)
    ]
    good = [backup for backup in on_path if backup.id not in broken]
    behind = [backup for backup in good if one.end is not None and backup.start >= one.end]
    # Before the end of the first backup there was nothing to lose.
    begin = max([one.begin, *(backup.stop for backup in good[:1])])
    return Loss(tuple(sorted(backup.id for backup in cut)), _lost(path, begin, behind))


def loss_of_backup(
    backup: BackupFacts,
    paths: Iterable[Path],
    breaks: Iterable[Sequence[Break]],
    backups: Sequence[BackupFacts],
    broken: Collection[str],
) -> Loss:
    """What it costs that a backup itself is broken: nothing but itself where others lead there."""
    loss = Loss((backup.id,))
    for path, on_path in zip(paths, breaks, strict=True):
        if not lies_on(path, backup):
            continue
        others = [
            other
            for other in backups
            if other.id not in broken
            and lies_on(path, other)
            and not any(_cuts(one, other.start, other.stop) for one in on_path)
        ]
        earlier = any(
            other.stop <= backup.stop
            and not any(_cuts(one, other.start, backup.stop) for one in on_path)
            for other in others
        )
        if not earlier:
            behind = [other for other in others if other.stop > backup.stop]
            loss |= Loss((), _lost(path, backup.stop, behind))
    return loss


def _cuts(one: Break, begin: Lsn, end: Lsn) -> bool:
    return one.begin < end and (one.end is None or begin < one.end)


def _lost(path: Path, begin: Lsn, behind: Iterable[BackupFacts]) -> tuple[LostMoments, ...]:
    following = min(behind, key=lambda backup: backup.stop, default=None)
    timeline = leg_at(path, begin).timeline
    if following is None:
        return (LostMoments(timeline, begin, None, None),)
    if following.stop <= begin:
        return ()
    return (LostMoments(timeline, begin, following.id, following.stop),)
