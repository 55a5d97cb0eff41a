"""Keeps an eye on the archive for everybody who wants to know: page, metrics and alerts.

One look at the archive serves them all. What the agent knows by itself is asked for afresh.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import msgspec
import structlog

from walkeeper.agent.compose import Workshop
from walkeeper.errors import StorageUnavailable, WalkeeperError, find_known
from walkeeper.repository.archive import Archive
from walkeeper.repository.drills import DrillStore
from walkeeper.repository.identity import require_record
from walkeeper.services.agent_status import AgentStatus
from walkeeper.services.folder_memory import AGAIN_EACH_LOOK, FolderMemory, FullFolders
from walkeeper.services.look import Look, look_at
from walkeeper.services.status_findings import Finding
from walkeeper.services.status_report import StatusReport, Subject, find_problems, make_report

SAMPLE_S: Final = 15.0
_SAMPLES: Final = round(6 * 3600 / SAMPLE_S)
_AFTER_ERROR_S: Final = 15.0
_SHARE: Final = 30
"""Looking takes at most this part of the time: large archives are looked at seldomer."""
_SELDOMEST_S: Final = 3600.0
_REST_S: Final = 2.0
_FIRST_PATIENCE_S: Final = 120.0
_SHORTEST_PATIENCE_S: Final = 20.0
_LONGEST_PATIENCE_S: Final = 600.0

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Sample:
    """How the archiver stood at a moment; ``backlog_bytes`` is before compression.

    ``disk`` is None where it could not be looked at.
    """

    at: datetime
    rpo_s: float
    backlog_files: int
    backlog_bytes: int
    disk: Disk | None = None


@dataclass(frozen=True, slots=True)
class Disk:
    """The file system of ``pg_wal``; ``free_bytes`` are those that PostgreSQL's user can have."""

    size_bytes: int
    free_bytes: int


