"""Runs jobs when they are due, each never twice at a time, and remembers how they went.

A run that was missed, because nothing ran or the one before took too long, is made up for once,
however many were missed. A run that was cut off by the end of the agent counts as missed, but the
one that makes up for it does not: what kills the agent is not to be repeated for ever.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import msgspec
import structlog

from walkeeper.agent.state_file import keep_state, read_state
from walkeeper.core.schedule import Schedule, jitter
from walkeeper.errors import find_known
from walkeeper.services.agent_status import JobOutcome, JobStatus

OVERDUE_AFTER: Final = timedelta(minutes=5)
"""How late a run may begin before that is a finding."""

_LONGEST_SLEEP_S: Final = 30.0
"""The clock may be set, and a machine may sleep: it is looked at again after so long."""
_MAX_DETAIL: Final = 200

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class JobResult:
    """How a run ended: "done", "findings" or "skipped", and a sentence about it."""

    outcome: JobOutcome
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Job:
    """Something to be done on a schedule; ``run`` raises what makes it fail."""

    name: str
    schedule: Schedule
    run: Callable[[], Awaitable[JobResult]]


class JobState(msgspec.Struct, frozen=True, kw_only=True):
    """What is kept of a job. Runs due after ``since`` have not begun yet.

    ``done_at`` is when a run last ended well. The other fields tell of the last run; one without
    ``ended_at`` is under way or was cut off.
    """

    expression: str
    zone: str
    since: datetime
    due_at: datetime | None = None
    started_at: datetime | None = None
    ended_at: datetime | None = None
    outcome: JobOutcome | None = None
    detail: str = ""
    makes_up: bool = False
    done_at: datetime | None = None


class Scheduler:
    """Runs the jobs of one agent. ``seed`` spreads the agents of many hosts by ``jitter``.

    State is kept in ``folder``, one small file for each job. ``on_end`` is called after each run.
    """

    def __init__(
        self,
        jobs: tuple[Job, ...],
        folder: Path,
        pool: ThreadPoolExecutor,
        *,
        jitter_s: float = 0.0,
        seed: str = "",
        on_end: Callable[[], None] = lambda: None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._now = now
        self._loops = tuple(
            _JobLoop(
                job,
                folder / f"{job.name}.json",
                pool,
                spread=timedelta(seconds=jitter_s),
                seed=seed,
                on_end=on_end,
                now=now,
                sleep=sleep,
            )
            for job in jobs
        )

    async def run(self) -> None:
        """Serve until cancelled; returns at once where nothing is scheduled."""
        async with asyncio.TaskGroup() as group:
            for loop in self._loops:
                group.create_task(loop.run())

    def statuses(self) -> tuple[JobStatus, ...]:
        """Every job as it stands."""
        now = self._now()
        return tuple(loop.status(now) for loop in self._loops)


class _JobLoop:
    """One job: waits, runs, waits."""

    def __init__(
        self,
        job: Job,
        path: Path,
        pool: ThreadPoolExecutor,
        *,
        spread: timedelta,
        seed: str,
        on_end: Callable[[], None],
        now: Callable[[], datetime],
        sleep: Callable[[float], Awaitable[None]],
    ) -> None:
        self._job = job
        self._path = path
        self._pool = pool
        self._spread = spread
        self._seed = f"{seed} {job.name}"
        self._on_end = on_end
        self._now = now
        self._sleep = sleep
        self._running = False
        self._state = self._begin_anew(None)

    async def run(self) -> None:
        kept = await asyncio.get_running_loop().run_in_executor(
            self._pool, read_state, self._path, JobState
        )
        self._state = self._resume(kept)
        await self._save()
        while True:
            due = self._due()
            begin = self._begin(due)
            while (left := (begin - self._now()).total_seconds()) > 0:
                await self._sleep(min(left, _LONGEST_SLEEP_S))
            await self._run_once(due)

    def status(self, now: datetime) -> JobStatus:
        state, due = self._state, self._due()
        late = now > self._begin(due) + OVERDUE_AFTER
        return JobStatus(
            name=self._job.name,
            expression=self._job.schedule.expression,
            timezone=self._job.schedule.zone,
            next_at=self._begin(due),
            running=self._running,
            overdue_since=due if late else None,
            last_started_at=state.started_at,
            last_ended_at=state.ended_at,
            last_outcome=state.outcome,
            last_detail=state.detail,
            last_done_at=state.done_at,
        )

    def _due(self) -> datetime:
        return self._job.schedule.next_after(self._state.since)

    def _begin(self, due: datetime) -> datetime:
        return due + jitter(self._seed, due, self._spread)

    def _begin_anew(self, kept: JobState | None) -> JobState:
        schedule = self._job.schedule
        fresh = JobState(expression=schedule.expression, zone=schedule.zone, since=self._now())
        if kept is None:
            return fresh
        return msgspec.structs.replace(
            kept, expression=fresh.expression, zone=fresh.zone, since=fresh.since
        )

    def _resume(self, kept: JobState | None) -> JobState:
        """Go on from what was kept: what was missed since is due, but not by another schedule."""
        if kept is None:
            return self._begin_anew(None)
        if kept.started_at is not None and kept.ended_at is None:
            kept = msgspec.structs.replace(
                kept,
                ended_at=self._now(),
                outcome="interrupted",
                detail="the agent ended before it did",
            )
            if not kept.makes_up and kept.due_at is not None:
                kept = msgspec.structs.replace(kept, since=kept.due_at - timedelta(seconds=1))
        if (kept.expression, kept.zone) != (
            self._job.schedule.expression,
            self._job.schedule.zone,
        ):
            return self._begin_anew(kept)
        # A clock that was ahead must not keep the job from running until it is reached again.
        return msgspec.structs.replace(kept, since=min(kept.since, self._now()))

    async def _run_once(self, due: datetime) -> None:
        state, began = self._state, self._now()
        self._state = msgspec.structs.replace(
            state,
            since=max(began, due),
            due_at=due,
            started_at=began,
            ended_at=None,
            outcome=None,
            detail="",
            makes_up=state.outcome == "interrupted" and due == state.due_at,
        )
        await self._save()
        log.info("job_started", job=self._job.name, due=due.isoformat())
        self._running = True
        try:
            result = await self._outcome()
        finally:
            self._running = False
        ended_at = self._now()
        self._state = msgspec.structs.replace(
            self._state,
            ended_at=ended_at,
            done_at=ended_at if result.outcome == "done" else self._state.done_at,
            outcome=result.outcome,
            detail=result.detail[:_MAX_DETAIL],
        )
        self._on_end()
        await self._save()
        emit = log.warning if result.outcome in {"failed", "findings"} else log.info
        emit("job_ended", job=self._job.name, outcome=result.outcome, detail=result.detail)

    async def _outcome(self) -> JobResult:
        try:
            return await self._job.run()
        except Exception as error:
            known = find_known(error)
            if known is None:  # the archiver must live on
                log.exception("job_failed_unexpectedly", job=self._job.name)
                return JobResult("failed", f"an internal error: {type(error).__name__}")
            return JobResult("failed", known.message)

    async def _save(self) -> None:
        await keep_state(self._pool, self._path, self._state)
