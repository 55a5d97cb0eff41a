"""The cluster that this agent archives: begins when the server was recognised."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Final

from walkeeper.agent.acknowledged import Acknowledged
from walkeeper.agent.compose import Workshop
from walkeeper.agent.push_handler import PushHandler
from walkeeper.agent.tail_loop import TailLoop
from walkeeper.core.rpo import RpoHistory, RpoMeter
from walkeeper.core.wal import WalFile, WalSegment
from walkeeper.errors import DifferentContent
from walkeeper.postgres.wal_dir import FileIdentity, WalDirectory
from walkeeper.repository.archive import Archive
from walkeeper.repository.identity import require_record
from walkeeper.services.archiver import Archiver
from walkeeper.services.budget import ByteBudget
from walkeeper.services.lineage import Lineage, Position, check_lineage
from walkeeper.services.source_guard import SourceGuard, Verified
from walkeeper.services.wal_upload import WalSource, WalUploader

_MEASURE_S: Final = 1.0
_SEALED_AHEAD: Final = 2
"""Segments that are compressed and sealed while as many as are wanted are on their way."""


class ClusterService:
    """Archiver, tail and RPO of one data directory.

    ``push`` and ``tail`` are None until the server was recognised for the first time.
    """

    def __init__(self, shop: Workshop, archive: Archive) -> None:
        self._shop = shop
        self._archive = archive
        self.guard = SourceGuard(
            shop.config.require_dsn().reveal(),
            archive.record,
            shop.pool,
            data_dir=shop.config.cluster.data_directory,
            lineage=self._lineage,
        )
        self.acknowledged = Acknowledged(archive, shop.config.agent.state_dir, shop.pool)
        self.rpo = RpoMeter()
        self.rpo_hour = RpoHistory()
        self.archiver: Archiver | None = None
        self.push: PushHandler | None = None
        self.tail: TailLoop | None = None
        self._draining = False

    async def run(self) -> None:
        """Serve until cancelled, or until drained."""
        await self.acknowledged.load()
        async with asyncio.TaskGroup() as group:
            asking = group.create_task(self.guard.run())
            await self._serve()
            asking.cancel()

    async def _serve(self) -> None:
        while not self.guard.allowed() and not self._draining:
            await self.guard.wait_answer(_MEASURE_S)
        verified = self.guard.verified
        if verified is None or self._draining:
            return
        self.guard.bound = verified.data_dir
        wal_dir = WalDirectory(verified.data_dir / "pg_wal", self._shop.pool)
        uploader = self._uploader(verified, wal_dir)
        self.archiver = Archiver(
            wal_dir,
            partial(self._upload, uploader),
            size=self._archive.segment_size,
            uploads=self._shop.config.archive.uploads + _SEALED_AHEAD,
            allowed=self.guard.still_allowed,
            now=time.monotonic,
        )
        self.push = PushHandler(self.archiver, self.guard, wal_dir, self._shop.counters.trouble)
        self.tail = TailLoop(
            self._archive,
            wal_dir.path,
            self._shop.pool,
            guard=self.guard,
            archiver=self.archiver,
            rpo=self.rpo,
            interval_s=float(self._shop.config.tail.interval),
            spool=uploader.open_spool,
        )
        async with asyncio.TaskGroup() as group:
            background = [
                group.create_task(self._note_rpo()),
                group.create_task(self.acknowledged.run()),
                group.create_task(self.tail.run()),
            ]
            await self.archiver.run()
            for task in background:
                task.cancel()

    async def _upload(self, uploader: WalUploader, wal: WalFile, identity: FileIdentity) -> None:
        try:
            self.acknowledged.note(await uploader.upload(wal, identity))
        except DifferentContent as error:
            if isinstance(wal, WalSegment):  # another server has written this timeline
                self.guard.doubt(error)
            raise

    def drain(self) -> None:
        """Start nothing more; `run` returns when the uploads under way have ended."""
        self._draining = True
        if self.archiver is not None:
            self.archiver.drain()

    async def _lineage(self, where: Callable[[], Awaitable[Position]], pg_wal: Path) -> Lineage:
        await require_record(self._archive, self._shop.trust)
        accepted = self._shop.config.cluster.accepted_gap
        lost = await self.acknowledged.look()
        return await check_lineage(
            self._archive, where, pg_wal, self._shop.pool, accept_gap=accepted, lost=lost
        )

    def _uploader(self, verified: Verified, wal_dir: WalDirectory) -> WalUploader:
        config = self._shop.config
        facts = verified.facts
        return WalUploader(
            self._archive,
            WalSource(wal_dir.path, facts.system_identifier, facts.major),
            pool=self._shop.pool,
            budget=ByteBudget(config.archive.memory),
            spool_dir=config.agent.state_dir,
            puts=config.archive.uploads,
        )

    async def _note_rpo(self) -> None:
        while True:
            now = time.monotonic()
            self.rpo_hour.note(self.rpo.rpo_s(now), now)
            await asyncio.sleep(_MEASURE_S)
