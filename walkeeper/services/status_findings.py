"""What in a status needs somebody's attention, and what is only worth knowing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from walkeeper.core.wal import WalSegment
from walkeeper.repository.drills import DrillHistory
from walkeeper.services.agent_status import HEARTBEAT, AgentStatus, ArchivingStatus
from walkeeper.services.status import ArchiveHealth, RecoverableWindow

RPO_LIMIT_S: Final = 300.0
"""Older unarchived WAL is a finding: several times what archive_timeout = 60s leads to."""
TAIL_RPO_LIMIT_S: Final = 30.0
"""The same with a tail, unless its interval is so long that ten of them are more."""

UNCONDITIONAL: Final = (
    "the store does not enforce conditional creates: promise 2 is not enforced here, so only one"
    " host may write into this repository"
)


@dataclass(frozen=True, slots=True)
class Finding:
    """One sentence, and what to do next.

    ``key`` is the same for as long as the trouble is, see `walkeeper.core.alerts.Condition`.
    ``urgent`` is what endangers the archive or a recovery now; the rest can wait for the day.
    """

    what: str
    hint: str | None = None
    urgent: bool = True
    key: str = field(default="other", kw_only=True)


def find_agent_problems(agent: AgentStatus, archive: str) -> Iterator[Finding]:
    """What is wrong with an agent; ``archive`` is the id of the archive that is looked at."""
    if agent.archive != archive:
        yield Finding(
            f"the agent archives into another archive: {agent.folder} in {agent.repository}",
            "was the configuration changed? restart the agent",
            key="other_archive",
        )
    source, archiving = agent.source, agent.archiving
    if agent.http is not None and agent.http.problem is not None:
        yield Finding(
            f"nobody can watch over HTTP: {agent.http.problem}",
            "archiving goes on without it",
            urgent=False,
            key="http",
        )
    if not source.verified:
        yield Finding(f"nothing is archived: {source.reason}", source.hint, key="source")
    yield from _find_untold(agent)
    if archiving is not None:
        yield from _find_archiving_problems(agent, archiving)


def _find_archiving_problems(agent: AgentStatus, archiving: ArchivingStatus) -> Iterator[Finding]:
    if archiving.lost is not None:
        yield Finding(
            f"the archive has lost WAL that was acknowledged: {archiving.lost} is not there",
            "was the store set back, or has somebody deleted from it? then: walkeeper backup",
            key="lost",
        )
    if archiving.last_error is not None:
        what = f"WAL is not getting through: {archiving.last_error}"
        yield Finding(what, "see the agent's log", key="archiving")
    tail = agent.tail
    if tail is not None and tail.state == "stopped" and agent.source.verified:
        what = f"the tail is stopped: {tail.reason}"
        yield Finding(what, "see the agent's log", key="tail")
    if tail is None or tail.state == "off":
        if archiving.rpo_s > RPO_LIMIT_S:
            hint = "is archive_timeout set? see: walkeeper check"
            yield Finding(behind_text(archiving.rpo_s), hint, key="behind")
    elif archiving.rpo_s > max(TAIL_RPO_LIMIT_S, 10 * tail.interval_s):
        yield Finding(behind_text(archiving.rpo_s), tail.reason, key="behind")


def _find_untold(agent: AgentStatus) -> Iterator[Finding]:
    for sink in agent.alerting:
        if sink.problem is not None:
            lost = f"alerts do not get through to {sink.name}"
            if sink.name == HEARTBEAT:
                lost = "the heartbeat is not heard, so that somebody may think the agent dead"
            yield Finding(
                f"{lost}: {sink.problem}",
                sink.hint or "walkeeper check --alerts",
                urgent=False,
                key=f"sink:{sink.name}",
            )


def find_archive_problems(health: ArchiveHealth, agent: AgentStatus | None) -> Iterator[Finding]:
    """What is wrong with an archive.

    Segments that the agent has yet to send are no gap, and what a later backup has made up for is
    a notice.
    """
    if not health.backups:
        what = "there is no base backup: nothing can be recovered"
        yield Finding(what, "walkeeper backup", key="no_backup")
    for listed in health.unreadable:
        what = f"backup {listed.backup} cannot be read: {listed.problem}"
        yield Finding(what, key=f"backup_unreadable:{listed.backup}")
    if health.backups and health.backups[-1].id in health.unusable:
        what = _unusable_text(health.backups[-1].id)
        yield Finding(what, "take another one: walkeeper backup", key="backup_unusable")
    if health.backups and health.backups[-1].checksum_findings:
        newest = health.backups[-1]
        yield Finding(
            f"the newest backup, {newest.id}, holds {newest.checksum_findings} damaged pages",
            "they are damaged in the cluster: look there (pg_amcheck)",
            urgent=False,
            key="backup_damaged",
        )
    for number, problem in enumerate(health.problems, 1):
        yield Finding(problem, key=f"timelines:{number}")
    for window in find_gaps(health, agent):
        if not is_made_up_for(window, health):
            yield Finding(
                _gap_text(window, health),
                "is it still in pg_wal? else take a backup: walkeeper backup",
                key=f"gap:{window.timeline}-{window.end}",
            )


def find_drill_problems(drills: DrillHistory) -> Iterator[Finding]:
    """A last drill that did not prove its point."""
    last = drills.last
    if last is not None and not last.proven:
        yield Finding(
            f"the last drill, begun {last.at:%Y-%m-%d %H:%M}Z, has not proven {last.target} of "
            f"backup {last.backup}: it failed at {last.failed_phase}",
            "to see why: walkeeper drill",
            urgent=False,
            key="drill_unproven",
        )


def find_notices(health: ArchiveHealth | None, agent: AgentStatus | None) -> Iterator[str]:
    """What is worth knowing and needs nobody."""
    if agent is not None and is_unconditional(agent):
        yield UNCONDITIONAL
    if agent is not None and agent.fetch.last_error is not None:
        yield f"the last wal-fetch that failed: {agent.fetch.last_error}"
    if health is None:
        return
    for backup in health.unusable:
        if backup != health.backups[-1].id:
            yield _unusable_text(backup)
    for window in find_gaps(health, agent):
        if is_made_up_for(window, health):
            yield _gap_text(window, health)
    if health.unfinished:
        yield f"unfinished backups, under way or abandoned: {', '.join(health.unfinished)}"
    if not health.histories_read:
        yield (
            "timeline histories cannot be read without an identity, so each timeline is shown by"
            " itself; more may be recoverable"
        )


def behind_text(rpo_s: float) -> str:
    """How old what the archive lacks is."""
    age = f"{rpo_s:.0f} s" if rpo_s < 120 else f"{rpo_s / 60:.0f} min"
    return f"WAL of the last {age} is not in the archive"


def is_unconditional(agent: AgentStatus) -> bool:
    """Whether the store is known to let one writer overwrite another."""
    return False in {agent.store.conditional_put, agent.store.conditional_multipart}


def _unusable_text(backup: str) -> str:
    return f"backup {backup} cannot be restored: WAL that it needs is missing"


def _gap_text(window: RecoverableWindow, health: ArchiveHealth) -> str:
    missing = ", ".join(part.named(health.size) for part in window.missing)
    return (
        f"timeline {window.timeline}: {missing} is missing; WAL behind it is of use only to later"
        " backups"
    )


def find_gaps(health: ArchiveHealth, agent: AgentStatus | None) -> list[RecoverableWindow]:
    """The windows with missing WAL behind them that nobody is about to send."""
    return [one for one in health.windows if one.missing and not _on_its_way(one, agent)]


def is_made_up_for(window: RecoverableWindow, health: ArchiveHealth) -> bool:
    """Whether a later backup reaches further on the same timeline."""
    return any(
        other.timeline == window.timeline and other.end > window.end for other in health.windows
    )


def _on_its_way(window: RecoverableWindow, agent: AgentStatus | None) -> bool:
    """Whether the agent still has the first missing segment: uploads overtake each other."""
    if agent is None or agent.archiving is None or agent.archiving.oldest_waiting is None:
        return False
    oldest = WalSegment.parse(agent.archiving.oldest_waiting)
    after = window.last
    return after.timeline == oldest.timeline and after < oldest and not agent.archiving.last_error
