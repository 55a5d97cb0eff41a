"""Files that fetched WAL is written into: the client's, and those of segments fetched ahead."""

from __future__ import annotations

import contextlib
import mmap
import os
import stat
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
from walkeeper.repository.pour import Take, pour

_COPY_BYTES: Final = 8 << 20
_ZEROS: Final = bytes(1 << 18)
_BESIDE: Final = ".whole"
"""Behind a client's own name: where its file lies for a moment. Clients remove what is left there
by a process that was killed, see hooks/fetch.py."""


class FetchFile:
    """Owns a file descriptor that threads write to. All methods block: they run in threads.

    A task that was cancelled leaves its thread running; ``close`` waits for what that thread is
    writing, and nothing is written afterwards: the number may be another file's by then.
    """

    def __init__(
        self, descriptor: int | None, directory: Path | None = None, *, name: Path | None = None
    ) -> None:
        """Takes the descriptor over; without one a file is made when it is first used.

        ``name`` is where the descriptor's file lies if it may be replaced there by another one.
        """
        self.replaced_by: int | None = None
        """The inode of the file that lies under ``name`` since `move_to` put it there."""
        self.home: Path | None = None
        """The directory of ``name`` once this process has seen the file there."""
        self._descriptor = descriptor
        self._directory = directory
        self._name = name
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
            self._look_around()

    def reserve(self, size_bytes: int) -> None:
        """Take the room for so many bytes at once. Raises StorageFull where it is not there.

        Else ext4 looks for it when the file replaces another one (auto_da_alloc, ext4(5)), while
        somebody waits for that.
        """
        with self._lock, _writing():
            os.posix_fallocate(self._opened(), 0, size_bytes)

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

    def move_to(self, other: FetchFile) -> int:
        """Make all of this file the other one's content; returns the number of bytes.

        Where the other one has a name and both are files of one file system, owner and mode, this
        one takes its place by a link and a rename, and the other descriptor leads to it. Else it
        is copied.
        """
        with self._lock, other._lock, _writing():
            source, target = self._opened(), other._opened()
            other._look_around()
            if other.home and _are_alike(source, target) and other._replace(source):
                return os.fstat(source).st_size
        return self.copy_to(other)

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
            self._descriptor = _open_unnamed(self._directory)
        return self._descriptor

    def _look_around(self) -> None:
        """Whether what lies under the name, as this process sees the disk, is this very file.

        A client may run in another mount namespace, or have left and its name been taken.
        """
        self.home = None
        if self._name is None:
            return
        with contextlib.suppress(OSError):
            there, own = self._name.lstat(), os.fstat(self._opened())
            if (there.st_dev, there.st_ino, 1) == (own.st_dev, own.st_ino, own.st_nlink):
                self.home = self._name.parent

    def _replace(self, source: int) -> bool:
        """Put the unnamed file ``source`` where this one lies; False where that cannot be."""
        assert self._name is not None
        beside = self._name.with_name(self._name.name + _BESIDE)
        try:
            _link(source, beside)
        except OSError:  # no /proc, or a file system whose files need a name from the start
            return False
        try:
            beside.rename(self._name)
        except OSError:
            beside.unlink(missing_ok=True)
            return False
        os.dup2(source, self._opened(), inheritable=False)
        self.replaced_by = os.fstat(source).st_ino
        return True


def _open_unnamed(directory: Path | None) -> int:
    if directory is not None:
        flags = os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC
        # Not tempfile: it adds O_EXCL, with which the file can never be linked (open(2)).
        with contextlib.suppress(OSError):
            return os.open(directory, flags, 0o600)
    with tempfile.TemporaryFile(dir=directory, buffering=0) as file:
        return os.dup(file.fileno())


def _link(source: int, path: Path) -> None:
    # With a directory given os.link calls linkat(2), which can follow what lies in /proc.
    directory = os.open("/proc/self/fd", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.link(str(source), path, src_dir_fd=directory, follow_symlinks=True)
    finally:
        os.close(directory)


def _are_alike(source: int, target: int) -> bool:
    """Whether one may replace the other, which is empty and has a name."""
    new, old = os.fstat(source), os.fstat(target)
    same = [
        (status.st_dev, status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode))
        for status in (new, old)
    ]
    return same[0] == same[1] and old.st_size == 0 and new.st_nlink == 0


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
    take: Take | None = None,
) -> None:
    """Write the content of an object into an empty file, checked to its end.

    Returns only when all of it is authentic and it has exactly this size. Raises ObjectNotFound
    before anything is written, IntegrityError, WrongKey and what storage raises; then the file may
    hold a part. ``came`` is called for each block, ``take`` gets each one as well.
    Memory: a few MiB, whatever the size.
    """
    written = 0

    def write(block: bytes) -> None:
        nonlocal written
        written += len(block)
        if written > size_bytes:
            raise _wrong_size(name, f"at least {written}", size_bytes)
        file.write(block)
        if take is not None:
            take(block)

    await pour(archive, name, write, pool, came=came)
    if written != size_bytes:
        raise _wrong_size(name, str(written), size_bytes)


def _wrong_size(name: ObjectName, found: str, expected: int) -> IntegrityError:
    return IntegrityError(f"{name} holds {found} bytes where {expected} were expected")
