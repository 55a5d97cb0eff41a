"""What ``restore`` says, on a terminal and as JSON."""

from __future__ import annotations

from datetime import datetime

import msgspec

from walkeeper.cli.render import Page, counted, moment_text, size_text, span_text
from walkeeper.services.restore import RestoreResult
from walkeeper.services.restore_document import PlanDocument, WalPart
from walkeeper.services.restore_start import Started


class RecoveryReport(msgspec.Struct, frozen=True, kw_only=True):
    """How recovery ended; ``state`` is promoted, paused, shut down, or standby, which goes on."""

    state: str
    lsn: str | None
    timeline: int | None
    last_commit_at: datetime | None
    recovered_in_s: float | None
    running: bool
    stop_command: str
    problem: str | None


class RestoreReport(msgspec.Struct, frozen=True, kw_only=True):
    """The document of ``restore --json``; with ``--plan`` nothing but the plan is set.

    ``fetch_problem`` is why PostgreSQL's user could not fetch WAL, ``seconds`` how long each phase
    took.
    """

    plan: PlanDocument
    restored: bool
    fetch_problem: str | None = None
    notes: tuple[str, ...] = ()
    seconds: dict[str, float] = {}
    recovery: RecoveryReport | None = None

    @property
    def problem(self) -> str | None:
        """Why the command fails although it has something to show."""
        return self.fetch_problem or (self.recovery.problem if self.recovery else None)


def report_of(
    plan: PlanDocument, result: RestoreResult | None = None, *, fetch_problem: str | None = None
) -> RestoreReport:
    """The document of a plan, or of a restore that was done."""
    if result is None:
        return RestoreReport(plan=plan, restored=False, fetch_problem=fetch_problem)
    return RestoreReport(
        plan=plan,
        restored=True,
        notes=result.notes,
        seconds=result.seconds,
        recovery=None if result.started is None else _recovery(result.started),
    )


def _recovery(started: Started) -> RecoveryReport:
    end = started.end
    return RecoveryReport(
        state="standby" if end is None else end.state.value,
        lsn=None if end is None else str(end.lsn),
        timeline=None if end is None else end.timeline,
        last_commit_at=None if end is None else end.last_commit_at,
        recovered_in_s=None if end is None else round(end.elapsed_s, 3),
        running=started.running,
        stop_command=started.stop_command,
        problem=started.problem,
    )


def show(page: Page, report: RestoreReport) -> None:
    """Print the report."""
    _show_plan(page, report.plan)
    if not report.restored:
        _show_next(page, report)
        return
    page.heading(f"Restored into {report.plan.target_dir}")
    for name, seconds in report.seconds.items():
        page.item("ok", f"{name}: {span_text(seconds)}")
    for note in report.notes:
        page.item("warning", note)
    if report.recovery is not None:
        _show_recovery(page, report.recovery)
        return
    _show_commands(page, "next", report.plan.commands)


def _show_plan(page: Page, plan: PlanDocument) -> None:
    backup = plan.backup
    page.heading(f"Plan: {plan.target}{' (exclusive)' if plan.target_exclusive else ''}")
    page.fact("archive", f"{plan.archive} in {plan.repository}")
    page.fact("backup", f"{backup.id}, ended {moment_text(backup.stopped_at)} at {backup.stop_lsn}")
    page.more(
        f"{size_text(backup.size_bytes)} in {counted(backup.parts, 'part')}, "
        f"{size_text(backup.stored_bytes)} to fetch"
    )
    page.fact("path", " > ".join(_leg_text(plan)))
    page.fact("WAL", _wal_text(plan))
    for part in plan.wal:
        page.more(_part_text(part))
    page.fact("reaches", f"{moment_text(plan.reaches_at)}, then {plan.action}")
    page.fact("WAL ends at", plan.end_lsn)
    if plan.gap is not None:
        page.fact("gap", f"{plan.gap} is missing", style="yellow")
    for part in plan.stranded:
        page.fact("stranded", _part_text(part), style="yellow")
    for branch in plan.branches:
        page.fact("branch", f"timeline {branch.timeline}, {branch.begin_lsn} to {branch.end_lsn}")
    page.fact("into", f"{plan.target_dir}, as {plan.owner}")
    for space in plan.tablespaces:
        page.fact("tablespace", f"{space.oid}: {space.location} to {space.restored_to}")
    for volume in plan.room:
        page.fact(
            "room",
            f"{size_text(volume.needed_bytes)} of {size_text(volume.free_bytes)} free at "
            f"{volume.path}",
        )
    for saved in plan.saved_configuration:
        page.fact("config", saved)
    for note in plan.notes:
        page.item("warning", note)


def _show_next(page: Page, report: RestoreReport) -> None:
    page.heading("Nothing was written")
    if report.fetch_problem is None:
        page.item("ok", f"{report.plan.owner} can fetch WAL with")
    else:
        page.item("failed", f"{report.plan.owner} cannot fetch WAL with")
    page.line(f"  {report.plan.restore_command}")
    _show_commands(page, "after the restore", report.plan.commands)


def _show_recovery(page: Page, recovery: RecoveryReport) -> None:
    page.fact("recovery", recovery.state)
    if recovery.lsn is not None:
        last = recovery.last_commit_at
        page.more(f"at {recovery.lsn}, now on timeline {recovery.timeline}")
        page.more(
            "no transaction replayed" if last is None else f"last transaction {moment_text(last)}"
        )
        page.more(f"recovered in {span_text(recovery.recovered_in_s or 0.0)}")
    if recovery.running:
        _show_commands(page, "to stop it", (recovery.stop_command,))


def _show_commands(page: Page, label: str, commands: tuple[str, ...]) -> None:
    """Commands to be copied: each on a line of its own, never broken."""
    page.fact(label, "")
    for command in commands:
        page.line(f"  {command}")


def _leg_text(plan: PlanDocument) -> list[str]:
    return [
        f"timeline {leg.timeline}" + ("" if leg.end_lsn is None else f" to {leg.end_lsn}")
        for leg in plan.path
    ]


def _wal_text(plan: PlanDocument) -> str:
    return (
        f"{counted(plan.wal_segments, 'segment')}, {size_text(plan.wal_stored_bytes)} to fetch, "
        f"{size_text(plan.wal_bytes)} as WAL"
    )


def _part_text(part: WalPart) -> str:
    if part.segments == 1:
        return part.first
    return f"{part.first} to {part.last} ({counted(part.segments, 'segment')})"
