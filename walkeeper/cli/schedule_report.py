"""What ``status`` says of the agent's schedule."""

from __future__ import annotations

from collections.abc import Sequence

from walkeeper.cli.render import Page, moment_text
from walkeeper.services.agent_status import JobStatus


def show_schedule(page: Page, jobs: Sequence[JobStatus]) -> None:
    """One job a line: when it runs next, and how the last run went."""
    for number, job in enumerate(jobs):
        label = "scheduled" if number == 0 else ""
        page.fact(label, f"{job.name}: {_text(job)}")


def _text(job: JobStatus) -> str:
    if job.running and job.last_started_at is not None:
        return f"running since {moment_text(job.last_started_at)}"
    following = f"next {moment_text(job.next_at)}"
    if job.last_started_at is None:
        return f"{following}; has not run yet"
    last = f"{following}; last {moment_text(job.last_started_at)}, {job.last_outcome}"
    return f"{last}: {job.last_detail}" if job.last_detail else last
