"""The document of ``status``: what the agent says and what the archive's listings show, together.

One function makes it, so that the command and the agent's page never differ.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

import msgspec

from walkeeper import __version__
from walkeeper.core.backup import BackupFacts
from walkeeper.errors import WalkeeperError
from walkeeper.repository.drills import DrillHistory, DrillRecord
from walkeeper.repository.records import ArchiveRecord
from walkeeper.services.access import find_access_problems
from walkeeper.services.agent_status import AgentStatus
from walkeeper.services.look import Look
from walkeeper.services.schedule_findings import find_schedule_notices, find_schedule_problems
from walkeeper.services.status import ArchiveHealth, RecoverableWindow
from walkeeper.services.status_findings import (
    Finding,
    find_agent_problems,
    find_archive_problems,
    find_drill_problems,
    find_notices,
)


class LastBackup(msgspec.Struct, frozen=True, kw_only=True):
    """The backup with the highest stop LSN."""

    id: str
    timeline: int
    stop_lsn: str
    stopped_at: datetime
    age_s: float
    size_bytes: int
    stored_bytes: int
    damaged_pages: int


class DrillRow(msgspec.Struct, frozen=True, kw_only=True):
    """A drill. ``point_at`` is the newest moment that it reached, ``rto_s`` what a restore took."""

    at: datetime
    age_s: float
    backup: str
    target: str
    proven: bool
    failed_phase: str | None
    point_at: datetime | None
    reached_lsn: str | None
    rto_s: float


class WindowRow(msgspec.Struct, frozen=True, kw_only=True):
    """Every moment between is recoverable; ``last_stored_at`` is when its last segment came.

    ``missing`` and ``stranded`` name segments, or ranges of them ("A to B"): what is missing
    behind the end, and the later WAL that no recovery reaches from here.
    """

    timeline: int
    begin_lsn: str
    begin_at: datetime
    end_lsn: str
    last_segment: str
    last_stored_at: datetime | None
    backups: tuple[str, ...]
    missing: tuple[str, ...]
    stranded: tuple[str, ...]


class RepositoryStatus(msgspec.Struct, frozen=True, kw_only=True):
    """What the repository's listings say of the archive."""

    archive: str
    system_identifier: str
    segment_size: int
    created: datetime
    backups: int
    unfinished_backups: int
    last_backup: LastBackup | None
    windows: tuple[WindowRow, ...]
    cut_off_segments: int
    last_drill: DrillRow | None
    last_proven: DrillRow | None


class FindingRow(msgspec.Struct, frozen=True, kw_only=True):
    """Something that needs attention, and the next step; what is not ``urgent`` can wait."""

    what: str
    hint: str | None
    urgent: bool


class StatusReport(msgspec.Struct, frozen=True, kw_only=True):
    """The document of ``status --json``.

    ``agent`` is null where none answered (``agent_problem`` says why, where one should), and
    ``repository_status`` where the repository could not be read (``repository_problem``).
    ``healthy`` is true when there is no finding; ``notices`` need nobody.
    ``looked_at`` is when the repository was looked at, null before the first time; folders of WAL
    that were full when they were listed may not have been listed again since ``listed_at``.
    """

    version: str
    checked_at: datetime
    looked_at: datetime | None
    listed_at: datetime | None
    repository: str
    folder: str | None
    healthy: bool
    agent: AgentStatus | None
    agent_problem: str | None
    repository_status: RepositoryStatus | None
    repository_problem: str | None
    findings: tuple[FindingRow, ...]
    notices: tuple[str, ...]


class Subject(msgspec.Struct, frozen=True, kw_only=True):
    """Whose status it is; ``folder`` and ``record`` are None where no archive could be opened."""

    repository: str
    folder: str | None = None
    record: ArchiveRecord | None = None


def find_problems(subject: Subject, look: Look, agent: AgentStatus | None) -> Iterator[Finding]:
    """All that needs attention: the repository's troubles, the agent's, the archive's."""
    if look.error is not None:
        what = f"the repository cannot be read: {look.error}"
        yield Finding(what, look.hint, key="repository")
    if agent is not None:
        known = agent.archive if subject.record is None else subject.record.archive
        yield from find_agent_problems(agent, known)
        yield from find_schedule_problems(agent)
        yield from find_access_problems(agent)
    if look.health is not None:
        yield from find_archive_problems(look.health, agent)
        yield from find_drill_problems(look.drills)


def make_report(
    subject: Subject,
    look: Look,
    agent: AgentStatus | None,
    now: datetime,
    *,
    trouble: WalkeeperError | None = None,
) -> StatusReport:
    """The document at ``now``; ``trouble`` says why no agent answered where one should."""
    findings = [*find_problems(subject, look, agent)]
    if trouble is not None:
        text = f"nothing is archived from here: {trouble.message}"
        findings.insert(0, Finding(text, trouble.hint, key="agent"))
    found = None
    if subject.record is not None and look.health is not None:
        found = repository_status(subject.record, look.health, look.drills, now)
    return StatusReport(
        version=__version__,
        checked_at=now,
        looked_at=look.at,
        listed_at=look.listed_at,
        repository=subject.repository,
        folder=subject.folder,
        healthy=not findings,
        agent=agent,
        agent_problem=None if trouble is None else trouble.message,
        repository_status=found,
        repository_problem=look.error,
        findings=tuple(
            FindingRow(what=one.what, hint=one.hint, urgent=one.urgent) for one in findings
        ),
        notices=(*find_notices(look.health, agent), *find_schedule_notices(agent)),
    )


def repository_status(
    record: ArchiveRecord, health: ArchiveHealth, drills: DrillHistory, now: datetime
) -> RepositoryStatus:
    """The health of an archive as a part of the document."""
    return RepositoryStatus(
        archive=record.archive,
        system_identifier=record.system_identifier,
        segment_size=record.segment_size,
        created=record.created,
        backups=len(health.backups),
        unfinished_backups=len(health.unfinished),
        last_backup=_last_backup(health.backups[-1], now) if health.backups else None,
        windows=tuple(_window_row(window, health) for window in health.windows),
        cut_off_segments=len(health.cut_off),
        last_drill=_drill_row(drills.last, now),
        last_proven=_drill_row(drills.last_proven, now),
    )


def _drill_row(record: DrillRecord | None, now: datetime) -> DrillRow | None:
    if record is None:
        return None
    return DrillRow(
        at=record.at,
        age_s=round((now - record.at).total_seconds(), 1),
        backup=record.backup,
        target=record.target,
        proven=record.proven,
        failed_phase=record.failed_phase,
        point_at=record.point_at,
        reached_lsn=record.reached_lsn,
        rto_s=record.rto_s,
    )


def _last_backup(facts: BackupFacts, now: datetime) -> LastBackup:
    return LastBackup(
        id=facts.id,
        timeline=facts.timeline,
        stop_lsn=facts.stop_lsn,
        stopped_at=facts.stopped_at,
        age_s=round((now - facts.stopped_at).total_seconds(), 1),
        size_bytes=facts.size_bytes,
        stored_bytes=facts.stored_bytes,
        damaged_pages=facts.checksum_findings,
    )


def _window_row(window: RecoverableWindow, health: ArchiveHealth) -> WindowRow:
    return WindowRow(
        timeline=window.timeline,
        begin_lsn=str(window.begin),
        begin_at=window.begin_at,
        end_lsn=str(window.end),
        last_segment=str(window.last),
        last_stored_at=window.stored_at,
        backups=window.backups,
        missing=tuple(part.named(health.size) for part in window.missing),
        stranded=tuple(part.named(health.size) for part in window.stranded),
    )
