"""What a ``wal-push`` request becomes: the right server, the right file, durable or an error."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from walkeeper.agent.control_request import Reply, Request
from walkeeper.agent.hook_requests import WalPushRequest
from walkeeper.core.wal import WalFile, parse_wal_file
from walkeeper.errors import StorageUnavailable, WalRefused
from walkeeper.postgres.wal_dir import DirectoryIdentity, FileIdentity, WalDirectory
from walkeeper.services.archiver import Archiver
from walkeeper.services.source_guard import SourceGuard

_MARGIN_S: Final = 0.5
"""Kept back from the hook's deadline, so that it gets the reason and not its own time-out."""
_GUARD_WAIT_S: Final = 3.0
_RECENT_S: Final = 60.0
"""How old the store's trouble may be to be told as the likely reason: an attempt takes 30 s."""


class PushHandler:
    """Answers ``wal-push``: ``ok`` means durable in every required repository.

    Attempts go on for longer than a hook can wait. ``trouble`` says why the store was asked again
    within so many seconds, so that PostgreSQL's log tells the reason from the first failure on.
    """

    def __init__(
        self,
        archiver: Archiver,
        guard: SourceGuard,
        wal_dir: WalDirectory,
        trouble: Callable[[float], str | None],
    ) -> None:
        self._archiver = archiver
        self._guard = guard
        self._wal_dir = wal_dir
        self._trouble = trouble

    async def __call__(self, request: Request) -> Reply:
        """Serve one request; raises why the file is not durable."""
        offered = WalPushRequest.parse(request)
        budget_s = max(offered.timeout_s - _MARGIN_S, 0.1)
        wal = _parse_name(offered.path.name)
        try:
            async with asyncio.timeout(budget_s) as scope:
                await self._guard.require(wait_s=min(_GUARD_WAIT_S, budget_s))
                await self._require_own_directory(offered)
                await self._archiver.push(wal, _identity(offered))
        except TimeoutError:
            if not scope.expired():
                raise
            last = self._trouble(_RECENT_S) or self._archiver.statistics.last_error
            reason = f"; last error: {last}" if last else ""
            raise StorageUnavailable(
                f"{wal} is not durable after {budget_s:.1f} s{reason}",
                hint="the upload goes on; PostgreSQL keeps the segment and asks again",
            ) from None
        return Reply.ok()

    async def _require_own_directory(self, offered: WalPushRequest) -> None:
        own = await self._wal_dir.identity()
        if own != DirectoryIdentity(offered.directory.device, offered.directory.inode):
            raise WalRefused(
                f"{offered.path} is not in the pg_wal of this agent's cluster "
                f"({self._wal_dir.path})",
                hint="a copy of the cluster needs an agent and an archive of its own",
            )


def _parse_name(name: str) -> WalFile:
    try:
        return parse_wal_file(name)
    except ValueError as error:
        raise WalRefused(f"{name!r} is not the name of a WAL file") from error


def _identity(offered: WalPushRequest) -> FileIdentity:
    return FileIdentity(
        offered.file.device, offered.file.inode, offered.size_bytes, offered.mtime_ns
    )
