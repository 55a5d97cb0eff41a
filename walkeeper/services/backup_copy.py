"""The copying half of a base backup: entries become parts in the archive, several at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from typing import Final

from walkeeper.codec.sealer import Sealer
from walkeeper.core.backup import PartRecord
from walkeeper.core.backup_id import BackupId
from walkeeper.core.layout import BackupPart
from walkeeper.errors import unwrapped
from walkeeper.postgres.control_file import ControlFile
from walkeeper.postgres.data_dir import DataEntry
from walkeeper.postgres.page_checksum import PageRules
from walkeeper.repository.backups import BackupStore
from walkeeper.services.backup_part import PartWriter
from walkeeper.services.backup_read import GivenFile, at_once
from walkeeper.services.backup_report import BackupProgress, DamagedFile
from walkeeper.services.backup_source import EntrySource, FileSpool

_REPORT_S: Final = 0.5


class SpareThreads:
    """What readers without work leave to those who have some: ``idle`` of them. See `Beside`."""

    def __init__(self, pool: ThreadPoolExecutor) -> None:
        self.idle = 0
        self._pool = pool

    def begin(self, work: Callable[[], None]) -> Callable[[], None]:
        """Do the work in another thread if a reader is idle, else at once."""
        if self.idle <= 0:
            return at_once(work)
        job = self._pool.submit(work)

        def finish() -> None:
            if job.cancel():  # the pool has no thread for it, so nobody may wait for one
                work()
            else:
                job.result()

        return finish


class BackupCopy:
    """Stores the parts of one backup and keeps account of them."""

    def __init__(
        self,
        backup: BackupId,
        *,
        store: BackupStore,
        sealer: Sealer,
        pool: ThreadPoolExecutor,
        spool: FileSpool,
        progress: Callable[[BackupProgress], None],
    ) -> None:
        self.backup = backup
        self.spool = spool
        self.total_bytes = 0
        self.skipped: list[str] = []
        self._store = store
        self._sealer = sealer
        self._pool = pool
        self._progress = progress
        self._spare = SpareThreads(pool)
        self._writers: list[PartWriter] = []
        self._numbers: dict[int | None, int] = {}
        self._records: list[PartRecord] = []

    async def copy(
        self,
        sources: list[EntrySource],
        pages: PageRules | None,
        *,
        readers: int,
        part_bytes: int,
    ) -> None:
        """All entries of the sources, by ``readers`` parts at once of about ``part_bytes``."""
        with unwrapped():
            async with asyncio.TaskGroup() as group:
                reporting = group.create_task(self._keep_reporting())
                async with asyncio.TaskGroup() as readers_group:
                    for _ in range(readers):
                        readers_group.create_task(self._read(sources, pages, part_bytes))
                reporting.cancel()
        self.skipped += [reason for source in sources for reason in source.skipped]

    async def copy_last(self, files: Iterable[GivenFile]) -> None:
        """The last part of the data directory, with these files in this order."""
        await self._store_part(self._next_part(None), None, iter(files))

    @property
    def records(self) -> tuple[PartRecord, ...]:
        """The parts that are stored; those of the data directory first, by number."""
        return tuple(sorted(self._records, key=lambda part: (part.tablespace or 0, part.number)))

    @property
    def stored_bytes(self) -> int:
        """What the stored parts and lists take."""
        return sum(part.stored_bytes + part.list_bytes for part in self._records)

    @property
    def damaged(self) -> tuple[DamagedFile, ...]:
        """The files with damaged pages."""
        return tuple(found for writer in self._writers for found in writer.counts.damaged)

    def report(self, phase: str) -> None:
        """Tell how far the backup is."""
        self._progress(
            BackupProgress(
                phase=phase,
                backup=str(self.backup),
                files=sum(writer.counts.files for writer in self._writers),
                read_bytes=sum(writer.counts.plain_bytes for writer in self._writers),
                stored_bytes=self.stored_bytes,
                total_bytes=self.total_bytes,
            )
        )

    async def _keep_reporting(self) -> None:
        while True:
            self.report("copy")
            await asyncio.sleep(_REPORT_S)

    async def _read(
        self, sources: list[EntrySource], pages: PageRules | None, part_bytes: int
    ) -> None:
        loop = asyncio.get_running_loop()
        for source in sources:
            while (first := await loop.run_in_executor(self._pool, source.take)) is not None:
                entries = source.portion(first, part_bytes)
                await self._store_part(self._next_part(source.tablespace), pages, entries)
        self._spare.idle += 1

    def _next_part(self, tablespace: int | None) -> BackupPart:
        number = self._numbers.get(tablespace, 0) + 1
        self._numbers[tablespace] = number
        return BackupPart(self.backup, tablespace, number)

    async def _store_part(
        self,
        part: BackupPart,
        pages: PageRules | None,
        entries: Iterator[DataEntry] | Iterator[GivenFile],
    ) -> None:
        writer = PartWriter(part, self._sealer, self.spool, pages, beside=self._spare.begin)
        self._writers.append(writer)
        async with aclosing(self._pull(writer.pieces(entries))) as pieces:
            await self._store.put_stream(part.data_name, pieces, writer.data_digest)
        async with aclosing(self._pull(writer.list_pieces())) as pieces:
            await self._store.put_stream(part.files_name, pieces, writer.list_digest)
        self._records.append(writer.record())

    async def _pull(self, pieces: Iterator[bytearray]) -> AsyncGenerator[bytearray, None]:
        """The pieces, one made in a thread while the one before is on its way."""
        loop = asyncio.get_running_loop()
        making = loop.run_in_executor(self._pool, next, pieces, None)
        try:
            while (piece := await asyncio.shield(making)) is not None:
                making = loop.run_in_executor(self._pool, next, pieces, None)
                if piece:
                    yield piece
        finally:
            # The thread may be in the middle of a file: nothing may be closed under it. What it
            # raises has been raised here, or does not matter to whoever went away.
            await asyncio.wait({making})
            making.exception()


def page_rules(control: ControlFile) -> PageRules | None:
    """How pages are verified; None where the cluster has no data checksums."""
    if not control.data_checksums:
        return None
    return PageRules(control.block_size, control.blocks_per_file)
