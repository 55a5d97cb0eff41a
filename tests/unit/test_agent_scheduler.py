"""Jobs on a schedule, by a clock that moves when somebody sleeps."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import msgspec
import pytest

from walkeeper.agent.scheduler import Job, JobResult, Scheduler
from walkeeper.agent.state_file import read_state, write_state
from walkeeper.core.schedule import Schedule
from walkeeper.errors import StorageUnavailable
from walkeeper.services.agent_status import JobStatus

HOUR = timedelta(hours=1)


class Note(msgspec.Struct):
    text: str


class Ended(BaseException):
    """The clock has reached the end of the story."""


@dataclass
class Clock:
    """Time passes only in ``sleep``; at ``end`` the agent is killed."""

    at: datetime
    end: datetime

    def now(self) -> datetime:
        return self.at

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(0)
        self.at += timedelta(seconds=seconds)
        if self.at >= self.end:
            raise Ended


@dataclass
class Story:
    """An agent with one job ``0 2 * * *`` that notes when it runs."""

    folder: Path
    pool: ThreadPoolExecutor
    clock: Clock
    expression: str = "0 2 * * *"
    zone: str = "UTC"
    jitter_s: float = 0.0
    takes: timedelta = timedelta()
    outcome: Callable[[], Awaitable[JobResult]] | None = None
    runs: list[datetime] = field(default_factory=list)
    status: JobStatus | None = None

    async def live(self, hours: float) -> None:
        """Start the agent, and kill it so much later."""
        self.clock.end = self.clock.at + timedelta(hours=hours)
        job = Job("backup", Schedule.parse(self.expression, self.zone), self.work)
        self.scheduler = Scheduler(
            (job,),
            self.folder,
            self.pool,
            jitter_s=self.jitter_s,
            seed="host",
            now=self.clock.now,
            sleep=self.clock.sleep,
        )
        with pytest.raises(BaseExceptionGroup) as stopped:
            await self.scheduler.run()
        assert stopped.value.subgroup(Ended), stopped.value
        (self.status,) = self.scheduler.statuses()
        self.clock.at = max(self.clock.at, self.clock.end)

    async def work(self) -> JobResult:
        self.runs.append(self.clock.at)
        end = self.clock.at + self.takes
        while self.clock.at < end:
            await self.clock.sleep(60)
        return JobResult("done") if self.outcome is None else await self.outcome()


@pytest.fixture
def story(tmp_path: Path, pool: ThreadPoolExecutor) -> Story:
    begin = datetime(2026, 3, 27, 12, tzinfo=UTC)
    return Story(tmp_path / "schedule", pool, Clock(begin, begin))


async def test_a_job_runs_when_it_is_due_and_not_at_the_start(story: Story) -> None:
    await story.live(hours=40)
    assert story.runs == [
        datetime(2026, 3, 28, 2, tzinfo=UTC),
        datetime(2026, 3, 29, 2, tzinfo=UTC),
    ]
    assert story.status is not None
    assert story.status.last_outcome == "done"
    assert story.status.next_at == datetime(2026, 3, 30, 2, tzinfo=UTC)
    assert story.status.overdue_since is None


async def test_runs_missed_while_nothing_ran_are_made_up_for_once(story: Story) -> None:
    await story.live(hours=1)
    story.clock.at += timedelta(days=5)
    await story.live(hours=10)
    assert story.runs == [datetime(2026, 4, 1, 13, tzinfo=UTC)]
    await story.live(hours=10)
    assert story.runs[1:] == [datetime(2026, 4, 2, 2, tzinfo=UTC)]


async def test_a_missed_run_is_made_up_for_once_over_a_change_of_the_clocks(story: Story) -> None:
    story.zone, story.expression = "Europe/Berlin", "30 2 * * *"
    berlin = ZoneInfo("Europe/Berlin")
    story.clock.at = datetime(2026, 3, 28, 22, tzinfo=berlin).astimezone(UTC)
    await story.live(hours=1)
    story.clock.at = datetime(2026, 3, 29, 8, tzinfo=berlin).astimezone(UTC)  # 02:30 never was
    await story.live(hours=1)
    assert story.runs == [datetime(2026, 3, 29, 8, tzinfo=berlin).astimezone(UTC)]
    story.clock.at = datetime(2026, 10, 25, 2, 40, tzinfo=berlin, fold=0).astimezone(UTC)
    story.runs.clear()
    await story.live(hours=10)  # through the second pass of the hour
    assert story.runs == [datetime(2026, 10, 25, 2, 40, tzinfo=berlin).astimezone(UTC)]


async def test_a_job_that_takes_too_long_never_overlaps_itself(story: Story) -> None:
    story.expression, story.takes = "0 * * * *", timedelta(minutes=150)
    await story.live(hours=8)
    gaps = [later - earlier for earlier, later in zip(story.runs, story.runs[1:], strict=False)]
    assert gaps
    assert min(gaps) >= story.takes


async def test_a_run_that_outlasts_the_next_due_moment_is_overdue(story: Story) -> None:
    story.expression, story.takes = "0 * * * *", timedelta(hours=5)
    await story.live(hours=2.5)
    assert story.status is not None
    assert story.status.overdue_since == datetime(2026, 3, 27, 14, tzinfo=UTC)


async def test_a_run_that_was_cut_off_is_repeated_once(story: Story) -> None:
    story.takes = 6 * HOUR
    await story.live(hours=16)  # killed in the middle, at 04:00
    await story.live(hours=1)  # and again
    assert len(story.runs) == 2
    await story.live(hours=1)
    assert len(story.runs) == 2
    assert story.status is not None
    assert story.status.last_outcome == "interrupted"
    await story.live(hours=24)
    assert story.runs[2:] == [datetime(2026, 3, 29, 2, tzinfo=UTC)]


async def test_a_failure_is_kept_and_the_job_runs_again_when_it_is_due(story: Story) -> None:
    async def fail() -> JobResult:
        raise StorageUnavailable("the store is away")

    async def break_down() -> JobResult:
        raise ZeroDivisionError

    story.outcome = fail
    await story.live(hours=20)
    assert story.status is not None
    assert (story.status.last_outcome, story.status.last_detail) == ("failed", "the store is away")
    story.outcome = break_down
    await story.live(hours=20)
    assert story.status.last_outcome == "failed"
    assert len(story.runs) == 2


async def test_another_schedule_has_missed_nothing(story: Story) -> None:
    await story.live(hours=1)
    story.clock.at += timedelta(days=5)
    story.expression = "0 3 * * *"
    await story.live(hours=10)
    assert story.runs == []


async def test_a_clock_that_was_ahead_does_not_stop_the_job(story: Story) -> None:
    story.clock.at += timedelta(days=4000)
    await story.live(hours=1)
    story.clock.at -= timedelta(days=4000)
    await story.live(hours=24)
    assert len(story.runs) == 1


async def test_jitter_delays_a_run_by_the_same_time_after_a_restart(story: Story) -> None:
    story.jitter_s = 3600
    await story.live(hours=14)
    assert story.status is not None
    begin = story.status.next_at
    due = datetime(2026, 3, 28, 2, tzinfo=UTC)
    assert due < begin < due + HOUR
    await story.live(hours=(begin - story.clock.at) / HOUR + 0.1)
    assert [round(at.timestamp()) for at in story.runs] == [round(begin.timestamp())]


async def test_state_that_was_lost_or_damaged_begins_anew(story: Story) -> None:
    await story.live(hours=20)
    (story.folder / "backup.json").write_bytes(b"{}")
    await story.live(hours=2)
    assert len(story.runs) == 1
    assert story.status is not None
    assert story.status.last_outcome is None


def test_a_state_file_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "new" / "one.json"
    first = Note(text="first")
    assert write_state(path, first)
    assert read_state(path, Note) == first
    path.unlink()
    path.mkdir()
    assert not write_state(path, first)
    assert list(path.parent.iterdir()) == [path]
