"""The listing of backups."""

from __future__ import annotations

import io
from datetime import UTC, datetime

import msgspec
from rich.console import Console

from tests.fix_core_plan import full_backup
from walkeeper.cli.backups_report import BackupsReport, report_of, show
from walkeeper.cli.render import Page
from walkeeper.core.backup import BackupFacts
from walkeeper.core.backup_id import BackupId
from walkeeper.repository.backups import ListedBackup, UnfinishedBackup

GOOD = full_backup(1, 2, 3.5)


def listed(facts: BackupFacts) -> ListedBackup:
    return ListedBackup(facts.backup, facts, None)


def shown(report: BackupsReport) -> str:
    out = io.StringIO()
    show(Page(Console(file=out, width=80, highlight=False, markup=False)), report)
    return out.getvalue()


def test_even_huge_backups_fit_80_columns() -> None:
    huge = msgspec.structs.replace(
        GOOD, size_bytes=1000 * 1024**4, stored_bytes=999 * 1024**4, timeline=1
    )
    text = shown(report_of("file:///r", "a", [listed(huge)], []))
    assert "1000.0 TiB" in text
    assert all(len(line) <= 80 for line in text.splitlines())


def test_a_backup_that_cannot_be_believed_is_shown_with_the_reason_and_is_a_finding() -> None:
    bad = ListedBackup(GOOD.backup, None, "its signature is not that of a known writer")
    report = report_of("file:///r", "a", [listed(GOOD), bad], [])
    assert report.has_findings
    assert "signature" in shown(report)
    assert report.backups[1].stop_lsn is None


def test_damaged_pages_are_a_finding() -> None:
    facts = msgspec.structs.replace(GOOD, checksum_findings=3)
    report = report_of("file:///r", "a", [listed(facts)], [])
    assert report.has_findings
    assert "3 pages had no valid checksum" in shown(report)


def test_good_and_unfinished_backups_are_no_finding() -> None:
    unfinished = UnfinishedBackup(BackupId.create(datetime.now(UTC), b"abc"), None, ())
    report = report_of("file:///r", "a", [listed(GOOD)], [unfinished])
    assert not report.has_findings
    assert "1 unfinished backup," in shown(report)


def test_a_label_cannot_play_tricks_with_the_terminal() -> None:
    facts = msgspec.structs.replace(GOOD, label="\x1b[2J\nall is well")
    text = shown(report_of("file:///r", "a", [listed(facts)], []))
    assert "\x1b" not in text
    assert len(text.splitlines()) == 3
