"""What in an agent's schedule needs somebody's attention."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from walkeeper.services.agent_status import AgentStatus, JobStatus
from walkeeper.services.status_findings import Finding

_BY_HAND: Final = "see the agent's log; by hand: walkeeper {name}"


def find_schedule_problems(agent: AgentStatus) -> Iterator[Finding]:
    """Runs that are overdue, and last runs that did not end well."""
    for job in agent.schedule:
        hint = _BY_HAND.format(name=job.name)
        if job.overdue_since is not None:
            yield Finding(_overdue_text(job), hint, urgent=False, key=f"{job.name}_overdue")
        if job.last_outcome in {"failed", "interrupted"}:
            yield Finding(
                f"the last scheduled {job.name} {job.last_outcome}: {job.last_detail}",
                hint,
                urgent=False,
                key=f"{job.name}_run",
            )
        elif job.last_outcome == "findings":
            what = f"the last scheduled {job.name}: {job.last_detail}"
            yield Finding(what, hint, urgent=False, key=f"{job.name}_run")


def find_schedule_notices(agent: AgentStatus | None) -> Iterator[str]:
    """Runs that were passed over for a good reason."""
    for job in () if agent is None else agent.schedule:
        if job.last_outcome == "skipped":
            yield f"the last scheduled {job.name} was skipped: {job.last_detail}"


def _overdue_text(job: JobStatus) -> str:
    since = f"{job.overdue_since:%Y-%m-%d %H:%M}Z"
    if job.running:
        return f"a scheduled {job.name} was due at {since}, but the one before still runs"
    return f"a scheduled {job.name} is overdue since {since}"
