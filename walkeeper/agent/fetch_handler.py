"""``wal-fetch`` requests: from the fields of the hook to the fetcher, and its outcome back."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from walkeeper.agent.control_request import Reply, Request
from walkeeper.agent.hook_requests import WalFetchRequest
from walkeeper.core.lsn import Lsn
from walkeeper.core.wal import SegmentSize, WalFile, WalSegment, parse_wal_file
from walkeeper.errors import UsageError
from walkeeper.hooks import wire
from walkeeper.services.fetch_rules import ClientIdentity, FetchRequest
from walkeeper.services.fetcher import Fetcher
from walkeeper.services.tablespace_guard import check_tablespaces


class FetchHandler:
    """Answers ``wal-fetch`` for one archive; errors are left to the server."""

    def __init__(self, fetcher: Fetcher, size: SegmentSize, pool: ThreadPoolExecutor) -> None:
        self._fetcher = fetcher
        self._size = size
        self._pool = pool

    def is_ahead(self, request: Request) -> bool:
        """Whether what is asked for is being, or has been, fetched ahead."""
        return self._fetcher.is_ahead(parse_fetch(request))

    async def go_ahead(self, request: Request) -> Reply:
        """Begin to fetch a segment and those behind it for a recovery that will ask for them."""
        fetch, path = parse_fetch(request), WalFetchRequest.parse(request).path
        loop = asyncio.get_running_loop()
        home = await loop.run_in_executor(self._pool, _find_home, path, fetch.client)
        await self._fetcher.go_ahead(fetch, home)
        return Reply.ok()

    async def __call__(self, request: Request) -> Reply:
        """Serve one request."""
        asked = WalFetchRequest.parse(request)
        fetch = parse_fetch(request)
        outcome = await self._fetcher.fetch(fetch, request.take_descriptor(), asked.temporary)
        if outcome.size_bytes is None:
            return Reply.absent()
        if outcome.look is not None and isinstance(fetch.wal, WalSegment):
            data_dir = asked.path.parent.parent
            guard = partial(check_tablespaces, outcome.look, fetch.wal, self._size, data_dir)
            await asyncio.get_running_loop().run_in_executor(self._pool, guard)
        return Reply.ok(wire.encode_written(outcome.size_bytes, outcome.inode))


def _find_home(path: Path, client: ClientIdentity) -> Path | None:
    """The directory of %p, where this process sees the client's data directory above it."""
    home = path.parent
    try:
        status = home.parent.stat()
    except OSError:
        return None
    return home if (status.st_dev, status.st_ino) == (client.device, client.inode) else None


def parse_fetch(request: Request) -> FetchRequest:
    """What the hook asks for. Raises UsageError for what has no meaning."""
    asked = WalFetchRequest.parse(request)
    return FetchRequest(
        wal=_parse_name(asked.name),
        client=ClientIdentity(asked.data_directory.device, asked.data_directory.inode),
        standby=asked.standby,
        recovery=asked.recovery,
        timeout_s=asked.timeout_s,
        timeline=None if asked.timeline is None else _parse_timeline(asked.timeline),
        end=None if asked.end is None else _parse_end(asked.end),
        present=asked.present,
        run=asked.run,
        guard=asked.guard,
        goes_on=bool(asked.run) or not asked.recovery,
    )


def _parse_name(name: str) -> WalFile:
    try:
        return parse_wal_file(name)
    except ValueError as error:
        raise UsageError(f"{name!r} is not the name of a WAL file") from error


def _parse_timeline(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 0 < int(text) < 1 << 32):
        raise UsageError(f"--timeline {text} is not the number of a timeline")
    return int(text)


def _parse_end(text: str) -> Lsn:
    try:
        return Lsn.parse(text)
    except ValueError as error:
        raise UsageError(f"--end {text} is not an LSN") from error
