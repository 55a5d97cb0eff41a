"""Rebuilds a cluster: plan, try, fetch, configure, and where asked start.

Nothing is written before the plan is proven, the directories are known to be free and to have room
and PostgreSQL's own user has fetched the first segment. A restore that fails or is killed leaves
a directory that cannot start: `pg_control` is put in place as the very last thing.
"""

from __future__ import annotations

import asyncio
import shlex
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Final, TypeVar

import msgspec

from walkeeper.core.backup import BackupFacts
from walkeeper.core.backup_id import BackupId
from walkeeper.core.plan import RestorePlan
from walkeeper.core.target import Latest, RecoveryRequest
from walkeeper.errors import UsageError
from walkeeper.postgres.recovery_conf import restore_command
from walkeeper.repository.archive import Archive
from walkeeper.repository.backups import BackupStore
from walkeeper.services.lease import hold_lease
from walkeeper.services.restore_config import Configurator, mark_unfinished
from walkeeper.services.restore_document import PlanDocument, plan_document
from walkeeper.services.restore_fetch import BackupFetch, FetchProgress
from walkeeper.services.restore_plan import Planned, Planner
from walkeeper.services.restore_preflight import (
    AHEAD_OPTIONS,
    begin_fetching,
    try_restore_command,
)
from walkeeper.services.restore_start import ReplayProgress, Started, Starter, StartSettings
from walkeeper.services.restore_target import (
    Destination,
    choose_destination,
    measure_room,
    require_room,
)
from walkeeper.services.wal_reader import ScanProgress

T = TypeVar("T")

_PARALLEL_PARTS: Final = 4


class PhaseProgress(msgspec.Struct, frozen=True):
    """A phase of the restore begins: listing, trying, fetching, configuring, recovering."""

    phase: str


RestoreProgress = PhaseProgress | ScanProgress | FetchProgress | ReplayProgress


@dataclass(frozen=True, slots=True, kw_only=True)
class RestoreSettings:
    """What is asked for.

    ``fetch_words`` is the command up to and with ``wal-fetch`` and its options that find the
    archive, with absolute paths. ``scratch_dir`` takes unnamed files of a segment's size while
    the plan is made. ``start`` None does not start the cluster. ``tablespaces_dir`` takes each
    tablespace that is not mapped, in a directory named by its oid; None leaves them their places.
    ``ahead`` has the first WAL fetched before PostgreSQL asks for it.
    """

    target_dir: Path
    scratch_dir: Path
    request: RecoveryRequest
    fetch_words: tuple[str, ...]
    backup: BackupId | None = None
    tablespace_mapping: tuple[tuple[str, str], ...] = ()
    tablespaces_dir: Path | None = None
    standby: bool = False
    not_before: datetime | None = None
    resume_archiving: bool = False
    start: StartSettings | None = None
    ahead: bool = True

    def __post_init__(self) -> None:
        if self.standby and not isinstance(self.request.target, Latest):
            raise UsageError("a standby has no target: it follows the archive to its end and on")

    def mapping(self, facts: BackupFacts) -> tuple[tuple[str, str], ...]:
        """Where tablespaces of a backup go that do not stay where they were."""
        if self.tablespaces_dir is None:
            return self.tablespace_mapping
        named = {old for old, _ in self.tablespace_mapping}
        others = tuple(
            (str(space.oid), str(self.tablespaces_dir / str(space.oid)))
            for space in facts.tablespaces
            if not named & {str(space.oid), space.location}
        )
        return self.tablespace_mapping + others


@dataclass(frozen=True, slots=True)
class RestoreResult:
    """What was done. ``seconds`` are those of each phase; ``notes`` are for the operator."""

    plan: PlanDocument
    notes: tuple[str, ...]
    seconds: dict[str, float]
    started: Started | None


@dataclass(frozen=True, slots=True)
class PreparedRestore:
    """A plan that was proven, and where it goes."""

    planned: Planned
    destination: Destination
    restore_command: str
    document: PlanDocument


