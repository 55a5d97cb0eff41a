"""The plan of a restore as a document: what ``--json`` prints and the terminal shows."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import msgspec

from walkeeper.core.segment_set import SegmentRange
from walkeeper.core.target import AtTime
from walkeeper.core.wal import SegmentSize
from walkeeper.services.restore_plan import Planned
from walkeeper.services.restore_target import Destination, Volume


class BackupChoice(msgspec.Struct, frozen=True):
    """The backup to begin with."""

    id: str
    timeline: int
    start_lsn: str
    stop_lsn: str
    stopped_at: datetime
    server_version: int
    size_bytes: int
    stored_bytes: int
    parts: int


class PathLeg(msgspec.Struct, frozen=True):
    """A timeline of the path, from where to where; ``end_lsn`` None: to the end."""

    timeline: int
    begin_lsn: str
    end_lsn: str | None


class WalPart(msgspec.Struct, frozen=True):
    """Segments that follow each other on one timeline."""

    timeline: int
    first: str
    last: str
    segments: int


class BranchChoice(msgspec.Struct, frozen=True):
    """A timeline with WAL that this restore does not follow."""

    timeline: int
    begin_lsn: str
    end_lsn: str


class TablespaceChoice(msgspec.Struct, frozen=True):
    """A tablespace and where it goes."""

    oid: int
    location: str
    restored_to: str


class VolumeChoice(msgspec.Struct, frozen=True):
    """A file system and the room on it."""

    path: str
    needed_bytes: int
    free_bytes: int


class PlanDocument(msgspec.Struct, frozen=True, kw_only=True):
    """What a restore will do. Keys are stable.

    ``end_lsn`` is where the WAL of the path ends for this restore; ``reaches_at`` the newest
    moment that will be seen. ``gap`` names what is missing behind the end, if anything is,
    ``stranded`` what lies behind the gap. ``commands`` are what this restore amounts to.
    """

    repository: str
    archive: str
    target: str
    target_exclusive: bool
    action: str
    zone_assumed: bool
    backup: BackupChoice
    path: tuple[PathLeg, ...]
    timeline: int
    wal: tuple[WalPart, ...]
    wal_segments: int
    wal_stored_bytes: int
    wal_bytes: int
    end_lsn: str
    reaches_at: datetime
    gap: str | None
    stranded: tuple[WalPart, ...]
    branches: tuple[BranchChoice, ...]
    target_dir: str
    owner: str
    tablespaces: tuple[TablespaceChoice, ...]
    room: tuple[VolumeChoice, ...]
    standby: bool
    resumes_archiving: bool
    restore_command: str
    saved_configuration: tuple[str, ...]
    notes: tuple[str, ...]
    commands: tuple[str, ...]


def plan_document(
    planned: Planned,
    destination: Destination,
    room: Sequence[Volume],
    *,
    repository: str,
    archive: str,
    standby: bool,
    resumes_archiving: bool,
    restore_command: str,
    commands: Sequence[str],
) -> PlanDocument:
    """The document of a plan."""
    plan, facts = planned.plan, planned.plan.backup
    target = plan.request.target
    moved = destination.tablespaces
    return PlanDocument(
        repository=repository,
        archive=archive,
        target=str(target),
        target_exclusive=not getattr(target, "inclusive", True),
        action=plan.request.action.value,
        zone_assumed=isinstance(target, AtTime) and target.zone_assumed,
        backup=BackupChoice(
            facts.id,
            facts.timeline,
            facts.start_lsn,
            facts.stop_lsn,
            facts.stopped_at,
            facts.server_version,
            facts.size_bytes,
            facts.stored_bytes,
            facts.parts,
        ),
        path=tuple(
            PathLeg(leg.timeline, str(leg.begin), None if leg.end is None else str(leg.end))
            for leg in plan.path
        ),
        timeline=plan.timeline,
        wal=_parts(plan.wal, plan.segment_size),
        wal_segments=plan.wal_count,
        wal_stored_bytes=planned.wal_stored_bytes,
        wal_bytes=plan.wal_bytes,
        end_lsn=str(plan.end),
        reaches_at=plan.reaches_at,
        gap=None if plan.gap is None else str(plan.gap),
        stranded=_parts(plan.stranded, plan.segment_size),
        branches=tuple(
            BranchChoice(branch.timeline, str(branch.begin), str(branch.end))
            for branch in plan.other_branches
        ),
        target_dir=str(destination.data_dir),
        owner=destination.owner.name,
        tablespaces=tuple(
            TablespaceChoice(space.oid, space.location, str(moved[space.oid]))
            for space in facts.tablespaces
        ),
        room=tuple(
            VolumeChoice(str(volume.path), volume.needed_bytes, volume.free_bytes)
            for volume in room
        ),
        standby=standby,
        resumes_archiving=resumes_archiving,
        restore_command=restore_command,
        saved_configuration=tuple(
            f"{found.path} is saved as {found.member}" for found in planned.manifest.config_files
        ),
        notes=planned.notes,
        commands=tuple(commands),
    )


def _parts(ranges: Sequence[SegmentRange], size: SegmentSize) -> tuple[WalPart, ...]:
    return tuple(
        WalPart(part.timeline, str(part.first(size)), str(part.last(size)), part.count)
        for part in ranges
    )
