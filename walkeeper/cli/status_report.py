"""What ``status`` says on a terminal."""

from __future__ import annotations

from walkeeper.cli.render import Page, age_text, counted, moment_text, size_text, span_text
from walkeeper.cli.schedule_report import show_schedule
from walkeeper.services.agent_status import AgentStatus, TailStatus
from walkeeper.services.folder_memory import LISTED_JUST_NOW
from walkeeper.services.status_report import DrillRow, RepositoryStatus, StatusReport


def show(page: Page, report: StatusReport) -> None:
    """The report for a reader: what is there, then what needs attention."""
    page.fact("repository", report.repository)
    found = report.repository_status
    if found is not None:
        page.fact("archive", f"{report.folder}, since {moment_text(found.created)}")
        page.more(
            f"cluster {found.system_identifier}, WAL segments of {size_text(found.segment_size)}"
        )
    _show_agent(page, report)
    if found is not None:
        _show_last_backup(page, found)
        _show_drills(page, found)
        _show_windows(page, report, found)
    if report.findings:
        page.heading("Findings")
        for finding in report.findings:
            page.item("problem", finding.what, hint=finding.hint)
    if report.notices:
        page.heading("Notices")
        for notice in report.notices:
            page.item("-", notice)
    if report.healthy:
        page.heading("healthy", style="bold green")
    else:
        page.heading(counted(len(report.findings), "finding"), style="bold red")


def _show_agent(page: Page, report: StatusReport) -> None:
    agent = report.agent
    if agent is None:
        page.fact("agent", report.agent_problem or "not running on this host")
        return
    page.fact(
        "agent",
        f"running for {span_text(agent.uptime_s)}, version {agent.version}, process {agent.pid}",
    )
    source = agent.source
    page.fact(
        "server",
        f"{source.data_directory}, timeline {source.timeline}"
        if source.verified
        else f"not recognised: {source.reason}",
    )
    archiving = agent.archiving
    if archiving is not None:
        page.fact("RPO now", span_text(archiving.rpo_s))
        page.more(
            f"in the last hour at most {span_text(archiving.rpo_max_s)}, 99 % of the time within "
            f"{span_text(archiving.rpo_p99_s)}"
        )
        oldest = f", the oldest {archiving.oldest_waiting}" if archiving.oldest_waiting else ""
        page.fact("backlog", f"{counted(archiving.backlog, 'file')} waiting{oldest}")
        page.fact("archived", _archived_text(agent))
    if agent.tail is not None:
        page.fact("tail", _tail_text(agent.tail))
    show_schedule(page, agent.schedule)
    fetch = agent.fetch
    if fetch.fetched or fetch.errors or fetch.absent:
        page.fact(
            "fetched",
            f"{counted(fetch.fetched, 'file')} ({fetch.from_prefetch} prefetched), {fetch.absent}"
            f" absent, {counted(fetch.errors, 'error')}, {counted(fetch.holes, 'hole')}",
        )


def _tail_text(tail: TailStatus) -> str:
    text = tail.state if tail.reason is None else f"{tail.state}: {tail.reason}"
    if tail.state == "shipping":
        text += f" every {span_text(tail.interval_s)}"
    if tail.shipped_lsn is not None:
        text += (
            f"; stored up to {tail.shipped_lsn} in {counted(tail.links, 'link')}, "
            f"{size_text(tail.stored_bytes)}, {counted(tail.requests, 'request')}"
        )
    return text


def _archived_text(agent: AgentStatus) -> str:
    archiving = agent.archiving
    assert archiving is not None
    text = f"{counted(archiving.archived, 'file')} since its start"
    if archiving.failed:
        text += f", {counted(archiving.failed, 'failed attempt')}"
    if archiving.last_archived is not None and archiving.last_archived_age_s is not None:
        text += f"; last {archiving.last_archived}, {age_text(archiving.last_archived_age_s)}"
    return text


def _show_last_backup(page: Page, found: RepositoryStatus) -> None:
    last = found.last_backup
    if last is None:
        page.fact("last backup", "none")
        return
    page.fact("last backup", f"{last.id}, {age_text(last.age_s)}")
    page.more(f"{size_text(last.size_bytes)}, stored as {size_text(last.stored_bytes)}")
    page.more(f"{counted(found.backups, 'backup')} in all")


def _show_drills(page: Page, found: RepositoryStatus) -> None:
    proven, last = found.last_proven, found.last_drill
    if proven is None:
        page.fact("proven", "nothing so far: walkeeper drill")
    else:
        page.fact("proven", f"{_point_text(proven)}, by a drill {age_text(proven.age_s)}")
        page.more(f"restored and recovered in {span_text(proven.rto_s)}")
    if last is not None and not last.proven:
        text = f"{age_text(last.age_s)}: not proven, it failed at {last.failed_phase}"
        page.fact("last drill", text, style="red")


def _point_text(drill: DrillRow) -> str:
    point = drill.reached_lsn if drill.point_at is None else moment_text(drill.point_at)
    return f"{point} ({drill.backup})"


def _show_windows(page: Page, report: StatusReport, found: RepositoryStatus) -> None:
    if not found.windows:
        return
    page.heading("Recoverable, without a gap")
    for window in found.windows:
        page.line(
            f"  timeline {window.timeline}: from {moment_text(window.begin_at)} "
            f"({window.begin_lsn}) to {window.end_lsn}"
        )
        last = f"last segment {window.last_segment}"
        if window.last_stored_at is not None:
            age = (report.checked_at - window.last_stored_at).total_seconds()
            last += f", stored {age_text(max(age, 0.0))}"
        page.item("", f"{counted(len(window.backups), 'backup')}; {last}")
        if window.missing:
            page.item("", f"then missing: {', '.join(window.missing)}")
            page.item("", f"stranded behind it: {', '.join(window.stranded)}")
    if report.listed_at is not None and report.looked_at is not None:
        since = report.looked_at - report.listed_at
        if since > LISTED_JUST_NOW:
            oldest = age_text(since.total_seconds())
            page.line(f"  as full folders of WAL were listed, the oldest {oldest}")
