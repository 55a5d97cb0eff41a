"""Boots a restored cluster on its private server, follows its recovery, and checks it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeVar

from walkeeper.core.lsn import Lsn
from walkeeper.core.timeline import TimelineHistory
from walkeeper.core.wal import TimelineHistoryFile
from walkeeper.errors import IntegrityError, PostgresError, RecoveryError, WalkeeperError
from walkeeper.postgres.instance import Instance, RecoveryEnd
from walkeeper.postgres.private_server import RUN_DIR_PARENT, ServerFiles
from walkeeper.services.drill_programs import ProgramChecks
from walkeeper.services.drill_report import CheckResult, TableCount
from walkeeper.services.drill_scratch import Scratch
from walkeeper.services.drill_server import ServerLimits, server_settings, session_settings
from walkeeper.services.drill_sql import SqlCheck, SqlChecks, find_superuser
from walkeeper.services.restore import PhaseProgress, RestoreProgress
from walkeeper.services.restore_plan import Planned
from walkeeper.services.restore_start import ReplayProgress, disagreement

T = TypeVar("T")

_LONGEST_RUN_DIR: Final = 75
"""sun_path takes 107 bytes; ``/walkeeper-12345678/.s.PGSQL.5432`` must fit behind it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BootSettings:
    """How the private server runs and what is asked of it.

    ``role`` logs in to follow recovery. ``check_timeout_s`` holds for each check.
    """

    role: str
    limits: ServerLimits
    recovery_timeout_s: float
    check_timeout_s: float
    checks: tuple[SqlCheck, ...] = ()


@dataclass(slots=True)
class Course:
    """How a drill went, filled as it goes on."""

    seconds: dict[str, float] = field(default_factory=dict)
    findings: list[str] = field(default_factory=list)
    checks: list[CheckResult] = field(default_factory=list)
    tables: tuple[TableCount, ...] = ()
    end: RecoveryEnd | None = None
    reached_timeline: int | None = None
    failed_phase: str | None = None
    server_log: str = ""

    def fail(self, phase: str, *why: str) -> None:
        """The point is not proven; the phase that failed first is named."""
        self.failed_phase = self.failed_phase or phase
        self.findings += why

    def take(self, result: CheckResult) -> None:
        """Note a check."""
        self.checks.append(result)
        if result.outcome == "failed":
            self.fail("check", f"{result.name}: {result.detail}")


@dataclass(slots=True)
class Boot:
    """One boot of one restored cluster; the server has stopped when `run` returns."""

    planned: Planned
    scratch: Scratch
    files: ServerFiles
    bin_dir: Path
    pool: ThreadPoolExecutor
    settings: BootSettings
    progress: Callable[[RestoreProgress], None]
    clock: Callable[[], float] = time.monotonic

    async def run(self, course: Course) -> None:
        """Recover and check, and note all of it.

        Raises RecoveryError, IntegrityError or PostgresError where recovery does not come to an
        end; ``course`` then has what the server said.
        """
        programs = ProgramChecks(
            self.bin_dir,
            self.scratch.data_dir,
            self.scratch.owner.process_options(),
            self.pool,
            self.settings.check_timeout_s,
            self.clock,
        )
        begun = self.clock()
        async with self._instance() as instance:
            self.progress(PhaseProgress("recover"))
            try:
                end = await instance.wait_recovered(
                    deadline_s=self.settings.recovery_timeout_s, on_progress=self._replayed
                )
            except WalkeeperError:
                course.server_log = await instance.log_tail()
                raise
            course.end = end
            course.seconds["recover"] = round(self.clock() - begun, 3)
            await self._compare(end, course)
            await self._ask(instance, programs, course)
            if any(one.outcome == "failed" and one.sql is None for one in course.checks):
                course.server_log = await instance.log_tail()
            await self._timed("stop", instance.stop(), course)
        self.progress(PhaseProgress("check the data checksums"))
        enabled = self.planned.plan.backup.data_checksums
        course.take(await self._timed("checksums", programs.checksums(enabled=enabled), course))

    def _instance(self) -> Instance:
        plan, run_dir = self.planned.plan, self.scratch.run_dir
        return Instance(
            self.scratch.data_dir,
            self.bin_dir,
            self.files,
            self.pool,
            role=self.settings.role,
            settings=server_settings(plan, self.settings.limits),
            session_settings=session_settings(plan.backup.server_version // 10_000),
            run_parent=run_dir if len(bytes(run_dir)) <= _LONGEST_RUN_DIR else RUN_DIR_PARENT,
        )

    async def _compare(self, end: RecoveryEnd, course: Course) -> None:
        """Whether recovery ended where the plan said, on the timeline that it was to follow."""
        problem = disagreement(self.planned, end)
        if problem is None:
            try:
                course.reached_timeline = await self._in_thread(lambda: self._left(end.timeline))
            except (RecoveryError, IntegrityError) as error:
                problem = error.message
        wanted = self.planned.plan.timeline
        if problem is None and course.reached_timeline != wanted:
            problem = f"recovery ended on timeline {course.reached_timeline}, not {wanted}"
        if problem is not None:
            course.fail("recover", problem)
        detail = f"at {end.lsn} on timeline {course.reached_timeline}, as was planned"
        course.checks.append(
            CheckResult(
                name="recovery",
                outcome="ok" if problem is None else "failed",
                detail=problem or detail,
            )
        )

    def _left(self, timeline: int) -> int:
        """The timeline that recovery was on when it ended and the server began this one."""
        name = str(TimelineHistoryFile(timeline))
        try:
            text = (self.scratch.data_dir / "pg_wal" / name).read_text("ascii", "replace")
            return TimelineHistory.parse(timeline, text).switches[-1].parent
        except OSError as error:
            raise RecoveryError(f"{name} cannot be read: {error.strerror}") from error
        except (ValueError, IndexError) as error:
            raise IntegrityError(f"{name} does not say what was left: {error}") from error

    async def _ask(self, instance: Instance, programs: ProgramChecks, course: Course) -> None:
        try:
            superuser = await find_superuser(instance)
        except PostgresError as error:
            course.fail("check", error.message)
            return
        self.progress(PhaseProgress("check tables and indexes"))
        course.take(await self._timed("amcheck", programs.amcheck(instance, superuser), course))
        self.progress(PhaseProgress("count and ask"))
        asking = SqlChecks(instance, superuser, self.settings.check_timeout_s, self.clock)
        result, course.tables = await self._timed("counts", asking.count_tables(), course)
        course.take(result)
        begun = self.clock()
        for number, check in enumerate(self.settings.checks, 1):
            course.take(await asking.run(check, f"check {number}"))
        if self.settings.checks:
            course.seconds["sql"] = round(self.clock() - begun, 3)

    async def _timed(self, name: str, work: Coroutine[object, object, T], course: Course) -> T:
        begun = self.clock()
        try:
            return await work
        finally:
            course.seconds[name] = round(self.clock() - begun, 3)

    def _replayed(self, lsn: Lsn) -> None:
        plan = self.planned.plan
        self.progress(ReplayProgress(str(lsn), str(plan.backup.start), str(plan.end)))

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self.pool, work)
