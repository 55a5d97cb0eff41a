"""The file of the segment that PostgreSQL is writing, read as far as it is flushed."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from walkeeper.core.lsn import Lsn
from walkeeper.core.wal import SegmentSize, WalSegment
from walkeeper.core.walpage import PAGE_HEADER, PAGE_SIZE, parse_long_header
from walkeeper.errors import PostgresError, WalRefused

Bytes = bytes | memoryview

BLOCK_BYTES: Final = 1 << 20


class LocalSegment:
    """Reads a growing segment in order and keeps the SHA-256 of everything so far.

    Bytes below the flush position never change again, page headers included, so what was read
    stays true. ``position`` is the offset up to which `commit` has gone. Blocks; not thread-safe.
    """

    def __init__(
        self, pg_wal: Path, segment: WalSegment, size: SegmentSize, system_identifier: int
    ) -> None:
        self.segment = segment
        self.position = 0
        self._path = pg_wal / str(segment)
        self._begin = segment.begin(size).value
        self._system_identifier = system_identifier
        self._digest = hashlib.sha256()
        self._magic = 0

    def read(self, end: int) -> memoryview:
        """The bytes from ``position`` to offset ``end``, all of them flushed.

        Every page header among them is checked. Raises WalRefused when the file is not this
        segment of this cluster, PostgresError when it cannot be read.
        """
        first_page = self.position - self.position % PAGE_SIZE
        try:
            file = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
            try:
                if not self._magic:
                    self._check_first_page(_pread(file, PAGE_SIZE, 0))
                data = _pread(file, end - first_page, first_page)
            finally:
                os.close(file)
        except OSError as error:
            raise PostgresError(f"cannot read {self._path}: {error.strerror}") from error
        if len(data) < end - first_page:
            raise WalRefused(f"{self._path} is shorter than what is flushed")
        self._check_pages(data, first_page)
        return data[self.position - first_page :]

    def blocks(self) -> Iterator[bytes]:
        """Everything up to ``position`` again, in blocks of 1 MiB."""
        try:
            with self._path.open("rb") as file:
                left = self.position
                while left > 0 and (block := file.read(min(left, BLOCK_BYTES))):
                    yield block
                    left -= len(block)
        except OSError as error:
            raise PostgresError(f"cannot read {self._path}: {error.strerror}") from error
        if left > 0:
            raise WalRefused(f"{self._path} is shorter than what is flushed")

    def digest_with(self, data: Bytes) -> bytes:
        """SHA-256 of the segment from its start to the end of ``data``, read at ``position``."""
        digest = self._digest.copy()
        digest.update(data)
        return digest.digest()

    def commit(self, data: Bytes) -> None:
        """Go on behind ``data``, which was read at ``position``."""
        self._digest.update(data)
        self.position += len(data)

    def skip(self, end: int) -> bytes:
        """Go on behind offset ``end``, in small steps; the SHA-256 of the bytes skipped."""
        skipped = hashlib.sha256()
        while self.position < end:
            data = self.read(min(end, self.position + BLOCK_BYTES))
            skipped.update(data)
            self.commit(data)
        return skipped.digest()

    def _check_first_page(self, page: memoryview) -> None:
        try:
            header = parse_long_header(page)
        except ValueError as error:
            raise WalRefused(f"{self._path}: {error}") from error
        if header.system_identifier != self._system_identifier:
            raise WalRefused(
                f"{self._path} is of the cluster {header.system_identifier}, not of "
                f"{self._system_identifier}"
            )
        self._magic = header.magic

    def _check_pages(self, data: memoryview, first_page: int) -> None:
        for offset in range(0, len(data) - PAGE_HEADER.size + 1, PAGE_SIZE):
            magic, _, timeline, address, _ = PAGE_HEADER.unpack_from(data, offset)
            expected = self._begin + first_page + offset
            if (magic, address) != (self._magic, expected) or timeline > self.segment.timeline:
                raise WalRefused(
                    f"{self._path}: the page at offset {first_page + offset} is not of this "
                    "segment, although it is flushed",
                    hint="is [cluster] data_directory the one of the dsn's server?",
                )


def find_oldest(
    pg_wal: Path, current: WalSegment, size: SegmentSize, system_identifier: int
) -> WalSegment:
    """The oldest segment from which on ``pg_wal`` holds everything up to the current one; blocks.

    PostgreSQL makes files of names to come from those it needs no more, and what was removed may
    leave older ones behind: each file is looked into. Raises PostgresError for an unreadable one.
    """
    oldest = current
    while oldest.number(size) > 0:
        before = oldest.previous(size)
        if not _is_there(pg_wal / str(before), before.begin(size), size, system_identifier):
            break
        oldest = before
    return oldest


def _is_there(path: Path, begin: Lsn, size: SegmentSize, system_identifier: int) -> bool:
    try:
        with path.open("rb", buffering=0) as file:
            header = parse_long_header(file.read(PAGE_SIZE))
    except FileNotFoundError:
        return False
    except OSError as error:
        raise PostgresError(f"cannot read {path}: {error.strerror}") from error
    except ValueError:
        return False
    found = (header.address, header.segment_size, header.system_identifier)
    return found == (begin, size, system_identifier)


def find_digest(path: Path) -> bytes | None:
    """SHA-256 of a whole file, None when there is none; blocks."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").digest()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise PostgresError(f"cannot read {path}: {error.strerror}") from error


def _pread(file: int, size: int, offset: int) -> memoryview:
    buffer = memoryview(bytearray(size))
    filled = 0
    while filled < size and (got := os.preadv(file, [buffer[filled:]], offset + filled)):
        filled += got
    return buffer[:filled]
