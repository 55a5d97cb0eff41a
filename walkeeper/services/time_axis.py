"""Puts what an archive holds on a time axis: from positions in the WAL to moments."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import zip_longest

from walkeeper.core.lsn import Lsn
from walkeeper.core.wal_clock import WalClock
from walkeeper.repository.drills import DrillRecord
from walkeeper.services.agent_status import AgentStatus
from walkeeper.services.chart import (
    BackupMark,
    Chart,
    DrillMark,
    Edge,
    GapSpan,
    Stretch,
    TimelineRow,
    WindowSpan,
)
from walkeeper.services.clocks import Clocks, left_at
from walkeeper.services.status import ArchiveHealth, RecoverableWindow


@dataclass(frozen=True, slots=True)
class Track:
    """A window and the times of its stretches, one for each timeline, oldest first."""

    window: RecoverableWindow
    stretches: tuple[Stretch, ...]
    live: bool

    @property
    def end_at(self) -> datetime:
        """Its newest moment."""
        return self.stretches[-1].end_at


@dataclass(frozen=True, slots=True)
class TimeAxis:
    """An archive as it was listed at ``looked_at`` and is archived into ``now``."""

    health: ArchiveHealth
    clocks: Clocks
    tracks: tuple[Track, ...]
    drills: tuple[DrillRecord, ...]
    edge: Edge | None
    looked_at: datetime
    now: datetime

    def chart(self) -> Chart:
        """The document."""
        timelines = _timelines(self)
        backups = tuple(
            BackupMark(
                id=one.id,
                timeline=one.timeline,
                started_at=one.started_at,
                stopped_at=one.stopped_at,
                size_bytes=one.size_bytes,
                stored_bytes=one.stored_bytes,
                usable=one.id not in self.health.unusable,
                label=one.label,
            )
            for one in self.health.backups
        )
        begins = [row.begin_at for row in timelines] + [one.started_at for one in backups]
        return Chart(
            at=self.now,
            looked_at=self.looked_at,
            begin_at=min(begins, default=self.now - timedelta(hours=1)),
            timelines=timelines,
            backups=backups,
            windows=tuple(_window_span(track) for track in self.tracks),
            gaps=tuple(_gaps(self, {row.timeline: row for row in timelines})),
            drills=tuple(_drill_mark(one, self.tracks) for one in self.drills),
            edge=self.edge,
        )


def find_edge(agent: AgentStatus, now: datetime) -> Edge | None:
    """How far the agent has brought its server's WAL; None while no server can be asked."""
    source, archiving, tail = agent.source, agent.archiving, agent.tail
    known = source.verified and source.connected
    if not known or source.timeline is None or archiving is None:
        return None
    return Edge(
        timeline=source.timeline,
        at=now - timedelta(seconds=archiving.rpo_s),
        rpo_s=archiving.rpo_s,
        lsn=None if tail is None else tail.shipped_lsn,
    )


def lay_out(
    health: ArchiveHealth,
    clocks: Clocks,
    drills: tuple[DrillRecord, ...],
    edge: Edge | None,
    *,
    looked_at: datetime,
    now: datetime,
) -> TimeAxis:
    """The axis; ``clocks`` are those of this health."""
    live = _find_live(health, edge)
    tracks: dict[tuple[Stretch, ...], Track] = {}
    for window in health.windows:
        stretches = _stretches(window, health, clocks, edge if window is live else None, now)
        if stretches:  # several paths share a window that ends before they part
            tracks.setdefault(stretches, Track(window, stretches, window is live))
    return TimeAxis(health, clocks, tuple(tracks.values()), drills, edge, looked_at, now)


def _find_live(health: ArchiveHealth, edge: Edge | None) -> RecoverableWindow | None:
    """The window that the server still makes longer: a gap has none."""
    if edge is None:
        return None
    growing = [one for one in health.windows if one.timeline == edge.timeline and not one.missing]
    return max(growing, key=lambda one: one.end, default=None)


def _stretches(
    window: RecoverableWindow,
    health: ArchiveHealth,
    clocks: Clocks,
    edge: Edge | None,
    now: datetime,
) -> tuple[Stretch, ...]:
    found: list[Stretch] = []
    previous = window.begin_at
    for leg, following in zip_longest(window.path, window.path[1:]):
        begin = max(leg.begin, window.begin)
        end = window.end if leg.end is None else min(leg.end, window.end)
        if end <= begin and not (end == begin == window.end):
            continue
        clock = clocks.get(leg.timeline, WalClock())
        begin_at = window.begin_at
        if found:
            begin_at = health.begun.get(leg.timeline) or clock.find_time(begin) or previous
        end_at = clock.find_time(end) or begin_at
        if following is not None and end == leg.end:
            end_at = left_at(clock, end, health.begun.get(following.timeline)) or end_at
        if edge is not None and leg is window.path[-1]:
            end_at = max(end_at, edge.at)
        begin_at = min(max(begin_at, previous), now)
        previous = max(min(end_at, now), begin_at)
        found.append(
            Stretch(
                timeline=leg.timeline,
                begin_at=begin_at,
                end_at=previous,
                begin_lsn=str(begin),
                end_lsn=str(end),
            )
        )
    return tuple(found)


