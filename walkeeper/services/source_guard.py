"""Whether this process may write this cluster's WAL into this archive, asked again and again.

The dsn may lead to another server than the files, a hook may come from a restored copy, and a
setting may change at any time. Nothing is written unless the server that was asked is the one that
runs on the data directory, archives through our own hook, and belongs to the archive.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

import structlog

from walkeeper.core.lsn import Lsn
from walkeeper.errors import (
    ForeignCluster,
    PostgresError,
    PostgresUnavailable,
    WalkeeperError,
    WrongServer,
)
from walkeeper.postgres.facts import ServerFacts
from walkeeper.postgres.postmaster import find_postmaster
from walkeeper.postgres.server import Server
from walkeeper.repository.records import ArchiveRecord
from walkeeper.services.lineage import Lineage, Position
from walkeeper.services.source_rules import require_attached, require_source

_POLL_S: Final = 5.0
_LINEAGE_S: Final = 3600.0
"""How often the archive itself is looked at again: somebody may have removed it."""
_RETRY_S: Final = 1.0
_DEADLINE_S: Final = 10.0

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Verified:
    """What was found when the server was last asked and everything fitted."""

    facts: ServerFacts
    data_dir: Path
    postmaster_started_at: datetime
    pg_wal: tuple[int, int] = (0, 0)
    """Device and inode of the directory that was recognised."""


@dataclass(frozen=True, slots=True)
class Checked:
    """What the archive was found to hold of a timeline, asked in a session."""

    session: Server
    timeline: int
    lineage: Lineage


CheckLineage = Callable[[Callable[[], Awaitable[Position]], Path], Awaitable[Lineage]]
"""`walkeeper.services.lineage.check_lineage` of an archive: where the server is, its ``pg_wal``."""


class SourceGuard:
    """Asks the server every few seconds and remembers the answer; `require` is cheap.

    An answer outlives the connection, for PostgreSQL's last archiving cycle comes when nobody can
    connect any more; it does not outlive the postmaster it was about.
    """

    def __init__(
        self,
        dsn: str,
        record: ArchiveRecord,
        pool: ThreadPoolExecutor,
        *,
        data_dir: Path | None = None,
        lineage: CheckLineage | None = None,
    ) -> None:
        self._dsn = dsn
        self._record = record
        self._pool = pool
        self._configured_dir = data_dir
        self._lineage = lineage
        self._asked = asyncio.Condition()
        self._wake = asyncio.Event()
        self.verified: Verified | None = None
        self.refusal: WalkeeperError | None = PostgresUnavailable(
            "PostgreSQL has not been reached yet", hint="is the server running? see [cluster] dsn"
        )
        self.flush_lsn: Lsn | None = None
        self.checked: Checked | None = None
        self.bound: Path | None = None
        """The data directory that is being archived, once that has begun: no other one is."""
        self._lineage_at = 0.0
        self.session: Server | None = None
        """A session with the very server that runs on the data directory, whatever else of it
        may not fit; None while there is none."""

    def allowed(self) -> bool:
        """Whether the last answer was that everything fits."""
        return self.refusal is None and self.verified is not None

    def ask_now(self) -> None:
        """Do not wait for the next time: something seems to have changed."""
        self._wake.set()

    def doubt(self, error: WalkeeperError) -> None:
        """The archive holds what is not this server's: write nothing until it was compared anew."""
        self.verified = self.checked = None
        self.refusal = error
        log.error("source_doubted", reason=str(error), hint=error.hint)
        self._wake.set()

    async def run(self) -> None:
        """Ask for ever; cancelled at the end."""
        while True:
            try:
                async with await Server.connect(self._dsn, deadline_s=_DEADLINE_S) as server:
                    await self._ask_while_connected(server)
            except PostgresUnavailable as error:
                await self._lost(error)
            except WalkeeperError as error:
                await self._refuse(error)
                await self._pause(_POLL_S)
            await self._pause(_RETRY_S)

    async def wait_answer(self, timeout_s: float) -> None:
        """Return once everything fitted, or after ``timeout_s``."""
        try:
            async with asyncio.timeout(timeout_s), self._asked:
                await self._asked.wait_for(self.allowed)
        except TimeoutError:
            return

    async def still_allowed(self) -> bool:
        """Whether the last answer was that everything fits, and the local files still say so.

        A server that has gone may be followed by a restored copy in the same place.
        """
        return self.allowed() and await self._holds()

    async def require(self, *, wait_s: float) -> Verified:
        """The last answer, if it still holds; waits a little for one when there is none.

        Raises the reason why nothing may be written.
        """
        if not self.allowed() or not await self._holds():
            self.ask_now()  # what was wrong may just have been mended
            await self.wait_answer(wait_s)
        if self.refusal is not None:
            raise self.refusal
        if self.verified is None or not await self._holds():
            raise PostgresUnavailable("the server was restarted and has not been asked yet")
        return self.verified

    async def _holds(self) -> bool:
        verified = self.verified
        if verified is None:
            return False
        loop = asyncio.get_running_loop()
        reason = await loop.run_in_executor(self._pool, _find_change, verified)
        if reason is not None:
            self.verified = self.checked = None
            self.refusal = reason
        return reason is None

    async def _ask_while_connected(self, server: Server) -> None:
        try:
            while True:
                try:
                    await self._ask(server)
                except (PostgresUnavailable, WrongServer):
                    raise
                except WalkeeperError as error:
                    await self._refuse(error)
                await self._pause(_POLL_S)
        finally:
            self.session = None

    async def _ask(self, server: Server) -> None:
        facts = await server.facts()
        data_dir = self._configured_dir or facts.data_directory
        await server.check_same_server(data_dir, self._pool)
        if self.bound is not None and data_dir != self.bound:
            raise PostgresError(
                f"the server has moved from {self.bound} to {data_dir}",
                hint="restart the agent: systemctl restart walkeeper",
            )
        self.session = server
        self.flush_lsn = None if facts.in_recovery else await server.flush_lsn()
        require_source(facts, self._record)
        loop = asyncio.get_running_loop()
        verified = Verified(facts, data_dir, facts.postmaster_started_at)
        found = await loop.run_in_executor(self._pool, _with_local_start, verified)
        if not facts.in_recovery:
            await self._check_lineage(server, found)
        async with self._asked:
            if self.refusal is not None:
                log.info("source_verified", data_directory=str(data_dir))
            self.verified, self.refusal = found, None
            self._asked.notify_all()

    async def _pause(self, seconds: float) -> None:
        """Wait, but not for longer than until somebody wants to know."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._wake.wait()
        self._wake.clear()

    async def _check_lineage(self, server: Server, found: Verified) -> None:
        """For each session and each timeline, and hourly: is it the archive's own?"""
        timeline, checked = found.facts.timeline, self.checked
        known = checked is not None and checked.session is server and checked.timeline == timeline
        now = asyncio.get_running_loop().time()
        if self._lineage is None or (known and now - self._lineage_at < _LINEAGE_S):
            return

        async def where() -> Position:
            position = await server.wal_position()
            if position is None or position[0] != timeline:
                raise PostgresUnavailable("the server changed while it was being recognised")
            return Position(*position)

        lineage = await self._lineage(where, found.data_dir / "pg_wal")
        self._lineage_at = now
        if not known:  # else the tail has gone on from there meanwhile
            self.checked = Checked(server, timeline, lineage)

    async def _lost(self, error: PostgresUnavailable) -> None:
        # A verified server that shuts down goes on archiving: what was found holds until the
        # postmaster's own file says otherwise, which every `require` looks at.
        if self.verified is None:
            await self._refuse(error)
        self.flush_lsn = None

    async def _refuse(self, error: WalkeeperError) -> None:
        if str(self.refusal) != str(error):
            emit = log.error if isinstance(error, ForeignCluster) else log.warning
            emit("source_refused", reason=str(error), hint=error.hint)
        self.verified = self.checked = None
        self.refusal = error


def _with_local_start(verified: Verified) -> Verified:
    require_attached(verified.data_dir)
    postmaster = find_postmaster(verified.data_dir)
    if postmaster is None:
        raise PostgresUnavailable(f"no server runs on {verified.data_dir}")
    pg_wal = _identify(verified.data_dir)
    return Verified(verified.facts, verified.data_dir, postmaster.started_at, pg_wal)


def _identify(data_dir: Path) -> tuple[int, int]:
    try:
        facts = (data_dir / "pg_wal").stat()
    except OSError as error:
        raise PostgresUnavailable(f"{data_dir}/pg_wal cannot be read: {error.strerror}") from error
    return facts.st_dev, facts.st_ino


def _find_change(verified: Verified) -> WalkeeperError | None:
    try:
        require_attached(verified.data_dir)
        postmaster = find_postmaster(verified.data_dir)
        if _identify(verified.data_dir) != verified.pg_wal:
            return PostgresUnavailable(f"{verified.data_dir} is another directory than before")
    except WalkeeperError as error:
        return error
    # Without the file the postmaster has gone; its archiver may still be in its last cycle.
    if postmaster is not None and postmaster.started_at != verified.postmaster_started_at:
        return PostgresUnavailable("the server was restarted and has not been asked yet")
    return None
