"""Base backups through the agent, and the service that takes them for agent and command alike."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import msgspec

from walkeeper.agent.compose import Workshop
from walkeeper.agent.control_request import Reply, Request
from walkeeper.errors import Locked, unwrapped
from walkeeper.repository.archive import Archive
from walkeeper.services.backup import BackupResult, BackupService, BackupSettings
from walkeeper.services.backup_source import BackupProgress
from walkeeper.services.source_guard import SourceGuard


class BackupReport(msgspec.Struct, frozen=True):
    """What a finished backup is reported as; the last document that the agent sends."""

    backup: str
    timeline: int
    start_lsn: str
    stop_lsn: str
    stopped_at: str
    size_bytes: int
    stored_bytes: int
    files: int
    parts: int
    damaged: tuple[tuple[str, tuple[int, ...]], ...]
    skipped: tuple[str, ...]


_GUARD_WAIT_S = 5.0
_SHOWN = 200
"""Damaged files and left out entries in a report; the manifest's lists hold all."""


class BackupHandler:
    """Answers ``backup``: one at a time, progress on the way, a report at the end."""

    def __init__(self, shop: Workshop, archive: Archive, guard: SourceGuard) -> None:
        self._shop = shop
        self._archive = archive
        self._guard = guard
        self._lock = asyncio.Lock()

    @property
    def running(self) -> bool:
        """Whether a backup is being taken now."""
        return self._lock.locked()

    async def __call__(self, request: Request) -> Reply:
        """Take one; the client that goes away cancels it."""
        if self._lock.locked():
            raise Locked("a backup is already being taken", hint="walkeeper status shows it")
        async with self._lock:
            await self._guard.require(wait_s=_GUARD_WAIT_S)
            news: asyncio.Queue[BackupProgress] = asyncio.Queue(maxsize=1)
            service = backup_service(self._shop, self._archive, _latest(news))
            label = request.optional_text("label") or "walkeeper"
            with unwrapped():
                async with asyncio.TaskGroup() as group:
                    sending = group.create_task(_send(request, news))
                    result = await service.take(label, fast=request.flag("fast"))
                    sending.cancel()
            await request.progress(msgspec.json.encode(report_of(result)))
        return Reply.ok(str(result.facts.id))


def backup_service(
    shop: Workshop, archive: Archive, progress: Callable[[BackupProgress], None]
) -> BackupService:
    """The service, as the configuration wants it."""
    config = shop.config
    settings = BackupSettings(
        dsn=config.require_dsn().reveal(),
        data_dir=config.cluster.data_directory,
        spool_dir=config.agent.state_dir,
        run_id=shop.run_id,
        readers=config.backup.readers,
        part_bytes=config.backup.part_size,
    )
    sealer = shop.sealer(archive.record, level=config.backup.level)
    return BackupService(shop.backups(archive), sealer, shop.pool, settings, progress)


def report_of(result: BackupResult) -> BackupReport:
    """A result as it is shown and sent."""
    facts = result.facts
    return BackupReport(
        backup=facts.id,
        timeline=facts.timeline,
        start_lsn=facts.start_lsn,
        stop_lsn=facts.stop_lsn,
        stopped_at=facts.stopped_at.isoformat(),
        size_bytes=facts.size_bytes,
        stored_bytes=facts.stored_bytes,
        files=facts.files,
        parts=facts.parts,
        damaged=tuple((path, blocks[:_SHOWN]) for path, blocks in result.damaged[:_SHOWN]),
        skipped=result.skipped[:_SHOWN],
    )


def _latest(news: asyncio.Queue[BackupProgress]) -> Callable[[BackupProgress], None]:
    def tell(progress: BackupProgress) -> None:
        if news.full():  # only the newest state matters to whoever watches
            news.get_nowait()
        news.put_nowait(progress)

    return tell


async def _send(request: Request, news: asyncio.Queue[BackupProgress]) -> None:
    while True:
        await request.progress(msgspec.json.encode(await news.get()))