def _window_span(track: Track) -> WindowSpan:
    window = track.window
    return WindowSpan(
        timeline=window.timeline,
        begin_at=window.begin_at,
        end_at=track.end_at,
        begin_lsn=str(window.begin),
        end_lsn=str(window.end),
        live=track.live,
        backups=window.backups,
        stretches=track.stretches,
    )


def _timelines(axis: TimeAxis) -> tuple[TimelineRow, ...]:
    """A row for each timeline of which WAL, a backup or a stretch is known."""
    stretches = [stretch for track in axis.tracks for stretch in track.stretches]
    known = {*axis.clocks, *(stretch.timeline for stretch in stretches)}
    if axis.edge is not None:
        known.add(axis.edge.timeline)
    rows = [_timeline_row(timeline, axis, stretches) for timeline in sorted(known)]
    return tuple(row for row in rows if row is not None)


def _timeline_row(timeline: int, axis: TimeAxis, stretches: list[Stretch]) -> TimelineRow | None:
    here = [one for one in stretches if one.timeline == timeline]
    moments = [moment for one in here for moment in (one.begin_at, one.end_at)]
    moments += axis.clocks.get(timeline, WalClock()).span or ()
    live = axis.edge is not None and axis.edge.timeline == timeline
    moments += [axis.now] if live else []
    begun = axis.health.begun.get(timeline)
    if begun is not None:
        moments = [begun, *(moment for moment in moments if moment > begun)]
    if not moments:
        return None
    begin_at = min(moments)
    history = axis.health.histories.get(timeline)
    legs = () if history is None else history.legs
    parent, fork_at = None, None
    if len(legs) > 1:
        parent = legs[-2].timeline
        fork_at = left_at(axis.clocks.get(parent, WalClock()), legs[-1].begin, begun)
    return TimelineRow(
        timeline=timeline,
        parent=parent,
        left_at=None if fork_at is None else min(fork_at, begin_at),
        begin_at=begin_at,
        end_at=max(begin_at, min(max(moments), axis.now)),
        live=live,
    )


def _gaps(axis: TimeAxis, rows: Mapping[int, TimelineRow]) -> list[GapSpan]:
    found: dict[tuple[int, datetime], GapSpan] = {}
    for track in axis.tracks:
        for gap in _gap_of(track, axis, rows):
            found.setdefault((gap.timeline, gap.begin_at), gap)
    return [found[key] for key in sorted(found)]


def _gap_of(track: Track, axis: TimeAxis, rows: Mapping[int, TimelineRow]) -> list[GapSpan]:
    """The gap behind a window: on its own timeline, and on those that the path goes on to."""
    window, size = track.window, axis.health.size
    if not window.missing:
        return []
    stretches = [one for other in axis.tracks for one in other.stretches]
    first = window.missing[0].timeline
    behind = window.stranded[0]
    clock = axis.clocks.get(behind.timeline, WalClock())
    resumed_at = clock.find_time(Lsn(behind.begin * size.bytes)) or track.end_at
    spans = []
    for leg in window.path:
        if leg.timeline < first or leg.timeline not in rows:
            continue
        row = rows[leg.timeline]
        begin_at = track.end_at if leg.timeline == first else max(row.begin_at, track.end_at)
        here = [one for one in stretches if one.timeline == leg.timeline and one.end_at > begin_at]
        end_at = min([max(one.begin_at, begin_at) for one in here] + [row.end_at])
        if end_at <= begin_at:
            continue
        spans.append(
            GapSpan(
                timeline=leg.timeline,
                begin_at=begin_at,
                missing_until=min(max(resumed_at, begin_at), end_at),
                end_at=end_at,
                missing=tuple(part.named(size) for part in window.missing),
                stranded=tuple(part.named(size) for part in window.stranded),
            )
        )
    return spans


def _drill_mark(record: DrillRecord, tracks: tuple[Track, ...]) -> DrillMark:
    point_at = record.point_at or record.planned_point_at
    on_path = [
        stretch
        for track in tracks
        if track.window.timeline == record.planned_timeline
        for stretch in track.stretches
        if stretch.begin_at <= point_at <= stretch.end_at
    ]
    return DrillMark(
        at=record.at,
        proven=record.proven,
        timeline=on_path[0].timeline if on_path else record.planned_timeline,
        point_at=point_at,
        target=record.target,
        backup=record.backup,
        reached_lsn=record.reached_lsn,
        rto_s=record.rto_s,
        size_bytes=record.size_bytes,
        failed_phase=record.failed_phase,
    )
