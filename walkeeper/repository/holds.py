"""What holds backups in an archive: pins, leases, and what drills have proven.

Pins and drill records decide what is kept, so only what a known writer signed counts. A lease may
be unsigned: it ends by itself, and a host that only restores holds no writer key.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, TypeVar

import msgspec

from walkeeper.codec import signed_json
from walkeeper.core import layout_holds
from walkeeper.core.backup_files import Moment
from walkeeper.core.backup_id import BackupId
from walkeeper.core.layout import ObjectName
from walkeeper.core.layout_holds import LeaseName, PinName
from walkeeper.core.retention_policy import lease_ends
from walkeeper.errors import IntegrityError, NoSuchBackup, ObjectNotFound, UsageError, unwrapped
from walkeeper.repository.archive import Archive

_LIMIT: Final = 64 * 1024
_PARALLEL: Final = 8
_REASON_CHARACTERS: Final = 500


class PinRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A pin, or with an empty ``reason`` maybe its end: which of them the name says."""

    name: str
    archive: str
    backup: str
    reason: str = ""


class LeaseRecord(msgspec.Struct, frozen=True, kw_only=True):
    """Who uses a backup: for people; what counts is in the name and the store's time."""

    name: str
    archive: str
    backup: str
    host: str
    purpose: str


class ExpiryMark(msgspec.Struct, frozen=True, kw_only=True):
    """A backup is about to be deleted, or a deletion was not finished."""

    name: str
    archive: str
    backup: str
    at: Moment


class DrillMark(msgspec.Struct, frozen=True, kw_only=True):
    """What retention needs of a drill's record."""

    name: str
    archive: str
    backup: str
    proven: bool
    at: Moment


Document = TypeVar("Document", PinRecord, ExpiryMark, DrillMark)


@dataclass(frozen=True, slots=True)
class Pins:
    """The reason of each backup that is pinned; ``ignored`` are words that no writer signed."""

    reasons: dict[BackupId, str]
    ignored: tuple[ObjectName, ...]


@dataclass(frozen=True, slots=True)
class StoredLease:
    """A lease and when it ends by the store's clock."""

    lease: LeaseName
    ends_at: datetime


class Holds:
    """Reads and writes what holds the backups of one archive."""

    def __init__(self, archive: Archive) -> None:
        self._archive = archive

    async def pins(self) -> Pins:
        """The last word on each backup that any was said of."""
        words: dict[BackupId, list[PinName]] = {}
        async for info in self._archive.list_objects(layout_holds.PINS_PREFIX):
            pin = layout_holds.parse_pin_object(info.name)
            if pin is not None:
                words.setdefault(pin.backup, []).append(pin)
        reasons: dict[BackupId, str] = {}
        ignored: list[ObjectName] = []
        gate = asyncio.Semaphore(_PARALLEL)

        async def look(backup: BackupId, said: list[PinName]) -> None:
            async with gate:
                reason = await self._last_word(said, ignored)
            if reason is not None:
                reasons[backup] = reason

        with unwrapped():
            async with asyncio.TaskGroup() as group:
                for backup, said in words.items():
                    group.create_task(look(backup, said))
        return Pins(reasons, tuple(sorted(ignored)))

    async def _last_word(self, said: list[PinName], ignored: list[ObjectName]) -> str | None:
        """The reason of the pin that stands, or None."""
        # Of two in one second the pin wins: it keeps.
        for pin in sorted(said, key=lambda one: (one.at, one.pins), reverse=True):
            name = layout_holds.pin_object(pin)
            try:
                record = await read_signed(self._archive, name, PinRecord)
            except IntegrityError:
                ignored.append(name)
                continue
            except ObjectNotFound:
                continue
            return (record.reason or "no reason given") if pin.pins else None
        return None

    async def pin(self, backup: BackupId, reason: str, now: datetime) -> None:
        """Keep a backup until `unpin`, whatever the policy says.

        Raises NoSuchBackup, UsageError for a reason that is none, KeyUnavailable without a writer
        key and what storage raises.
        """
        if not reason.strip() or not reason.isprintable() or len(reason) > _REASON_CHARACTERS:
            raise UsageError(f"a reason is 1 to {_REASON_CHARACTERS} printable characters")
        await self._say(backup, reason, now, pins=True)

    async def unpin(self, backup: BackupId, now: datetime) -> None:
        """Leave a backup to the policy again. Raises as `pin`, NoSuchBackup when not pinned."""
        if backup not in (await self.pins()).reasons:
            raise NoSuchBackup(f"backup {backup} is not pinned", hint="see: walkeeper backups")
        await self._say(backup, "", now, pins=False)

    async def _say(self, backup: BackupId, reason: str, now: datetime, *, pins: bool) -> None:
        """Store the next word, dated behind all others: clocks of hosts may differ."""
        at = now.replace(microsecond=0)
        prefix = layout_holds.pins_prefix(backup)
        async for info in self._archive.list_objects(prefix):
            pin = layout_holds.parse_pin_object(info.name)
            if pin is not None and pin.at >= at:
                at = pin.at + timedelta(seconds=1)
        name = layout_holds.pin_object(PinName(backup, at, pins))
        record = PinRecord(
            name=name, archive=self._archive.record.archive, backup=str(backup), reason=reason
        )
        data = signed_json.encode(record, self._archive.sealer.signing)
        await self._archive.storage.put(self._archive.path(name), data)

    async def leases(self, backups: Iterable[BackupId] | None = None) -> list[StoredLease]:
        """All leases, those that have ended too, or only those of some backups."""
        prefixes = [layout_holds.LEASES_PREFIX]
        if backups is not None:
            prefixes = [layout_holds.leases_prefix(backup) for backup in backups]
        found = []
        for prefix in prefixes:
            async for info in self._archive.list_objects(prefix):
                lease = layout_holds.parse_lease_object(info.name)
                if lease is not None:
                    ends_at = lease_ends(lease.expires_at, info.modified_at)
                    found.append(StoredLease(lease, ends_at))
        return found

    async def last_proven(self, backups: Iterable[BackupId]) -> tuple[BackupId, datetime] | None:
        """Of these backups the one that a drill has proven last, and when.

        Looks at the records from the newest name back until it finds one.
        """
        wanted = {str(backup): backup for backup in backups}
        names = [
            ObjectName(info.name)
            async for info in self._archive.list_objects(layout_holds.DRILLS_PREFIX)
            if layout_holds.parse_drill_record(info.name) is not None
        ]
        for name in reversed(names):
            try:
                record = await read_signed(self._archive, name, DrillMark)
            except (IntegrityError, ObjectNotFound):
                continue  # planted, damaged or gone: it proves nothing
            if record.proven and record.backup in wanted:
                return wanted[record.backup], record.at
        return None


def latest_leases(leases: Iterable[StoredLease]) -> dict[BackupId, datetime]:
    """Until when each backup is in use, by the longest of its leases."""
    ends: dict[BackupId, datetime] = {}
    for stored in leases:
        backup = stored.lease.backup
        ends[backup] = max(ends.get(backup, stored.ends_at), stored.ends_at)
    return ends


async def read_signed(archive: Archive, name: ObjectName, kind: type[Document]) -> Document:
    """A small signed document. Raises ObjectNotFound, and IntegrityError for what is not one."""
    return signed_json.decode(
        await archive.read_range(name, 0, _LIMIT),
        kind,
        writers=archive.opener.writers,
        name=name,
        archive=archive.record.archive,
        allow_unsigned=archive.opener.allow_unsigned,
    )
