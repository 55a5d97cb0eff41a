"""Base backups in an archive: the order in which they become visible, and reading them back.

Written: the claim on the id, parts with their lists, then a LIST of what is stored compared with
what was written, the summary, and last the manifest. A backup without a manifest does not exist.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import sha256
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
    ObjectExists,
    ObjectNotFound,
    unwrapped,
)
from walkeeper.repository.archive import Archive, StoredDigest
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
    """A folder without a manifest: a backup under way, or what a dead one left.

    ``objects`` are those whose names are ours, in the order in which they are to be deleted;
    ``youngest`` is the newest object of all.
    """

    backup: BackupId
    youngest: ObjectInfo
    objects: tuple[ObjectName, ...]


@dataclass(frozen=True, slots=True)
class PreparedBackup:
    """A backup of which everything but the manifest is stored, and the manifest, sealed."""

    backup: BackupId
    sealed: bytes


class BackupStore:
    """Writes and reads the base backups of one archive."""

    def __init__(self, archive: Archive, pool: ThreadPoolExecutor) -> None:
        self.archive = archive
        self._pool = pool

    @property
    def pool(self) -> ThreadPoolExecutor:
        """Where its CPU and file work is done."""
        return self._pool

    async def claim(self, start: BackupStart) -> ObjectInfo:
        """Take the id of a backup; returns the claim as the store sees it, with its clock.

        Raises ObjectExists when somebody else has the id.
        """
        name = layout.backup_start(start.backup)
        await self._create(name, signed_json.encode(start, self.archive.sealer.signing))
        return await self.archive.storage.head(self.archive.path(name))

    async def put_stream(
        self, name: ObjectName, blocks: AsyncIterator[Buffer], digest: Callable[[], StoredDigest]
    ) -> None:
        """Store a part or its list as it is sealed; ``digest`` is asked once all was taken.

        Raises ObjectExists when the name is taken by anything but these bytes.
        """
        try:
            await self.archive.storage.put_stream(self.archive.path(name), blocks)
        except ObjectExists:
            # Whoever has claimed the id is alone with these names: a first try of ours was stored
            # and its answer lost, or else the claim was broken.
            if not await self._holds(name, digest()):
                raise

    async def prepare(self, manifest: Manifest) -> PreparedBackup:
        """Compare what is stored with what was written, store the summary, seal the manifest.

        Raises BackupError when an object is missing or has another size than was written.
        """
        await self._compare(manifest)
        name = layout.backup_manifest(manifest.facts.backup)
        loop = asyncio.get_running_loop()
        sealed = await loop.run_in_executor(
            self._pool, lambda: self.archive.sealer.seal(name, [encode(manifest)])
        )
        with sealed:
            stored = bytes(sealed.body())
        summary = BackupSummary(
            name=layout.backup_summary(manifest.facts.backup),
            archive=self.archive.record.archive,
            facts=manifest.facts,
            manifest_name=name,
            manifest_sha256=hashlib.sha256(stored).hexdigest(),
        )
        signed = signed_json.encode(summary, self.archive.sealer.signing)
        await self._create(ObjectName(summary.name), signed)
        return PreparedBackup(manifest.facts.backup, stored)

    async def commit(self, prepared: PreparedBackup) -> None:
        """Make the backup exist.

        When this fails or is cancelled the manifest may or may not be there, or come later: from
        here on nothing of the backup may be removed but by whoever finds it old and unfinished.
        """
        await self._create(layout.backup_manifest(prepared.backup), prepared.sealed)

    async def _create(self, name: ObjectName, data: bytes) -> None:
        try:
            await self.archive.storage.put(self.archive.path(name), data)
        except ObjectExists:  # maybe by a first try of ours whose answer was lost
            if not await self._holds(name, StoredDigest(len(data), sha256(data).hexdigest())):
                raise

    async def _holds(self, name: ObjectName, expected: StoredDigest) -> bool:
        """Whether exactly these bytes are stored, durably."""
        digest, size = sha256(), 0
        loop = asyncio.get_running_loop()
        async with self.archive.storage.read(self.archive.path(name)) as chunks:
            async for chunk in chunks:
                await loop.run_in_executor(self._pool, digest.update, chunk)
                size += len(chunk)
        if StoredDigest(size, digest.hexdigest()) != expected:
            return False
        await self.archive.storage.sync(self.archive.path(name))
        return True

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
        if not await self._is_committed(backup):
            return None
        try:
            summary = await self.read_summary(backup)
        except (IntegrityError, NoSuchBackup) as error:
            return ListedBackup(backup, None, error.message)
        return ListedBackup(backup, summary.facts, None)

    async def _is_committed(self, backup: BackupId) -> bool:
        return await self.archive.holds(layout.backup_manifest(backup))

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
        """Every folder that bears the id of a backup and holds objects, but no manifest."""
        for folder in await self.archive.folders(layout.BACKUPS_PREFIX):
            backup = layout.parse_backup_folder(folder)
            if backup is not None and (found := await self.find_unfinished(backup)) is not None:
                yield found

    async def find_unfinished(self, backup: BackupId) -> UnfinishedBackup | None:
        """What there is of a backup without a manifest; None when it has one, or has nothing."""
        if await self._is_committed(backup):
            return None
        prefix = layout.backup_prefix(backup)
        objects = [info async for info in self.archive.list_objects(prefix)]
        names = {info.name for info in objects}
        if not objects or layout.backup_manifest(backup) in names:
            return None
        summary, start = layout.backup_summary(backup), layout.backup_start(backup)
        parts = [ObjectName(name) for name in sorted(names) if _is_part_of(backup, name)]
        ours = [name for name in (summary, *parts, start) if name in names]
        youngest = max(objects, key=lambda info: info.modified_at)
        return UnfinishedBackup(backup, youngest, tuple(ours))

    async def remove(self, unfinished: UnfinishedBackup) -> None:
        """Delete an unfinished backup: the summary, the data, and last the claim.

        Removes nothing when a manifest has come meanwhile.
        """
        if await self._is_committed(unfinished.backup):
            return
        for name in unfinished.objects:
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


def _is_part_of(backup: BackupId, name: str) -> bool:
    found = layout.parse_backup_part(name)
    return found is not None and found[0].backup == backup


def _order(listed: ListedBackup) -> tuple[bool, int, str]:
    stop = listed.facts.stop.value if listed.facts else 0
    return (listed.facts is None, stop, str(listed.backup))
