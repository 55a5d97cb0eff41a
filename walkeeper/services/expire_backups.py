"""Looks at every folder of a backup as retention must: what is not proven whole does not count."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

from walkeeper.core import layout
from walkeeper.core.backup import BackupSummary, Manifest
from walkeeper.core.backup_id import BackupId
from walkeeper.core.retention_policy import KnownBackup
from walkeeper.errors import IntegrityError, NoSuchBackup, ObjectNotFound, WrongKey, unwrapped
from walkeeper.repository.backups import BackupStore, UnfinishedBackup
from walkeeper.services.expire_ancestry import is_ours
from walkeeper.storage.base import ObjectInfo

_PARALLEL: Final = 4


@dataclass(frozen=True, slots=True)
class UnbelievedBackup:
    """A folder with a manifest whose summary cannot be believed: damaged, forged or gone.

    ``ours``: the manifest at least was signed by a known writer, so this was a real backup.
    """

    backup: BackupId
    problem: str
    ours: bool


@dataclass(frozen=True, slots=True)
class FoundBackups:
    """All folders that bear the id of a backup."""

    known: tuple[KnownBackup, ...]
    unbelieved: tuple[UnbelievedBackup, ...]
    unfinished: tuple[UnfinishedBackup, ...]


class BackupInspector:
    """Judges the backups of one archive; with an identity, manifests are read as well."""

    def __init__(self, store: BackupStore, pool: ThreadPoolExecutor) -> None:
        self._store = store
        self._archive = store.archive
        self._pool = pool

    async def inspect(self) -> FoundBackups:
        """Look at all of them. Raises what storage raises: "could not tell" is no damage."""
        folders = await self._archive.folders(layout.BACKUPS_PREFIX)
        ids = [backup for name in folders if (backup := layout.parse_backup_folder(name))]
        gate = asyncio.Semaphore(_PARALLEL)

        async def look(
            backup: BackupId,
        ) -> KnownBackup | UnbelievedBackup | UnfinishedBackup | None:
            async with gate:
                return await self._look(backup)

        with unwrapped():
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(look(backup)) for backup in ids]
        found = [task.result() for task in tasks]
        return FoundBackups(
            tuple(one for one in found if isinstance(one, KnownBackup)),
            tuple(one for one in found if isinstance(one, UnbelievedBackup)),
            tuple(one for one in found if isinstance(one, UnfinishedBackup)),
        )

    async def _look(
        self, backup: BackupId
    ) -> KnownBackup | UnbelievedBackup | UnfinishedBackup | None:
        prefix = layout.backup_prefix(backup)
        objects = {info.name: info async for info in self._archive.list_objects(prefix)}
        manifest = objects.get(layout.backup_manifest(backup))
        if manifest is None:
            return await self._store.find_unfinished(backup)
        try:
            summary = await self._store.read_summary(backup)
        except (IntegrityError, NoSuchBackup) as error:
            ours = await is_ours(self._archive, layout.backup_manifest(backup))
            return UnbelievedBackup(backup, error.message, ours)
        try:
            problem = await self._find_problem(summary, objects)
        except ObjectNotFound:  # it is being deleted while we look
            return await self._store.find_unfinished(backup)
        return KnownBackup(facts=summary.facts, stored_at=manifest.modified_at, problem=problem)

    async def _find_problem(
        self, summary: BackupSummary, objects: Mapping[str, ObjectInfo]
    ) -> str | None:
        """Why a backup is not whole, or None."""
        backup = summary.facts.backup
        if self._archive.opener.can_open:
            try:
                return _compare_parts(await self._store.read_manifest(backup), objects)
            except IntegrityError as error:
                return error.message
            except NoSuchBackup as error:
                raise ObjectNotFound(error.message) from error
            except WrongKey:
                pass  # another identity opens it: then as on a host without one
        if await self._digest(layout.backup_manifest(backup)) != summary.manifest_sha256:
            return f"{layout.backup_manifest(backup)} is not the object that was committed"
        return _count_parts(summary, objects)

    async def _digest(self, name: layout.ObjectName) -> str:
        digest = sha256()
        loop = asyncio.get_running_loop()
        async with self._archive.storage.read(self._archive.path(name)) as chunks:
            async for chunk in chunks:
                await loop.run_in_executor(self._pool, digest.update, chunk)
        return digest.hexdigest()


def _compare_parts(manifest: Manifest, objects: Mapping[str, ObjectInfo]) -> str | None:
    for record in manifest.parts:
        part = record.part_of(manifest.facts.backup)
        for name, size_bytes in (
            (part.data_name, record.stored_bytes),
            (part.files_name, record.list_bytes),
        ):
            info = objects.get(name)
            if info is None:
                return f"{name} is missing"
            if info.size_bytes != size_bytes:
                return f"{name} has {info.size_bytes} bytes, not {size_bytes}"
    return None


def _count_parts(summary: BackupSummary, objects: Mapping[str, ObjectInfo]) -> str | None:
    """Without the manifest only number and sum are known.

    There may be more: whoever may create could add parts, and must not make a backup look damaged
    by it.
    """
    facts = summary.facts
    parsed = {name: layout.parse_backup_part(name) for name in objects}
    data = [name for name, part in parsed.items() if part is not None and not part[1]]
    lists = [name for name, part in parsed.items() if part is not None and part[1]]
    if len(data) < facts.parts or len(lists) < facts.parts:
        return f"{min(len(data), len(lists))} of {facts.parts} parts are there with their lists"
    stored = sum(objects[name].size_bytes for name in (*data, *lists))
    if stored < facts.stored_bytes:
        return f"its parts have {stored} bytes, not {facts.stored_bytes}"
    return None
