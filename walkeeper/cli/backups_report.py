"""What ``backups`` says, on a terminal and as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from types import MappingProxyType

import msgspec

from walkeeper.cli.render import Page, counted, moment_text, size_text
from walkeeper.core.backup_id import BackupId
from walkeeper.repository.backups import ListedBackup, UnfinishedBackup

_DEFAULT_LABEL = "walkeeper"


class BackupRow(msgspec.Struct, frozen=True, kw_only=True):
    """A committed backup. With a ``problem`` its description cannot be believed, and the rest is
    null. LSNs are PostgreSQL's text; ``damaged_pages`` were so when they were read; ``pinned`` is
    the reason of a pin."""

    id: str
    problem: str | None = None
    kind: str | None = None
    label: str | None = None
    timeline: int | None = None
    start_lsn: str | None = None
    stop_lsn: str | None = None
    started_at: datetime | None = None
    stopped_at: datetime | None = None
    server_version: int | None = None
    size_bytes: int | None = None
    stored_bytes: int | None = None
    files: int | None = None
    damaged_pages: int | None = None
    wal_first: str | None = None
    wal_last: str | None = None
    pinned: str | None = None


class BackupsReport(msgspec.Struct, frozen=True, kw_only=True):
    """The document of ``backups --json``; ``backups`` are in the order of their stop LSN."""

    repository: str
    folder: str
    backups: tuple[BackupRow, ...]
    unfinished: tuple[str, ...]

    @property
    def has_findings(self) -> bool:
        """Whether a backup is not as it should be."""
        return any(row.problem or row.damaged_pages for row in self.backups)


def row_of(listed: ListedBackup, pinned: str | None = None) -> BackupRow:
    """A listed backup as a row."""
    facts = listed.facts
    if facts is None:
        return BackupRow(id=str(listed.backup), problem=listed.problem, pinned=pinned)
    return BackupRow(
        id=facts.id,
        kind=facts.kind,
        label=facts.label,
        timeline=facts.timeline,
        start_lsn=facts.start_lsn,
        stop_lsn=facts.stop_lsn,
        started_at=facts.started_at,
        stopped_at=facts.stopped_at,
        server_version=facts.server_version,
        size_bytes=facts.size_bytes,
        stored_bytes=facts.stored_bytes,
        files=facts.files,
        damaged_pages=facts.checksum_findings,
        wal_first=facts.wal_first,
        wal_last=facts.wal_last,
        pinned=pinned,
    )


def report_of(
    url: str,
    folder: str,
    listed: Sequence[ListedBackup],
    unfinished: Sequence[UnfinishedBackup],
    pins: Mapping[BackupId, str] = MappingProxyType({}),
) -> BackupsReport:
    """The listing as a document; ``pins`` are the reasons of those that are pinned."""
    return BackupsReport(
        repository=url,
        folder=folder,
        backups=tuple(row_of(one, pins.get(one.backup)) for one in listed),
        unfinished=tuple(str(one.backup) for one in unfinished),
    )


def show(page: Page, report: BackupsReport) -> None:
    """The listing for a reader; two lines for each backup."""
    if report.backups:
        page.line(
            f"{'backup':<28}  {'complete at':<20}  {'TL':>2}  {'plain':>10}  {'stored':>10}",
            style="bold",
        )
    for row in report.backups:
        _show_row(page, row)
    if not report.backups:
        page.line(f"no backup in {report.repository}, archive {report.folder}")
        page.line("take one: walkeeper backup")
    if report.unfinished:
        page.line(f"{counted(len(report.unfinished), 'unfinished backup')}, under way or abandoned")


def _show_row(page: Page, row: BackupRow) -> None:
    if row.size_bytes is None or row.stored_bytes is None or row.stopped_at is None:
        page.line(row.id)
        page.item("failed", row.problem or "its description cannot be read")
        return
    page.line(
        f"{row.id:<28}  {moment_text(row.stopped_at):<20}  {row.timeline:>2}"
        f"  {size_text(row.size_bytes):>10}  {size_text(row.stored_bytes):>10}"
    )
    label = f"; {row.label!r}" if row.label and row.label != _DEFAULT_LABEL else ""
    page.line(f"  WAL {row.start_lsn} to {row.stop_lsn}{label}", style="dim")
    if row.pinned:
        page.item("pinned", row.pinned)
    if row.damaged_pages:
        page.item("warning", f"{counted(row.damaged_pages, 'page')} had no valid checksum")
