"""Checks one part of a backup: its digests, its list, and every file in the tar against it.

The tar is read in a thread of its own, as a restore does, and nothing is written.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import tarfile
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Final

from walkeeper.core.backup import FileEntry, PartRecord, decode_files
from walkeeper.core.backup_id import BackupId
from walkeeper.core.layout import ObjectName
from walkeeper.errors import IntegrityError, WalkeeperError
from walkeeper.repository.archive import StoredDigest
from walkeeper.services.restore_files import BlockPipe
from walkeeper.services.tar_blocks import TarBlocks
from walkeeper.services.verify_object import ObjectCheck, Whole
from walkeeper.services.verify_report import Problem
from walkeeper.storage.base import ObjectInfo

_LIST_LIMIT_BYTES: Final = 64 << 20


class PartCheck:
    """Checks parts, several at a time; ``threads`` has one for each."""

    def __init__(
        self, objects: ObjectCheck, pool: ThreadPoolExecutor, threads: ThreadPoolExecutor
    ) -> None:
        self._objects = objects
        self._pool = pool
        self._threads = threads

    async def look(
        self, backup: BackupId, data: ObjectInfo | None, files: ObjectInfo | None
    ) -> None:
        """Check the headers of what is there."""
        for info in (data, files):
            if info is not None:
                await self._objects.check(info, backup, read=False)

    async def read(
        self,
        record: PartRecord,
        backup: BackupId,
        data: ObjectInfo | None,
        files: ObjectInfo | None,
    ) -> None:
        """Read both to their ends; without its list the files of a part are not compared."""
        listed = None if files is None else await self._read_list(record, backup, files)
        if data is None:
            return
        members = None if listed is None else TarMembers(listed)
        if members is None:
            await self._read_data(record, backup, data, None)
            return
        pipe = BlockPipe(asyncio.get_running_loop())
        work = asyncio.get_running_loop().run_in_executor(self._threads, members.compare, pipe)
        try:
            whole = await self._read_data(record, backup, data, pipe)
        except BaseException:
            pipe.close(broken=True)
            with suppress(WalkeeperError):
                await work
            raise
        pipe.close(broken=not whole)
        try:
            await work
        except IntegrityError as error:
            if whole:
                self._objects.book.report_error(ObjectName(data.name), error, backup)
        except WalkeeperError:
            if whole:
                raise

    async def _read_data(
        self, record: PartRecord, backup: BackupId, data: ObjectInfo, pipe: BlockPipe | None
    ) -> bool:
        size = 0

        async def take(block: bytes) -> None:
            nonlocal size
            size += len(block)
            if pipe is not None:
                await pipe.write(block)  # where nobody reads any more, the rest is still checked

        expected = StoredDigest(record.stored_bytes, record.stored_sha256)
        whole = await self._objects.check(data, backup, read=True, expected=expected, take=take)
        if isinstance(whole, Whole) and size != record.size_bytes:
            what = f"it holds {size} bytes, {record.size_bytes} were written"
            self._objects.book.report(Problem(data.name, "damaged", what, backup))
            return False
        return isinstance(whole, Whole)

    async def _read_list(
        self, record: PartRecord, backup: BackupId, files: ObjectInfo
    ) -> list[FileEntry] | None:
        content = bytearray()

        async def take(block: bytes) -> None:
            content.extend(block)
            if len(content) > _LIST_LIMIT_BYTES:
                raise IntegrityError("it is too large for a list of files")

        expected = StoredDigest(record.list_bytes, record.list_sha256)
        whole = await self._objects.check(files, backup, read=True, expected=expected, take=take)
        if not isinstance(whole, Whole):
            return None
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._pool, _parse_list, bytes(content), record)
        except IntegrityError as error:
            self._objects.book.report_error(ObjectName(files.name), error, backup)
            return None


def _parse_list(content: bytes, record: PartRecord) -> list[FileEntry]:
    listed = list(decode_files(content.splitlines()))
    if len(listed) != record.files:
        raise IntegrityError(f"it names {len(listed)} files, not {record.files}")
    return listed


class TarMembers:
    """Compares the files of a tar with the list beside it. Blocks: it runs in a thread."""

    def __init__(self, listed: Iterable[FileEntry]) -> None:
        self._expected = {entry.name: entry for entry in listed}

    def compare(self, pipe: BlockPipe) -> None:
        """Read the tar that the pipe brings; raises IntegrityError at the first difference."""
        try:
            self._compare(TarBlocks(pipe))
        except BaseException:
            pipe.abandon()
            raise
        if self._expected:
            missing = os.fsdecode(min(self._expected))
            raise IntegrityError(
                f"it lacks {len(self._expected)} files that its list names, the first is {missing}"
            )

    def _compare(self, tar: TarBlocks) -> None:
        try:
            for member in tar.members():
                if not member.isdir():
                    self._member(tar, member)
        except tarfile.TarError as error:
            raise IntegrityError(f"it is not a tar archive: {error}") from error
        tar.drain()

    def _member(self, tar: TarBlocks, member: tarfile.TarInfo) -> None:
        expected = self._expected.pop(os.fsencode(member.name), None)
        if expected is None or not member.isreg():
            raise IntegrityError(
                f"it holds {member.name!r}, which its list does not name as a file"
            )
        digest = hashlib.sha256()
        for block in tar.content(member):
            digest.update(block)
        if (member.size, digest.hexdigest()) != (expected.size_bytes, expected.sha256):
            raise IntegrityError(f"{member.name} in it is not as its list says")
