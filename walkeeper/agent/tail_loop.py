"""Asks the server where its WAL ends, every interval, and has the tail shipped up to there."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, Final

import structlog

from walkeeper.agent.compose import Workshop
from walkeeper.core.rpo import RpoMeter
from walkeeper.errors import ForeignCluster, PostgresError, WalkeeperError
from walkeeper.postgres.server import Server
from walkeeper.repository.archive import Archive
from walkeeper.services.archiver import Archiver
from walkeeper.services.lineage import Position
from walkeeper.services.source_guard import SourceGuard
from walkeeper.services.tail import TailShipper, TailStatistics

_DEADLINE_S: Final = 10.0
_RETRY_S: Final = 1.0
_MINIMUM: Final = {13: 130_005, 14: 140_001}
"""Before these a crash could overwrite a record that had been flushed in part (release notes of
13.5 and 14.1: XLP_FIRST_IS_OVERWRITE_CONTRECORD)."""

log = structlog.get_logger(__name__)


class TailLoop:
    """Runs the tail of one cluster on a session of its own."""

    def __init__(
        self,
        shop: Workshop,
        archive: Archive,
        *,
        guard: SourceGuard,
        archiver: Archiver,
        rpo: RpoMeter,
        spool: Callable[[], BinaryIO],
    ) -> None:
        self._shop = shop
        self._archive = archive
        self._guard = guard
        self._archiver = archiver
        self._rpo = rpo
        self._spool = spool
        self._shipper: TailShipper | None = None
        self._resumed: object = None
        self._off = TailStatistics()

    @property
    def statistics(self) -> TailStatistics:
        """What the tail does and has done."""
        return self._off if self._shipper is None else self._shipper.statistics

    async def run(self, pg_wal: Path) -> None:
        """Serve until cancelled; returns at once when the tail is turned off."""
        interval_s = float(self._shop.config.tail.interval)
        if interval_s == 0:
            self._off.reason = '[tail] interval is "0s"'
            return
        size = self._archive.segment_size
        self._shipper = TailShipper(
            self._archive,
            pg_wal,
            self._shop.pool,
            settled=lambda segment: self._archiver.settled_before(segment, size),
            rpo=self._rpo,
            spool=self._spool,
        )
        while True:
            try:
                dsn = self._shop.config.require_dsn().reveal()
                async with await Server.connect(dsn, deadline_s=_DEADLINE_S) as server:
                    while True:
                        began = time.monotonic()
                        await self._tick(server, self._shipper)
                        left_s = interval_s - (time.monotonic() - began)
                        await asyncio.sleep(max(left_s, 0))
            except PostgresError as error:
                self._note(self._shipper, error)
            await asyncio.sleep(_RETRY_S)

    async def _tick(self, server: Server, shipper: TailShipper) -> None:
        verified, checked = self._guard.verified, self._guard.checked
        if not self._guard.allowed() or verified is None:
            shipper.switch_off(str(self._guard.refusal))
            self._resumed = None
            return
        found = await server.wal_position()
        if found is None:
            shipper.switch_off("the server is a standby: its primary ships the tail")
            self._resumed = None
            return
        facts = verified.facts
        if facts.version_num < _MINIMUM.get(facts.major, 0):
            shipper.switch_off(f"PostgreSQL {facts.version_num} is too old: update to its newest")
            return
        position = Position(*found)
        self._rpo.flush(position.flushed, time.monotonic())
        if checked is None or checked.key[1] != position.timeline:
            return  # a new timeline: the guard looks at it within seconds
        try:
            if self._resumed is not checked:
                await shipper.resume(checked.chain)
                self._resumed = checked
            await shipper.tick(position)
        except PostgresError:
            raise
        except WalkeeperError as error:
            self._note(shipper, error)

    def _note(self, shipper: TailShipper, error: WalkeeperError) -> None:
        text = str(error)
        if shipper.statistics.last_error != text:
            shipper.statistics.last_error = text
            emit = log.error if isinstance(error, ForeignCluster) else log.warning
            emit("tail_not_shipped", reason=text, hint=error.hint)
