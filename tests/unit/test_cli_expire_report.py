"""What expire tells a reader: each decision with its reason and date, and what was done."""

from __future__ import annotations

import io

import msgspec
from rich.console import Console

from tests.fix_retention import DAY, Bed
from walkeeper.cli.expire_report import ExpireReport, report_of, show
from walkeeper.cli.render import Page
from walkeeper.core.backup_id import BackupId
from walkeeper.core.retention_policy import RetentionPolicy
from walkeeper.errors import StorageDenied
from walkeeper.repository.holds import Holds

WEEK = RetentionPolicy(window=7 * DAY)


def shown(report: ExpireReport) -> str:
    out = io.StringIO()
    show(Page(Console(file=out, width=100, highlight=False, markup=False)), report)
    return out.getvalue()


async def test_each_backup_has_a_reason_and_the_date_on_which_it_goes(old: Bed) -> None:
    ids = sorted(await old.ids())
    await Holds(old.archive).pin(BackupId.parse(ids[0]), "the audit", old.now[0])
    report = report_of("memory:", "a", await old.expire(WEEK, dry_run=True))
    assert [row.id for row in report.backups] == ids
    assert report.backups[32].until == old.now[0] + DAY
    assert (report.wal.objects, report.deleted_wal.objects) == (4 * 32 - 2, 0)
    text = shown(report)
    assert f"{ids[0]}  kept\n  pinned: the audit\n" in text
    assert f"{ids[1]}  goes\n  older than the window and every tier\n" in text
    assert "  the window of 7 d begins with it\n  goes by 2026-02-10 03:00:00Z\n" in text
    assert "\nwould be deleted\n" in text
    assert "31 of 40" in text


async def test_what_was_done_is_told_apart_from_what_the_store_denied(old: Bed) -> None:
    result = await old.expire(WEEK)
    report = report_of("memory:", "a", result)
    assert sum(row.deleted for row in report.backups) == 32
    assert "\ndeleted\n" in shown(report)
    result.backups.clear()
    result.wal.count = 0
    result.denied = StorageDenied("403")
    text = shown(report_of("memory:", "a", result))
    assert "would be deleted, if the store let us" in text
    assert "  goes\n" in text


async def test_the_document_has_stable_keys(old: Bed) -> None:
    report = report_of("memory:", "a", await old.expire(WEEK))
    document = msgspec.json.decode(msgspec.json.encode(report))
    assert set(document) == {
        *("repository", "folder", "now", "dry_run", "denied", "backups", "spared", "wal", "tails"),
        *("orphans", "deleted_wal", "deleted_tails", "deleted_orphans", "findings"),
    }
    assert {*document["backups"][-1]["holds"][0]} == {"rule", "text", "until"}
