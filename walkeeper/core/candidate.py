"""The backups from which a recovery target may be reached.

A backup serves when it lies on the path, ended before the target, and all of its own WAL is there.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from walkeeper.core.archive_view import (
    ArchiveView,
    Branch,
    branches,
    choose_timeline,
    off_path,
)
from walkeeper.core.backup import BackupFacts
from walkeeper.core.backup_id import BackupId
from walkeeper.core.coverage import Path, Reach, lies_on, reach
from walkeeper.core.target import AtLsn, AtTime, RecoveryRequest, RecoveryTarget
from walkeeper.errors import NoSuchBackup, TargetUnreachable


@dataclass(frozen=True, slots=True)
class Candidate:
    """A backup from which the target may be reached, the path there and how far its WAL goes.

    ``behind_gap`` is the next backup on the path that a gap keeps out of reach.
    """

    path: Path
    backup: BackupFacts
    reach: Reach
    behind_gap: BackupFacts | None = None
    other_branches: tuple[Branch, ...] = ()
    passed_over: tuple[str, ...] = ()


def candidates(
    view: ArchiveView, request: RecoveryRequest, backup: BackupId | None = None
) -> tuple[Candidate, ...]:
    """The backups from which the target may be reached, highest stop LSN first; at least one.

    Raises NoSuchBackup when the backup asked for is not in the archive, TargetUnreachable when no
    backup on the path ends before the target with all of its own WAL.
    """
    asked = None if backup is None else _find(view, backup)
    timeline = choose_timeline(view, request.timeline, asked)
    path = view.path_to(timeline)
    others = off_path(branches(view), path)
    on_path = [
        (known, reach(view.wal, path, known.start))
        for known in sorted(view.backups, key=lambda known: known.stop, reverse=True)
        if lies_on(path, known)
    ]
    usable = [(known, way) for known, way in on_path if known.stop <= way.end]
    before = [(known, way) for known, way in on_path if ends_before(known, request.target)]
    fitting = [
        Candidate(path, known, way, _behind(way, usable), others, _passed_over(known, before))
        for known, way in before
        if asked in (None, known) and known.stop <= way.end
    ]
    if not fitting:
        considered = [(known, way) for known, way in on_path if asked in (None, known)]
        raise _no_backup(request.target, timeline, asked, considered, others)
    return tuple(fitting)


def said(moment: datetime) -> str:
    """A moment as it is written in messages."""
    return moment.isoformat(" ")


def _find(view: ArchiveView, backup: BackupId) -> BackupFacts:
    for known in view.backups:
        if known.backup == backup:
            return known
    raise NoSuchBackup(f"the archive holds no backup {backup}", hint="walkeeper backups lists them")


def ends_before(backup: BackupFacts, target: RecoveryTarget) -> bool:
    """Whether a recovery to the target may begin with the backup, as far as its end decides."""
    match target:
        case AtTime(at):
            return backup.stopped_at <= at
        case AtLsn(lsn):
            return backup.stop <= lsn
        case _:
            return True


def _behind(way: Reach, usable: list[tuple[BackupFacts, Reach]]) -> BackupFacts | None:
    """The first usable backup behind the end of the WAL; ``usable`` is newest first."""
    return next((known for known, _ in reversed(usable) if known.start >= way.end), None)


def _passed_over(chosen: BackupFacts, on_path: list[tuple[BackupFacts, Reach]]) -> tuple[str, ...]:
    return tuple(
        f"backup {known.id} is passed over: {_lacking(known, way)}"
        for known, way in on_path
        if known.stop > chosen.stop and way.end < known.stop
    )


def _lacking(backup: BackupFacts, way: Reach) -> str:
    """Why a backup is not usable: what of its own WAL is missing."""
    missing = f"segment {way.gap}" if way.gap is not None else f"all from {way.end} on"
    return f"it needs the WAL from {backup.start} to {backup.stop}, and {missing} is missing"


def _no_backup(
    target: RecoveryTarget,
    timeline: int,
    asked: BackupFacts | None,
    considered: list[tuple[BackupFacts, Reach]],
    others: tuple[Branch, ...],
) -> TargetUnreachable:
    """Why there is no candidate; ``considered`` are the backups on the path, newest first."""
    elsewhere = "other branches: " + ", ".join(map(str, others)) if others else None
    if not considered:
        what = "no backup lies" if asked is None else f"backup {asked.id} does not lie"
        return TargetUnreachable(f"{what} on the path to timeline {timeline}", hint=elsewhere)
    why = f"no usable backup ends before {target} on the path to timeline {timeline}"
    for known, way in considered:
        if ends_before(known, target):
            why = f"backup {known.id} is not usable: {_lacking(known, way)}"
            break
    usable = [known for known, way in considered if known.stop <= way.end]
    if not usable:
        return TargetUnreachable(why, hint=elsewhere)
    return TargetUnreachable(
        why,
        hint=f"the earliest moment is {usable[-1].stop}, {said(usable[-1].stopped_at)}, "
        f"where backup {usable[-1].id} ended",
    )
