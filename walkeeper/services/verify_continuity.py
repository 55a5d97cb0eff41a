"""What the problems of an archive cost: gaps in its WAL, histories, backups and moments lost."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from walkeeper.core.archive_view import ArchiveView, branches
from walkeeper.core.backup import BackupFacts
from walkeeper.core.backup_id import BackupId
from walkeeper.core.coverage import Path, WalHoldings, lies_on
from walkeeper.core.damage import (
    Break,
    Loss,
    LostMoments,
    find_breaks,
    loss_of_backup,
    loss_of_break,
)
from walkeeper.core.layout import wal_object
from walkeeper.core.lsn import Lsn
from walkeeper.core.segment_set import SegmentRange, SegmentSet
from walkeeper.core.timeline import TimelineHistory
from walkeeper.core.wal import SegmentSize, TimelineHistoryFile, WalSegment
from walkeeper.errors import TargetUnreachable
from walkeeper.services.verify_report import Finding, LostTime, Problem
from walkeeper.services.verify_wal import StoredWal


@dataclass(slots=True)
class Continuity:
    """Judges what was found.

    ``only`` is the one backup that was looked at, None for all of them. ``each_by_itself``:
    histories could not be read, so no switches.
    """

    size: SegmentSize
    backups: Sequence[BackupFacts]
    wal: StoredWal
    problems: Sequence[Problem]
    only: BackupId | None = None
    each_by_itself: bool = False
    _view: ArchiveView = field(init=False)
    _paths: list[Path] = field(init=False)
    _breaks: list[tuple[Break, ...]] = field(init=False)
    _broken: set[str] = field(init=False)
    _lost_timelines: dict[int, str] = field(init=False)

    def __post_init__(self) -> None:
        self._broken = {str(one.subject) for one in self.problems if _is_backup(one.subject)}
        held = {
            timeline: numbers.without(
                (*self.wal.damaged.get(timeline, ()), *self.wal.gone.get(timeline, ()))
            )
            for timeline, numbers in self.wal.complete.items()
        }
        view = self._view_of(held)
        # Branches end where WAL was stored, not where it can still be used.
        everything = self._view_of(self.wal.complete)
        self._lost_timelines = {}
        self._view, self._paths, self._breaks = view, [], []
        for branch in branches(everything):
            self._follow(branch.timeline)
        for backup in self._asked():
            if not any(lies_on(path, backup) for path in self._paths):
                self._follow(backup.timeline)

    def _asked(self) -> list[BackupFacts]:
        return [one for one in self.backups if self.only in {None, one.backup}]

    def _view_of(self, complete: Mapping[int, SegmentSet]) -> ArchiveView:
        histories: Mapping[int, TimelineHistory] = self.wal.histories
        if self.each_by_itself:
            known = {*complete, *(backup.timeline for backup in self.backups)}
            histories = {one: TimelineHistory(one) for one in known if one > 1}
        wal = WalHoldings(self.size, complete, self.wal.fragments)
        return ArchiveView(wal, tuple(self.backups), histories)

    def _follow(self, timeline: int) -> None:
        """Look along the path to a timeline from its earliest backup on."""
        try:
            path = self._view.path_to(timeline)
        except TargetUnreachable as error:
            self._lost_timelines[timeline] = error.message
            return
        on_path = [backup for backup in self._asked() if lies_on(path, backup)]
        if on_path and path not in self._paths:
            start = min(backup.start for backup in on_path)
            until = max(backup.stop for backup in on_path)
            damaged = self._damaged_ranges()
            self._paths.append(path)
            self._breaks.append(find_breaks(self._view.wal, path, start, until, damaged))

    def _damaged_ranges(self) -> list[SegmentRange]:
        return [
            SegmentRange(timeline, number, number + 1)
            for timeline, numbers in sorted(self.wal.damaged.items())
            for number in sorted(numbers)
        ]

    def missing(self) -> tuple[SegmentRange, ...]:
        """Segments that are not stored although WAL behind them is, in order."""
        found: dict[SegmentRange, None] = {}
        for breaks in self._breaks:
            for one in breaks:
                for part in one.missing:
                    found.update(dict.fromkeys(self._without_damaged(part)))
        return tuple(sorted(found))

    def _without_damaged(self, part: SegmentRange) -> Iterator[SegmentRange]:
        damaged = self.wal.damaged.get(part.timeline, set())
        absent = SegmentSet((part.begin,), (part.end,)).without(
            number for number in damaged if part.begin <= number < part.end
        )
        for begin, end in zip(absent.begins, absent.ends, strict=True):
            yield SegmentRange(part.timeline, begin, end)

    def findings(self) -> Iterator[Finding]:
        """All problems with what each costs, then what is missing."""
        for problem in self.problems:
            yield self._finding(problem, self._loss(problem))
        for part in self.missing():
            first = part.first(self.size)
            yield self._finding(
                Problem(
                    wal_object(first),
                    "missing",
                    "it is missing"
                    if part.count == 1
                    else f"{part.count} segments are missing: {part.named(self.size)}",
                    first,
                ),
                self._loss_of_wal(part.timeline, range(part.begin, part.end)),
            )
        yield from self._histories()
        yield from self._off_path()

    def _loss(self, problem: Problem) -> Loss:
        match problem.subject:
            case WalSegment() as segment:
                number = segment.number(self.size)
                return self._loss_of_wal(segment.timeline, range(number, number + 1))
            case BackupId() as backup:
                facts = next((one for one in self.backups if one.id == str(backup)), None)
                if facts is None:
                    return Loss((str(backup),))
                return loss_of_backup(facts, self._paths, self._breaks, self.backups, self._broken)
            case int() as timeline:
                return self._loss_of_timeline(timeline)
            case _:
                return Loss()

    def _loss_of_wal(self, timeline: int, numbers: range) -> Loss:
        loss = Loss()
        for path, breaks in zip(self._paths, self._breaks, strict=True):
            for one in breaks:
                if any(one.covers(path, timeline, number, self.size) for number in numbers):
                    loss |= loss_of_break(one, path, self.backups, self._broken)
        return loss

    def _loss_of_timeline(self, timeline: int) -> Loss:
        if timeline not in self._lost_timelines:
            return Loss()
        backups = tuple(sorted(one.id for one in self.backups if one.timeline == timeline))
        return Loss(backups, (LostMoments(timeline, Lsn(0), None, None),))

    def _histories(self) -> Iterator[Finding]:
        """Histories that are not stored although something of their timeline is, or that differ."""
        used = {timeline for timeline, numbers in self.wal.complete.items() if numbers.begins}
        used.update(backup.timeline for backup in self._asked())
        for timeline in sorted(used - self.wal.history_files - {1}):
            derived = self._view.find_history(timeline) is not None and not self.each_by_itself
            what = "it is missing" + (", and can be rebuilt from a later one" if derived else "")
            name = wal_object(TimelineHistoryFile(timeline))
            problem = Problem(name, "missing", what, timeline)
            yield self._finding(problem, self._loss_of_timeline(timeline))
        known = sorted(self.wal.histories.items())
        for timeline, history in known:
            for ancestor, own in known:
                if ancestor != timeline and history.contains(ancestor):
                    derived_switches = _positions(history.derive(ancestor))
                    if derived_switches != _positions(own):
                        name = wal_object(TimelineHistoryFile(timeline))
                        what = f"it contradicts {TimelineHistoryFile(ancestor)}"
                        yield self._finding(Problem(name, "damaged", what), Loss())

    def _off_path(self) -> Iterator[Finding]:
        """Backups that no path leads through: their WAL must have been lost wholly."""
        for backup in self._asked():
            followed = any(lies_on(path, backup) for path in self._paths)
            if not followed and backup.timeline not in self._lost_timelines:
                what = f"no known timeline leads through backup {backup.id}"
                name = wal_object(backup.required_wal[0])
                yield self._finding(Problem(name, "missing", what), Loss((backup.id,)))

    def _finding(self, problem: Problem, loss: Loss) -> Finding:
        return Finding(
            object=problem.object,
            kind=problem.kind,
            what=problem.what,
            backups=loss.backups,
            moments=tuple(self._told(lost) for lost in loss.moments),
        )

    def _told(self, lost: LostMoments) -> LostTime:
        ends = {backup.id: backup.stopped_at for backup in self.backups}
        return LostTime(
            timeline=lost.timeline,
            begin_lsn=str(lost.begin),
            end_lsn=None if lost.end is None else str(lost.end),
            until_backup=lost.until,
            until=None if lost.until is None else ends[lost.until],
        )


def _positions(history: TimelineHistory) -> list[tuple[int, Lsn]]:
    return [(switch.parent, switch.at) for switch in history.switches]


def _is_backup(subject: object) -> bool:
    return isinstance(subject, BackupId)