@dataclass(slots=True)
class RestoreService:
    """One restore from one archive: `prepare`, `try_fetch`, `restore`, in this order."""

    archive: Archive
    backups: BackupStore
    pool: ThreadPoolExecutor
    settings: RestoreSettings
    progress: Callable[[RestoreProgress], None]
    clock: Callable[[], float] = time.monotonic
    _seconds: dict[str, float] = field(default_factory=dict)

    async def prepare(self) -> PreparedRestore:
        """Plan, and see that the directories are free and have room; writes nothing.

        Raises TargetUnreachable, NoSuchBackup, UsageError, RecoveryError, StorageFull,
        ObjectFrozen, IntegrityError, WrongKey and what storage raises.
        """
        with self._phase("plan"):
            settings = self.settings
            planner = Planner(
                self.archive, self.backups, self.pool, settings.scratch_dir, self.progress
            )
            planned = await planner.plan(
                settings.request, settings.backup, not_before=settings.not_before
            )
            plan = planned.plan
            destination = await self._in_thread(
                lambda: choose_destination(
                    settings.target_dir, plan.backup, settings.mapping(plan.backup)
                )
            )
            room = await self._in_thread(
                lambda: measure_room(destination, planned.manifest, plan.wal_bytes)
            )
        command = self._restore_command(plan)
        document = plan_document(
            planned,
            destination,
            room,
            repository=self.archive.storage.url,
            archive=self.archive.folder,
            standby=settings.standby,
            resumes_archiving=settings.resume_archiving,
            restore_command=command,
            commands=self._commands(planned, destination),
        )
        require_room(room)
        return PreparedRestore(planned, destination, command, document)

    async def try_fetch(self, prepared: PreparedRestore) -> None:
        """Let PostgreSQL's user fetch the first segment that recovery needs.

        Raises RecoveryError with what ``wal-fetch`` said.
        """
        with self._phase("try"):
            plan, owner = prepared.planned.plan, prepared.destination.owner
            first = plan.wal[0].first(plan.segment_size)
            await self._in_thread(
                lambda: try_restore_command(
                    prepared.restore_command, first, plan.segment_size, owner
                )
            )

    async def restore(self, prepared: PreparedRestore) -> RestoreResult:
        """Write the cluster, and where asked start it; meanwhile a lease keeps its backup.

        Raises IntegrityError for content that is not as it was stored, and what storage and the
        file system raise; the directory then cannot start, and says so.
        """
        async with hold_lease(
            self.archive, prepared.planned.plan.backup.backup, "restore"
        ) as lease:
            result = await self._restore(prepared)
            if result.started is None or self.settings.standby:
                await lease.keep_afterwards()
        return replace(result, notes=(*lease.notes, *result.notes))

    async def _restore(self, prepared: PreparedRestore) -> RestoreResult:
        settings, planned = self.settings, prepared.planned
        starter = bin_dir = None
        if settings.start is not None:
            starter = Starter(prepared.destination, self.pool, settings.start, self.progress)
            bin_dir = await starter.find_programs(planned.plan.backup.server_version // 10_000)
        notes = await self._write(prepared)
        started = None
        if starter is not None and bin_dir is not None:
            with self._phase("recover"):
                started = await starter.start(planned, bin_dir, standby=settings.standby)
        return RestoreResult(prepared.document, notes, self._seconds, started)

    async def _write(self, prepared: PreparedRestore) -> tuple[str, ...]:
        planned, destination = prepared.planned, prepared.destination
        manifest = planned.manifest
        with self._phase("fetch"):
            # Once more: they were free when the plan was made, which may be a while ago.
            await self._in_thread(
                lambda: choose_destination(
                    self.settings.target_dir,
                    manifest.facts,
                    self.settings.mapping(manifest.facts),
                )
            )
            await self._in_thread(lambda: mark_unfinished(destination, manifest.settings))
            fetch = BackupFetch(
                self.archive, manifest, destination, self.progress, parallel=_PARALLEL_PARTS
            )
            await fetch.fetch()
        with self._phase("configure"):
            configurator = Configurator(
                destination,
                manifest,
                prepared.restore_command,
                planned.plan,
                standby=self.settings.standby,
                resume_archiving=self.settings.resume_archiving,
            )
            configured = await self._in_thread(configurator.configure)
            await self._in_thread(configurator.finish)
        if self.settings.ahead:
            await self._fetch_ahead(prepared)
        return configured.notes

    async def _fetch_ahead(self, prepared: PreparedRestore) -> None:
        """Let the first WAL be there when PostgreSQL asks for it; where that fails it waits."""
        with self._phase("ahead"):
            plan, destination = prepared.planned.plan, prepared.destination
            command = self._restore_command(plan, *AHEAD_OPTIONS)
            first = plan.wal[0].first(plan.segment_size)
            await self._in_thread(
                lambda: begin_fetching(command, first, destination.data_dir, destination.owner)
            )

    def _restore_command(self, plan: RestorePlan, *more: str) -> str:
        words = [*self.settings.fetch_words, "--guard-tablespaces", *more]
        if self.settings.standby:
            return restore_command(words, None, None)
        return restore_command(words, plan.timeline, plan.end)

    def _commands(self, planned: Planned, destination: Destination) -> list[str]:
        start = f"pg_ctl -D {shlex.quote(str(destination.data_dir))} -w start"
        if destination.owner.uid is not None:
            start = f"sudo -u {destination.owner.name} {start}"
        verify = f"pg_verifybackup -n {shlex.quote(str(destination.data_dir))}"
        major = planned.plan.backup.server_version // 10_000
        return [f"{verify}    # before the first start; PostgreSQL {major}", start]

    def _phase(self, name: str) -> _Phase:
        self.progress(PhaseProgress(name))
        return _Phase(name, self._seconds, self.clock)

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self.pool, work)


@dataclass(slots=True)
class _Phase:
    """Measures one phase."""

    name: str
    seconds: dict[str, float]
    clock: Callable[[], float]
    _begun: float = 0.0

    def __enter__(self) -> None:
        self._begun = self.clock()

    def __exit__(self, *_: object) -> None:
        self.seconds[self.name] = round(self.clock() - self._begun, 3)
