"""Brings the parts of a backup from the archive into the directories of a restore.

A part streams from the store through decryption into a thread that unpacks it; nothing is staged.
Memory: for each part that is under way a few blocks and the list of its files.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Final

import msgspec

from walkeeper.core.backup import Manifest, PartRecord, decode_files
from walkeeper.core.layout import BackupPart, ObjectName
from walkeeper.errors import IntegrityError, NoSuchBackup, ObjectNotFound, WalkeeperError, unwrapped
from walkeeper.repository.archive import Archive, StoredDigest
from walkeeper.services.restore_config import directory_mode
from walkeeper.services.restore_files import BlockPipe, PartFiles
from walkeeper.services.restore_target import Destination

_LIST_LIMIT_BYTES: Final = 64 << 20
"""A part has at most some 20,000 files, and a line of its list some 300 bytes."""


class FetchProgress(msgspec.Struct, frozen=True):
    """How much of the backup has come; bytes before compression."""

    fetched_bytes: int
    total_bytes: int
    files: int


class BackupFetch:
    """Fetches one backup, ``parallel`` parts at a time."""

    def __init__(
        self,
        archive: Archive,
        manifest: Manifest,
        destination: Destination,
        progress: Callable[[FetchProgress], None],
        *,
        parallel: int,
    ) -> None:
        self._archive = archive
        self._manifest = manifest
        self._destination = destination
        self._progress = progress
        self._parallel = parallel
        self._fetched = 0
        self._files = 0

    async def fetch(self) -> None:
        """Write every file, checked and synced; pg_control stays under another name.

        Raises IntegrityError where the stored bytes, a file or a list are not as they were
        written, and what storage raises; then the directories hold a part of the files.
        """
        facts = self._manifest.facts
        queue = list(reversed(self._manifest.parts))
        # Threads of their own: they wait for blocks that the shared pool has to decrypt first.
        with (
            unwrapped(),
            ThreadPoolExecutor(self._parallel, thread_name_prefix="restore") as threads,
        ):
            async with asyncio.TaskGroup() as group:
                for _ in range(min(self._parallel, len(queue))):
                    group.create_task(self._fetch_parts(queue, threads))
        if self._files != facts.files:
            raise IntegrityError(f"{facts.id} holds {self._files} files, not {facts.files}")

    async def _fetch_parts(self, queue: list[PartRecord], threads: ThreadPoolExecutor) -> None:
        while queue:
            record = queue.pop()
            part = record.part_of(self._manifest.facts.backup)
            try:
                await self._fetch_part(record, part, threads)
            except ObjectNotFound as error:
                raise NoSuchBackup(
                    f"backup {self._manifest.facts.id} is not complete: {error.message}",
                    hint="walkeeper verify says which backups are whole",
                ) from error

    async def _fetch_part(
        self, record: PartRecord, part: BackupPart, threads: ThreadPoolExecutor
    ) -> None:
        files = PartFiles(
            part.data_name,
            self._destination.root(record.tablespace),
            directory_mode(self._manifest.settings),
            self._destination.owner,
        )
        listed = await self._read_list(part, record)
        files.expect(decode_files(listed.splitlines()))
        loop = asyncio.get_running_loop()
        pipe = BlockPipe(loop)
        work = loop.run_in_executor(threads, files.unpack, pipe)
        try:
            size = await self._feed(pipe, part.data_name, record)
        except BaseException:
            pipe.close(broken=True)
            with suppress(WalkeeperError):  # its own error is only that it was given up
                await work
            raise
        pipe.close()
        await work
        if (size, files.files) != (record.size_bytes, record.files):
            raise IntegrityError(
                f"{part.data_name} holds {files.files} files in {size} bytes, "
                f"not {record.files} in {record.size_bytes}"
            )
        self._files += files.files

    async def _feed(self, pipe: BlockPipe, name: ObjectName, record: PartRecord) -> int:
        expected = StoredDigest(record.stored_bytes, record.stored_sha256)
        size = 0
        async with self._archive.open(name, expected=expected) as blocks:
            async for block in blocks:
                size += len(block)
                if not await pipe.write(block):
                    break
                self._fetched += len(block)
                total = sum(part.size_bytes for part in self._manifest.parts)
                self._progress(FetchProgress(self._fetched, total, self._files))
        return size

    async def _read_list(self, part: BackupPart, record: PartRecord) -> bytes:
        expected = StoredDigest(record.list_bytes, record.list_sha256)
        content = bytearray()
        async with self._archive.open(part.files_name, expected=expected) as blocks:
            async for block in blocks:
                content += block
                if len(content) > _LIST_LIMIT_BYTES:
                    raise IntegrityError(f"{part.files_name} is too large for a list of files")
        return bytes(content)
