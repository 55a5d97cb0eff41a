"""One part of a base backup: files become tar, zstd and age as they are read.

Synchronous and pulled piece by piece by whoever stores the part: nothing runs ahead of the store,
so a part holds a block of a file, a piece of ciphertext, and the compressed list of its files.
"""

from __future__ import annotations

import grp
import hashlib
import io
import os
import pwd
import tarfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from typing import BinaryIO, Final, Protocol

from walkeeper.codec.sealer import Sealer
from walkeeper.core.backup import FileEntry, PartRecord, encode_files
from walkeeper.core.layout import BackupPart
from walkeeper.errors import BackupError
from walkeeper.postgres.data_dir import DataEntry, EntryKind
from walkeeper.postgres.exclusions import find_checksummed_segment
from walkeeper.postgres.page_checksum import PageVerifier
from walkeeper.repository.archive import StoredDigest
from walkeeper.services.backup_report import DamagedFile

PIECE_BYTES: Final = 4 << 20
"""About the size of a piece of a part."""
_PIECE_PLAIN_BYTES: Final = 64 << 20
"""The most that is read for one piece, however well it compresses: the time it takes is bounded."""
_BLOCK_BYTES: Final = 2 << 20
"""A batch of pages for their checksums: with fewer, numpy's calls cost as much as its work."""
_GATHER_BYTES: Final = 256 << 10
"""Small files are put together to this before they are compressed: calls cost more than bytes."""
MAX_FILES: Final = 20_000
"""Files in one part, so that its list stays small in memory."""
_BLOCKS_KEPT: Final = 100
"""Damaged blocks of a file that are remembered to be told; the list beside the part has all."""


@dataclass(frozen=True, slots=True)
class PageRules:
    """How relation files are verified; None of it where the cluster has no data checksums."""

    block_size: int
    blocks_per_file: int


