"""The cluster that this agent archives: begins when the server was recognised."""

from __future__ import annotations

import asyncio
import time
from typing import Final

from walkeeper.agent.compose import Workshop
from walkeeper.agent.push_handler import PushHandler
from walkeeper.core.rpo import RpoMeter
from walkeeper.core.wal import WalSegment
from walkeeper.postgres.wal_dir import WalDirectory
from walkeeper.repository.archive import Archive
from walkeeper.services.archiver import Archiver
from walkeeper.services.budget import ByteBudget
from walkeeper.services.source_guard import SourceGuard, Verified
from walkeeper.services.wal_upload import WalSource, WalUploader

_MEASURE_S: Final = 1.0


class ClusterService:
    """Archiver and RPO of one data directory; `push` is None until the server was recognised."""

    def __init__(self, shop: Workshop, archive: Archive, guard: SourceGuard) -> None:
        self._shop = shop
        self._archive = archive
        self.guard = guard
        self.rpo = RpoMeter()
        self.archiver: Archiver | None = None
        self.push: PushHandler | None = None
        self._timeline: int | None = None
        self._draining = False

    async def run(self) -> None:
        """Serve until cancelled, or until drained."""
        while not self.guard.allowed():
            await self.guard.wait_answer(60.0)
        verified = self.guard.verified
        assert verified is not None  # allowed
        wal_dir = WalDirectory(verified.data_dir / "pg_wal", self._shop.pool)
        archiver = self._archiver(verified, wal_dir)
        self.archiver = archiver
        self.push = PushHandler(archiver, self.guard, wal_dir)
        if self._draining:
            return
        async with asyncio.TaskGroup() as group:
            measuring = group.create_task(self._measure())
            await archiver.run()
            measuring.cancel()

    def drain(self) -> None:
        """Start nothing more; `run` returns when the uploads under way have ended."""
        self._draining = True
        if self.archiver is not None:
            self.archiver.drain()

    def _archiver(self, verified: Verified, wal_dir: WalDirectory) -> Archiver:
        config = self._shop.config
        uploader = WalUploader(
            self._archive,
            WalSource(wal_dir.path, verified.facts.system_identifier, verified.facts.major),
            pool=self._shop.pool,
            budget=ByteBudget(config.archive.memory),
            spool_dir=config.agent.state_dir,
        )
        return Archiver(
            wal_dir,
            uploader.upload,
            uploads=config.archive.uploads,
            allowed=self.guard.allowed,
            now=time.monotonic,
        )

    async def _measure(self) -> None:
        while True:
            self._measure_once()
            await asyncio.sleep(_MEASURE_S)

    def _measure_once(self) -> None:
        verified, flushed = self.guard.verified, self.guard.flush_lsn
        if verified is None or flushed is None or self.archiver is None:
            return
        size, timeline = verified.facts.segment_size, verified.facts.timeline
        current = WalSegment.at(timeline, flushed, size)
        waiting = [
            wal
            for wal in self.archiver.waiting()
            if isinstance(wal, WalSegment) and wal.timeline == timeline
        ]
        durable = (waiting[0] if waiting else current).begin(size)
        if timeline != self._timeline:
            self.rpo.restart(durable)
            self._timeline = timeline
        self.rpo.flush(flushed, time.monotonic())
        self.rpo.store(durable)
