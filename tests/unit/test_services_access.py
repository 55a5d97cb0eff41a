"""What of an agent's access needs attention."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fix_status import AGENT
from walkeeper.services.access import Expiring, expiry_status, find_access_problems
from walkeeper.services.agent_status import KeyFileStatus

NOW = datetime(2026, 11, 21, 3, 0, tzinfo=UTC)
DAY = 86_400.0
CA = Expiring("ca_file", "the last authority in /ca.pem", NOW)


def found(left: timedelta, within_s: float = 14 * DAY) -> list[str]:
    one = expiry_status(Expiring("ca_file", CA.what, NOW + left), NOW, within_s)
    agent = msgspec.structs.replace(AGENT, expiring=(one,))
    return [finding.what for finding in find_access_problems(agent)]


@given(left_s=st.integers(-(10**8), 10**8), within_s=st.integers(0, 10**8))
def test_an_end_is_a_finding_from_so_long_before_it_on(left_s: int, within_s: int) -> None:
    what = found(timedelta(seconds=left_s), within_s)
    assert bool(what) == (left_s <= within_s)
    if what:
        assert ("has ended" in what[0]) == (left_s <= 0)


def test_an_end_is_told_with_its_moment() -> None:
    (what,) = found(timedelta(days=3))
    assert what == "the last authority in /ca.pem ends in 3.0 d, at 2026-11-24 03:00:00Z"


@pytest.mark.parametrize("problem", [None, "/key.txt: there is no such key file"])
def test_only_a_file_of_no_use_is_a_finding_and_says_what_will_fail(problem: str | None) -> None:
    file = KeyFileStatus(name="encryption.identity_file", problem=problem)
    agent = msgspec.structs.replace(AGENT, key_files=(file,))
    findings = [*find_access_problems(agent)]
    assert len(findings) == (problem is not None)
    for finding in findings:
        assert problem in finding.what
        assert not finding.urgent
        assert "restore" in (finding.hint or "")