class Observer:
    """Looks every ``every_s``, soon after ``changed`` was set, and more often after a failure.

    ``agent`` gives the agent's own facts without asking anybody; ``patience_s`` is how long the
    first look may take, later ones get several times what the last one took.
    """

    def __init__(
        self,
        shop: Workshop,
        archive: Archive,
        agent: Callable[[], AgentStatus],
        *,
        changed: asyncio.Event,
        every_s: float = 60.0,
        patience_s: float = _FIRST_PATIENCE_S,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._shop = shop
        self._archive = archive
        self._every_s = every_s
        self._now = now
        self._changed = changed
        self._looked = asyncio.Event()
        self._patience_s = patience_s
        self._subject = Subject(
            repository=shop.storage.url, folder=archive.folder, record=archive.record
        )
        self._drills = DrillStore(archive, shop.pool)
        self._folders: FullFolders | None = None
        self._samples: deque[Sample] = deque(maxlen=_SAMPLES)
        self.agent = agent
        self.look = Look()
        self.last_good = Look()

    @property
    def samples(self) -> Sequence[Sample]:
        """The last six hours, one each 15 s, the oldest first; none before the server was known."""
        return self._samples

    @property
    def trouble(self) -> str | None:
        """Why the last request to the store failed, None when it did not."""
        return self._shop.counters.failing()

    def findings(self) -> tuple[Finding, ...]:
        """What needs attention now, in the sentences of ``walkeeper status``."""
        return tuple(find_problems(self._subject, self.look, self.agent()))

    def report(self) -> StatusReport:
        """The document of ``walkeeper status``, of now and of the last look."""
        return make_report(self._subject, self.look, self.agent(), self._now())

    def document(self) -> bytes:
        """The same as JSON."""
        return msgspec.json.encode(self.report())

    def unready(self) -> tuple[str, ...]:
        """Why the agent cannot do its work: the server, the store; empty when it can."""
        source, failing = self.agent().source, self._shop.counters.failing()
        reasons = []
        if not source.verified or not source.connected:
            reasons.append(f"PostgreSQL: {source.reason or 'it cannot be reached'}")
        if self.look.error is not None or failing is not None:
            reasons.append(f"repository: {self.look.error or failing}")
        elif self.look.at is None:
            reasons.append("repository: it has not been looked at yet")
        return tuple(reasons)

    def look_soon(self) -> None:
        """Do not wait for the next time: something has changed."""
        self._changed.set()

    async def wait_look(self) -> Look:
        """The next look to end, however it ends."""
        await self._looked.wait()
        return self.look

    async def run(self) -> None:
        """Observe until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._look_on())
            group.create_task(self._sample_on())

    async def _look_on(self) -> None:
        while True:
            self._changed.clear()
            began = time.monotonic()
            await self._look_once()
            took_s = time.monotonic() - began
            pause_s = min(max(self._every_s, _SHARE * took_s), _SELDOMEST_S)
            if self.look.error is not None:
                pause_s = min(self._every_s, _AFTER_ERROR_S)
            rest_s = min(_REST_S + took_s, pause_s)
            await asyncio.sleep(rest_s)
            with suppress(TimeoutError):
                async with asyncio.timeout(pause_s - rest_s):
                    await self._changed.wait()

    async def _look_once(self) -> None:
        before = self.look
        at = self._now()
        try:
            self.look = self.last_good = await self._patiently(at)
        except Exception as error:
            known = find_known(error)
            if known is None:  # the archiver must live on
                log.exception("look_failed_unexpectedly")
                known = WalkeeperError(f"an internal error: {type(error).__name__}")
            self.look = Look(at=at, error=known.message, hint=known.hint)
        if self.look.error != before.error:
            emit = log.info if self.look.error is None else log.warning
            emit("archive_looked_at", problem=self.look.error, hint=self.look.hint)
        looked, self._looked = self._looked, asyncio.Event()
        looked.set()

    async def _patiently(self, at: datetime) -> Look:
        """A look that does not wait much longer for the store than the last one that succeeded."""
        began = time.monotonic()
        scope = asyncio.timeout(self._patience_s)
        try:
            async with scope:
                await require_record(self._archive, self._shop.trust)
                memory = self._remember(at)
                look = await look_at(
                    self._archive, self._shop.pool, at, self._drills, memory=memory
                )
                self._folders = memory.document()
        except TimeoutError as error:
            if not scope.expired():
                raise
            reason = self._shop.counters.failing() or f"no answer in {self._patience_s:g} s"
            self._patience_s = min(2 * self._patience_s, _LONGEST_PATIENCE_S)
            raise StorageUnavailable(reason) from error
        took_s = time.monotonic() - began
        self._patience_s = min(max(_SHORTEST_PATIENCE_S, 4 * took_s), _LONGEST_PATIENCE_S)
        return look

    def _remember(self, at: datetime) -> FolderMemory:
        health = self.last_good.health
        before = {} if health is None else health.wal
        archive = self._archive.record.archive
        return FolderMemory(archive, self._folders, at, again=AGAIN_EACH_LOOK, before=before)

    async def _disk(self, data_dir: str) -> Disk | None:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(SAMPLE_S):
                return await loop.run_in_executor(self._shop.pool, _look_at_disk, data_dir)
        except (OSError, TimeoutError):  # it may be going away: the guard tells of that
            return None

    async def _sample_on(self) -> None:
        while True:
            agent = self.agent()
            archiving, folder = agent.archiving, agent.source.data_directory
            if archiving is not None:
                waiting = archiving.backlog, archiving.backlog_bytes
                disk = await self._disk(folder) if folder is not None else None
                self._samples.append(Sample(self._now(), archiving.rpo_s, *waiting, disk))
            if self.look.error is None and self._shop.counters.failing() is not None:
                self.look_soon()
            await asyncio.sleep(SAMPLE_S)


def _look_at_disk(data_dir: str) -> Disk:
    found = os.statvfs(Path(data_dir) / "pg_wal")
    return Disk(found.f_blocks * found.f_frsize, found.f_bavail * found.f_frsize)
