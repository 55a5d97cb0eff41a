"""WAL for the private server of a drill, served by the drill itself through a socket of its own.

The server's user needs no key and no credentials for it. Before a segment is handed out it is
looked through for records that create tablespaces: replaying one would write into the directory
that it names, which on the host of the source is the live tablespace.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from walkeeper.agent.control import ControlServer
from walkeeper.agent.control_request import Reply, Request
from walkeeper.agent.fetch_handler import parse_fetch
from walkeeper.agent.fetch_service import FetchPlaces, open_fetcher
from walkeeper.config import FetchConfig
from walkeeper.core.wal import SegmentSize, WalSegment
from walkeeper.core.wal_tablespace import LONGEST_BYTES, find_created_tablespaces
from walkeeper.errors import RecoveryError, WalkeeperError, unwrapped
from walkeeper.repository.archive import Archive
from walkeeper.services.drill import FetchAccess
from walkeeper.services.drill_scratch import Scratch
from walkeeper.services.fetcher import Fetcher

_SOCKET: Final = "fetch.sock"


@asynccontextmanager
async def serve_drill(
    archive: Archive,
    pool: ThreadPoolExecutor,
    config: FetchConfig,
    program: Path,
    scratch: Scratch,
) -> AsyncIterator[FetchAccess]:
    """Serve ``wal-fetch`` on a socket in a drill's directory until the context is left.

    ``program`` is the installed walkeeper, which the server's user runs.
    """
    fetcher = await open_fetcher(archive, pool, FetchPlaces(None, scratch.root), config)
    socket = scratch.run_dir / _SOCKET
    handler = GuardedFetch(fetcher, archive.segment_size, pool)
    server = ControlServer(socket)
    server.register("wal-fetch", handler, deadline_s=None)
    server.bind()
    scratch.owner.take(socket)
    with unwrapped():
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(server.serve()), group.create_task(fetcher.run())]
            try:
                words = (str(program), "wal-fetch", "--socket", str(socket))
                yield FetchAccess(words, lambda: handler.last_error)
            finally:
                for task in tasks:
                    task.cancel()


class GuardedFetch:
    """Hands requests on, and refuses a segment whose replay would leave the scratch directory."""

    def __init__(self, fetcher: Fetcher, size: SegmentSize, pool: ThreadPoolExecutor) -> None:
        self.last_error: WalkeeperError | None = None
        """With which the last request that failed was answered."""
        self._fetcher = fetcher
        self._size = size
        self._pool = pool
        self._last: tuple[int, bytes] | None = None

    async def __call__(self, request: Request) -> Reply:
        """Serve one request; the reply is sent only when the segment has been looked through."""
        fetch = parse_fetch(request)
        descriptor = request.take_descriptor()
        try:
            outcome = await self._fetcher.fetch(fetch, os.dup(descriptor))
            if outcome.size_bytes is None:
                return Reply.absent()
            if isinstance(fetch.wal, WalSegment):
                await self._look_through(fetch.wal, descriptor)
            return Reply.ok(str(outcome.size_bytes))
        except WalkeeperError as error:
            self.last_error = error
            raise
        finally:
            os.close(descriptor)

    async def _look_through(self, segment: WalSegment, descriptor: int) -> None:
        number = segment.number(self._size)
        before = b""
        if self._last is not None and self._last[0] == number - 1:
            before = self._last[1]

        def look() -> tuple[str | None, bytes]:
            data = os.pread(descriptor, self._size.bytes, 0)
            return next(find_created_tablespaces(data, before), None), data[-LONGEST_BYTES:]

        found, end = await asyncio.get_running_loop().run_in_executor(self._pool, look)
        if found is not None:
            raise RecoveryError(
                f"{segment} creates a tablespace at {found}, and replaying that would write there, "
                "outside the scratch directory: a drill goes no further",
                hint="take a base backup: the tablespace is a part of it and of later drills",
            )
        self._last = number, end
