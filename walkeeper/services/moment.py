"""What it takes to restore one moment, and the command for it, from an archive's last listing.

Nothing is asked of the store, so the figures are near, not exact: the plan that ``restore`` makes
itself lists and reads afresh, and has the last word.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import PurePath

import msgspec

from walkeeper.core.backup import BackupFacts
from walkeeper.core.lsn import Lsn
from walkeeper.core.wal_clock import WalClock
from walkeeper.services.chart import Stretch
from walkeeper.services.restore_estimate import Estimate, estimate
from walkeeper.services.time_axis import TimeAxis, Track


@dataclass(frozen=True, slots=True)
class CommandWords:
    """How ``restore`` is called here: the words before it, and where a copy would go."""

    program: tuple[str, ...]
    target_dir: PurePath

    def restore(self, *options: str) -> str:
        """One line for a shell."""
        return shlex.join(
            [*self.program, "restore", "--target-dir", str(self.target_dir), *options]
        )


@dataclass(frozen=True, slots=True)
class _Way:
    """A backup, and the position to recover to on its track, for a moment on a timeline."""

    track: Track
    backup: BackupFacts
    position: Lsn
    at: datetime
    timeline: int


class Near(msgspec.Struct, frozen=True, kw_only=True):
    """A moment close by that can be restored, and what it is."""

    at: datetime
    timeline: int
    what: str


class Moment(msgspec.Struct, frozen=True, kw_only=True):
    """The document of ``/api/v1/plan``.

    ``timeline`` is the one that the moment lies on, ``target_timeline`` the end of the path to
    follow. ``wal_bytes`` are before compression; ``fetch_bytes`` are all that is read from the
    store. ``otherwise`` is a command for the same state, should the first one say that no
    transaction ended after the moment. Where it is not ``reachable``, ``why`` says so, and
    ``nearest`` names the moments around it.
    """

    at: datetime
    reachable: bool
    why: str | None = None
    nearest: tuple[Near, ...] = ()
    timeline: int | None = None
    target_timeline: int | None = None
    backup: str | None = None
    backup_at: datetime | None = None
    wal_segments: int = 0
    wal_bytes: int = 0
    size_bytes: int = 0
    fetch_bytes: int = 0
    estimate: Estimate | None = None
    command: str | None = None
    otherwise: str | None = None
    note: str | None = None


def plan_moment(
    axis: TimeAxis, at: datetime, words: CommandWords, timeline: int | None = None
) -> Moment:
    """The moment on a timeline, or, without one, on the newest that was written then."""
    if at > axis.now:
        return _unreachable(axis, at, timeline, "This moment has not come yet.")
    held = _holding(axis, at, timeline)
    if held is None:
        return _unreachable(axis, at, timeline, _why_not(axis, at, timeline))
    track, stretch = held
    end = track.window.end
    position = axis.clocks.get(stretch.timeline, WalClock()).find_position(at)
    options: tuple[str, ...] = (
        *("--target-time", said(at)),
        *("--target-timeline", str(track.window.timeline)),
    )
    note, otherwise = None, None
    if at >= track.end_at:
        options, position = _latest(track), end
        note = "This is the end of what can be restored here: all WAL up to it is replayed."
        if track.live:
            note = "This is the newest state: everything that is in the archive."
    elif at > stretch.end_at:
        note = (
            f"Nothing is known to have been written between {said(stretch.end_at)} and the "
            "beginning of the next timeline: the copy will be in the state of that moment."
        )
    if at < track.end_at and (position is None or position >= end):
        otherwise = words.restore(*_latest(track))
    backup = _newest_before(axis, track, at)
    way = _Way(track, backup, min(position or end, end), at, stretch.timeline)
    found = _reachable(axis, way, words.restore(*options))
    return msgspec.structs.replace(found, otherwise=otherwise, note=note)


def plan_backup(axis: TimeAxis, backup: BackupFacts, words: CommandWords) -> Moment | None:
    """The state in which a backup ended; None for one that cannot be restored."""
    track = next((one for one in axis.tracks if backup.id in one.window.backups), None)
    if track is None:
        return None
    command = words.restore("--backup", backup.id, "--target", "immediate")
    way = _Way(track, backup, backup.stop, backup.stopped_at, backup.timeline)
    return _reachable(axis, way, command)


def said(at: datetime) -> str:
    """A moment as ``--target-time`` takes it: with milliseconds where it has any, in UTC."""
    text = at.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S")
    return f"{text}.{at.microsecond:06}".rstrip("0") + "Z" if at.microsecond else f"{text}Z"


def _latest(track: Track) -> tuple[str, ...]:
    options = ("--target", "latest", "--target-timeline", str(track.window.timeline))
    # Without it, a backup behind the gap would be taken.
    return (*options, "--backup", track.window.backups[-1]) if track.window.missing else options


def _reachable(axis: TimeAxis, way: _Way, command: str) -> Moment:
    track, backup, position = way.track, way.backup, way.position
    size, window = axis.health.size.bytes, track.window
    first, after = backup.start.value // size, -(-position.value // size)
    parts = [
        (part.timeline, max(part.begin, first), min(part.end, after))
        for part in window.read
        if part.begin < after and first < part.end
    ]
    segments = sum(end - begin for _, begin, end in parts)
    stored = sum(
        axis.health.wal[timeline].bytes_between(begin, end)
        for timeline, begin, end in parts
        if timeline in axis.health.wal
    )
    return Moment(
        at=way.at,
        reachable=True,
        timeline=way.timeline,
        target_timeline=window.timeline,
        backup=backup.id,
        backup_at=backup.stopped_at,
        wal_segments=segments,
        wal_bytes=segments * size,
        size_bytes=backup.size_bytes,
        fetch_bytes=backup.stored_bytes + stored,
        estimate=estimate(
            axis.drills,
            {one.id: one for one in axis.health.backups},
            size_bytes=backup.size_bytes,
            wal_bytes=max(position - backup.start, 0),
        ),
        command=command,
    )


def _holding(axis: TimeAxis, at: datetime, timeline: int | None) -> tuple[Track, Stretch] | None:
    """The track and stretch that hold a moment; else one that had not been written on by then."""
    inside: list[tuple[tuple[int, bool, int], Track, Stretch]] = []
    between: list[tuple[tuple[int, bool, int], Track, Stretch]] = []
    for track in axis.tracks:
        own = track.window.timeline
        for number, stretch in enumerate(track.stretches):
            if timeline not in (None, stretch.timeline) or at < stretch.begin_at:
                continue
            rank = stretch.timeline, own == timeline, own
            if at <= stretch.end_at:
                inside.append((rank, track, stretch))
            elif number + 1 < len(track.stretches) and at < track.stretches[number + 1].begin_at:
                between.append((rank, track, stretch))
    for found in (inside, between):
        if found:
            _, track, stretch = max(found, key=lambda one: one[0])
            return track, stretch
    return None


def _newest_before(axis: TimeAxis, track: Track, at: datetime) -> BackupFacts:
    ids = set(track.window.backups)
    on_track = [one for one in axis.health.backups if one.id in ids]
    before = [one for one in on_track if one.stopped_at <= at]
    return max(before or on_track[:1], key=lambda one: one.stop)


def _why_not(axis: TimeAxis, at: datetime, timeline: int | None) -> str:
    edge = axis.edge
    if edge is not None and at > edge.at and timeline in (None, edge.timeline):
        return f"WAL of the last {edge.rpo_s:.1f} s is not in the archive yet."
    for gap in axis.chart().gaps:
        if gap.begin_at < at < gap.end_at and timeline in (None, gap.timeline):
            missing = ", ".join(gap.missing)
            if at <= gap.missing_until:
                return f"This moment lies in a gap: {missing} is missing."
            return (
                f"This moment lies behind a gap: {missing} is missing, and there is no backup "
                "between it and this moment."
            )
    begins = [
        one.begin_at
        for track in axis.tracks
        for one in track.stretches
        if timeline in (None, one.timeline)
    ]
    if not begins:
        return "Nothing can be restored here."
    if at < min(begins):
        return "This moment lies before the first backup had ended."
    return "Nothing that was written then is in the archive."


def _unreachable(axis: TimeAxis, at: datetime, timeline: int | None, why: str) -> Moment:
    return Moment(
        at=at, reachable=False, why=why, timeline=timeline, nearest=tuple(_nearest(axis, at))
    )


def _nearest(axis: TimeAxis, at: datetime) -> Iterator[Near]:
    """The last moment before and the first one after that can be restored, on any timeline."""
    stretches = [(one, track) for track in axis.tracks for one in track.stretches]
    before = [(one, track) for one, track in stretches if one.end_at < at]
    after = [one for one, _ in stretches if one.begin_at > at]
    if before:
        last, track = max(before, key=lambda pair: pair[0].end_at)
        what = "the newest moment of all" if track.live else "the last moment before"
        yield Near(at=last.end_at, timeline=last.timeline, what=what)
    if after:
        first = min(after, key=lambda one: one.begin_at)
        yield Near(at=first.begin_at, timeline=first.timeline, what="the first moment after")
