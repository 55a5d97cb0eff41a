"""Applies the retention policy: plan, mark, wait, look again, delete.

The order makes it safe to be killed anywhere: a backup goes from its manifest down, WAL goes only
after the backups that needed it, and nothing is remembered that the archive does not show.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

import structlog

from walkeeper.core import layout_holds
from walkeeper.core.backup_id import BackupId
from walkeeper.core.layout import ObjectName
from walkeeper.core.retention_policy import RetentionPolicy
from walkeeper.errors import StorageDenied, unwrapped
from walkeeper.repository.backups import BackupStore
from walkeeper.repository.removal import BackupRemoval
from walkeeper.services.expire_inventory import DoomedObject
from walkeeper.services.expire_plan import ExpirePlan, ExpirePlanner

_PARALLEL: Final = 8

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class ExpireSettings:
    """``grace_s`` lies between marking a backup and deleting it: restores that begin just then are
    seen by their leases."""

    policy: RetentionPolicy
    grace_s: float = 60.0


@dataclass(slots=True)
class Tally:
    """How many things were deleted, and their stored bytes."""

    count: int = 0
    size_bytes: int = 0

    def add(self, size_bytes: int) -> None:
        """One more."""
        self.count += 1
        self.size_bytes += size_bytes


@dataclass(slots=True)
class ExpireResult:
    """What was done; with ``dry_run`` or when ``denied`` the plan says what would be.

    ``spared`` were marked and then found to be in use or pinned.
    """

    plan: ExpirePlan
    dry_run: bool
    backups: list[BackupId] = field(default_factory=list)
    spared: list[BackupId] = field(default_factory=list)
    wal: Tally = field(default_factory=Tally)
    tails: Tally = field(default_factory=Tally)
    orphans: list[BackupId] = field(default_factory=list)
    denied: StorageDenied | None = None


class ExpireService:
    """Expires what one archive holds and the policy does not want; safe to run twice at once."""

    def __init__(
        self,
        store: BackupStore,
        pool: ThreadPoolExecutor,
        settings: ExpireSettings,
        *,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._store = store
        self._archive = store.archive
        self._settings = settings
        self._planner = ExpirePlanner(store, pool, settings.policy)
        self._removal = BackupRemoval(store.archive)
        self._clock = clock
        self._sleep = sleep

    async def run(self, *, dry_run: bool = False) -> ExpireResult:
        """Expire; with ``dry_run`` nothing is written or deleted, and this host's clock counts.

        A store that denies writing or deleting is not an error here but `ExpireResult.denied`,
        with all that was done and what remains. Raises IntegrityError, KeyringError and what
        storage raises.
        """
        if dry_run:
            return ExpireResult(await self._planner.plan(self._clock()), dry_run=True)
        try:
            now = await self._ask_clock()
        except StorageDenied as error:
            plan = await self._planner.plan(self._clock())
            return ExpireResult(plan, dry_run=False, denied=error)
        result = ExpireResult(await self._planner.plan(now), dry_run=False)
        try:
            await self._execute(result)
        except StorageDenied as error:
            result.denied = error
        return result

    async def _ask_clock(self) -> datetime:
        """The store's clock; on the way it shows that objects may be written and deleted."""
        signing = self._archive.sealer.signing  # raises where nothing can be signed
        name = layout_holds.clock_object(secrets.token_hex(layout_holds.HOLDER_BYTES))
        path = self._archive.path(name)
        await self._archive.storage.delete(path)  # denied here, nothing is left behind
        await self._archive.storage.put(path, signing.sign(name.encode()))
        try:
            return (await self._archive.storage.head(path)).modified_at
        finally:
            await self._archive.storage.delete(path)

    async def _execute(self, result: ExpireResult) -> None:
        plan = result.plan
        for backup in plan.stale_marks:
            await self._removal.unmark(backup)
        for backup in plan.begun:
            await self._removal.remove(backup)
            log.info("backup_deletion_finished", backup=str(backup))
        if plan.doomed:
            await self._delete_backups(result)
        await self._delete(result.plan.inventory.unneeded_wal(result.plan.needs), result.wal)
        await self._delete(iter(result.plan.tails), result.tails)
        for orphan in plan.orphans:
            await self._store.remove(orphan)
            result.orphans.append(orphan.backup)
        await self._delete(iter([DoomedObject(name, 0) for name in plan.leftovers]), Tally())
        log.info(
            "expired",
            backups=len(result.backups),
            wal_objects=result.wal.count,
            tail_objects=result.tails.count,
            orphans=len(result.orphans),
        )

    async def _delete_backups(self, result: ExpireResult) -> None:
        marked = result.plan.doomed
        for backup in marked:
            await self._removal.mark(backup, result.plan.catalog.now)
        await self._sleep(self._settings.grace_s)
        result.plan = await self._planner.look_again(result.plan)
        for backup in marked:
            if backup in result.plan.doomed:
                size_bytes = await self._removal.remove(backup)
                result.backups.append(backup)
                log.info("backup_deleted", backup=str(backup), stored_bytes=size_bytes)
            else:
                await self._removal.unmark(backup)
                result.spared.append(backup)
                log.info("backup_spared", backup=str(backup))

    async def _delete(self, doomed: Iterator[DoomedObject], tally: Tally) -> None:
        """Delete several at a time; they stand in no order that matters."""

        async def work() -> None:
            for one in doomed:
                await self._archive.storage.delete(self._archive.path(ObjectName(one.name)))
                tally.add(one.size_bytes)

        with unwrapped():
            async with asyncio.TaskGroup() as group:
                for _ in range(_PARALLEL):
                    group.create_task(work())
