"""What is worth an alert, and of what nobody can tell."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime, timedelta

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fix_core_plan import SIZE
from tests.fix_status import AGENT, GAP, HEALTHY, agent
from walkeeper.core.alerts import Condition, Severity, topic
from walkeeper.core.backlog import BacklogSample
from walkeeper.repository.drills import DrillHistory, DrillRecord
from walkeeper.services.access import Expiring, expiry_status
from walkeeper.services.agent_status import (
    AgentStatus,
    JobOutcome,
    JobStatus,
    KeyFileStatus,
    SinkStatus,
)
from walkeeper.services.alert_conditions import (
    ARCHIVE_TOPICS,
    ARCHIVER_TOPICS,
    Seen,
    Targets,
    find_conditions,
    find_unknown,
    is_within_target,
)
from walkeeper.services.look import Look
from walkeeper.services.status_findings import UNCONDITIONAL
from walkeeper.services.status_report import Subject, find_problems

NEWEST_AT = HEALTHY.backups[-1].stopped_at
NOW = NEWEST_AT + timedelta(hours=1)
DAY = 86_400.0
TARGETS = Targets(rpo_s=900, disk_full_within_s=4 * 3600)
WELL = Look(at=NOW, health=HEALTHY)
FAILED = Look(at=NOW, error="the store does not answer", hint="is it there?")
JOB = JobStatus(
    name="verify",
    expression="0 2 * * *",
    timezone="UTC",
    next_at=NOW,
    running=False,
    overdue_since=None,
    last_started_at=NOW,
    last_ended_at=NOW,
    last_outcome="done",
    last_detail="it went",
)
MIB = 1 << 20


def seen(
    running: AgentStatus = AGENT,
    look: Look = WELL,
    *,
    trouble: str | None = None,
    samples: Iterable[BacklogSample] = (),
) -> Seen:
    findings = find_problems(Subject(repository="file:///r"), look, running)
    return Seen(
        agent=running,
        look=look,
        findings=tuple(findings),
        trouble=trouble,
        samples=tuple(samples),
        segment_bytes=SIZE.bytes,
    )


def found(what: Seen, targets: Targets = TARGETS, now: datetime = NOW) -> dict[str, Condition]:
    conditions = find_conditions(what, targets, now)
    assert len({one.key for one in conditions}) == len(conditions)
    return {one.key: one for one in conditions}


def drill(at: datetime, *, proven: bool) -> DrillRecord:
    return DrillRecord(
        name="n",
        archive="id",
        backup=HEALTHY.backups[0].id,
        proven=proven,
        at=at,
        target="latest",
        server_version=150000,
        size_bytes=1,
        planned_timeline=1,
        planned_end_lsn="0/1",
        planned_point_at=at,
        reached_timeline=None,
        reached_lsn=None,
        point_at=None,
        failed_phase=None if proven else "boot",
        seconds={},
        rto_s=1.0,
        checks=0,
        failed_checks=0,
        unfinished_checks=0,
        skipped_checks=0,
        counted_tables=0,
        counted_rows=0,
        details="d",
    )


def growing(bytes_per_s: int, *, free_bytes: int, minutes: int = 10) -> list[BacklogSample]:
    times = range(0, 60 * minutes, 15)
    return [
        BacklogSample(float(at), at * bytes_per_s, free_bytes - at * bytes_per_s) for at in times
    ]


def test_where_all_is_well_there_is_nothing_to_tell() -> None:
    assert found(seen()) == {}


def test_an_rpo_over_its_target_is_told_and_the_limit_of_status_is_not() -> None:
    assert found(seen(agent(rpo_s=600.0))) == {}
    late = found(seen(agent(rpo_s=1800.0)))
    assert late.keys() == {"rpo"}
    assert "30 min" in late["rpo"].summary
    assert "target is 15 min" in late["rpo"].summary
    assert late["rpo"].severity is Severity.CRITICAL


@given(rpo_s=st.floats(0, 1e7), target_s=st.floats(1, 1e7))
def test_the_rpo_is_told_exactly_where_the_target_is_missed(rpo_s: float, target_s: float) -> None:
    late, targets = agent(rpo_s=rpo_s), replace(TARGETS, rpo_s=target_s)
    assert ("rpo" in found(seen(late), targets)) == (rpo_s > target_s)
    assert is_within_target(late, targets) == (rpo_s <= target_s)


def test_an_agent_that_archives_nothing_is_critical_and_not_within_target() -> None:
    source = msgspec.structs.replace(AGENT.source, verified=False, reason="a foreign server")
    refusing = msgspec.structs.replace(AGENT, source=source)
    condition = found(seen(refusing))["source"]
    assert condition.severity is Severity.CRITICAL
    assert "a foreign server" in condition.summary
    assert not is_within_target(refusing, TARGETS)


def test_a_server_that_cannot_be_asked_is_told() -> None:
    source = msgspec.structs.replace(AGENT.source, connected=False)
    assert found(seen(msgspec.structs.replace(AGENT, source=source))).keys() == {"connection"}


def test_a_repository_that_cannot_be_read_is_told_with_its_reason_and_hint() -> None:
    condition = found(seen(look=FAILED))["repository"]
    assert "the store does not answer" in condition.summary
    assert condition.hint == "is it there?"


def test_a_write_that_fails_is_told_though_the_repository_can_be_read() -> None:
    condition = found(seen(trouble="access denied"))["repository"]
    assert "access denied" in condition.summary
    assert found(seen(look=FAILED, trouble="access denied")).keys() == {"repository"}


def test_a_disk_that_fills_is_told_with_the_time_that_is_left() -> None:
    condition = found(seen(samples=growing(MIB, free_bytes=8192 * MIB)))["backlog"]
    assert condition.severity is Severity.CRITICAL
    assert "is full in 126 min" in condition.summary or "is full in 2." in condition.summary
    assert "1.0 MiB more each second" in condition.summary
    assert condition.hint is not None


def test_a_backlog_that_the_disk_holds_for_long_is_not_told() -> None:
    assert found(seen(samples=growing(MIB, free_bytes=1 << 50))) == {}


def test_a_backup_is_too_old_only_where_a_target_says_so() -> None:
    later = NEWEST_AT + timedelta(days=3)
    assert found(seen(), now=later) == {}
    old = found(seen(), replace(TARGETS, max_backup_age_s=2 * DAY), later)
    assert old.keys() == {"backup_age"}
    assert "3.0 d old" in old["backup_age"].summary


def test_a_backup_that_cannot_be_restored_does_not_count_as_one() -> None:
    health = replace(HEALTHY, unusable=(HEALTHY.backups[-1].id,))
    targets = replace(TARGETS, max_backup_age_s=365 * DAY)
    conditions = found(seen(look=Look(at=NOW, health=health)), targets)
    assert conditions.keys() == {"backup_unusable", "backup_age"}


def test_no_backup_at_all_is_told_once() -> None:
    empty = Look(at=NOW, health=replace(HEALTHY, backups=(), windows=()))
    targets = replace(TARGETS, max_backup_age_s=1.0, max_drill_age_s=1.0)
    assert found(seen(look=empty), targets).keys() == {"no_backup"}


def test_the_age_of_drills_counts_from_the_first_backup_where_none_has_proven_anything() -> None:
    targets = replace(TARGETS, max_drill_age_s=8 * DAY)
    first_at = min(one.stopped_at for one in HEALTHY.backups)
    assert found(seen(), targets, first_at + timedelta(days=7)) == {}
    never = found(seen(), targets, first_at + timedelta(days=9))
    assert "no drill has proven anything yet" in never["drill_age"].summary


def test_a_failed_drill_does_not_hide_how_old_the_last_proof_is() -> None:
    bad, good = drill(NOW, proven=False), drill(NOW - timedelta(days=9), proven=True)
    look = replace(WELL, drills=DrillHistory(last=bad, last_proven=good))
    conditions = found(seen(look=look), replace(TARGETS, max_drill_age_s=8 * DAY))
    assert conditions.keys() == {"drill_unproven", "drill_age"}
    assert "9.0 d old" in conditions["drill_age"].summary


def test_a_gap_keeps_its_key_while_more_wal_arrives_behind_it() -> None:
    longer = replace(GAP, stranded=())
    keys = {
        key
        for window in (GAP, longer)
        for key in found(seen(look=Look(at=NOW, health=replace(HEALTHY, windows=(window,)))))
    }
    assert len(keys) == 1
    assert topic(keys.pop()) == "gap"


def test_what_is_about_to_end_is_told_by_its_name() -> None:
    ending = expiry_status(Expiring("role", "the role", NOW + timedelta(days=3)), NOW, 14 * DAY)
    condition = found(seen(msgspec.structs.replace(AGENT, expiring=(ending,))))["expiry:role"]
    assert condition.severity is Severity.WARNING
    assert "ends in 3.0 d" in condition.summary


def test_a_file_that_cannot_be_read_again_is_told_by_its_option() -> None:
    broken = KeyFileStatus(name="encryption.identity_file", problem="it is gone")
    conditions = found(seen(msgspec.structs.replace(AGENT, key_files=(broken,))))
    assert conditions.keys() == {"key_file:encryption.identity_file"}


def test_creates_that_are_not_conditional_are_told_as_information() -> None:
    store = msgspec.structs.replace(AGENT.store, conditional_put=False)
    condition = found(seen(msgspec.structs.replace(AGENT, store=store)))["conditional_creates"]
    assert (condition.severity, condition.summary) == (Severity.INFO, UNCONDITIONAL)


@pytest.mark.parametrize("outcome", ["failed", "interrupted", "findings"])
def test_a_run_that_did_not_end_well_is_told_and_stays_so_while_the_next_one_runs(
    outcome: JobOutcome,
) -> None:
    def scheduled(**changes: object) -> Seen:
        job = msgspec.structs.replace(JOB, **changes)
        return seen(msgspec.structs.replace(AGENT, schedule=(job,)))

    assert found(scheduled(last_outcome=outcome)).keys() == {"verify_run"}
    again = scheduled(running=True, last_outcome=None)
    assert found(again) == {}
    assert "verify_run" in find_unknown(again)
    assert found(scheduled(overdue_since=NOW)).keys() == {"verify_overdue"}


def test_a_sink_that_is_not_reached_is_told_to_the_others() -> None:
    broken = SinkStatus(name="webhook 1", failed=3, problem="refused")
    condition = found(seen(msgspec.structs.replace(AGENT, alerting=(broken,))))["sink:webhook 1"]
    assert condition.severity is Severity.WARNING
    assert "refused" in condition.summary


def test_a_heartbeat_that_is_not_heard_is_told_and_keeps_nothing_from_being_well() -> None:
    silent = msgspec.structs.replace(AGENT, alerting=(SinkStatus(name="heartbeat", problem="no"),))
    condition = found(seen(silent))["sink:heartbeat"]
    assert condition.severity is Severity.WARNING
    assert "heartbeat is not heard" in condition.summary
    assert is_within_target(silent, TARGETS)


def test_a_look_that_failed_leaves_the_archive_unknown_and_not_well() -> None:
    assert find_unknown(seen(look=FAILED)) >= ARCHIVE_TOPICS
    assert "repository" not in find_unknown(seen(look=FAILED))
    assert "repository" in find_unknown(seen(look=Look()))
    assert not find_unknown(seen()) & ARCHIVE_TOPICS


def test_an_agent_that_has_not_met_its_server_knows_nothing_of_archiving() -> None:
    starting = msgspec.structs.replace(AGENT, archiving=None)
    assert find_unknown(seen(starting)) >= ARCHIVER_TOPICS
    assert not is_within_target(starting, TARGETS)


def test_a_trend_is_unknown_until_it_was_seen_for_long_enough() -> None:
    assert "backlog" in find_unknown(seen(samples=growing(MIB, free_bytes=MIB, minutes=1)))
    assert "backlog" not in find_unknown(seen(samples=growing(0, free_bytes=MIB)))


def test_what_nobody_has_asked_for_yet_is_unknown() -> None:
    assert find_unknown(seen()) >= {"expiry", "key_file"}
    asked = msgspec.structs.replace(AGENT, expiring_known=True, key_files=())
    assert not find_unknown(seen(asked)) & {"expiry", "key_file"}


def test_every_topic_of_the_archive_is_one_that_can_be_found() -> None:
    nothing = DrillHistory(last=drill(NOW, proven=False))
    damaged = msgspec.structs.replace(HEALTHY.backups[-1], checksum_findings=3)
    one = replace(HEALTHY, problems=("odd",), windows=(GAP,), backups=(damaged,))
    other = replace(HEALTHY, backups=(), windows=())
    lost = replace(HEALTHY, unusable=(HEALTHY.backups[-1].id,))
    targets = replace(TARGETS, max_backup_age_s=1.0, max_drill_age_s=1.0)
    later = NOW + timedelta(days=1)
    topics = {
        topic(key)
        for health in (one, other, lost)
        for key in found(seen(look=Look(at=NOW, health=health, drills=nothing)), targets, later)
    }
    assert topics | {"backup_unreadable"} == ARCHIVE_TOPICS
