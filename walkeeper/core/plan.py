"""From a recovery target and what the archive holds to a plan, or why there is none.

Planning goes in steps, since some targets need facts that only the WAL itself has and reading it
is not done here:

1. ``candidates`` gives the backups from which the target may be reached, the best first;
2. ``scan_for`` says which WAL to read for one of them, if any; while what was found does not
   ``settle`` the question, the next candidate is looked at;
3. ``conclude`` makes the plan, or raises TargetUnreachable naming the gap and the nearest moments.

The rules are those of PostgreSQL 13 and later, which ends with a FATAL error when it does not meet
its target (src/backend/access/transam/xlogrecovery.c, recoveryStopsBefore, recoveryStopsAfter).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from walkeeper.core.archive_view import Branch
from walkeeper.core.backup import BackupFacts
from walkeeper.core.candidate import Candidate, candidates, said
from walkeeper.core.coverage import Gap, Path, Reach
from walkeeper.core.lsn import Lsn
from walkeeper.core.segment_set import SegmentRange
from walkeeper.core.target import (
    AtLsn,
    AtName,
    AtTime,
    AtXid,
    Immediate,
    Latest,
    RecoveryRequest,
    RecoveryTarget,
)
from walkeeper.core.wal import SegmentSize
from walkeeper.errors import TargetUnreachable

__all__ = [
    "Candidate",
    "RestorePlan",
    "Scan",
    "WalFinding",
    "candidates",
    "conclude",
    "scan_for",
    "settles",
]


@dataclass(frozen=True, slots=True)
class Scan:
    """WAL to read along the candidate's path, from ``begin`` to just before ``end``.

    ``newest_first``: what is wanted lies near the end. For a time that is a record that ends a
    transaction after it, for ``latest`` the last record that ends a transaction; for an LSN the
    first record that begins at or after it; for others the first record that matches.
    """

    begin: Lsn
    end: Lsn
    newest_first: bool


@dataclass(frozen=True, slots=True)
class WalFinding:
    """What reading the WAL of a Scan showed.

    ``found_at`` is where the record that proves the target begins, ``found_end`` where it ends;
    for a time any transaction end after it will do, the earlier the better the plan's figures.
    ``last_commit_at`` is when the last transaction ended before the record that was found, or,
    when none was, in all the WAL that was read.
    """

    found_at: Lsn | None = None
    found_end: Lsn | None = None
    last_commit_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class RestorePlan:
    """How the target will be reached.

    ``end`` is the ``--end`` of wal-fetch: before it a missing segment is a hole, from it on the
    archive has ended. ``wal`` lists the segments that will be read, ``fragment`` says whether the
    last is a tail or cut-off segment. ``reaches_at`` is the newest moment that will be seen, by
    the clock of the server. ``stranded`` lies behind ``gap``, out of reach of any recovery on
    this path. ``notes`` are sentences for the operator.
    """

    backup: BackupFacts
    path: Path
    request: RecoveryRequest
    end: Lsn
    wal: tuple[SegmentRange, ...]
    fragment: bool
    reaches_at: datetime
    gap: Gap | None
    stranded: tuple[SegmentRange, ...]
    other_branches: tuple[Branch, ...]
    notes: tuple[str, ...]
    segment_size: SegmentSize

    @property
    def timeline(self) -> int:
        """``recovery_target_timeline``, always a number."""
        return self.path[-1].timeline

    @property
    def wal_count(self) -> int:
        """How many segments will be read."""
        return sum(part.count for part in self.wal)

    @property
    def wal_bytes(self) -> int:
        """Their size before compression, at most."""
        return self.wal_count * self.segment_size.bytes


def scan_for(candidate: Candidate, target: RecoveryTarget) -> Scan | None:
    """The WAL to read before a plan can be concluded, or None."""
    end = candidate.reach.end
    match target:
        case Immediate():
            return None
        case Latest() | AtTime():
            scan = Scan(candidate.backup.stop, end, newest_first=True)
        case AtLsn(lsn):
            scan = Scan(lsn, end, newest_first=False)
        case AtXid() | AtName():
            scan = Scan(candidate.backup.start, end, newest_first=False)
    return scan if scan.begin < scan.end else None


def settles(candidate: Candidate, target: RecoveryTarget, finding: WalFinding) -> bool:
    """Whether the candidate is the one to conclude with; if not, an older one may fit better.

    PostgreSQL stops at the first match and refuses one that lies before the backup's end, so a
    transaction or restore point that is not found behind it can only be reached from before.
    """
    match target:
        case AtXid() | AtName():
            return finding.found_at is not None and finding.found_at >= candidate.backup.stop
        case AtTime():
            return finding.found_at is None or finding.found_at >= candidate.backup.stop
        case _:
            return True


def conclude(
    candidate: Candidate,
    request: RecoveryRequest,
    finding: WalFinding | None = None,
    *,
    not_before: datetime | None = None,
) -> RestorePlan:
    """The plan for a candidate with what its WAL showed.

    Raises TargetUnreachable when the target is not proven to be there, or when recovery would end
    at a moment earlier than ``not_before``.
    """
    finding = finding or WalFinding()
    target, backup, way = request.target, candidate.backup, candidate.reach
    end, read_until = way.end, way.end
    reaches_at = finding.last_commit_at or backup.stopped_at
    match target:
        case Latest():
            pass
        case Immediate():
            end = read_until = backup.stop
            reaches_at = backup.stopped_at
        case _:
            read_until = _proven(candidate, target, finding)
            reaches_at = target.at if isinstance(target, AtTime) else reaches_at
    if not_before is not None and reaches_at < not_before:
        raise _unreachable(
            candidate, f"recovery would end at {said(reaches_at)}, before {said(not_before)}"
        )
    size = backup.wal_segment_size
    read = way.read_until(read_until, size)
    return RestorePlan(
        backup=backup,
        path=candidate.path,
        request=request,
        end=end,
        wal=read,
        fragment=way.fragment is not None and read == way.read,
        reaches_at=reaches_at,
        gap=way.gap,
        stranded=way.stranded,
        other_branches=candidate.other_branches,
        notes=tuple(_notes(candidate, target)),
        segment_size=size,
    )


def _proven(candidate: Candidate, target: RecoveryTarget, finding: WalFinding) -> Lsn:
    """Where the record ends that PostgreSQL must read to know that it has met its target."""
    way, backup, found_at = candidate.reach, candidate.backup, finding.found_at
    if found_at is None:
        raise _unreachable(candidate, _not_met(target, way), finding)
    found_end = max(finding.found_end or found_at, found_at + 1)
    if found_end > way.end:
        raise _unreachable(candidate, _not_met(target, way), finding)
    if found_at < backup.stop:
        raise TargetUnreachable(
            f"{target} is met at {found_at}, before backup {backup.id} is consistent "
            f"at {backup.stop}",
            hint="an older backup is needed to reach it",
        )
    return found_end


def _not_met(target: RecoveryTarget, way: Reach) -> str:
    where = f"in the WAL from {way.start} to {way.end} on timeline {way.timeline}"
    match target:
        case AtTime(at):
            return f"no transaction ended after {said(at)} {where}"
        case AtLsn(lsn):
            return f"no whole record begins at or after {lsn} {where}"
        case _:
            return f"{target} is not {where}"


def _unreachable(
    candidate: Candidate, why: str, finding: WalFinding | None = None
) -> TargetUnreachable:
    """The error that names the gap, if there is one, and the nearest moments."""
    way, behind = candidate.reach, candidate.behind_gap
    message = why if way.gap is None else f"{why}; segment {way.gap} is missing"
    last = None if finding is None else finding.last_commit_at
    hint = f"--target latest recovers to {way.end}"
    if last is not None:
        hint = f"the last transaction in reach ended at {said(last)}: {hint}"
    if behind is not None:
        hint += f"; behind the gap recovery begins at {behind.stop}, {said(behind.stopped_at)}"
    return TargetUnreachable(message, hint=hint)


def _notes(candidate: Candidate, target: RecoveryTarget) -> list[str]:
    notes = list(candidate.passed_over)
    if isinstance(target, AtTime) and target.zone_assumed:
        notes.append(f"the time has no zone, UTC is assumed: {said(target.at)}")
    notes.extend(
        f"another branch: {branch} (--target-timeline {branch.timeline})"
        for branch in candidate.other_branches
    )
    if isinstance(target, Latest) and candidate.reach.gap is not None:
        notes.append(f"recovery ends at {candidate.reach.end}: {candidate.reach.gap} is missing")
    return notes
