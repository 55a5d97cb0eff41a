"""The end of a recovery is compared with its plan."""

from __future__ import annotations

from datetime import datetime

import pytest

from tests.fix_core_plan import SIZE, at, full_backup, lsn
from walkeeper.core.archive_view import ArchiveView
from walkeeper.core.backup import Manifest, PartRecord, RestoreSettings
from walkeeper.core.coverage import WalHoldings
from walkeeper.core.layout import BackupPart
from walkeeper.core.plan import WalFinding, candidates, conclude
from walkeeper.core.segment_set import SegmentSet
from walkeeper.core.target import AtTime, Latest, RecoveryRequest, RecoveryTarget
from walkeeper.postgres.instance import EndState, RecoveryEnd
from walkeeper.services.restore_plan import Planned
from walkeeper.services.restore_start import disagreement


def plan_to(target: RecoveryTarget, finding: WalFinding) -> Planned:
    """A backup of the WAL from 1 to 2, and segments up to 6."""
    facts = full_backup(1, 1, 2)
    held = WalHoldings(SIZE, {1: SegmentSet.from_ordered(range(6))}, {})
    request = RecoveryRequest(target)
    candidate = next(iter(candidates(ArchiveView(held, (facts,), {}), request, None)))
    part = PartRecord(
        number=1,
        stored_bytes=1,
        stored_sha256="0" * 64,
        list_name=BackupPart(facts.backup, None, 1).files_name,
        list_bytes=1,
        list_sha256="0" * 64,
        size_bytes=1,
        files=1,
    )
    settings = RestoreSettings(
        max_connections=100,
        max_worker_processes=8,
        max_wal_senders=10,
        max_prepared_xacts=0,
        max_locks_per_xact=64,
        data_directory_mode=0o700,
    )
    manifest = Manifest(facts=facts, parts=(part,), settings=settings)
    return Planned(conclude(candidate, request, finding), finding, manifest, 0, ())


def ended(segments: float, last: datetime | None) -> RecoveryEnd:
    return RecoveryEnd(EndState.PROMOTED, lsn(segments), 2, last, 1.0)


LATEST = plan_to(Latest(), WalFinding(last_commit_at=at(5.5)))


@pytest.mark.parametrize("end", [ended(5.75, at(5.5)), ended(6, at(5.5))])
def test_recovery_to_the_latest_may_end_before_a_record_that_goes_on_in_the_next_segment(
    end: RecoveryEnd,
) -> None:
    assert disagreement(LATEST, end) is None


@pytest.mark.parametrize("end", [ended(7.5, at(7.25)), ended(7.5, at(5.5))])
def test_recovery_to_the_latest_may_go_on_with_what_was_archived_since(end: RecoveryEnd) -> None:
    assert disagreement(LATEST, end) is None


def test_recovery_to_the_latest_that_ends_short_of_the_plan_is_told() -> None:
    assert "not between" in str(disagreement(LATEST, ended(1.5, None)))
    assert "the plan found one" in str(disagreement(LATEST, ended(5, at(4.75))))
    assert "the plan found one" in str(disagreement(LATEST, ended(7.5, None)))


def test_recovery_to_a_time_never_goes_behind_its_plan() -> None:
    planned = plan_to(AtTime(at(4)), WalFinding(lsn(4.25), lsn(4.5), at(4)))
    assert disagreement(planned, ended(4.25, at(4))) is None
    assert "not between" in str(disagreement(planned, ended(7.5, at(4))))
