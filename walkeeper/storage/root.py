"""Whether the directory of a repository is still the one seen before; synchronous."""

from __future__ import annotations

import hashlib
import stat
import threading
from contextlib import suppress
from pathlib import Path
from typing import Final

from walkeeper.core.layout import ARCHIVE_RECORD
from walkeeper.errors import StorageUnavailable
from walkeeper.storage.durable import os_errors

_MAX_FOLDERS: Final = 64
_MAX_RECORD_BYTES: Final = 1024 * 1024


class RootGuard:
    """Tells an absent object from an absent mount, and keeps objects off the disk below it.

    A root with another device or inode number is accepted only when it holds every archive known
    from the one before: then the same repository was mounted again. Anything else (a bare mount
    point, empty or not, or another disk) is an outage. Methods may be called in any thread.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._lock = threading.Lock()
        self._known: tuple[int, int] | None = None
        self._archives: dict[str, bytes] = {}
        self._used = False

    def check(self) -> None:
        """Raises `StorageError` unless the root is there and is the one seen before; costs one
        stat(2) as long as it is."""
        with os_errors("open", self._root):
            if self._identity() == self._known:
                return
            with self._lock:
                identity = self._identity()
                if identity != self._known:
                    self._admit(identity)

    def used(self) -> None:
        """An object was found or made: from now on no other directory can be the repository
        unless an archive proves it."""
        self._used = True

    def written(self, name: str) -> None:
        """An object was made; raises `StorageError` when that may have been elsewhere."""
        self.check()
        self.used()
        if _is_archive_record(name):
            with self._lock, os_errors("read", self._root / name):
                self._archives[name] = self._fingerprint(name)

    def deleted(self, name: str) -> None:
        """An object is gone, or was not there; raises `StorageError` when that may only be because
        the root is gone."""
        self.check()
        with self._lock:
            self._archives.pop(name, None)

    def _identity(self) -> tuple[int, int]:
        try:
            found = self._root.stat()
        except FileNotFoundError:
            raise StorageUnavailable(
                f"the directory {self._root} does not exist",
                hint="mount it, or create it before the archive is made",
            ) from None
        if not stat.S_ISDIR(found.st_mode):
            raise NotADirectoryError(f"{self._root} is not a directory")
        return found.st_dev, found.st_ino

    def _admit(self, identity: tuple[int, int]) -> None:
        if self._known is not None and not self._is_same_repository():
            raise StorageUnavailable(
                f"the directory {self._root} is another one than before",
                hint="is its file system still mounted?",
            )
        self._archives |= self._find_archives()
        self._known = identity

    def _is_same_repository(self) -> bool:
        if not self._archives:
            # The program may have been started before the file system was mounted.
            return not self._used and any(self._root.iterdir())
        try:
            return all(self._fingerprint(name) == known for name, known in self._archives.items())
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            return False

    def _find_archives(self) -> dict[str, bytes]:
        """What tells this repository from others; folders that we may not enter do not."""
        archives = {}
        with suppress(OSError):
            for folder in sorted(self._root.iterdir())[:_MAX_FOLDERS]:
                with suppress(OSError):
                    name = f"{folder.name}/{ARCHIVE_RECORD}"
                    archives[name] = self._fingerprint(name)
        return archives

    def _fingerprint(self, name: str) -> bytes:
        path = self._root / name
        if not stat.S_ISREG(path.stat().st_mode):
            raise IsADirectoryError(f"{path} is not a file")
        with path.open("rb") as file:
            return hashlib.sha256(file.read(_MAX_RECORD_BYTES)).digest()


def _is_archive_record(name: str) -> bool:
    folder, _, last = name.partition("/")
    return bool(folder) and last == ARCHIVE_RECORD
