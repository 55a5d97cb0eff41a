"""An archive over time, made of what a listing would say: for the time axis and the page.

The world is that of `fix_core_plan`: a segment a minute, an hour at LSN 0/0.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

import msgspec

from tests.fix_core_plan import SIZE, at, full_backup, histories, lsn
from walkeeper.core.archive_view import ArchiveView, branches
from walkeeper.core.backup import BackupFacts
from walkeeper.core.coverage import WalHoldings, recoverable_windows
from walkeeper.core.segment_set import SegmentSet
from walkeeper.core.wal import WalSegment
from walkeeper.repository.drills import DrillRecord
from walkeeper.services.archive_listing import Survey
from walkeeper.services.chart import Edge
from walkeeper.services.clocks import read_clocks
from walkeeper.services.status import ArchiveHealth, merge_windows
from walkeeper.services.time_axis import TimeAxis, lay_out
from walkeeper.services.wal_listing import TimelineListing


@dataclass(frozen=True, kw_only=True)
class Past:
    """``wal``: the segments of each timeline. ``forks``: timeline to (parent, position, minute).

    A timeline is written from that minute on, one segment a minute, the first of them being the
    segment in which it forked off.
    """

    wal: Mapping[int, Sequence[int]]
    backups: Sequence[BackupFacts] = ()
    forks: Mapping[int, tuple[int, float, float]] = field(default_factory=dict)
    now: float = 60.0

    def minute(self, timeline: int, position: float) -> float:
        """When the position was written."""
        if timeline not in self.forks:
            return position
        _, fork, begun = self.forks[timeline]
        return begun + position - fork

    def moment(self, timeline: int, position: float) -> datetime:
        """The same as a time."""
        return at(self.minute(timeline, position))

    def health(self) -> ArchiveHealth:
        """What a status would make of it."""
        known = histories(*((number, self._switches(number)) for number in self.forks))
        complete = {number: SegmentSet.from_ordered(held) for number, held in self.wal.items()}
        view = ArchiveView(WalHoldings(SIZE, complete), tuple(self.backups), known)
        first = {
            number: WalSegment.numbered(number, min(held), SIZE)
            for number, held in self.wal.items()
            if held
        }
        survey = Survey(SIZE, tuple(self.backups), (), known, {}, first)
        paths = [view.path_to(branch.timeline) for branch in branches(view)]
        windows = recoverable_windows(view.wal, self.backups, paths)
        usable = {str(one.backup) for one in windows if one.usable}
        return ArchiveHealth(
            size=SIZE,
            backups=tuple(self.backups),
            unreadable=(),
            unusable=tuple(one.id for one in self.backups if one.id not in usable),
            unfinished=(),
            windows=tuple(merge_windows(windows, survey)),
            cut_off=(),
            problems=(),
            histories_read=True,
            histories=known,
            begun={number: at(begun) for number, (_, _, begun) in self.forks.items()},
            wal={number: self._listing(number, held) for number, held in self.wal.items()},
        )

    def _switches(self, timeline: int) -> tuple[tuple[int, float], ...]:
        if timeline not in self.forks:
            return ()
        parent, fork, _ = self.forks[timeline]
        return (*self._switches(parent), (parent, fork))

    def _listing(self, timeline: int, held: Iterable[int]) -> TimelineListing:
        listed = TimelineListing()
        for number in held:
            listed.numbers.append(number)
            listed.sizes.append(1000)
            listed.stored.append(self.moment(timeline, number + 1).timestamp())
        return listed

    def axis(
        self,
        *,
        live: int | None = None,
        rpo_s: float = 0.5,
        drills: tuple[DrillRecord, ...] = (),
    ) -> TimeAxis:
        """The axis at ``now``; ``live`` is the timeline that a server writes."""
        health, now = self.health(), at(self.now)
        edge = None
        if live is not None:
            behind = at(self.now - rpo_s / 60)
            edge = Edge(timeline=live, at=behind, rpo_s=rpo_s, lsn=None)
        clocks = read_clocks(health)
        return lay_out(health, clocks, drills, edge, looked_at=now, now=now)


def backup_at(past: Past, timeline: int, start: float, stop: float) -> BackupFacts:
    """A backup whose clock is that of its timeline."""
    made = full_backup(timeline, start, stop)
    return msgspec.structs.replace(
        made, started_at=past.moment(timeline, start), stopped_at=past.moment(timeline, stop)
    )


def drill_record(
    at_minute: float, backup: BackupFacts, point: float, *, proven: bool = True
) -> DrillRecord:
    """A drill that took ten seconds to fetch and five to recover."""
    return DrillRecord(
        name="drills/x.json",
        archive="a",
        backup=backup.id,
        proven=proven,
        at=at(at_minute),
        target="latest",
        server_version=150018,
        size_bytes=backup.size_bytes,
        planned_timeline=backup.timeline,
        planned_end_lsn=str(lsn(point)),
        planned_point_at=at(point),
        reached_timeline=backup.timeline,
        reached_lsn=str(lsn(point)) if proven else None,
        point_at=at(point) if proven else None,
        failed_phase=None if proven else "recover",
        seconds={"plan": 0.5, "try": 0.1, "fetch": 10.0, "configure": 0.4, "recover": 5.0},
        rto_s=16.0,
        checks=1,
        failed_checks=0,
        unfinished_checks=0,
        skipped_checks=0,
        counted_tables=1,
        counted_rows=1,
        details="drills/x.json.zst.age",
    )
