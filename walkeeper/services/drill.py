"""Proves that a point can be restored, by restoring it: plan, fetch, recover, check, record.

The cluster is restored into a scratch directory and boots on a private server that nobody else
can reach. Whatever the archive's content does wrong once there is a plan is a finding, recorded as
such. What keeps a drill from being made, such as an outage or a full disk, is an error and says
nothing about the backup.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, TypeVar

import msgspec

from walkeeper.core.backup_id import BackupId
from walkeeper.core.layout_holds import DrillName, drill_details, drill_record
from walkeeper.core.target import AtTime, RecoveryRequest
from walkeeper.errors import (
    IntegrityError,
    NoSuchBackup,
    ObjectNotFound,
    PostgresError,
    RecoveryError,
    StorageError,
    StorageFull,
    TargetUnreachable,
    WalkeeperError,
)
from walkeeper.postgres.programs import find_bin_dir
from walkeeper.repository.archive import Archive
from walkeeper.repository.backups import BackupStore
from walkeeper.repository.drills import DrillRecord, DrillStore
from walkeeper.services.drill_boot import Boot, BootSettings, Course
from walkeeper.services.drill_point import Chance, draw_point, find_stretches, last_point
from walkeeper.services.drill_report import DrillReport
from walkeeper.services.drill_scratch import Scratch, open_scratch
from walkeeper.services.drill_server import write_configuration
from walkeeper.services.lease import hold_lease
from walkeeper.services.restore import (
    PreparedRestore,
    RestoreProgress,
    RestoreService,
    RestoreSettings,
)

T = TypeVar("T")

_DRAWS: Final = 4
"""Near the end of the WAL there may be no record to stop at: then another position is drawn."""
RESTORING: Final = ("plan", "try", "fetch", "configure", "recover")
"""The phases of a real restore."""


@dataclass(frozen=True, slots=True)
class FetchAccess:
    """How the private server gets its WAL: the words of the command up to ``wal-fetch`` and its
    options, and the last error with which a request was answered."""

    words: tuple[str, ...]
    last_error: Callable[[], WalkeeperError | None]


OpenFetch = Callable[[Scratch], AbstractAsyncContextManager[FetchAccess]]


@dataclass(frozen=True, slots=True, kw_only=True)
class DrillSettings:
    """What is to be proven and with what means.

    ``request`` None draws a point by chance. ``max_bytes`` is the most that the scratch directory
    may take, None leaves it to the free room. ``bin_dir`` None looks for PostgreSQL's programs.
    """

    scratch_dir: Path
    boot: BootSettings
    request: RecoveryRequest | None
    backup: BackupId | None = None
    max_bytes: int | None = None
    bin_dir: Path | None = None
    keep: bool = False


@dataclass(slots=True, kw_only=True)
class Drill:
    """One drill of one archive; ``chance`` decides where points are drawn and names the drill."""

    archive: Archive
    backups: BackupStore
    store: DrillStore
    pool: ThreadPoolExecutor
    settings: DrillSettings
    open_fetch: OpenFetch
    progress: Callable[[RestoreProgress], None]
    chance: Chance
    now: Callable[[], datetime] = lambda: datetime.now(UTC)
    clock: Callable[[], float] = time.monotonic

    async def run(self) -> DrillReport:
        """Make the drill and record it.

        Raises KeyUnavailable where it could not be recorded, Locked while another drill runs, and
        what keeps it from being made: ConfigError, StorageError, PostgresError without the
        server's programs, TargetUnreachable, NoSuchBackup, RecoveryError.
        """
        self.store.require_writable()
        at = self.now().astimezone(UTC).replace(microsecond=0)
        drill = DrillName(at, f"{self.chance(1 << 24):06x}")
        async with self._scratch(drill) as scratch, self.open_fetch(scratch) as access:
            service, prepared = await self._prepare(scratch, access)
            self._require_budget(prepared)
            major = prepared.planned.plan.backup.server_version // 10_000
            bin_dir = await self._in_thread(lambda: find_bin_dir(major, self.settings.bin_dir))
            course = Course()
            async with hold_lease(self.archive, prepared.planned.plan.backup.backup, "drill"):
                await self._follow(scratch, access, (service, prepared, bin_dir), course)
            report = self._report(drill, scratch, prepared, course)
            await self.store.write(drill, report.record, msgspec.json.encode(report))
        return report

    async def _prepare(
        self, scratch: Scratch, access: FetchAccess
    ) -> tuple[RestoreService, PreparedRestore]:
        """The plan of the restore, of a point that there is."""
        if self.settings.request is not None:
            service = self._service(scratch, access, self.settings.request)
            return service, await service.prepare()
        stretches = await find_stretches(self.archive, self.backups, self.settings.backup)
        for _ in range(_DRAWS):
            service = self._service(scratch, access, draw_point(stretches, self.chance))
            try:
                return service, await service.prepare()
            except TargetUnreachable:
                continue
        service = self._service(scratch, access, last_point(stretches))
        return service, await service.prepare()

    def _service(
        self, scratch: Scratch, access: FetchAccess, request: RecoveryRequest
    ) -> RestoreService:
        settings = RestoreSettings(
            target_dir=scratch.data_dir,
            scratch_dir=scratch.root,
            request=request,
            fetch_words=access.words,
            backup=self.settings.backup,
            tablespaces_dir=scratch.tablespaces_dir,
            ahead=False,  # the drill's own fetcher is there already
        )
        return RestoreService(self.archive, self.backups, self.pool, settings, self.progress)

    def _require_budget(self, prepared: PreparedRestore) -> None:
        needed = sum(volume.needed_bytes for volume in prepared.document.room)
        limit = self.settings.max_bytes
        if limit is not None and needed > limit:
            raise StorageFull(
                f"the drill needs {needed} bytes, and [drill] max_size allows {limit}",
                hint="raise [drill] max_size where there is room, or drill on another host",
            )

    async def _follow(
        self,
        scratch: Scratch,
        access: FetchAccess,
        planned: tuple[RestoreService, PreparedRestore, Path],
        course: Course,
    ) -> None:
        """Restore, boot and check; what the archive's content does wrong is noted."""
        service, prepared, bin_dir = planned
        plan = prepared.planned.plan
        try:
            await service.try_fetch(prepared)
            restored = await service.restore(prepared)
        except (IntegrityError, NoSuchBackup) as error:
            course.fail("fetch", error.message)
            return
        except RecoveryError as error:
            if not isinstance(cause := access.last_error(), IntegrityError):
                raise
            course.fail("fetch", cause.message, error.message)
            return
        course.seconds.update(restored.seconds)
        files = await self._in_thread(
            lambda: write_configuration(scratch, plan, prepared.restore_command)
        )
        boot = Boot(
            prepared.planned,
            scratch,
            files,
            bin_dir,
            self.pool,
            self.settings.boot,
            self.progress,
            self.clock,
        )
        try:
            await boot.run(course)
        except (RecoveryError, IntegrityError, PostgresError) as error:
            cause = access.last_error()
            if isinstance(cause, StorageError) and not isinstance(cause, ObjectNotFound):
                raise cause from error  # it could not be told whether the point can be reached
            why = (error.message,) if cause is None else (cause.message, error.message)
            course.fail("recover" if course.end is None else "check", *why)

    def _report(
        self, drill: DrillName, scratch: Scratch, prepared: PreparedRestore, course: Course
    ) -> DrillReport:
        plan, end = prepared.planned.plan, course.end
        target = plan.request.target
        reached_at = None if end is None else end.last_commit_at
        point_at = target.at if isinstance(target, AtTime) else reached_at or plan.reaches_at
        outcomes = [check.outcome for check in course.checks]
        rto_s = sum(course.seconds.get(phase, 0.0) for phase in RESTORING)
        record = DrillRecord(
            name=drill_record(drill),
            archive=self.store.archive_id,
            backup=plan.backup.id,
            proven=course.failed_phase is None,
            at=drill.at,
            target=str(target),
            server_version=plan.backup.server_version,
            size_bytes=plan.backup.size_bytes,
            planned_timeline=plan.timeline,
            planned_end_lsn=str(plan.end),
            planned_point_at=plan.reaches_at,
            reached_timeline=course.reached_timeline,
            reached_lsn=None if end is None else str(end.lsn),
            point_at=None if end is None else point_at,
            failed_phase=course.failed_phase,
            seconds=course.seconds,
            rto_s=round(rto_s, 3),
            checks=len(outcomes),
            failed_checks=outcomes.count("failed"),
            unfinished_checks=outcomes.count("unfinished"),
            skipped_checks=outcomes.count("skipped"),
            counted_tables=len(course.tables),
            counted_rows=sum(table.rows for table in course.tables),
            details=drill_details(drill),
        )
        return DrillReport(
            record=record,
            plan=prepared.document,
            reached_at=reached_at,
            findings=tuple(course.findings),
            checks=tuple(course.checks),
            tables=course.tables,
            server_log=course.server_log,
            kept_in=str(scratch.root) if self.settings.keep else None,
        )

    @asynccontextmanager
    async def _scratch(self, drill: DrillName) -> AsyncIterator[Scratch]:
        manager = open_scratch(self.settings.scratch_dir, drill, keep=self.settings.keep)
        scratch = await self._in_thread(manager.__enter__)
        try:
            yield scratch
        finally:
            await self._in_thread(lambda: manager.__exit__(None, None, None))

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self.pool, work)
