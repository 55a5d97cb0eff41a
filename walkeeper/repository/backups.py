"""Base backups in an archive: the order in which they become visible, and reading them back.

Written: the claim on the id, parts with their lists, then a LIST of what is stored compared with
what was written, the summary, and last the manifest. A backup without a manifest does not exist.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final, TypeVar

from walkeeper.codec import signed_json
from walkeeper.core import layout
from walkeeper.core.backup import (
    BackupFacts,
    BackupStart,
    BackupSummary,
    Manifest,
    decode,
    encode,
)
from walkeeper.core.backup_id import BackupId
from walkeeper.core.layout import ObjectName
from walkeeper.errors import (
    BackupError,
    IntegrityError,
    NoSuchBackup,
    ObjectNotFound,
    unwrapped,
)
from walkeeper.repository.archive import Archive
from walkeeper.storage.base import Buffer, ObjectInfo

_DOCUMENT_LIMIT: Final = 1 << 20
_MANIFEST_LIMIT: Final = 64 << 20
_PARALLEL: Final = 8

Body = TypeVar("Body", BackupStart, BackupSummary)


@dataclass(frozen=True, slots=True)
class ListedBackup:
    """A committed backup as a listing shows it: its facts, or why they cannot be believed."""

    backup: BackupId
    facts: BackupFacts | None
    problem: str | None


@dataclass(frozen=True, slots=True)
class UnfinishedBackup:
    """A folder without a manifest: a backup under way, or what a dead one left."""

    backup: BackupId
    youngest: ObjectInfo | None
    objects: tuple[str, ...]


class BackupStore:
    """Writes and reads the base backups of one archive."""

    def __init__(self, archive: Archive, pool: ThreadPoolExecutor) -> None:
        self.archive = archive
        self._pool = pool

    async def claim(self, start: BackupStart) -> None:
        """Take the id of a backup; raises ObjectExists when somebody has it."""
        data = signed_json.encode(start, self.archive.sealer.signing)
        name = layout.backup_start(start.backup)
        await self.archive.storage.put(self.archive.path(name), data)

    async def put_stream(self, name: ObjectName, blocks: AsyncIterator[Buffer]) -> int:
        """Store a part or its list as it is sealed; returns the stored size in bytes."""
        return await self.archive.storage.put_stream(self.archive.path(name), blocks)

    async def commit(self, manifest: Manifest) -> BackupSummary:
        """Make the backup exist: what is stored is compared first, then summary and manifest.

        Raises BackupError when an object is missing or has another size than was written.
        """
        await self._compare(manifest)
        backup = manifest.facts.backup
        name = layout.backup_manifest(backup)
        loop = asyncio.get_running_loop()
        sealed = await loop.run_in_executor(
            self._pool, lambda: self.archive.sealer.seal(name, [encode(manifest)])
        )
        summary = BackupSummary(
            name=layout.backup_summary(backup),
            archive=self.archive.record.archive,
            facts=manifest.facts,
            manifest_name=name,
            manifest_sha256=sealed.sha256().hex(),
        )
        signed = signed_json.encode(summary, self.archive.sealer.signing)
        await self.archive.storage.put(self.archive.path(summary.name), signed)
        await self.archive.storage.put(self.archive.path(name), sealed.body())
        return summary

    async def _compare(self, manifest: Manifest) -> None:
        backup = manifest.facts.backup
        expected: dict[str, int] = {}
        for part in manifest.parts:
            names = part.part_of(backup)
            expected[names.data_name] = part.stored_bytes
            expected[names.files_name] = part.list_bytes
        async for info in self.archive.list_objects(layout.backup_data_prefix(backup)):
            if expected.get(info.name) == info.size_bytes:
                del expected[info.name]
        if expected:
            raise BackupError(
                f"{len(expected)} objects of backup {backup} are not stored as written, the first "
                f"is {min(expected)}; the backup was not committed",
                hint="look at the store, then run: walkeeper backup",
            )

    async def list_backups(self) -> list[ListedBackup]:
        """Every committed backup, oldest stop LSN first; those that cannot be read come last."""
        folders = await self.archive.folders(layout.BACKUPS_PREFIX)
        ids = [backup for name in folders if (backup := layout.parse_backup_folder(name))]
        gate = asyncio.Semaphore(_PARALLEL)

        async def look(backup: BackupId) -> ListedBackup | None:
            async with gate:
                return await self._look(backup)

        with unwrapped():
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(look(backup)) for backup in ids]
        listed = [found for task in tasks if (found := task.result()) is not None]
        return sorted(listed, key=_order)

    async def _look(self, backup: BackupId) -> ListedBackup | None:
        try:
            await self.archive.storage.head(self.archive.path(layout.backup_manifest(backup)))
        except ObjectNotFound:
            return None
        try:
            summary = await self.read_summary(backup)
        except (IntegrityError, NoSuchBackup) as error:
            return ListedBackup(backup, None, error.message)
        return ListedBackup(backup, summary.facts, None)

    async def read_summary(self, backup: BackupId) -> BackupSummary:
        """The signed summary of a backup; raises NoSuchBackup or IntegrityError."""
        summary = await self._read_signed(layout.backup_summary(backup), BackupSummary)
        if summary.facts.backup != backup:
            raise IntegrityError(f"{layout.backup_summary(backup)} speaks of another backup")
        self._require_own(summary.facts.system_identifier, summary.name)
        return summary

    async def read_manifest(self, backup: BackupId) -> Manifest:
        """The manifest of a committed backup, checked against its summary.

        Needs an identity. Raises NoSuchBackup, IntegrityError, WrongKey.
        """
        summary = await self.read_summary(backup)
        name = layout.backup_manifest(backup)
        try:
            data = await self.archive.read(
                name, limit_bytes=_MANIFEST_LIMIT, sha256=summary.manifest_sha256
            )
        except ObjectNotFound as error:
            raise self._missing(backup) from error
        try:
            manifest = decode(data, Manifest)
        except IntegrityError as error:
            raise IntegrityError(f"{name} is damaged: {error.message}") from error
        if manifest.facts != summary.facts:
            raise IntegrityError(f"{name} and {summary.name} do not say the same")
        return manifest

    async def unfinished(self) -> AsyncIterator[UnfinishedBackup]:
        """Folders without a manifest, each with its objects."""
        for folder in await self.archive.folders(layout.BACKUPS_PREFIX):
            backup = layout.parse_backup_folder(folder)
            if backup is None:
                continue
            objects = [info async for info in self.archive.list_objects(folder)]
            names = tuple(info.name for info in objects)
            if layout.backup_manifest(backup) in names:
                continue
            youngest = max(objects, key=lambda info: info.modified_at, default=None)
            yield UnfinishedBackup(backup, youngest, names)

    async def remove(self, names: Iterable[str]) -> None:
        """Delete objects of an unfinished backup, in the order given."""
        for name in names:
            await self.archive.storage.delete(self.archive.path(name))

    async def _read_signed(self, name: ObjectName, kind: type[Body]) -> Body:
        try:
            data = await self.archive.read_range(name, 0, _DOCUMENT_LIMIT)
        except ObjectNotFound as error:
            raise NoSuchBackup(
                f"the archive holds no {name}", hint="list what there is: walkeeper backups"
            ) from error
        return signed_json.decode(
            data,
            kind,
            writers=self.archive.opener.writers,
            name=name,
            archive=self.archive.record.archive,
            allow_unsigned=self.archive.opener.allow_unsigned,
        )

    def _require_own(self, system_identifier: str, name: str) -> None:
        if system_identifier != self.archive.record.system_identifier:
            raise IntegrityError(f"{name} belongs to another cluster: {system_identifier}")

    @staticmethod
    def _missing(backup: BackupId) -> NoSuchBackup:
        return NoSuchBackup(
            f"there is no backup {backup}", hint="list what there is: walkeeper backups"
        )


def _order(listed: ListedBackup) -> tuple[bool, int, str]:
    stop = listed.facts.stop.value if listed.facts else 0
    return (listed.facts is None, stop, str(listed.backup))