@dataclass(frozen=True, slots=True)
class GivenFile:
    """A file of a backup that does not lie in the data directory; ``file`` is read from its start.

    It belongs to whoever made it and must stay open until the part is written.
    """

    path: str
    file: BinaryIO
    size_bytes: int
    mode: int = 0o600

    @classmethod
    def of(cls, path: str, content: bytes) -> GivenFile:
        """A file whose content is at hand."""
        return cls(path, io.BytesIO(content), len(content))


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

    ``sleep`` is the pause before a page that fails its checksum is read again.
    """

    def __init__(
        self,
        part: BackupPart,
        sealer: Sealer,
        sink: FileSink,
        pages: PageRules | None,
        *,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.part = part
        self.counts = PartCounts()
        self._data = sealer.start(part.data_name)
        self._list = sealer.start(part.files_name)
        self._list_pieces: list[bytearray] = []
        self._sink = sink
        self._pages = pages
        self._sleep = sleep
        # Given out again and again: whoever takes a block copies or digests it at once.
        self._buffer = memoryview(bytearray(_BLOCK_BYTES))
        self._gathered = bytearray()
        self._gathered_lines = bytearray()
        self._ready = bytearray()

    def pieces(self, entries: Iterator[DataEntry | GivenFile]) -> Iterator[bytearray]:
        """The stored bytes of the part, in pieces; entries are read as they are needed.

        A piece may be empty, where all that was read compressed to nothing yet.
        """
        given = 0
        for entry in entries:
            for block in self._members(entry):
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

    def _take(self, block: bytes | memoryview) -> None:
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

    def _compress(self, block: bytes | bytearray | memoryview) -> None:
        self._keep(self._data.write(block))
        self.counts.plain_bytes += len(block)

    def _keep(self, sealed: list[bytearray]) -> None:
        for piece in sealed:
            self._ready += piece

    def _give(self) -> bytearray:
        piece, self._ready = self._ready, bytearray()
        return piece

    def _members(self, entry: DataEntry | GivenFile) -> Iterator[bytes | memoryview]:
        if isinstance(entry, GivenFile):
            return self._given_file(entry)
        if entry.kind is EntryKind.DIRECTORY:
            return iter([_header(entry.path, entry.mode, entry.mtime_ns, (entry.uid, entry.gid))])
        return self._file(entry)

    def _given_file(self, entry: GivenFile) -> Iterator[bytes]:
        now = datetime.now(UTC).replace(microsecond=0)
        nanoseconds = int(now.timestamp()) * 1_000_000_000
        owner = (os.geteuid(), os.getegid())
        yield _header(entry.path, entry.mode, nanoseconds, owner, entry.size_bytes)
        digest = hashlib.sha256()
        entry.file.seek(0)
        for block in iter(lambda: entry.file.read(_BLOCK_BYTES), b""):
            digest.update(block)
            yield block
        yield _padding(entry.size_bytes)
        self._add(
            entry.path,
            entry.size_bytes,
            entry.mode,
            digest.hexdigest(),
            now,
            checked=False,
            bad=(),
        )

    def _file(self, entry: DataEntry) -> Iterator[bytes | memoryview]:
        try:
            file = os.open(entry.source, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            return  # dropped meanwhile; replay drops it again
        except OSError as error:
            raise BackupError(
                f"{entry.source} cannot be read: {error.strerror}",
                hint="backups need a user who may read the whole data directory",
            ) from error
        try:
            yield from self._open_file(entry, file)
        except OSError as error:
            raise BackupError(f"{entry.source} cannot be read: {error.strerror}") from error
        finally:
            os.close(file)

    def _open_file(self, entry: DataEntry, file: int) -> Iterator[bytes | memoryview]:
        # The size of this moment is the size in the archive, whatever happens to the file now.
        facts = os.fstat(file)
        yield _header(
            entry.path, entry.mode, facts.st_mtime_ns, (facts.st_uid, facts.st_gid), facts.st_size
        )
        digest = hashlib.sha256()
        verifier = self._verifier(entry, file)
        bad: list[int] = []
        offset = 0
        for block in _read_blocks(file, facts.st_size, self._buffer):
            digest.update(block)
            if verifier is not None:
                bad += verifier.feed(offset, block)
            offset += len(block)
            yield block
        for zeros in _zeros(facts.st_size - offset):
            digest.update(zeros)
            yield zeros
        yield _padding(facts.st_size)
        modified_at = datetime.fromtimestamp(facts.st_mtime_ns // 1_000_000_000, UTC)
        self._add(
            entry.path,
            facts.st_size,
            entry.mode,
            digest.hexdigest(),
            modified_at,
            checked=verifier is not None,
            bad=tuple(bad),
        )

    def _verifier(self, entry: DataEntry, file: int) -> PageVerifier | None:
        if self._pages is None:
            return None
        segment = find_checksummed_segment(entry.path)
        if segment is None:
            return None
        return PageVerifier(
            segment,
            lambda offset, size: os.pread(file, size, offset),
            block_size=self._pages.block_size,
            blocks_per_file=self._pages.blocks_per_file,
            sleep=self._sleep,
        )

    def _add(
        self,
        path: str,
        size_bytes: int,
        mode: int,
        sha256: str,
        modified_at: datetime,
        *,
        checked: bool,
        bad: tuple[int, ...],
    ) -> None:
        entry = FileEntry.named(
            os.fsencode(path),
            size_bytes=size_bytes,
            mode=mode,
            sha256=sha256,
            modified_at=modified_at,
            checked=checked,
            bad_blocks=bad,
        )
        self.counts.files += 1
        if bad:
            whole = (
                path if self.part.tablespace is None else f"pg_tblspc/{self.part.tablespace}/{path}"
            )
            self.counts.damaged.append(DamagedFile(whole, len(bad), bad[:_BLOCKS_KEPT]))
        for line in encode_files([entry]):
            self._gathered_lines += line
        if len(self._gathered_lines) >= _GATHER_BYTES:
            self._flush_lines()
        self._sink.add(self.part, entry)

    def _flush_lines(self) -> None:
        self._list_pieces += self._list.write(self._gathered_lines)
        self._gathered_lines.clear()


def _read_blocks(file: int, size: int, buffer: memoryview) -> Iterator[memoryview]:
    """At most ``size`` bytes, full buffers but for the last; fewer when the file has shrunk."""
    left = size
    while left > 0:
        wanted = min(left, len(buffer))
        got = 0
        while got < wanted and (step := os.readv(file, [buffer[got:wanted]])):
            got += step
        if got:
            yield buffer[:got]
        if got < wanted:
            return
        left -= got


def _zeros(size: int) -> Iterator[bytes]:
    while size > 0:
        step = min(size, _BLOCK_BYTES)
        yield bytes(step)
        size -= step


def _padding(size: int) -> bytes:
    return bytes(-size % tarfile.BLOCKSIZE)


def _header(
    path: str, mode: int, mtime_ns: int, owner: tuple[int, int], size: int | None = None
) -> bytes:
    """A pax member's header; ``size`` None is a directory. Owner by name only: ids differ."""
    info = tarfile.TarInfo(path)
    info.mode = mode
    info.mtime = mtime_ns // 1_000_000_000
    info.uname, info.gname = _user_name(owner[0]), _group_name(owner[1])
    if size is None:
        info.type = tarfile.DIRTYPE
    else:
        info.size = size
    return info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")


@lru_cache(maxsize=64)
def _user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return ""


@lru_cache(maxsize=64)
def _group_name(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return ""
