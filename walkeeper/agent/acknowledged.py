"""The last segment that this agent has acknowledged, and whether the archive still holds it.

Nobody but retention removes WAL, and that begins at the other end. Where what was acknowledged is
not there any more, the archive was set back to an earlier state or somebody has deleted from it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import msgspec
import structlog

from walkeeper.agent.state_file import keep_state, read_state
from walkeeper.core.layout import ObjectName, parse_wal_object, wal_object
from walkeeper.core.wal import WalSegment
from walkeeper.repository.archive import Archive

_NAME: Final = "acknowledged.json"
_WRITE_EVERY_S: Final = 5.0

log = structlog.get_logger(__name__)


class LastAcknowledged(msgspec.Struct, frozen=True, kw_only=True):
    """The document: ``archive`` is the id of the archive, ``object`` the name in it."""

    archive: str
    object: str
    at: datetime


class Acknowledged:
    """Remembers it in ``state_dir``, at most some seconds late: then an earlier one is looked for.

    ``lost`` names the object that was not there when it was looked for, until another one is
    acknowledged: from then on listings show what is missing before it.
    """

    def __init__(
        self,
        archive: Archive,
        state_dir: Path,
        pool: ThreadPoolExecutor,
        *,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._archive = archive
        self._path = state_dir / _NAME
        self._pool = pool
        self._now = now
        self._last: LastAcknowledged | None = None
        self._written: LastAcknowledged | None = None
        self.lost: ObjectName | None = None

    @property
    def segment(self) -> WalSegment | None:
        """The newest segment that was acknowledged; None where nothing is known of any."""
        if self._last is None:
            return None
        segment = parse_wal_object(self._last.object)
        return segment if isinstance(segment, WalSegment) else None

    async def load(self) -> None:
        """Take what an earlier agent has written, if it was for this archive."""
        loop = asyncio.get_running_loop()
        known = await loop.run_in_executor(self._pool, read_state, self._path, LastAcknowledged)
        if known is not None and known.archive == self._archive.record.archive:
            self._last = self._written = known

    def note(self, name: ObjectName) -> None:
        """This object is durable; what is no complete segment is passed over."""
        segment, newest = parse_wal_object(name), self.segment
        if isinstance(segment, WalSegment) and (newest is None or segment > newest):
            archive = self._archive.record.archive
            self._last = LastAcknowledged(archive=archive, object=name, at=self._now())
            self.lost = None

    async def look(self) -> WalSegment | None:
        """Look for it: the segment, if the archive has lost it. Raises what storage raises."""
        segment = self.segment
        if segment is None:
            return None
        name = wal_object(segment)
        there = await self._archive.holds(name)
        if segment != self.segment:  # a newer one came meanwhile
            return None
        if there:
            self.lost = None
            return None
        if self.lost is None:
            log.error("acknowledged_wal_lost", object=name)
        self.lost = name
        return segment

    async def run(self) -> None:
        """Write it down now and then, until cancelled, and then a last time."""
        try:
            while True:
                await asyncio.sleep(_WRITE_EVERY_S)
                await self._write()
        finally:
            await asyncio.shield(self._write())

    async def _write(self) -> None:
        last = self._last
        if last is None or last is self._written:
            return
        # One that cannot be written was logged, and is tried again with the next segment.
        await keep_state(self._pool, self._path, last)
        self._written = last
