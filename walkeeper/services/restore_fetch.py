"""Brings the parts of a backup from the archive into the directories of a restore.

A part streams from the store into a thread that decrypts and unpacks it; nothing is staged.
Memory: for each part that is under way a few chunks and the list of its files.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import Final

import msgspec

from walkeeper.core.backup import Manifest, PartRecord, decode_files
from walkeeper.core.layout import BackupPart, ObjectName
from walkeeper.errors import IntegrityError, NoSuchBackup, ObjectNotFound, WalkeeperError, unwrapped
from walkeeper.repository.archive import Archive, StoredDigest
from walkeeper.repository.unseal import unseal
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
        self._taken: dict[str, int] = {}
        self._files = 0

    async def fetch(self) -> None:
        """Write every file, checked and synced; pg_control stays under another name.

        Raises IntegrityError where the stored bytes, a file or a list are not as they were
        written, and what storage raises; then the directories hold a part of the files.
        """
        facts = self._manifest.facts
        queue = list(reversed(self._manifest.parts))
        # Threads of their own: they wait for chunks that the shared pool has to read first.
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
        decode = partial(
            unseal,
            self._archive.opener,
            part.data_name,
            expected=StoredDigest(record.stored_bytes, record.stored_sha256),
        )
        work = loop.run_in_executor(threads, files.unpack, pipe, decode)
        try:
            await self._feed(pipe, part.data_name, files)
        except BaseException:
            pipe.close(broken=True)
            with suppress(WalkeeperError):  # its own error is only that it was given up
                await work
            raise
        pipe.close()
        await work
        self._count(files)
        if (files.taken_bytes, files.files) != (record.size_bytes, record.files):
            raise IntegrityError(
                f"{part.data_name} holds {files.files} files in {files.taken_bytes} bytes, "
                f"not {record.files} in {record.size_bytes}"
            )
        self._files += files.files

    async def _feed(self, pipe: BlockPipe, name: ObjectName, files: PartFiles) -> None:
        async with self._archive.storage.read(self._archive.path(name)) as chunks:
            async for chunk in chunks:
                if not await pipe.write(chunk):
                    break
                self._count(files)

    def _count(self, files: PartFiles) -> None:
        self._taken[files.name] = files.taken_bytes
        total = sum(part.size_bytes for part in self._manifest.parts)
        self._progress(FetchProgress(sum(self._taken.values()), total, self._files))

    async def _read_list(self, part: BackupPart, record: PartRecord) -> bytes:
        expected = StoredDigest(record.list_bytes, record.list_sha256)
        content = bytearray()
        async with self._archive.open(part.files_name, expected=expected) as blocks:
            async for block in blocks:
                content += block
                if len(content) > _LIST_LIMIT_BYTES:
                    raise IntegrityError(f"{part.files_name} is too large for a list of files")
        return bytes(content)
