"""What ``verify`` shows: a line while it works, and the report."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from walkeeper.cli.render import Page, counted, moment_text, size_text, span_text
from walkeeper.services.verify_report import Finding, LostTime, VerifyProgress, VerifyReport

_SHOWN: Final = 100
"""Findings, and notes, that are shown; --json has all of them."""


@contextmanager
def show_progress(*, quiet: bool) -> Iterator[Callable[[VerifyProgress], None]]:
    """A line that follows the work; nothing at all when ``quiet``."""
    if quiet:
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("connecting", total=None)

        def show(progress: VerifyProgress) -> None:
            problems = f", {counted(progress.problems, 'problem')}" if progress.problems else ""
            bar.update(
                task,
                description=f"{progress.phase}: {counted(progress.objects, 'object')},"
                f" {progress.read} read, {size_text(progress.bytes)}{problems}",
            )

        yield show


def show(page: Page, report: VerifyReport) -> None:
    """The report for a reader: findings first, then what was not looked at."""
    checked = report.checked
    page.fact("archive", report.folder)
    page.fact(
        "checked",
        f"{counted(checked.objects, 'object')} and {counted(checked.backups, 'backup')} in "
        f"{span_text((report.ended_at - report.started_at).total_seconds())}",
    )
    page.fact("read", f"{counted(checked.read, 'object')}, {size_text(checked.bytes)}")
    if report.complete_since is not None:
        page.more(f"all that was stored before {moment_text(report.complete_since)} at least once")
    for text in report.unchecked:
        page.fact("not checked", text)
    if report.findings:
        page.heading("Findings")
        for finding in report.findings[:_SHOWN]:
            _show_finding(page, finding)
        _show_rest(page, len(report.findings) + report.findings_left_out)
    if report.notes:
        page.heading("Notes")
        for note in report.notes[:_SHOWN]:
            page.item("-", note)
        _show_rest(page, len(report.notes))
    number = len(report.findings) + report.findings_left_out
    page.heading("no damage found" if report.clean else counted(number, "finding"))


def _show_finding(page: Page, finding: Finding) -> None:
    page.item(finding.kind, f"{finding.object}: {finding.what}")
    if finding.backups:
        page.item("", f"cannot be restored: {', '.join(finding.backups)}")
    for lost in finding.moments:
        page.item("", _lost_text(lost))
    if not finding.backups and not finding.moments:
        page.item("", "no backup and no moment is lost by it alone")


def _lost_text(lost: LostTime) -> str:
    text = f"cannot be recovered: timeline {lost.timeline} from {lost.begin_lsn}"
    if lost.end_lsn is None or lost.until is None:
        return f"{text} on"
    return f"{text} to {lost.end_lsn}, {moment_text(lost.until)}, where {lost.until_backup} ended"


def _show_rest(page: Page, number: int) -> None:
    if number > _SHOWN:
        page.item("", f"... and {number - _SHOWN} more, see --json")
