"""What an archive holds at one moment, as far as recovery is concerned, and its timelines."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from walkeeper.core.backup import BackupFacts
from walkeeper.core.coverage import Path, WalHoldings, lies_on
from walkeeper.core.lsn import Lsn
from walkeeper.core.target import NamedTimeline, TimelineChoice
from walkeeper.core.timeline import TimelineHistory
from walkeeper.errors import TargetUnreachable

_FIRST_TIMELINE = 1


@dataclass(frozen=True, slots=True)
class Branch:
    """A timeline with WAL of its own, which no other timeline continues, and where that ends."""

    timeline: int
    begin: Lsn
    end: Lsn

    def __str__(self) -> str:
        return f"timeline {self.timeline} from {self.begin} to {self.end}"


@dataclass(frozen=True, slots=True)
class ArchiveView:
    """Committed backups, history files and WAL, all listed afresh."""

    wal: WalHoldings
    backups: tuple[BackupFacts, ...] = ()
    histories: Mapping[int, TimelineHistory] = field(default_factory=dict)

    @property
    def timelines(self) -> tuple[int, ...]:
        """Every timeline of which anything is known, ascending."""
        known = {*self.histories, *(backup.timeline for backup in self.backups)}
        known.update(timeline for timeline, held in self.wal.complete.items() if held.begins)
        known.update(segment.timeline for segment in self.wal.fragments)
        for history in self.histories.values():
            known.update(switch.parent for switch in history.switches)
        return tuple(sorted(known))

    def find_history(self, timeline: int) -> TimelineHistory | None:
        """Its history file, or what a descendant's says of it; None when neither is there."""
        if timeline in self.histories:
            return self.histories[timeline]
        for _, history in sorted(self.histories.items()):
            if history.contains(timeline):
                return history.derive(timeline)
        return TimelineHistory(timeline) if timeline == _FIRST_TIMELINE else None

    def path_to(self, timeline: int) -> Path:
        """The legs that lead to a timeline; raises TargetUnreachable when they are not known."""
        if timeline not in self.timelines:
            known = ", ".join(map(str, self.timelines)) or "none"
            raise TargetUnreachable(
                f"the archive knows nothing of timeline {timeline}", hint=f"it knows: {known}"
            )
        history = self.find_history(timeline)
        if history is None:
            # PostgreSQL refuses it as well: "recovery target timeline does not exist".
            raise TargetUnreachable(
                f"the archive holds WAL or backups of timeline {timeline} but not its history file",
                hint="archive the missing .history file, or choose another --target-timeline",
            )
        return history.legs


def choose_timeline(
    view: ArchiveView, choice: TimelineChoice, backup: BackupFacts | None = None
) -> int:
    """The number of the timeline to follow.

    ``latest`` is the highest in the archive, with a backup given the highest that descends from
    it. ``current`` is the timeline of the backup, of the newest one when none is given. Raises
    TargetUnreachable when there is none.
    """
    match choice:
        case NamedTimeline.CURRENT:
            backups = view.backups if backup is None else (backup,)
            if not backups:
                raise TargetUnreachable("the archive holds no backup")
            return max(backups, key=lambda known: (known.timeline, known.stop)).timeline
        case NamedTimeline.LATEST:
            return _latest(view, backup)
        case _:
            return choice


def branches(view: ArchiveView) -> tuple[Branch, ...]:
    """The timelines with WAL that no other timeline with WAL continues, ascending.

    After a failover there is one: the parent is an ancestor. There are several where a parent went
    on behind the fork, as when a restored copy archived into the archive of its source.
    """
    ends = {timeline: _end_of_wal(view.wal, timeline) for timeline in view.timelines}
    found = []
    for timeline, end in ends.items():
        forks = [
            fork
            for descendant, history in view.histories.items()
            if ends[descendant] is not None and history.contains(timeline)
            if (fork := history.switch_point(timeline)) is not None
        ]
        if end is not None and all(fork < end for fork in forks):
            history_of_it = view.find_history(timeline)
            begin = history_of_it.legs[-1].begin if history_of_it is not None else Lsn(0)
            found.append(Branch(timeline, begin, end))
    return tuple(found)


def off_path(found: tuple[Branch, ...], path: Path) -> tuple[Branch, ...]:
    """The branches with WAL that a recovery along the path does not read."""
    kept = {leg.timeline: leg.end for leg in path}
    return tuple(
        branch
        for branch in found
        if branch.timeline not in kept
        or ((end := kept[branch.timeline]) is not None and end < branch.end)
    )


def _latest(view: ArchiveView, backup: BackupFacts | None) -> int:
    for timeline in reversed(view.timelines):
        if backup is None or lies_on(view.path_to(timeline), backup):
            return timeline
    raise TargetUnreachable("the archive is empty")


def _end_of_wal(wal: WalHoldings, timeline: int) -> Lsn | None:
    ends = [end for segment, end in wal.fragments.items() if segment.timeline == timeline]
    complete = wal.complete.get(timeline)
    if complete is not None and complete.ends:
        ends.append(Lsn(complete.ends[-1] * wal.size.bytes))
    return max(ends, default=None)
