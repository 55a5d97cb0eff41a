"""One file of ``pg_wal`` into the archive: read once, checked, sealed and stored as it passes."""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final, cast

import structlog

from walkeeper.codec.sealed import SealedObject
from walkeeper.core.layout import CONTENT_DIGITS, CutOffSegment, ObjectName, wal_object
from walkeeper.core.timeline import TimelineHistory
from walkeeper.core.wal import PartialSegment, TimelineHistoryFile, WalFile, WalSegment
from walkeeper.core.walcheck import CutOff, Refused, SegmentCheck
from walkeeper.errors import StorageFull, WalRefused
from walkeeper.postgres.wal_dir import FileIdentity
from walkeeper.repository.archive import Archive, Stored
from walkeeper.services.budget import ByteBudget

_BLOCK: Final = 256 << 10
"""Stays in a core's cache from the read to the digest, the compressor and the cipher."""
_SMALL_FILE_LIMIT: Final = 1 << 20
"""No history file comes near; a larger one is not what its name says."""
_SPOOL_OVER: Final = 32 << 20
"""Compressed bytes of one segment that are held in memory before they go to a file."""
_SLACK: Final = 64 * 1024
"""What a header and the tags of chunks add to what does not compress, per 16 MiB."""

_WORKING: Final = 6 << 20
"""What sealing holds besides its result, until it ends: 4 MiB of pages that are still to be judged,
where a record is as long as that; a block as it was read and compressed; and zstd's tables at the
level of the default (measured)."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class WalSource:
    """The directory that WAL comes from, and whose it is."""

    pg_wal: Path
    system_identifier: int
    major: int


class WalUploader:
    """Stores files of one ``pg_wal`` in one archive; safe to use for several at once.

    At most ``puts`` are being stored at a time; others are sealed meanwhile, so that no core waits
    for the store. Memory: the budget bounds what all uploads hold together; one holds its
    compressed size, at most 32 MiB of it, the rest goes to an unlinked file in ``spool_dir``; and
    6 MiB more while it is being compressed.
    """

    def __init__(
        self,
        archive: Archive,
        source: WalSource,
        *,
        pool: ThreadPoolExecutor,
        budget: ByteBudget,
        spool_dir: Path,
        puts: int,
    ) -> None:
        self._archive = archive
        self._source = source
        self._pool = pool
        self._budget = budget
        self._spool_dir = spool_dir
        self._puts = asyncio.Semaphore(puts)

    async def upload(self, wal: WalFile, identity: FileIdentity) -> ObjectName:
        """Return when the file is durable: the name that its content deserves.

        Raises WalRefused for a file that is not what its name says or is another than offered,
        DifferentContent, and what storage raises.
        """
        loop = asyncio.get_running_loop()
        need = min(identity.size_bytes, _SPOOL_OVER) * 101 // 100 + _SLACK + _WORKING
        async with self._budget.take(need) as grant:
            sealed = await loop.run_in_executor(self._pool, self._seal, wal, identity)
            with sealed:
                grant.shrink(_SLACK if sealed.spilled else sealed.size_bytes)
                async with self._puts:
                    outcome = await self._archive.put(sealed)
        self._report(wal, sealed, outcome)
        return sealed.name

    def _seal(self, wal: WalFile, identity: FileIdentity) -> SealedObject:
        path = self._source.pg_wal / str(wal)
        try:
            file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError as error:
            raise WalRefused(f"{wal} is not in {self._source.pg_wal}") from error
        except OSError as error:
            raise WalRefused(f"{path} cannot be read: {error.strerror}") from error
        try:
            _require_same(file, identity, wal)
            sealed = self._seal_open(wal, file)
            try:
                _require_same(file, identity, wal)
            except WalRefused:
                sealed.close()
                raise
            return sealed
        finally:
            os.close(file)

    def _seal_open(self, wal: WalFile, file: int) -> SealedObject:
        if isinstance(wal, WalSegment | PartialSegment):
            return self._seal_segment(wal, file)
        content = os.read(file, _SMALL_FILE_LIMIT + 1)
        if len(content) > _SMALL_FILE_LIMIT:
            raise WalRefused(f"{wal} is too large for what its name says")
        if isinstance(wal, TimelineHistoryFile):
            _check_history(wal, content)
        return self._archive.sealer.seal(wal_object(wal), [content])

    def _seal_segment(self, wal: WalSegment | PartialSegment, file: int) -> SealedObject:
        segment = wal.segment if isinstance(wal, PartialSegment) else wal
        size = self._archive.segment_size
        if not segment.fits(size):
            raise WalRefused(f"{wal} is no name of a segment of {size.bytes} bytes")
        check = SegmentCheck(wal, size, self._source.system_identifier, self._source.major)

        def name_of(content: bytes) -> ObjectName:
            verdict = check.finish()
            if isinstance(verdict, Refused):
                raise WalRefused(f"{wal} is refused: {verdict.reason}")
            if isinstance(verdict, CutOff):
                return wal_object(CutOffSegment(segment, content.hex()[:CONTENT_DIGITS]))
            return wal_object(segment)

        return self._archive.sealer.seal(
            name_of,
            _read_blocks(file),
            on_block=check.feed,
            spool=self.open_spool,
            spool_over_bytes=_SPOOL_OVER,
        )

    def open_spool(self) -> BinaryIO:
        """An unlinked file for what is too large to be held in memory; blocks."""
        try:
            return cast("BinaryIO", tempfile.TemporaryFile(dir=self._spool_dir))
        except OSError as error:
            raise StorageFull(
                f"no temporary file can be made in {self._spool_dir}: {error.strerror}",
                hint="[agent] state_dir needs room for one segment per upload",
            ) from error

    def _report(self, wal: WalFile, sealed: SealedObject, outcome: Stored) -> None:
        cut_off = isinstance(wal, WalSegment) and sealed.name != wal_object(wal)
        emit = log.info if cut_off else log.debug
        emit(
            "wal_archived",
            file=str(wal),
            object=sealed.name,
            size_bytes=sealed.plain_size,
            stored_bytes=sealed.size_bytes,
            outcome=outcome.value,
            cut_off=cut_off,
        )


def _read_blocks(file: int) -> Iterator[memoryview]:
    # One buffer for the whole file: fresh ones cost more in page faults than the read itself.
    buffer = bytearray(_BLOCK)
    view = memoryview(buffer)
    while True:
        filled = 0
        while filled < _BLOCK and (got := os.readv(file, [view[filled:]])):
            filled += got
        if filled:
            yield view[:filled]
        if filled < _BLOCK:
            return


def _require_same(file: int, identity: FileIdentity, wal: WalFile) -> None:
    facts = os.fstat(file)
    now = FileIdentity(facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns)
    if now != identity:
        raise WalRefused(
            f"{wal} changed while it was being archived",
            hint="PostgreSQL will offer it again",
        )


def _check_history(wal: TimelineHistoryFile, content: bytes) -> None:
    try:
        TimelineHistory.parse(wal.timeline, content.decode())
    except ValueError as error:
        raise WalRefused(f"{wal} is refused: {error}") from error
