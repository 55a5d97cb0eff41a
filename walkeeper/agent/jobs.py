"""What can be scheduled: one table, and the scheduler that the configuration makes of it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Final

from walkeeper.agent.backup_handler import BackupHandler
from walkeeper.agent.cluster import ClusterService
from walkeeper.agent.compose import Workshop
from walkeeper.agent.drill_run import DrillWish, configured_request, run_drill
from walkeeper.agent.expiry import expire_service
from walkeeper.agent.scheduler import Job, JobResult, Scheduler
from walkeeper.agent.verify_job import run_verify
from walkeeper.core.schedule import Schedule
from walkeeper.repository.archive import Archive

_SERVER_WAIT_S: Final = 600.0
"""A run that is due when the host has just started waits for PostgreSQL so long."""


@dataclass(frozen=True, slots=True)
class JobTools:
    """What jobs work with."""

    shop: Workshop
    archive: Archive
    cluster: ClusterService
    backup: BackupHandler


async def _backup(tools: JobTools) -> JobResult:
    guard = tools.cluster.guard
    await guard.require(wait_s=_SERVER_WAIT_S)
    if guard.verified is not None and guard.verified.facts.in_recovery:
        return JobResult("skipped", "the server is a standby: its primary takes the backups")
    result = await tools.backup.take_scheduled()
    if result.damaged:
        pages = result.facts.checksum_findings
        return JobResult("findings", f"{result.facts.id} holds {pages} damaged pages")
    return JobResult("done", result.facts.id)


async def _verify(tools: JobTools) -> JobResult:
    share = tools.shop.config.verify.sample
    report = await run_verify(tools.shop, tools.archive, lambda _: None, share=share)
    if report.findings:
        first = report.findings[0]
        return JobResult(
            "findings",
            f"{len(report.findings) + report.findings_left_out} findings, the first:"
            f" {first.object}: {first.what}",
        )
    checked = report.checked
    return JobResult("done", f"{checked.objects} objects are there, {checked.read} were read")


async def _drill(tools: JobTools) -> JobResult:
    wish = DrillWish(request=configured_request(tools.shop.config))
    report = await run_drill(tools.shop, tools.archive, wish, lambda _: None)
    record = report.record
    if not report.proven:
        return JobResult(
            "findings", f"{record.target} of {record.backup} failed at {record.failed_phase}"
        )
    return JobResult("done", f"{record.target} of {record.backup}, RTO {record.rto_s:.0f} s")


async def _expire(tools: JobTools) -> JobResult:
    result = await expire_service(tools.shop, tools.archive).run()
    if result.denied is not None:
        raise result.denied
    findings = result.plan.findings
    if findings:
        return JobResult("findings", f"{len(findings)} findings, the first: {findings[0]}")
    return JobResult(
        "done", f"{len(result.backups)} backups and {result.wal.count} WAL objects deleted"
    )


JOBS: Final[dict[str, Callable[[JobTools], Awaitable[JobResult]]]] = {
    "backup": _backup,
    "verify": _verify,
    "drill": _drill,
    "expire": _expire,
}
"""By their names in [schedule]."""


def make_scheduler(tools: JobTools, on_end: Callable[[], None]) -> Scheduler:
    """The scheduler of an agent; what [schedule] leaves out is not scheduled.

    ``on_end`` is called whenever a run has ended.
    """
    config = tools.shop.config
    expressions: dict[str, str | None] = {name: getattr(config.schedule, name) for name in JOBS}
    jobs = tuple(
        Job(name, Schedule.parse(expression, config.schedule.timezone), partial(JOBS[name], tools))
        for name, expression in expressions.items()
        if expression is not None
    )
    archive = tools.archive.record.archive
    return Scheduler(
        jobs,
        config.agent.state_dir / "schedule" / archive,
        tools.shop.pool,
        jitter_s=config.schedule.jitter,
        seed=archive,
        on_end=on_end,
    )
