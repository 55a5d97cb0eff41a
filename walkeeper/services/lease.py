"""A lease on a backup, for as long as a restore or a drill needs it: `expire` leaves it alone.

A lease ends by itself, so nothing has to be cleaned up after a crash. A store that takes no writes
must not keep anybody from restoring: then there is no lease, and that is said.
"""

from __future__ import annotations

import asyncio
import secrets
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Final

import msgspec
import structlog

from walkeeper.codec import signed_json
from walkeeper.core.backup_id import BackupId
from walkeeper.core.layout import ObjectName
from walkeeper.core.layout_holds import HOLDER_BYTES, LeaseName, expiring_mark, lease_object
from walkeeper.errors import KeyUnavailable, ObjectExists, StorageError
from walkeeper.repository.archive import Archive
from walkeeper.repository.holds import LeaseRecord

LEASE_LENGTH: Final = timedelta(hours=2)
RENEW_EVERY: Final = timedelta(minutes=20)
AFTERWARDS: Final = timedelta(hours=24)
"""How long a backup stays protected when recovery is still to come, see `Lease.keep_afterwards`."""
_GIVE_BACK_S: Final = 10.0

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class Lease:
    """A lease that is held, or was not granted; ``notes`` are sentences for the operator."""

    archive: Archive
    backup: BackupId
    purpose: str
    clock: Callable[[], datetime]
    notes: list[str] = field(default_factory=list)
    holder: str = field(default_factory=lambda: secrets.token_hex(HOLDER_BYTES))
    _stored: list[ObjectName] = field(default_factory=list)

    async def take(self) -> None:
        """Store the first lease; not being able to is a note, never an error."""
        try:
            await self._put(LEASE_LENGTH)
            if await self._is_marked():
                self.notes.append(
                    f"backup {self.backup} is marked to expire: it stays if expire sees this lease "
                    "in time; should an object be missing, choose another --backup"
                )
        except StorageError as error:
            self.notes.append(
                f"no lease protects backup {self.backup} meanwhile ({error.message}): do not let "
                "walkeeper expire run until recovery has ended"
            )

    async def renew(self) -> None:
        """Store the next one, and take back those before where that is allowed."""
        before = list(self._stored)
        try:
            await self._put(LEASE_LENGTH)
            await self._take_back(before)
        except StorageError as error:
            log.warning("lease_not_renewed", backup=str(self.backup), reason=error.message)

    async def keep_afterwards(self) -> None:
        """Protect the backup and its WAL for a day: somebody will start the server later."""
        if self._stored:
            before = list(self._stored)
            try:
                await self._put(AFTERWARDS)
                await self._take_back(before)
            except StorageError as error:
                log.warning("lease_not_renewed", backup=str(self.backup), reason=error.message)
            self._stored.clear()  # not to be given back

    async def give_back(self) -> None:
        """End it at once, where deleting is allowed; else it ends by itself."""
        try:
            async with asyncio.timeout(_GIVE_BACK_S):
                await self._take_back(list(self._stored))
        except (StorageError, TimeoutError) as error:
            log.debug("lease_left_to_end", backup=str(self.backup), reason=str(error))

    async def _put(self, length: timedelta) -> None:
        expires_at = (self.clock() + length).replace(microsecond=0)
        name = lease_object(LeaseName(self.backup, expires_at, self.holder))
        record = LeaseRecord(
            name=name,
            archive=self.archive.record.archive,
            backup=str(self.backup),
            host=socket.gethostname(),
            purpose=self.purpose,
        )
        # Nobody else has this name: if it exists, the answer to a first try of ours was lost.
        with suppress(ObjectExists):
            await self.archive.storage.put(self.archive.path(name), self._encode(record))
        self._stored.append(name)

    def _encode(self, record: LeaseRecord) -> bytes:
        try:
            return signed_json.encode(record, self.archive.sealer.signing)
        except KeyUnavailable:  # a host that only restores
            return msgspec.json.encode({"body": record, "signature": ""})

    async def _is_marked(self) -> bool:
        return await self.archive.holds(expiring_mark(self.backup))

    async def _take_back(self, names: list[ObjectName]) -> None:
        for name in names:
            await self.archive.storage.delete(self.archive.path(name))
            self._stored.remove(name)


@asynccontextmanager
async def hold_lease(
    archive: Archive,
    backup: BackupId,
    purpose: str,
    *,
    clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> AsyncIterator[Lease]:
    """Hold a lease on a backup, renewed in the background, and give it back at the end."""
    lease = Lease(archive, backup, purpose, clock)
    await lease.take()

    async def keep() -> None:
        while True:
            await sleep(RENEW_EVERY.total_seconds())
            await lease.renew()

    try:
        async with asyncio.TaskGroup() as group:
            renewing = group.create_task(keep())
            try:
                yield lease
            finally:
                renewing.cancel()
    except BaseExceptionGroup as raised:
        # What the caller's own block raises comes out as it was.
        if len(raised.exceptions) == 1:
            raise raised.exceptions[0] from None
        raise
    finally:
        await lease.give_back()
