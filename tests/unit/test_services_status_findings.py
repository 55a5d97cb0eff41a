"""What needs attention and what does not."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import pytest

from tests.fix_core_plan import SIZE, lsn
from tests.fix_status import AGENT, FIRST, GAP, HEALTHY, SECOND, WINDOW, agent
from walkeeper.core.wal import WalSegment
from walkeeper.repository.backups import ListedBackup
from walkeeper.services.agent_status import (
    AgentStatus,
    SourceStatus,
)
from walkeeper.services.status import ArchiveHealth
from walkeeper.services.status_findings import (
    find_agent_problems,
    find_archive_problems,
    find_notices,
)


def found(health: ArchiveHealth, running: AgentStatus | None = AGENT) -> list[str]:
    return [finding.what for finding in find_archive_problems(health, running)]


def test_a_healthy_archive_and_agent_have_neither_findings_nor_notices() -> None:
    assert found(HEALTHY) == []
    assert list(find_agent_problems(AGENT, "id")) == []
    assert list(find_notices(HEALTHY, AGENT)) == []


def test_acknowledged_wal_that_is_not_there_is_an_urgent_finding() -> None:
    name = "wal/00000001/00000000/000000010000000000000007.zst.age"
    (finding,) = find_agent_problems(agent(lost=name), "id")
    assert name in finding.what
    assert finding.urgent


def test_no_backup_is_a_finding_that_says_what_to_type() -> None:
    (finding,) = find_archive_problems(replace(HEALTHY, backups=(), windows=()), AGENT)
    assert finding.hint == "walkeeper backup"


def test_a_gap_is_a_finding_that_names_what_is_missing() -> None:
    (what,) = found(replace(HEALTHY, windows=(GAP,)))
    assert "000000010000000000000006" in what


def test_a_gap_that_the_agent_is_about_to_fill_is_none() -> None:
    health = replace(HEALTHY, windows=(GAP,))
    sending = agent(backlog=3, oldest_waiting=str(WalSegment.numbered(1, 6, SIZE)))
    assert found(health, sending) == []


@pytest.mark.parametrize(
    "waiting",
    [
        {"oldest_waiting": str(WalSegment.numbered(2, 6, SIZE))},
        {"oldest_waiting": str(WalSegment.numbered(1, 6, SIZE)), "last_error": "it failed"},
    ],
)
def test_a_gap_that_the_agent_does_not_fill_remains_a_finding(waiting: dict[str, object]) -> None:
    assert len(found(replace(HEALTHY, windows=(GAP,)), agent(backlog=1, **waiting))) == 1


def test_a_gap_before_a_later_backup_is_only_a_notice() -> None:
    later = replace(WINDOW, begin=lsn(9), end=lsn(12), backups=(SECOND.id,))
    health = replace(HEALTHY, backups=(FIRST, SECOND), windows=(GAP, later))
    assert found(health) == []
    (notice,) = find_notices(health, AGENT)
    assert "000000010000000000000006" in notice


def test_a_later_backup_on_another_timeline_does_not_make_up_for_a_gap() -> None:
    later = replace(WINDOW, timeline=2, end=lsn(12))
    assert len(found(replace(HEALTHY, windows=(GAP, later)))) == 1


def test_the_newest_backup_must_be_usable_and_whole() -> None:
    both = replace(HEALTHY, backups=(FIRST, SECOND))
    assert SECOND.id in found(replace(both, unusable=(SECOND.id,)))[0]
    assert found(replace(both, unusable=(FIRST.id,))) == []
    assert FIRST.id in next(find_notices(replace(both, unusable=(FIRST.id,)), AGENT))
    damaged = msgspec.structs.replace(SECOND, checksum_findings=2)
    assert "2 damaged pages" in found(replace(HEALTHY, backups=(FIRST, damaged)))[0]


def test_what_cannot_be_read_is_a_finding() -> None:
    unreadable = ListedBackup(FIRST.backup, None, "forged")
    health = replace(HEALTHY, unreadable=(unreadable,), problems=("no history of 3",))
    assert [what.rpartition(" ")[2] for what in found(health)] == ["forged", "3"]


def test_an_agent_that_does_not_archive_is_a_finding_with_its_reason() -> None:
    refused = msgspec.structs.replace(
        AGENT, source=SourceStatus(verified=False, reason="archive_mode is off", hint="do this")
    )
    (finding,) = find_agent_problems(refused, "id")
    assert "archive_mode is off" in finding.what
    assert finding.hint == "do this"


def test_errors_old_wal_and_a_foreign_archive_are_findings() -> None:
    assert "disk" in next(iter(find_agent_problems(agent(last_error="disk full"), "id"))).what
    assert "10 min" in next(iter(find_agent_problems(agent(rpo_s=600.0), "id"))).what
    assert "another archive" in next(iter(find_agent_problems(AGENT, "other"))).what


def test_a_store_that_overwrites_is_a_notice_as_nobody_can_change_it() -> None:
    store = msgspec.structs.replace(AGENT.store, conditional_multipart=False)
    (notice,) = find_notices(HEALTHY, msgspec.structs.replace(AGENT, store=store))
    assert "promise 2 is not enforced" in notice
    unknown = msgspec.structs.replace(AGENT.store, conditional_put=None)
    assert not list(find_notices(HEALTHY, msgspec.structs.replace(AGENT, store=unknown)))
