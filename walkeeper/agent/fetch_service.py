"""The private fetch service: ``wal-fetch`` for a recovery on a host without an agent."""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import structlog

from walkeeper.agent.compose import Workshop
from walkeeper.agent.control import ControlServer
from walkeeper.agent.control_request import Reply, Request
from walkeeper.agent.fetch_door import FetchDoor
from walkeeper.agent.fetch_handler import FetchHandler, parse_fetch
from walkeeper.agent.hook_requests import WalFetchRequest
from walkeeper.config import FetchConfig
from walkeeper.core.wal import TimelineHistoryFile
from walkeeper.errors import NoSuchSegment
from walkeeper.hooks import wire
from walkeeper.repository.archive import Archive
from walkeeper.services.fetch_settings import FetchSettings
from walkeeper.services.fetcher import TOLERATED_IN_STANDBY_MODE, Fetcher
from walkeeper.services.history_files import HistoryFiles
from walkeeper.services.history_store import HistoryStore
from walkeeper.services.patience import patient
from walkeeper.services.prefetch import PrefetchSettings

_SWITCH_S: Final = 0.0005

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class FetchPlaces:
    """Where fetching keeps files: histories in ``state_dir`` (None: nowhere), and what is fetched
    ahead, in files without names, in ``cache_dir``."""

    state_dir: Path | None
    cache_dir: Path


async def open_fetcher(
    archive: Archive, pool: ThreadPoolExecutor, places: FetchPlaces, config: FetchConfig
) -> Fetcher:
    """A fetcher for an archive, the histories that this host has kept already loaded."""
    files = None
    if places.state_dir is not None:
        files = HistoryFiles(places.state_dir, archive.record.archive)
    history = HistoryStore(archive, pool, files)
    await history.load()
    settings = FetchSettings(prefetch=PrefetchSettings(count=config.prefetch))
    return Fetcher(archive, pool, history, places.cache_dir, settings)


async def run_fetch_service(
    shop: Workshop, listen: Path, idle_s: float, archive: str | None
) -> None:
    """Serve ``wal-fetch`` on the socket ``listen`` until nobody has asked for ``idle_s`` seconds.

    ``archive`` is the folder, None leaves it to the configuration or the repository. An archive
    that cannot be reached at the start is opened when it can be: until then requests are answered
    with the error. Raises Locked when another service listens there, ConfigError when the socket
    cannot be made. Cancelling it ends the requests.
    """
    server = ControlServer(listen)
    server.bind()
    # A recovery waits for the answers; threads that decode what comes later give way to them.
    sys.setswitchinterval(_SWITCH_S)
    with _places(shop.config.agent.state_dir) as places:
        async with asyncio.TaskGroup() as group:
            handler = _OpeningHandler(shop, archive, places, group)
            door = FetchDoor(listen, handler.serve_ahead, shop.pool, server.note_request)
            leading = _Leading(handler, door)
            server.register("wal-fetch", leading, deadline_s=None)
            server.register("wal-ahead", leading.go_ahead, deadline_s=None)
            serving = group.create_task(server.serve())
            answering = group.create_task(door.serve())
            log.info("fetch_service_ready", socket=str(listen))
            await server.wait_idle(idle_s)
            answering.cancel()
            server.stop()
            await serving
            handler.close()
    log.info("fetch_service_ended", reason="idle")


class _Leading:
    """Hands requests on, and shows the door to a recovery that has got WAL from here."""

    def __init__(self, handler: _OpeningHandler, door: FetchDoor) -> None:
        self._handler = handler
        self._door = door

    async def __call__(self, request: Request) -> Reply:
        reply = await self._handler(request)
        asked = WalFetchRequest.parse(request)
        if reply.status == wire.OK and (asked.recovery or asked.standby) and asked.temporary:
            await self._door.lead(asked.path.parent, asked.data_directory)
        return reply

    async def go_ahead(self, request: Request) -> Reply:
        """Begin to fetch what a recovery will ask for; its first question may come to the door."""
        reply = await self._handler.go_ahead(request)
        asked = WalFetchRequest.parse(request)
        await self._door.lead(asked.path.parent, asked.data_directory)
        return reply


class _OpeningHandler:
    """Opens the archive with the first request, and again after every failure to."""

    def __init__(
        self, shop: Workshop, folder: str | None, places: FetchPlaces, group: asyncio.TaskGroup
    ) -> None:
        self._shop = shop
        self._folder = folder
        self._places = places
        self._group = group
        self._lock = asyncio.Lock()
        self._handler: FetchHandler | None = None
        self._running: asyncio.Task[None] | None = None

    async def __call__(self, request: Request) -> Reply:
        fetch = parse_fetch(request)
        patience_s = FetchSettings().standby_patience_s if fetch.standby else None
        try:
            async with patient(patience_s, "the archive"):
                handler = await self._open()
        except TOLERATED_IN_STANDBY_MODE as error:
            # As the fetcher does: a standby asks again, but its history probes need an answer.
            if not fetch.standby or isinstance(fetch.wal, TimelineHistoryFile):
                raise
            log.warning("archive_not_opened", file=str(fetch.wal), reason=error.message)
            return Reply.absent()
        return await handler(request)

    async def go_ahead(self, request: Request) -> Reply:
        """Begin to fetch ahead. Raises what keeps the archive from being opened or read."""
        return await (await self._open()).go_ahead(request)

    async def serve_ahead(self, request: Request) -> Reply:
        """Serve a request, but only with what is fetched ahead. Raises NoSuchSegment."""
        if self._handler is None or not self._handler.is_ahead(request):
            raise NoSuchSegment("it was not fetched ahead")
        return await self._handler(request)

    def close(self) -> None:
        """End fetching ahead."""
        if self._running is not None:
            self._running.cancel()

    async def _open(self) -> FetchHandler:
        async with self._lock:
            if self._handler is None:
                archive = await self._shop.archive(self._folder)
                config = self._shop.config.fetch
                fetcher = await open_fetcher(archive, self._shop.pool, self._places, config)
                self._running = self._group.create_task(fetcher.run())
                self._handler = FetchHandler(fetcher, archive.segment_size, self._shop.pool)
            return self._handler


@contextmanager
def _places(state_dir: Path) -> Iterator[FetchPlaces]:
    """The state directory where this user may write into it, else a private one for a while."""
    if state_dir.is_dir() and os.access(state_dir, os.W_OK | os.X_OK):
        yield FetchPlaces(state_dir, state_dir)
        return
    with tempfile.TemporaryDirectory(prefix="walkeeper-fetch-") as private:
        yield FetchPlaces(None, Path(private))
