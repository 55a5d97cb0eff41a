"""The files of a base backup as they are read: a tar in blocks, digests, page checksums."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import BinaryIO, Final

from walkeeper.core.backup import FileEntry
from walkeeper.errors import BackupError
from walkeeper.postgres.data_dir import DataEntry, EntryKind
from walkeeper.postgres.exclusions import find_checksummed_segment
from walkeeper.postgres.page_checksum import PageRules, PageVerifier
from walkeeper.services.backup_small import SMALL_BYTES, SmallFiles, open_source
from walkeeper.services.tar_header import directory_header, file_header, padding

Block = bytes | bytearray | memoryview
Beside = Callable[[Callable[[], None]], Callable[[], None]]
"""Begins some work, perhaps in another thread; returns what waits until it is done."""

_BLOCK_BYTES: Final = 2 << 20
"""What is read at once; each block costs calls and turns at the interpreter's lock."""


def at_once(work: Callable[[], None]) -> Callable[[], None]:
    """The `Beside` of whoever has no thread to spare: does the work in this one."""
    work()
    return _nothing


def _nothing() -> None:
    pass


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


class TarReader:
    """Reads entries into a tar, and tells ``done`` of each file that is in it.

    ``sleep`` is the pause before a page that fails its checksum is read again. Digests and
    checksums of large files are made ``beside`` the consumer's work on the same block.
    """

    def __init__(
        self,
        pages: PageRules | None,
        done: Callable[[FileEntry], None],
        *,
        sleep: Callable[[float], None],
        beside: Beside,
    ) -> None:
        self._pages = pages
        self._done = done
        self._sleep = sleep
        self._beside = beside
        # Given out again and again: whoever takes a block copies or digests it at once.
        self._buffer = memoryview(bytearray(_BLOCK_BYTES))
        self._small = SmallFiles(self._buffer, pages, sleep)

    def blocks(self, entries: Iterator[DataEntry | GivenFile]) -> Iterator[Block]:
        """The tar, but for its end. A block holds until the next one is asked for."""
        for entry in entries:
            if isinstance(entry, GivenFile):
                yield self._settle()
                yield from self._given_file(entry)
            elif entry.kind is EntryKind.DIRECTORY:
                yield self._settle()
                owner = (entry.uid, entry.gid)
                yield directory_header(entry.path, entry.mode, entry.mtime_ns, owner)
            else:
                yield from self._file(entry)
        yield self._settle()

    def _settle(self) -> bytes:
        """The small files that were read and not given out yet."""
        tar: list[bytes | memoryview] = []
        for file in self._small.settle():
            tar += (_header(file.entry, file.facts), file.content, padding(len(file.content)))
            digest = hashlib.sha256(file.content).hexdigest()
            self._done(_listed(file.entry, file.facts, digest, checked=file.checked, bad=file.bad))
        return b"".join(tar)

    def _given_file(self, entry: GivenFile) -> Iterator[bytes]:
        now = datetime.now(UTC).replace(microsecond=0)
        nanoseconds = int(now.timestamp()) * 1_000_000_000
        owner = (os.geteuid(), os.getegid())
        yield file_header(entry.path, entry.mode, nanoseconds, owner, entry.size_bytes)
        digest = hashlib.sha256()
        entry.file.seek(0)
        for block in iter(lambda: entry.file.read(_BLOCK_BYTES), b""):
            digest.update(block)
            yield block
        yield padding(entry.size_bytes)
        self._done(
            FileEntry.named(
                os.fsencode(entry.path),
                size_bytes=entry.size_bytes,
                mode=entry.mode,
                sha256=digest.hexdigest(),
                modified_at=now,
            )
        )

    def _file(self, entry: DataEntry) -> Iterator[Block]:
        file = open_source(entry.source)
        if file is None:
            return
        try:
            # The size of this moment is the size in the archive, whatever happens to the file now.
            facts = os.fstat(file)
            if facts.st_size <= SMALL_BYTES:
                self._small.read(entry, file, facts)
                if self._small.full:
                    yield self._settle()
            else:
                yield self._settle()  # the buffer is the same
                yield from self._large_file(entry, file, facts)
        except OSError as error:
            raise BackupError(f"{entry.source} cannot be read: {error.strerror}") from error
        finally:
            os.close(file)

    def _large_file(self, entry: DataEntry, file: int, facts: os.stat_result) -> Iterator[Block]:
        yield _header(entry, facts)
        # The kernel then reads ahead in larger steps, which costs less CPU.
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_SEQUENTIAL)
        digest = hashlib.sha256()
        verifier = self._verifier(entry, file)
        bad: list[int] = []
        offset = 0

        def check(block: memoryview) -> None:
            digest.update(block)
            if verifier is not None:
                bad.extend(verifier.feed(offset, block))

        for block in _read_blocks(file, facts.st_size, self._buffer):
            finish = self._beside(partial(check, block))
            try:
                yield block
            finally:
                finish()  # before the block, or the file, is used for something else
            offset += len(block)
        for zeros in _zeros(facts.st_size - offset):
            digest.update(zeros)
            yield zeros
        yield padding(facts.st_size)
        checked = verifier is not None
        self._done(_listed(entry, facts, digest.hexdigest(), checked=checked, bad=bad))

    def _verifier(self, entry: DataEntry, file: int) -> PageVerifier | None:
        if self._pages is None:
            return None
        segment = find_checksummed_segment(entry.path)
        return None if segment is None else self._pages.verifier(segment, file, self._sleep)


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


def _header(entry: DataEntry, facts: os.stat_result) -> bytes:
    owner = (facts.st_uid, facts.st_gid)
    return file_header(entry.path, entry.mode, facts.st_mtime_ns, owner, facts.st_size)


def _listed(
    entry: DataEntry, facts: os.stat_result, sha256: str, *, checked: bool, bad: Sequence[int]
) -> FileEntry:
    return FileEntry.named(
        os.fsencode(entry.path),
        size_bytes=facts.st_size,
        mode=entry.mode,
        sha256=sha256,
        modified_at=datetime.fromtimestamp(facts.st_mtime_ns // 1_000_000_000, UTC),
        checked=checked,
        bad_blocks=bad,
    )
