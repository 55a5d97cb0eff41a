"""Checks the committed base backups: summary, manifest, claim, and every part with its list.

Memory: for each part that is being read a few blocks and the list of its files.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

from walkeeper.codec import signed_json
from walkeeper.core import layout
from walkeeper.core.backup import (
    BackupFacts,
    BackupStart,
    BackupSummary,
    Manifest,
    decode,
)
from walkeeper.core.backup_id import BackupId
from walkeeper.core.layout import ObjectName
from walkeeper.errors import (
    IntegrityError,
    NoSuchBackup,
    ObjectFrozen,
    ObjectNotFound,
    WrongKey,
)
from walkeeper.repository.archive import StoredDigest
from walkeeper.repository.backups import BackupStore, ListedBackup, UnfinishedBackup
from walkeeper.services.verify_object import Crew, ObjectCheck
from walkeeper.services.verify_part import PartCheck
from walkeeper.services.verify_report import Problem
from walkeeper.storage.base import ObjectInfo

_START_LIMIT_BYTES: Final = 1 << 20
_MANIFEST_LIMIT_BYTES: Final = 64 << 20
_UNDER_WAY: Final = timedelta(hours=1)


@dataclass(slots=True)
class FoundBackups:
    """``facts`` of the backups whose summary can be believed, ``listed`` the ids looked at."""

    facts: list[BackupFacts] = field(default_factory=list)
    listed: set[str] = field(default_factory=set)

    def beside(self, listed: ListedBackup) -> None:
        """Take a backup that is not looked at: it counts for what the others cost."""
        if listed.facts is not None:
            self.facts.append(listed.facts)


class BackupWalk:
    """One walk over ``backups/``. ``threads`` are for reading tar files, one for each part."""

    def __init__(
        self,
        objects: ObjectCheck,
        store: BackupStore,
        pool: ThreadPoolExecutor,
        threads: ThreadPoolExecutor,
        *,
        only: BackupId | None,
        now: Callable[[], datetime],
    ) -> None:
        self._objects = objects
        self._archive = objects.archive
        self._book = objects.book
        self._store = store
        self._parts = PartCheck(objects, pool, threads)
        self._only = only
        self._now = now
        self.found = FoundBackups()

    async def run(self, crew: Crew) -> None:
        """Start the checks of all backups, or of the one asked for; then ``found`` is complete.

        Raises NoSuchBackup when there is none of that id.
        """
        for folder in await self._archive.folders(layout.BACKUPS_PREFIX):
            if layout.parse_backup_folder(folder) is None:
                self._book.note(f"{folder} is not a name of walkeeper's")
        for listed in await self._store.list_backups():
            if not self._is_asked(listed.backup):
                self.found.beside(listed)
                continue
            self._book.checked.backups += 1
            self.found.listed.add(str(listed.backup))
            await self._backup(crew, listed)
        async for unfinished in self._store.unfinished():
            if self._is_asked(unfinished.backup):
                self.found.listed.add(str(unfinished.backup))
                await self._unfinished(unfinished)
        if self._only is not None and str(self._only) not in self.found.listed:
            raise NoSuchBackup(
                f"there is no backup {self._only}", hint="list what there is: walkeeper backups"
            )

    def _is_asked(self, backup: BackupId) -> bool:
        return self._only in {None, backup}

    async def _unfinished(self, unfinished: UnfinishedBackup) -> None:
        """A summary is followed by its manifest within moments: later on that has been lost."""
        backup, manifest = unfinished.backup, layout.backup_manifest(unfinished.backup)
        age = self._now() - unfinished.youngest.modified_at
        if layout.backup_summary(backup) not in unfinished.objects or age < _UNDER_WAY:
            self._book.note(f"backup {backup} is under way or was abandoned")
            return
        self._objects.missing(
            manifest, "the manifest is missing, or the deletion of the backup has not ended", backup
        )
        try:
            self.found.facts.append((await self._store.read_summary(backup)).facts)
        except (IntegrityError, NoSuchBackup) as error:
            self._book.note(f"{layout.backup_summary(backup)}: {error.message}")

    async def _backup(self, crew: Crew, listed: ListedBackup) -> None:
        backup, facts = listed.backup, listed.facts
        summary_name = layout.backup_summary(backup)
        stored = {info.name: info async for info in self._others(backup)}
        summary = stored.pop(summary_name, None)
        if summary is None:
            self._objects.missing(summary_name, "the summary is missing", backup)
        elif facts is None:
            what = (listed.problem or "").removeprefix(summary_name).lstrip(": ")
            self._book.report(Problem(summary_name, "damaged", what, backup))
        await self._claim(backup, stored.pop(layout.backup_start(backup), None))
        manifest_info = stored.pop(layout.backup_manifest(backup), None)
        if manifest_info is None:  # a deletion begins with it
            self._book.note(f"backup {backup} was deleted since it was listed")
            return
        if facts is None:
            return
        self.found.facts.append(facts)
        if facts.checksum_findings:
            self._book.note(
                f"backup {backup}: {facts.checksum_findings} pages were damaged when it was taken"
            )
        manifest = await self._manifest(backup, manifest_info)
        if manifest is None:
            await self._without_manifest(crew, facts, stored)
        else:
            await self._with_manifest(crew, manifest, stored)

    async def _others(self, backup: BackupId) -> AsyncIterator[ObjectInfo]:
        async for info in self._archive.list_objects(layout.backup_prefix(backup)):
            yield info

    async def _claim(self, backup: BackupId, info: ObjectInfo | None) -> None:
        """The claim; nothing is lost with it."""
        name = layout.backup_start(backup)
        self._book.checked.objects += 1
        if info is None:
            self._objects.missing(name, "the claim on the id is missing")
            return
        opener = self._archive.opener
        try:
            signed_json.decode(
                await self._archive.read_range(name, 0, _START_LIMIT_BYTES),
                BackupStart,
                writers=opener.writers,
                name=name,
                archive=self._archive.record.archive,
                allow_unsigned=opener.allow_unsigned,
            )
        except IntegrityError as error:
            self._book.report_error(name, error)
        except ObjectNotFound:
            self._book.note(f"{name} was deleted since it was listed")

    async def _manifest(self, backup: BackupId, info: ObjectInfo) -> Manifest | None:
        """The manifest where it can be read; it is always compared with the summary."""
        name = layout.backup_manifest(backup)
        self._book.checked.objects += 1
        try:
            summary = await self._store.read_summary(backup)
            await self._compare(name, info, summary)
            if not self._archive.opener.can_open:
                return None
            return await self._read_manifest(name, summary)
        except (IntegrityError, WrongKey) as error:
            self._book.report_error(name, error, backup)
        except (NoSuchBackup, ObjectNotFound):
            self._book.note(f"backup {backup} was deleted since it was listed")
        except ObjectFrozen:
            self._book.cold += 1
        return None

    async def _compare(self, name: ObjectName, info: ObjectInfo, summary: BackupSummary) -> None:
        """The stored bytes against the digest in the summary: needs no identity."""
        if info.size_bytes > _MANIFEST_LIMIT_BYTES:
            raise IntegrityError(f"{name} holds more than {_MANIFEST_LIMIT_BYTES} bytes")
        header = await self._archive.read_header(name)
        data = await self._archive.read_range(name, 0, info.size_bytes)
        self._book.checked.bytes += len(data)
        if hashlib.sha256(data).hexdigest() != summary.manifest_sha256:
            raise IntegrityError(f"{header.name} is not the object that the summary names")

    async def _read_manifest(self, name: ObjectName, summary: BackupSummary) -> Manifest:
        content = await self._archive.read(
            name, limit_bytes=_MANIFEST_LIMIT_BYTES, sha256=summary.manifest_sha256
        )
        self._book.checked.read += 1
        manifest = decode(content, Manifest)
        if manifest.facts != summary.facts:
            raise IntegrityError(f"{name} and {summary.name} do not say the same")
        files = sum(part.files for part in manifest.parts)
        if files != manifest.facts.files:
            raise IntegrityError(
                f"{name} lists {files} files in its parts and {manifest.facts.files} in all"
            )
        return manifest

    async def _with_manifest(
        self, crew: Crew, manifest: Manifest, stored: dict[str, ObjectInfo]
    ) -> None:
        backup = manifest.facts.backup
        for record in manifest.parts:
            part = record.part_of(backup)
            data = self._present(
                stored,
                part.data_name,
                StoredDigest(record.stored_bytes, record.stored_sha256),
                backup,
            )
            files = self._present(
                stored, part.files_name, StoredDigest(record.list_bytes, record.list_sha256), backup
            )
            if self._objects.reads(part.data_name):
                await crew.start(self._parts.read, record, backup, data, files)
            else:
                await crew.start(self._parts.look, backup, data, files)
        for name in stored:
            self._book.note(f"{name} belongs to no part of backup {backup}")

    def _present(
        self,
        stored: dict[str, ObjectInfo],
        name: ObjectName,
        expected: StoredDigest,
        backup: BackupId,
    ) -> ObjectInfo | None:
        """The object where it is there with its size; else that is a problem."""
        info = stored.pop(name, None)
        if info is None:
            self._objects.missing(name, "it is missing", backup)
        elif info.size_bytes != expected.size_bytes:
            what = f"{info.size_bytes} bytes are stored, {expected.size_bytes} were written"
            self._book.report(Problem(name, "damaged", what, backup))
            return None
        return info

    async def _without_manifest(
        self, crew: Crew, facts: BackupFacts, stored: dict[str, ObjectInfo]
    ) -> None:
        """What can be said by the summary alone: how many there are, and bytes in all."""
        parts = {}
        for name, info in stored.items():
            found = layout.parse_backup_part(name)
            if found is None or found[0].backup != facts.backup:
                self._book.note(f"{name} belongs to no part of backup {facts.id}")
            else:
                parts[found] = info
        for (part, is_list), info in parts.items():
            await crew.start(self._parts.look, facts.backup, info, None)
            if (part, not is_list) not in parts:
                other = part.data_name if is_list else part.files_name
                self._objects.missing(other, "it is missing", facts.backup)
        size = sum(info.size_bytes for info in parts.values())
        pairs = len({part for part, _ in parts})
        if (pairs, size) != (facts.parts, facts.stored_bytes):
            self._book.report(
                Problem(
                    layout.backup_data_prefix(facts.backup),
                    "missing" if pairs < facts.parts else "damaged",
                    f"{pairs} parts with {size} bytes are stored, its summary tells of "
                    f"{facts.parts} with {facts.stored_bytes}",
                    facts.backup,
                )
            )
