"""What a schedule says in the status."""

from __future__ import annotations

import io
from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from rich.console import Console

from tests.fix_status import AGENT
from walkeeper.agent.status_handler import encode_status
from walkeeper.cli.render import Page
from walkeeper.cli.schedule_report import show_schedule
from walkeeper.services.agent_status import (
    AgentStatus,
    JobStatus,
    SourceStatus,
    decode_agent_status,
)
from walkeeper.services.schedule_findings import find_schedule_notices, find_schedule_problems

NOON = datetime(2026, 11, 20, 12, tzinfo=UTC)
WAITING = JobStatus(
    name="backup",
    expression="0 2 * * *",
    timezone="UTC",
    next_at=NOON + timedelta(hours=14),
    running=False,
    overdue_since=None,
    last_started_at=NOON - timedelta(hours=10),
    last_ended_at=NOON - timedelta(hours=9),
    last_outcome="done",
    last_detail="20261120T020000Z-full-000001",
)


def agent(**changes: object) -> AgentStatus:
    waiting = msgspec.structs.replace(WAITING, **changes)
    return msgspec.structs.replace(AGENT, archiving=None, schedule=(waiting,))


def test_a_schedule_that_is_kept_needs_nobody() -> None:
    assert list(find_schedule_problems(agent())) == []
    assert list(find_schedule_notices(agent())) == []
    assert list(find_schedule_notices(None)) == []


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"overdue_since": NOON}, "a scheduled backup is overdue since 2026-11-20 12:00Z"),
        ({"overdue_since": NOON, "running": True}, "the one before still runs"),
        ({"last_outcome": "failed", "last_detail": "no room"}, "backup failed: no room"),
        ({"last_outcome": "interrupted", "last_detail": "cut"}, "backup interrupted: cut"),
        ({"last_outcome": "findings", "last_detail": "3 damaged"}, "backup: 3 damaged"),
    ],
)
def test_what_does_not_go_as_planned_is_a_finding(changes: dict[str, object], said: str) -> None:
    (finding,) = find_schedule_problems(agent(**changes))
    assert said in finding.what
    assert finding.hint is not None
    assert "walkeeper backup" in finding.hint


def test_a_status_full_of_long_messages_still_fits_into_a_reply() -> None:
    full = agent()
    long = "é" * 500
    job = msgspec.structs.replace(WAITING, overdue_since=NOON, last_detail=long[:200])
    full = msgspec.structs.replace(
        full,
        source=SourceStatus(verified=False, reason=long, hint=long, data_directory="/" + "d" * 80),
        fetch=msgspec.structs.replace(full.fetch, last_error=long),
        schedule=(job,) * 4,
    )
    document = encode_status(full)
    assert len(document.encode()) <= 5 * 1024
    told = decode_agent_status(document)
    assert told.schedule[3].overdue_since == NOON
    assert told.source.data_directory == full.source.data_directory
    assert decode_agent_status(encode_status(agent())) == agent()


def test_a_run_that_was_skipped_is_a_notice() -> None:
    skipped = agent(last_outcome="skipped", last_detail="the server is a standby")
    assert list(find_schedule_problems(skipped)) == []
    (notice,) = find_schedule_notices(skipped)
    assert "the server is a standby" in notice


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, "next 2026-11-21 02:00:00Z; last 2026-11-20 02:00:00Z, done:"),
        ({"last_detail": ""}, "last 2026-11-20 02:00:00Z, done"),
        ({"last_started_at": None}, "next 2026-11-21 02:00:00Z; has not run yet"),
        ({"running": True}, "running since 2026-11-20 02:00:00Z"),
    ],
)
def test_each_job_is_shown_on_a_line(changes: dict[str, object], said: str) -> None:
    out = io.StringIO()
    show_schedule(Page(Console(file=out, width=200, markup=False)), agent(**changes).schedule)
    assert said in out.getvalue()
    assert out.getvalue().startswith("scheduled")
