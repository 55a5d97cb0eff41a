"""One part of a base backup: files become tar, zstd and age as they are read.

Synchronous and pulled piece by piece by whoever stores the part: nothing runs ahead of the store,
so a part holds a block of a file, a piece of ciphertext, and the compressed list of its files.
"""

from __future__ import annotations

import os
import tarfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final, Protocol

from walkeeper.codec.sealer import Sealer
from walkeeper.core.backup import FileEntry, PartRecord, encode_files
from walkeeper.core.layout import BackupPart
from walkeeper.postgres.data_dir import DataEntry
from walkeeper.postgres.page_checksum import PageRules
from walkeeper.repository.archive import StoredDigest
from walkeeper.services.backup_read import Beside, Block, GivenFile, TarReader, at_once
from walkeeper.services.backup_report import DamagedFile

PIECE_BYTES: Final = 4 << 20
"""About the size of a piece of a part."""
_PIECE_PLAIN_BYTES: Final = 64 << 20
"""The most that is read for one piece, however well it compresses: the time it takes is bounded."""
_GATHER_BYTES: Final = 256 << 10
"""Small files are put together to this before they are compressed: calls cost more than bytes."""
MAX_FILES: Final = 20_000
"""Files in one part, so that its list stays small in memory."""
_BLOCKS_KEPT: Final = 100
"""Damaged blocks of a file that are remembered to be told; the list beside the part has all."""


class FileSink(Protocol):
    """Who is told of each file that went into a part."""

    def add(self, part: BackupPart, entry: FileEntry) -> None:
        """Called once for each file, from a worker thread."""
        ...


@dataclass(slots=True)
class PartCounts:
    """How far a part is; read by others while it grows."""

    files: int = 0
    plain_bytes: int = 0
    damaged: list[DamagedFile] = field(default_factory=list)


class PartWriter:
    """Turns entries into the pieces of one part, and then the list of its files.

    ``sleep`` and ``beside`` are those of `TarReader`.
    """

    def __init__(
        self,
        part: BackupPart,
        sealer: Sealer,
        sink: FileSink,
        pages: PageRules | None,
        *,
        sleep: Callable[[float], None] = time.sleep,
        beside: Beside = at_once,
    ) -> None:
        self.part = part
        self.counts = PartCounts()
        self._data = sealer.start(part.data_name)
        self._list = sealer.start(part.files_name)
        self._list_pieces: list[bytearray] = []
        self._sink = sink
        self._reader = TarReader(pages, self._add, sleep=sleep, beside=beside)
        self._gathered = bytearray()
        self._gathered_lines = bytearray()
        self._ready = bytearray()

    def pieces(self, entries: Iterator[DataEntry | GivenFile]) -> Iterator[bytearray]:
        """The stored bytes of the part, in pieces; entries are read as they are needed.

        A piece may be empty, where all that was read compressed to nothing yet.
        """
        given = 0
        for block in self._reader.blocks(entries):
            self._take(block)
            read = self.counts.plain_bytes - given
            if len(self._ready) >= PIECE_BYTES or read >= _PIECE_PLAIN_BYTES:
                yield self._give()
                given = self.counts.plain_bytes
        self._take(bytes(2 * tarfile.BLOCKSIZE))  # the end of a tar archive, POSIX pax
        self._flush()
        self._keep(self._data.finish())
        yield self._give()

    def list_pieces(self) -> Iterator[bytearray]:
        """The stored bytes of the list; to be asked for after the last piece of the part."""
        self._flush_lines()
        self._list_pieces += self._list.finish()
        yield from self._list_pieces

    def data_digest(self) -> StoredDigest:
        """What the stored part must be, once all its pieces were given out."""
        return StoredDigest(self._data.size_bytes, self._data.sha256.hex())

    def list_digest(self) -> StoredDigest:
        """What the stored list must be, once all its pieces were given out."""
        return StoredDigest(self._list.size_bytes, self._list.sha256.hex())

    def record(self) -> PartRecord:
        """What the manifest says of the part, once both objects are stored."""
        data, files = self.data_digest(), self.list_digest()
        return PartRecord(
            tablespace=self.part.tablespace,
            number=self.part.number,
            stored_bytes=data.size_bytes,
            stored_sha256=data.sha256,
            list_name=self.part.files_name,
            list_bytes=files.size_bytes,
            list_sha256=files.sha256,
            size_bytes=self._data.plain_size,
            files=self.counts.files,
        )

    def _take(self, block: Block) -> None:
        if len(block) >= _GATHER_BYTES:
            self._flush()
            self._compress(block)
            return
        self._gathered += block
        if len(self._gathered) >= _GATHER_BYTES:
            self._flush()

    def _flush(self) -> None:
        if self._gathered:
            self._compress(self._gathered)
            self._gathered.clear()

    def _compress(self, block: Block) -> None:
        self._keep(self._data.write(block))
        self.counts.plain_bytes += len(block)

    def _keep(self, sealed: list[bytearray]) -> None:
        for piece in sealed:
            self._ready += piece

    def _give(self) -> bytearray:
        piece, self._ready = self._ready, bytearray()
        return piece

    def _add(self, entry: FileEntry) -> None:
        self.counts.files += 1
        if bad := entry.bad_blocks:
            path = os.fsdecode(entry.name)
            if self.part.tablespace is not None:
                path = f"pg_tblspc/{self.part.tablespace}/{path}"
            self.counts.damaged.append(DamagedFile(path, len(bad), bad[:_BLOCKS_KEPT]))
        for line in encode_files([entry]):
            self._gathered_lines += line
        if len(self._gathered_lines) >= _GATHER_BYTES:
            self._flush_lines()
        self._sink.add(self.part, entry)

    def _flush_lines(self) -> None:
        self._list_pieces += self._list.write(self._gathered_lines)
        self._gathered_lines.clear()
