"""``pg_wal`` and its archive_status: what PostgreSQL wants archived.

The scan is the truth; what the operating system notifies only says that it is time for one.
Nothing here changes a file: ``.ready`` becomes ``.done`` by PostgreSQL's own hand.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

from walkeeper.core.wal import TimelineHistoryFile, WalFile, parse_wal_file
from walkeeper.errors import PostgresError

_Result = TypeVar("_Result")

_STATUS: Final = "archive_status"
_READY: Final = ".ready"
_DONE: Final = ".done"
# Events that come this close together wake once; a segment takes longer to ship. The watcher wakes
# for each step even where nothing happens, and whoever has a hook waiting is served at once anyway.
_DEBOUNCE_MS: Final = 200
_STEP_MS: Final = 100


@dataclass(frozen=True, slots=True)
class FileIdentity:
    """What changes when a file is replaced, recycled or rewritten; its times need not."""

    device: int
    inode: int
    size_bytes: int
    mtime_ns: int


@dataclass(frozen=True, slots=True)
class DirectoryIdentity:
    """Device and inode: two paths that lead to the same directory agree in it."""

    device: int
    inode: int


@dataclass(frozen=True, slots=True)
class WalScan:
    """One look at ``pg_wal``.

    ``ready`` is in the order in which PostgreSQL's archiver takes them; ``history`` are the
    timeline history files that exist, archived or not; ``strange`` are names marked ready that
    no WAL file has.
    """

    ready: tuple[WalFile, ...]
    done: frozenset[WalFile]
    history: tuple[TimelineHistoryFile, ...]
    strange: tuple[str, ...]


class WalDirectory:
    """The ``pg_wal`` of a data directory, a symbolic link or not.

    Its methods read the file system in the given executor and raise PostgresError when they
    cannot; they never say "nothing" instead.
    """

    def __init__(self, path: Path, executor: ThreadPoolExecutor) -> None:
        self._path = path
        self._executor = executor

    @property
    def path(self) -> Path:
        """As it was given."""
        return self._path

    async def scan(self) -> WalScan:
        """What is to be archived, what has been, and which histories there are."""
        return await self._run(scan_wal_directory, self._path)

    async def identity(self) -> DirectoryIdentity:
        """Which directory this is, links followed."""
        return await self._run(_identify_directory, self._path)

    async def find_identity(self, file: WalFile) -> FileIdentity | None:
        """The identity of one file, None when there is no such file (now)."""
        return await self._run(_find_identity, self._path / str(file))

    async def find_identities(self, files: Iterable[WalFile]) -> dict[WalFile, FileIdentity]:
        """The identities of those of the files that are there (now)."""
        wanted = list(files)
        return await self._run(partial(_find_identities, wanted), self._path) if wanted else {}

    async def watch(
        self, *, poll_interval_s: float, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    ) -> AsyncGenerator[None, None]:
        """Yield whenever a scan is worth while: on a change, and each ``poll_interval_s`` anyway.

        Where changes cannot be watched (no inotify left, a network file system) only the interval
        counts. Ends only when closed: iterate it under ``contextlib.aclosing``.
        """
        import watchfiles

        changes = watchfiles.awatch(
            self._path / _STATUS,
            watch_filter=None,
            debounce=_DEBOUNCE_MS,
            step=_STEP_MS,
            rust_timeout=max(1, int(poll_interval_s * 1000)),
            yield_on_timeout=True,
            recursive=False,
        )
        try:
            async with aclosing(changes):
                async for _ in changes:
                    yield
        except (OSError, RuntimeError):  # its WatchfilesRustInternalError is a RuntimeError
            pass  # the watch cannot be set up or was lost; polling is a correct substitute
        while True:
            await sleep(poll_interval_s)
            yield

    async def _run(self, function: Callable[[Path], _Result], path: Path) -> _Result:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._executor, function, path)


def scan_wal_directory(path: Path) -> WalScan:
    """Look at a ``pg_wal`` now. Blocks. Raises PostgresError."""
    ready: list[WalFile] = []
    done: set[WalFile] = set()
    strange: list[str] = []
    for name in _names(path / _STATUS):
        base, dot, status = name.rpartition(".")
        if dot + status not in {_READY, _DONE}:
            continue
        file = _parse(base)
        if file is None:
            strange.append(base)
        elif dot + status == _READY:
            ready.append(file)
        else:
            done.add(file)
    history = (file for file in map(_parse, _names(path)) if isinstance(file, TimelineHistoryFile))
    return WalScan(
        ready=tuple(sorted(ready, key=archiver_order)),
        done=frozenset(done),
        history=tuple(sorted(history, key=str)),
        strange=tuple(sorted(strange)),
    )


def archiver_order(file: WalFile) -> tuple[bool, str]:
    """Sorts as the archiver does: histories first, then by name.

    src/backend/postmaster/pgarch.c, ready_file_comparator: a history that comes late lets another
    server choose the same timeline.
    """
    return (not isinstance(file, TimelineHistoryFile), str(file))


def _parse(name: str) -> WalFile | None:
    try:
        return parse_wal_file(name)
    except ValueError:
        return None


def _names(directory: Path) -> Iterator[str]:
    try:
        with os.scandir(directory) as items:
            for item in items:
                yield item.name
    except OSError as error:
        raise _unreadable(directory, error) from error


def _identify_directory(path: Path) -> DirectoryIdentity:
    try:
        facts = path.stat()
    except OSError as error:
        raise _unreadable(path, error) from error
    return DirectoryIdentity(facts.st_dev, facts.st_ino)


def _find_identity(path: Path) -> FileIdentity | None:
    try:
        facts = path.stat()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _unreadable(path, error) from error
    return FileIdentity(facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns)


def _find_identities(files: list[WalFile], path: Path) -> dict[WalFile, FileIdentity]:
    found = ((file, _find_identity(path / str(file))) for file in files)
    return {file: identity for file, identity in found if identity is not None}


def _unreadable(path: Path, error: OSError) -> PostgresError:
    return PostgresError(
        f"cannot read {path}: {error.strerror}",
        hint="walkeeper runs beside the server, as a user who may read its files",
    )
