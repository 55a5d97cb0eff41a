"""What is wrong now, for alerts: the findings of ``status``, and what targets add to them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from walkeeper.core.alerts import Condition, Severity
from walkeeper.core.backlog import MIN_SPAN_S, BacklogSample, find_growth
from walkeeper.core.wording import moment_text, size_text, span_text
from walkeeper.services.agent_status import AgentStatus
from walkeeper.services.look import Look
from walkeeper.services.status import ArchiveHealth
from walkeeper.services.status_findings import (
    UNCONDITIONAL,
    Finding,
    behind_text,
    is_unconditional,
)

ARCHIVE_TOPICS: Final = frozenset(
    {
        "no_backup", "backup_unreadable", "backup_unusable", "backup_damaged", "backup_age",
        "timelines", "gap", "drill_unproven", "drill_age",
    }
)  # fmt: skip
"""What only a look at the repository tells."""
ARCHIVER_TOPICS: Final = frozenset({"rpo", "archiving", "tail"})
"""What an agent that has not met its server yet cannot tell."""
_OWN_LIMIT: Final = "behind"
"""Of ``status``, which has a limit of its own where alerts have the target."""
_CAN_WAIT: Final = frozenset({"tail"})
"""Urgent in a status; here the RPO alert tells, should the target be missed for it."""
_FULL_HINT: Final = (
    "walkeeper status says why it is slow; [archive] uploads, or room on the disk: never delete"
    " from pg_wal by hand"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Targets:
    """What was promised, in seconds; None is not watched."""

    rpo_s: float
    max_backup_age_s: float | None = None
    max_drill_age_s: float | None = None
    disk_full_within_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What is known at a moment.

    ``findings`` are those of ``status``. ``trouble`` says why the last request to the store failed,
    if it has. ``samples`` of the last minutes are in the order of time.
    """

    agent: AgentStatus
    look: Look
    findings: Iterable[Finding]
    trouble: str | None
    samples: Sequence[BacklogSample]
    segment_bytes: int


def find_conditions(seen: Seen, targets: Targets, now: datetime) -> tuple[Condition, ...]:
    """All that is wrong at ``now``."""
    return (
        *(_of_finding(one) for one in seen.findings if one.key != _OWN_LIMIT),
        *_about_agent(seen, targets),
        *_about_disk(seen, targets, now),
        *_about_backups(seen.look.health, targets, now),
        *_about_drills(seen.look, targets, now),
    )


def find_unknown(seen: Seen) -> frozenset[str]:
    """The topics that nobody could look at, so that nothing can be said to be over."""
    unknown: set[str] = set()
    if seen.look.health is None:
        unknown |= ARCHIVE_TOPICS
    if seen.look.at is None:
        unknown.add("repository")
    if seen.agent.archiving is None:
        unknown |= ARCHIVER_TOPICS
    if not _is_a_trend(seen.samples):
        unknown.add("backlog")
    if not seen.agent.expiring_known:
        unknown.add("expiry")
    if seen.agent.key_files is None:
        unknown.add("key_file")
    # A run that has begun has forgotten how the last one ended, and shows nothing yet.
    unknown |= {f"{job.name}_run" for job in seen.agent.schedule if job.running}
    return frozenset(unknown)


def is_within_target(agent: AgentStatus, targets: Targets) -> bool:
    """Whether the server is the right one and its changes are durable as soon as was promised."""
    archiving = agent.archiving
    return agent.source.verified and archiving is not None and archiving.rpo_s <= targets.rpo_s


def _of_finding(finding: Finding) -> Condition:
    urgent = finding.urgent and finding.key not in _CAN_WAIT
    severity = Severity.CRITICAL if urgent else Severity.WARNING
    return Condition(finding.key, severity, finding.what, finding.hint)


def _about_agent(seen: Seen, targets: Targets) -> Iterator[Condition]:
    agent, archiving = seen.agent, seen.agent.archiving
    if seen.trouble is not None and seen.look.error is None:
        what = f"the repository does not do what it is asked: {seen.trouble}"
        yield Condition("repository", Severity.CRITICAL, what, "walkeeper check")
    if archiving is not None and archiving.rpo_s > targets.rpo_s:
        what = f"{behind_text(archiving.rpo_s)}, the target is {span_text(targets.rpo_s)}"
        hint = "walkeeper status says what holds it up; is archive_timeout set?"
        yield Condition("rpo", Severity.CRITICAL, what, hint)
    if agent.source.verified and not agent.source.connected:
        what = "PostgreSQL cannot be reached: what it writes meanwhile cannot be followed"
        hint = "does it run? is [cluster] dsn still right?"
        yield Condition("connection", Severity.WARNING, what, hint)
    if is_unconditional(agent):
        yield Condition("conditional_creates", Severity.INFO, UNCONDITIONAL)


def _is_a_trend(samples: Sequence[BacklogSample]) -> bool:
    return bool(samples) and samples[-1].at_s - samples[0].at_s >= MIN_SPAN_S


def _about_disk(seen: Seen, targets: Targets, now: datetime) -> Iterator[Condition]:
    growth = find_growth(seen.samples, seen.segment_bytes)
    if growth is None or growth.full_in_s > targets.disk_full_within_s:
        return
    full_at = moment_text(now + timedelta(seconds=growth.full_in_s))
    what = (
        f"WAL arrives faster than it is archived: {size_text(growth.backlog_bytes)} wait and"
        f" {size_text(round(growth.bytes_per_s))} more each second; at this pace the disk of pg_wal"
        f" ({size_text(growth.free_bytes)} free) is full in {span_text(growth.full_in_s)}, at"
        f" {full_at}"
    )
    yield Condition("backlog", Severity.CRITICAL, what, _FULL_HINT)


def _about_backups(
    health: ArchiveHealth | None, targets: Targets, now: datetime
) -> Iterator[Condition]:
    limit_s = targets.max_backup_age_s
    if health is None or limit_s is None or not health.backups:
        return  # that there is none at all is a finding
    usable = [one for one in health.backups if one.id not in health.unusable]
    newest_at = max((one.stopped_at for one in usable), default=None)
    if newest_at is None:
        what = "no base backup can be restored"
    elif (now - newest_at).total_seconds() > limit_s:
        age = span_text((now - newest_at).total_seconds())
        what = f"the newest base backup is {age} old, the target is {span_text(limit_s)}"
    else:
        return
    yield Condition("backup_age", Severity.WARNING, what, "walkeeper backup")


def _about_drills(look: Look, targets: Targets, now: datetime) -> Iterator[Condition]:
    limit_s = targets.max_drill_age_s
    if look.health is None or limit_s is None or not look.health.backups:
        return
    proven = look.drills.last_proven
    # Where nothing was ever proven the target counts from the first backup that could have been.
    since = min(one.stopped_at for one in look.health.backups) if proven is None else proven.at
    age_s = (now - since).total_seconds()
    if age_s > limit_s:
        target = f"the target is {span_text(limit_s)}"
        what = (
            f"no drill has proven anything yet, {target}"
            if proven is None
            else f"the last drill that proved something is {span_text(age_s)} old, {target}"
        )
        yield Condition("drill_age", Severity.WARNING, what, "walkeeper drill")
