"""One segment fetched ahead: a file without a name, and what it tells of tablespaces."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from walkeeper.core.layout import wal_object
from walkeeper.core.wal import WalSegment
from walkeeper.repository.archive import Archive
from walkeeper.services.fetch_file import FetchFile, download
from walkeeper.services.tablespace_guard import (
    TablespaceLook,
    TablespaceSearch,
    look_for_tablespaces,
)


@dataclass(frozen=True, slots=True)
class Ahead:
    """A segment that was fetched ahead: ``look`` is what its content tells, if that was asked."""

    file: FetchFile
    look: TablespaceLook | None


@dataclass(frozen=True, slots=True)
class Wishes:
    """How a client wants its segments: in this directory where there is room, looked through.

    ``many`` says that it is known to need those that follow: they are not felt for one by one.
    """

    directory: Path | None = None
    guard: bool = False
    many: bool = False


class AheadSource:
    """Fetches segments ahead, into ``directory`` where a client's own does not do.

    That has to have ``room_bytes`` to spare.
    """

    def __init__(
        self, archive: Archive, pool: ThreadPoolExecutor, directory: Path, room_bytes: int
    ) -> None:
        self._archive = archive
        self._pool = pool
        self._directory = directory
        self._room_bytes = room_bytes

    async def fetch(self, segment: WalSegment, wishes: Wishes, came: Callable[[], None]) -> Ahead:
        """Fetch a whole segment; the caller closes its file. Raises what `download` raises."""
        size = self._archive.segment_size.bytes
        loop = asyncio.get_running_loop()
        directory = await loop.run_in_executor(self._pool, self._choose, wishes.directory)
        file = FetchFile.unnamed(directory)
        search = TablespaceSearch() if wishes.guard else None
        look = None
        try:
            await loop.run_in_executor(self._pool, file.reserve, size)
            await download(
                self._archive,
                wal_object(segment),
                file,
                self._pool,
                size_bytes=size,
                came=came,
                take=None if search is None else search.feed,
            )
            if search is not None:
                look = await loop.run_in_executor(self._pool, look_into, file, size, search)
        except BaseException:
            # In the pool: a thread may still be writing, and closing waits for it.
            self._pool.submit(file.close)
            raise
        return Ahead(file, look)

    def _choose(self, wished: Path | None) -> Path:
        """The directory that a client wishes, unless PostgreSQL might miss the room there."""
        if wished is None:
            return self._directory
        try:
            status = os.statvfs(wished)
        except OSError:
            return self._directory
        room_bytes = status.f_bavail * status.f_frsize
        return wished if room_bytes >= self._room_bytes else self._directory


def look_into(
    file: FetchFile, size_bytes: int, search: TablespaceSearch | None = None
) -> TablespaceLook:
    """What a file's content, a whole segment, tells of tablespaces. Blocks.

    ``search`` has looked through it while it came.
    """
    with file.view(size_bytes) as view:
        return look_for_tablespaces(view) if search is None else search.finish(view)
