"""Base backups through the agent, and the service that takes them for agent and command alike."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Final

import msgspec

from walkeeper.agent.compose import Workshop
from walkeeper.agent.control_request import Reply, Request
from walkeeper.errors import Locked, WalkeeperError, unwrapped
from walkeeper.repository.archive import Archive
from walkeeper.services.backup import BackupResult, BackupService, BackupSettings
from walkeeper.services.backup_report import BackupProgress, BackupReport, DamagedFile
from walkeeper.services.source_guard import SourceGuard

_GUARD_WAIT_S: Final = 5.0
_SHOWN_FILES: Final = 50
_SHOWN_BLOCKS: Final = 20
_SHOWN_CHARACTERS: Final = 300


class BackupHandler:
    """Answers ``backup``: one at a time, progress on the way, a report at the end.

    ``on_end`` is called after each backup that was asked for.
    """

    def __init__(
        self,
        shop: Workshop,
        archive: Archive,
        guard: SourceGuard,
        on_end: Callable[[], None] = lambda: None,
    ) -> None:
        self._shop = shop
        self._archive = archive
        self._guard = guard
        self._on_end = on_end
        self._lock = asyncio.Lock()

    @property
    def running(self) -> bool:
        """Whether a backup is being taken now."""
        return self._lock.locked()

    async def take_scheduled(self) -> BackupResult:
        """Take one because it is time, behind one that is being taken by hand."""
        async with self._lock:
            await self._guard.require(wait_s=_GUARD_WAIT_S)
            service = backup_service(self._shop, self._archive, lambda _: None)
            return await service.take("scheduled", fast=False)

    async def __call__(self, request: Request) -> Reply:
        """Take one; the client that goes away cancels it."""
        if self._lock.locked():
            raise Locked("a backup is already being taken", hint="walkeeper status shows it")
        async with self._lock:
            await self._guard.require(wait_s=_GUARD_WAIT_S)
            news = _News()
            service = backup_service(self._shop, self._archive, news.tell)
            label = request.optional_text("label") or "walkeeper"
            with unwrapped():
                async with asyncio.TaskGroup() as group:
                    work = _outcome(service.take(label, fast=request.flag("fast")), news)
                    taking = group.create_task(work)
                    # Sent here and to its end: half a document would garble what follows it.
                    async for progress in news:
                        await request.progress(msgspec.json.encode(progress))
                result = taking.result()
            self._on_end()
            if isinstance(result, WalkeeperError):
                raise result
            await request.progress(msgspec.json.encode(report_of(result)))
        return Reply.ok(str(result.facts.id))


class _News:
    """How far the backup is: only the newest state matters to whoever watches."""

    def __init__(self) -> None:
        self._changed = asyncio.Event()
        self._latest: BackupProgress | None = None
        self._ended = False

    def tell(self, progress: BackupProgress) -> None:
        self._latest = progress
        self._changed.set()

    def end(self) -> None:
        self._ended = True
        self._changed.set()

    async def __aiter__(self) -> AsyncIterator[BackupProgress]:
        while not self._ended:
            await self._changed.wait()
            self._changed.clear()
            if self._latest is not None:
                yield self._latest
                self._latest = None


async def _outcome(
    taking: Coroutine[object, object, BackupResult], news: _News
) -> BackupResult | WalkeeperError:
    """The result, or what went wrong as a value, so that news under way are not cut off."""
    try:
        return await taking
    except WalkeeperError as error:
        return error
    finally:
        news.end()


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
        wal_patience_s=config.backup.wal_patience,
        accept_gap=config.cluster.accepted_gap,
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
        stopped_at=facts.stopped_at,
        size_bytes=facts.size_bytes,
        stored_bytes=facts.stored_bytes,
        files=facts.files,
        parts=facts.parts,
        checksum_findings=facts.checksum_findings,
        damaged_files=len(result.damaged),
        damaged=tuple(
            DamagedFile(_printable(found.path), found.count, found.blocks[:_SHOWN_BLOCKS])
            for found in result.damaged[:_SHOWN_FILES]
        ),
        left_out_files=len(result.skipped),
        left_out=tuple(map(_printable, result.skipped[:_SHOWN_FILES])),
    )


def _printable(text: str) -> str:
    """Names of files may hold anything, also what is not UTF-8."""
    shown = "".join(one if one.isprintable() else ascii(one)[1:-1] for one in text)
    return shown[:_SHOWN_CHARACTERS]
