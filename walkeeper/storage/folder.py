"""What is in a directory of a repository and in its files; synchronous, callers use threads."""

from __future__ import annotations

import os
import stat
import threading
from array import array
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from walkeeper.errors import StorageUnavailable
from walkeeper.storage.base import (
    MAX_NAME,
    READ_CHUNK_BYTES,
    Page,
    is_valid_component,
    is_valid_name,
)
from walkeeper.storage.durable import TEMPORARY_NAME, os_errors

_ABANDONED_AFTER_S: Final = 24 * 3600


class FolderReader:
    """Reads single directories; ``now`` gives seconds since the epoch, to tell abandoned files."""

    def __init__(self, root: Path, prefix: str, after: str, *, now: Callable[[], float]) -> None:
        self._root = root
        self._prefix = prefix
        self._after = after
        self._now = now

    def entries(self, folder: str) -> list[str]:
        """The objects and folders of interest in a directory, *last name first*; the names of
        folders end in ``/``. Empty when the directory is not there.

        Folders are compared with their slash: ``a.b`` comes before ``a/b``, and ``a0`` after it.
        """
        names = []
        path = self._root / folder
        room = MAX_NAME - len(folder)
        wants_all = folder.startswith(self._prefix) and folder >= self._after
        missing = suppress(FileNotFoundError, NotADirectoryError)
        with os_errors("list", path), missing, os.scandir(path) as found:
            for item in found:
                if item.name[0] == ".":  # no name of an object
                    self._remove_abandoned(item)
                elif wants_all and item.is_file():
                    if is_valid_component(item.name) and len(item.name) <= room:
                        names.append(folder + item.name)
                elif name := self._name(folder, item):
                    names.append(name)
        names.sort(reverse=True)
        return names

    def stat(self, names: Sequence[str]) -> Page:
        """Size and time of each of these files that is still there."""
        found: list[str] = []
        sizes, times = array("Q"), array("d")
        root = f"{self._root}/"
        with os_errors("list", (self._root / names[0]).parent):
            for name in names:
                try:
                    one = os.stat(root + name)  # noqa: PTH116 - a million of them
                except FileNotFoundError:
                    continue
                found.append(name)
                sizes.append(one.st_size)
                times.append(one.st_mtime)
        return Page(found, sizes, times)

    def holds_object(self, folder: str) -> bool:
        """Whether there is an object anywhere below ``folder``; stops at the first that it sees."""
        below = []
        path = self._root / folder
        missing = suppress(FileNotFoundError, NotADirectoryError)
        with os_errors("list", path), missing, os.scandir(path) as found:
            for item in found:
                name = self._name(folder, item)
                if name.endswith("/"):
                    below.append(name)
                elif name:
                    return True
        return any(self.holds_object(name) for name in below)

    def _name(self, folder: str, item: os.DirEntry[str]) -> str:
        """The name, when it can be or lead to one that is asked for; else empty."""
        name = folder + item.name
        if not is_valid_name(name):
            return ""
        if item.is_dir():
            name += "/"
            wanted = name.startswith(self._prefix) or self._prefix.startswith(name)
            return name if wanted and (name >= self._after or self._after.startswith(name)) else ""
        wanted = item.is_file() and name.startswith(self._prefix) and name > self._after
        return name if wanted else ""

    def _remove_abandoned(self, item: os.DirEntry[str]) -> None:
        if not TEMPORARY_NAME.fullmatch(item.name):
            return
        with suppress(OSError):  # someone else's to remove, or gone already
            found = item.stat(follow_symlinks=False)
            if stat.S_ISREG(found.st_mode) and self._now() - found.st_mtime > _ABANDONED_AFTER_S:
                Path(item.path).unlink()


class FileReader:
    """A file open for reading a range; `close` waits for a read under way in another thread."""

    def __init__(self, path: Path, offset: int, length: int | None) -> None:
        self._path = path
        self._lock = threading.Lock()
        size = stat_file(path).st_size
        self._position = offset
        self._end = size if length is None else min(size, offset + length)
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self._open = True

    def read(self) -> bytes:
        """The next chunk; empty at the end. Raises `StorageUnavailable` when the file is shorter
        than it was."""
        wanted = min(READ_CHUNK_BYTES, self._end - self._position)
        if wanted <= 0:
            return b""
        with self._lock, os_errors("read", self._path):
            if not self._open:
                return b""
            chunk = os.pread(self._fd, wanted, self._position)
        if not chunk:
            raise StorageUnavailable(f"{self._path} ended early, at byte {self._position}")
        self._position += len(chunk)
        return chunk

    def close(self) -> None:
        """Idempotent."""
        with self._lock:
            if self._open:
                self._open = False
                os.close(self._fd)


def stat_file(path: Path) -> os.stat_result:
    """Stat of a file; raises IsADirectoryError for whatever else has that name."""
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        raise IsADirectoryError(f"{path} is not a file")
    return found
