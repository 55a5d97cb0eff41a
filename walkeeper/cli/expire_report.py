"""What ``expire`` says, on a terminal and as JSON."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

import msgspec

from walkeeper.cli.render import Page, counted, moment_text, size_text
from walkeeper.core.retention_policy import Decision
from walkeeper.services.expire import ExpireResult, Tally


class HoldRow(msgspec.Struct, frozen=True):
    """A rule that keeps a backup; ``until`` null: for as long as things are as they are."""

    rule: str
    text: str
    until: datetime | None


class DecisionRow(msgspec.Struct, frozen=True, kw_only=True):
    """What becomes of a backup. ``until`` is when it goes at the latest, null: not known.

    ``deleted``: it is gone now. ``problem``: why it does not count.
    """

    id: str
    timeline: int
    stop_lsn: str
    stopped_at: datetime
    stored_at: datetime
    kept: bool
    deleted: bool
    reason: str
    until: datetime | None
    holds: tuple[HoldRow, ...]
    problem: str | None


class Amount(msgspec.Struct, frozen=True):
    """Objects and their stored bytes."""

    objects: int
    size_bytes: int


class ExpireReport(msgspec.Struct, frozen=True, kw_only=True):
    """The document of ``expire --json``.

    ``wal`` and ``tails`` are to go; ``deleted_wal`` and ``deleted_tails`` are gone. ``orphans`` are
    remains of backups that were never complete. ``spared`` were marked and found in use.
    """

    repository: str
    folder: str
    now: datetime
    dry_run: bool
    denied: str | None
    backups: tuple[DecisionRow, ...]
    spared: tuple[str, ...]
    wal: Amount
    tails: Amount
    orphans: tuple[str, ...]
    deleted_wal: Amount
    deleted_tails: Amount
    deleted_orphans: tuple[str, ...]
    findings: tuple[str, ...]


def report_of(url: str, folder: str, result: ExpireResult) -> ExpireReport:
    """The result as a document; backups in the order of their stop LSN."""
    plan = result.plan
    gone = {str(backup) for backup in result.backups}
    ordered = sorted(plan.decisions, key=lambda one: one.backup.facts.stop)
    return ExpireReport(
        repository=url,
        folder=folder,
        now=plan.catalog.now,
        dry_run=result.dry_run,
        denied=None if result.denied is None else result.denied.message,
        backups=tuple(_row(one, gone) for one in ordered),
        spared=tuple(map(str, result.spared)),
        wal=_amount(one.size_bytes for one in plan.inventory.unneeded_wal(plan.needs)),
        tails=_amount(one.size_bytes for one in plan.tails),
        orphans=tuple(str(one.backup) for one in plan.orphans),
        deleted_wal=_tallied(result.wal),
        deleted_tails=_tallied(result.tails),
        deleted_orphans=tuple(map(str, result.orphans)),
        findings=plan.findings,
    )


def _row(decision: Decision, gone: set[str]) -> DecisionRow:
    backup = decision.backup
    return DecisionRow(
        id=backup.facts.id,
        timeline=backup.facts.timeline,
        stop_lsn=backup.facts.stop_lsn,
        stopped_at=backup.facts.stopped_at,
        stored_at=backup.stored_at,
        kept=decision.kept,
        deleted=backup.facts.id in gone,
        reason=decision.reason,
        until=decision.until,
        holds=tuple(HoldRow(one.rule.value, one.text, one.until) for one in decision.holds),
        problem=decision.problem,
    )


def _amount(sizes: Iterable[int]) -> Amount:
    listed = list(sizes)
    return Amount(len(listed), sum(listed))


def _tallied(tally: Tally) -> Amount:
    return Amount(tally.count, tally.size_bytes)


def show(page: Page, report: ExpireReport) -> None:
    """The decisions for a reader, and what was done."""
    for row in report.backups:
        _show_row(page, row, done=not report.dry_run and report.denied is None)
    if not report.backups:
        page.line(f"no backup in {report.repository}, archive {report.folder}: all WAL is kept")
    page.heading(_heading(report))
    going = [row for row in report.backups if not row.kept]
    page.fact("backups", f"{len(going)} of {len(report.backups)}")
    page.fact("WAL", f"{counted(report.wal.objects, 'object')}, {size_text(report.wal.size_bytes)}")
    if report.tails.objects:
        tails = report.tails
        page.fact("tails", f"{counted(tails.objects, 'object')}, {size_text(tails.size_bytes)}")
    if report.orphans:
        page.fact("orphans", f"remains of {counted(len(report.orphans), 'aborted backup')}")
    for backup in report.spared:
        page.item("warning", f"{backup} was marked and is in use or pinned now: it stays")
    for finding in report.findings:
        page.item("warning", finding)


def _heading(report: ExpireReport) -> str:
    if report.denied is not None:
        return "would be deleted, if the store let us" if not _any_deleted(report) else "to go"
    return "would be deleted" if report.dry_run else "deleted"


def _any_deleted(report: ExpireReport) -> bool:
    return report.deleted_wal.objects > 0 or any(row.deleted for row in report.backups)


def _show_row(page: Page, row: DecisionRow, *, done: bool) -> None:
    goes = "deleted" if row.deleted or done else "goes"
    page.line(f"{row.id}  {'kept' if row.kept else goes}", style="" if row.kept else "yellow")
    page.line(f"  {row.reason}", style="dim")
    if row.kept and row.until is not None:
        page.line(f"  goes by {moment_text(row.until)}", style="dim")
    if row.problem:
        page.item("warning", f"does not count: {row.problem}")
