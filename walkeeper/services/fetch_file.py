"""Files that fetched WAL is written into: the client's, and those of segments fetched ahead."""

from __future__ import annotations

import asyncio
import mmap
import os
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from walkeeper.core.layout import ObjectName
from walkeeper.errors import IntegrityError, StorageFull, WalkeeperError
from walkeeper.repository.archive import Archive

_COPY_BYTES: Final = 8 << 20
_ZEROS: Final = bytes(1 << 18)


class FetchFile:
    """Owns a file descriptor that threads write to. All methods block: they run in threads.

    A task that was cancelled leaves its thread running; ``close`` waits for what that thread is
    writing, and nothing is written afterwards: the number may be another file's by then.
    """

    def __init__(self, descriptor: int | None, directory: Path | None = None) -> None:
        """Takes the descriptor over; without one a file is made when it is first used."""
        self._descriptor = descriptor
        self._directory = directory
        self._lock = threading.Lock()
        self._closed = False

    @classmethod
    def unnamed(cls, directory: Path) -> FetchFile:
        """A file without a name, which is gone when it is closed or its process dies."""
        return cls(None, directory)

    def empty(self) -> None:
        """Drop what has been written."""
        with self._lock, _writing():
            descriptor = self._opened()
            os.ftruncate(descriptor, 0)
            os.lseek(descriptor, 0, os.SEEK_SET)

    def write(self, data: bytes) -> None:
        """Append. Raises StorageFull where the file cannot take it."""
        with self._lock, _writing():
            descriptor = self._opened()
            rest = memoryview(data)
            while rest:
                rest = rest[os.write(descriptor, rest) :]

    def end_at(self, offset: int, size_bytes: int) -> None:
        """Let zeros follow from ``offset`` on, so that the file has ``size_bytes``.

        They are written, not left out: PostgreSQL counts on the room of its WAL files.
        """
        with self._lock, _writing():
            descriptor = self._opened()
            os.ftruncate(descriptor, offset)
            os.lseek(descriptor, offset, os.SEEK_SET)
            while offset < size_bytes:
                offset += os.write(descriptor, _ZEROS[: size_bytes - offset])

    def view(self, size_bytes: int) -> memoryview:
        """The first bytes, at least one, as they are in the file: not to be cut while in use."""
        with self._lock, _writing():
            return memoryview(mmap.mmap(self._opened(), size_bytes, prot=mmap.PROT_READ))

    def copy_to(self, other: FetchFile) -> int:
        """Write all of this file into another one; returns the number of bytes."""
        with self._lock, other._lock, _writing():
            source, target = self._opened(), other._opened()
            offset = 0
            while sent := os.sendfile(target, source, offset, _COPY_BYTES):
                offset += sent
        return offset

    def close(self) -> None:
        """Idempotent."""
        with self._lock:
            self._closed = True
            if self._descriptor is not None:
                os.close(self._descriptor)
                self._descriptor = None

    def _opened(self) -> int:
        if self._closed:
            raise WalkeeperError("the fetch was given up")
        if self._descriptor is None:
            with tempfile.TemporaryFile(dir=self._directory, buffering=0) as file:
                self._descriptor = os.dup(file.fileno())
        return self._descriptor


@contextmanager
def _writing() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageFull(f"the fetched file cannot be written: {error.strerror}") from error


async def download(
    archive: Archive,
    name: ObjectName,
    file: FetchFile,
    pool: ThreadPoolExecutor,
    *,
    size_bytes: int,
    came: Callable[[], None] | None = None,
) -> None:
    """Write the content of an object into an empty file, checked to its end.

    Returns only when all of it is authentic and it has exactly this size. Raises ObjectNotFound
    before anything is written, IntegrityError, WrongKey and what storage raises; then the file may
    hold a part. ``came`` is called for each block. Memory: a few MiB, whatever the size.
    """
    loop = asyncio.get_running_loop()
    written = 0
    async with archive.open(name) as blocks:
        async for block in blocks:
            if came is not None:
                came()
            written += len(block)
            if written > size_bytes:
                break
            await loop.run_in_executor(pool, file.write, block)
    if written != size_bytes:
        more = "at least " if written > size_bytes else ""
        raise IntegrityError(f"{name} holds {more}{written} bytes where {size_bytes} were expected")
