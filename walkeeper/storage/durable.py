"""Files that appear as a whole, never replace one another, and survive a power cut.

Synchronous: callers run it in threads. Everything is private to its owner whatever the umask says
(files 0600, directories 0700): sizes and times of backups are nobody else's business.
"""

from __future__ import annotations

import ctypes
import errno
import os
import re
import secrets
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from walkeeper.errors import (
    ObjectExists,
    StorageDenied,
    StorageError,
    StorageFull,
    StorageUnavailable,
)
from walkeeper.storage.base import Buffer
from walkeeper.storage.direct import SequentialWriter, Stages, is_on_device

TEMPORARY_NAME: Final = re.compile(r"\.walkeeper-[0-9a-f]{16}\.tmp")
"""What a file is called while it is written; no object can have such a name."""

_FILE_MODE: Final = 0o600
_FOLDER_MODE: Final = 0o700
_ATTEMPTS_AGAINST_PRUNING: Final = 10

_RENAME_NOREPLACE: Final = 1  # linux/fs.h
_AT_FDCWD: Final = -100  # fcntl.h

_DENIED: Final = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})
_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_SENSELESS: Final = frozenset({errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG})
_NO_HARD_LINKS: Final = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS})
_NO_RENAMEAT2: Final = frozenset({errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP})


@contextmanager
def os_errors(operation: str, path: str | Path) -> Iterator[None]:
    """Turns every OSError of the block into the `StorageError` that says what it means."""
    try:
        yield
    except OSError as error:
        message = f"cannot {operation} {path}: {error.strerror or error}"
        if error.errno == errno.EEXIST:
            raise ObjectExists(f"{path} exists") from error
        if error.errno in _DENIED:
            raise StorageDenied(message) from error
        if error.errno in _FULL:
            raise StorageFull(message) from error
        if error.errno in _SENSELESS:
            raise StorageError(message) from error
        raise StorageUnavailable(message) from error


class Draft:
    """A file on its way to ``path``, invisible until `publish`; large ones pass by the page cache.

    Methods may be called from different threads; `discard` waits for a write under way, may be
    called at any time and any number of times, and does nothing after a successful `publish`.
    """

    def __init__(self, root: Path, path: Path, stages: Stages) -> None:
        """Raises `StorageError`; makes the folders between ``root`` and ``path``.

        It borrows one of ``stages`` for as long as it is open.
        """
        self._root = root
        self._path = path
        self._stages = stages
        self._lock = threading.Lock()
        with os_errors("write", path):
            self._fd, self._temporary = _open_temporary(root, path)
        self._stage = stages.take()
        self._writer = SequentialWriter(self._fd, self._stage, direct=is_on_device(self._fd))
        self._open = True

    def write(self, data: Buffer) -> None:
        """Append ``data``; it is not kept."""
        with self._lock, os_errors("write", self._path):
            self._check_open()
            self._writer.write(data)

    def publish(self) -> None:
        """Make the file durable and give it its name; raises `ObjectExists` if that is taken."""
        with self._lock, os_errors("write", self._path):
            self._check_open()
            self._writer.finish()
            os.fsync(self._fd)
            give_name(self._fd, self._temporary, self._path)
            self._close()
            sync_folders(self._root, self._path.parent)

    def discard(self) -> None:
        """Remove the temporary file; it is also removed later, by its age, when this fails."""
        with self._lock:
            if self._open:
                self._close()

    def _check_open(self) -> None:
        # A cancelled writer may have discarded it before its last job in a thread began.
        if not self._open:
            raise StorageUnavailable(f"the writing of {self._path} was given up")

    def _close(self) -> None:
        self._open = False
        self._stages.give(self._stage)
        with suppress(OSError):
            self._temporary.unlink()
        os.close(self._fd)


def give_name(fd: int, temporary: Path, path: Path) -> None:
    """Let the file ``temporary``, open as ``fd``, be found at ``path``; raises FileExistsError.

    By link(2); where the file system has no hard links by renameat2(2) with RENAME_NOREPLACE, after
    which ``temporary`` is gone; where it has neither, OSError says so.
    """
    try:
        os.link(temporary, path)
    except FileExistsError:
        # An NFS server may have linked it and lost the answer: the repeated request then fails, but
        # our file has two names. See link(2) and open(2), O_EXCL.
        if os.fstat(fd).st_nlink != 2:
            raise
    except OSError as error:
        if error.errno not in _NO_HARD_LINKS:
            raise
        rename_without_replacing(temporary, path)


def rename_without_replacing(temporary: Path, path: Path) -> None:
    """renameat2(2) with RENAME_NOREPLACE; raises FileExistsError when ``path`` is taken, and
    `StorageError` where neither the system nor the file system offers it."""
    code = _renameat2()(_AT_FDCWD, bytes(temporary), _AT_FDCWD, bytes(path), _RENAME_NOREPLACE)
    if code == 0:
        return
    number = ctypes.get_errno()
    if number in _NO_RENAMEAT2:
        raise StorageError(
            f"the file system of {path} can neither link nor rename without replacing",
            hint="use a file system that has hard links: nothing may be overwritten in an archive",
        )
    raise OSError(number, os.strerror(number), str(path))


def sync_folders(root: Path, folder: Path) -> None:
    """Force ``folder`` and every directory above it up to ``root`` to disk."""
    while True:
        _sync_folder(folder)
        if folder == root:
            return
        folder = folder.parent


def sync_file(path: Path) -> None:
    """Force an existing file to disk; raises OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def prune_folders(root: Path, folder: Path) -> None:
    """Remove ``folder`` and what is above it below ``root``, as far as they are empty."""
    while folder != root:
        try:
            folder.rmdir()
        except OSError:
            return
        folder = folder.parent


def _open_temporary(root: Path, path: Path) -> tuple[int, Path]:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    for attempt in range(_ATTEMPTS_AGAINST_PRUNING):
        _make_folders(root, path.parent)
        temporary = path.parent / f".walkeeper-{secrets.token_hex(8)}.tmp"
        try:
            fd = os.open(temporary, flags, _FILE_MODE)
        except FileNotFoundError:
            # A deletion removed the folder while it was empty.
            if attempt + 1 == _ATTEMPTS_AGAINST_PRUNING:
                raise
        else:
            os.fchmod(fd, _FILE_MODE)
            return fd, temporary
    raise AssertionError("unreachable")


def _make_folders(root: Path, folder: Path) -> None:
    if folder == root or folder.is_dir():
        return
    _make_folders(root, folder.parent)
    with suppress(FileExistsError, FileNotFoundError):
        folder.mkdir(mode=_FOLDER_MODE)
        folder.chmod(_FOLDER_MODE)


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    except OSError as error:
        # Some file systems have no fsync of directories and say EINVAL or EBADF; PostgreSQL goes on
        # there as well (fd.c, fsync_fname_ext).
        if error.errno not in {errno.EINVAL, errno.EBADF}:
            raise
    finally:
        os.close(fd)


def _renameat2() -> Callable[[int, bytes, int, bytes, int], int]:
    function = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if function is None:
        return _without_renameat2
    function.argtypes = [
        ctypes.c_int,
        ctypes.c_char_p,
        ctypes.c_int,
        ctypes.c_char_p,
        ctypes.c_uint,
    ]
    function.restype = ctypes.c_int
    return function  # type: ignore[no-any-return]


def _without_renameat2(*_: object) -> int:
    ctypes.set_errno(errno.ENOSYS)
    return -1
