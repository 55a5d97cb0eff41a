"""An archive that falls behind although the tail is shipped needs attention soon."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec
import pytest

from tests.fix_status import AGENT, ARCHIVING
from walkeeper.cli.status_report import _tail_text
from walkeeper.services.agent_status import (
    AgentStatus,
    SourceStatus,
    TailStatus,
)
from walkeeper.services.status_findings import find_agent_problems

TAIL = TailStatus(
    state="shipping",
    reason=None,
    interval_s=1.0,
    shipped_lsn="0/3000148",
    links=1,
    merged=0,
    stored_bytes=2048,
    requests=3,
)


@dataclass(frozen=True)
class Case:
    rpo_s: float
    found: bool
    state: str = "shipping"
    interval_s: float = 1.0


def agent(case: Case, *, verified: bool = True) -> AgentStatus:
    return msgspec.structs.replace(
        AGENT,
        source=SourceStatus(verified=verified, reason=None if verified else "a copy"),
        archiving=msgspec.structs.replace(ARCHIVING, rpo_s=case.rpo_s),
        tail=msgspec.structs.replace(TAIL, state=case.state, interval_s=case.interval_s),
    )


@pytest.mark.parametrize(
    "case",
    [
        Case(2, found=False),
        Case(29, found=False),
        Case(31, found=True),
        Case(31, found=True, state="waiting"),
        Case(299, found=False, interval_s=30),
        Case(301, found=True, interval_s=30),
        Case(299, found=False, state="off", interval_s=0),
        Case(301, found=True, state="off", interval_s=0),
    ],
    ids=str,
)
def test_an_rpo_far_above_the_interval_is_a_finding(case: Case) -> None:
    found = [one.what for one in find_agent_problems(agent(case), "id")]
    assert any("is not in the archive" in what for what in found) == case.found
    assert len(found) == case.found


def test_a_stopped_tail_is_a_finding_said_once() -> None:
    stopped = Case(0, found=True, state="stopped")
    for verified, what in ((True, "the tail is stopped"), (False, "nothing is archived: a copy")):
        (finding,) = find_agent_problems(agent(stopped, verified=verified), "id")
        assert what in finding.what


def test_the_page_says_what_the_tail_does_and_why_not() -> None:
    assert _tail_text(TAIL) == (
        "shipping every 1.0 s; stored up to 0/3000148 in 1 link, 2.0 KiB, 3 requests"
    )
    off = msgspec.structs.replace(TAIL, state="off", reason="a standby", shipped_lsn=None)
    assert _tail_text(off) == "off: a standby"
