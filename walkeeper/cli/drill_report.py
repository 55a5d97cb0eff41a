"""What ``drill`` says on a terminal; with ``--json`` it is the report itself."""

from __future__ import annotations

from walkeeper.cli.render import Page, counted, moment_text, size_text, span_text
from walkeeper.services.drill import RESTORING
from walkeeper.services.drill_report import CheckResult, DrillReport

_MARKS = {"ok": "ok", "failed": "failed", "unfinished": "warning", "skipped": "skipped"}


def show(page: Page, report: DrillReport) -> None:
    """The report for a reader: what was tried, how long it took, what was found."""
    record = report.record
    page.heading(f"Drill: {record.target}")
    page.fact("archive", f"{report.plan.archive} in {report.plan.repository}")
    page.fact("backup", f"{record.backup}, {size_text(record.size_bytes)}")
    page.more(f"PostgreSQL {record.server_version // 10_000}")
    page.fact("planned", f"timeline {record.planned_timeline}, WAL to {record.planned_end_lsn}")
    if record.reached_lsn is not None and record.point_at is not None:
        page.fact("reached", f"{record.reached_lsn}, {moment_text(record.point_at)}")
        page.fact("RTO", f"{span_text(record.rto_s)}: {_phases(report, restoring=True)}")
        page.fact("checks", _phases(report, restoring=False))
    for check in report.checks:
        _show_check(page, check)
    for table in report.tables:
        rows = counted(table.rows, "row")
        page.item("", f"{table.database}: {table.table}, {rows}, {size_text(table.size_bytes)}")
    if report.kept_in is not None:
        page.fact("kept in", report.kept_in)
    for note in report.plan.notes:
        page.item("warning", note)
    if report.proven:
        page.heading("proven", style="bold green")
        return
    page.heading(f"not proven: it failed at {record.failed_phase}", style="bold red")
    for finding in report.findings:
        page.item("problem", finding)
    for line in report.server_log.splitlines():
        page.line(f"  {line}")


def _show_check(page: Page, check: CheckResult) -> None:
    took = f" ({span_text(check.seconds)})" if check.seconds else ""
    page.item(_MARKS[check.outcome], f"{check.name}: {check.detail}{took}")
    if check.sql is not None and check.outcome != "ok":
        page.item("", f"{check.database}: {check.sql}")


def _phases(report: DrillReport, *, restoring: bool) -> str:
    seconds = report.record.seconds
    names = [name for name in seconds if (name in RESTORING) == restoring]
    return ", ".join(f"{name} {span_text(seconds[name])}" for name in names)
