"""Every command that the agent's socket understands, and what answers it."""

from __future__ import annotations

import asyncio
from typing import Final

from walkeeper.agent.access import watch_access
from walkeeper.agent.alert_state import adopt_state
from walkeeper.agent.backup_handler import BackupHandler
from walkeeper.agent.cluster import ClusterService
from walkeeper.agent.compose import Workshop
from walkeeper.agent.control import ControlServer
from walkeeper.agent.control_request import Reply, Request
from walkeeper.agent.fetch_handler import FetchHandler
from walkeeper.agent.fetch_service import FetchPlaces, open_fetcher
from walkeeper.agent.http import HttpServer
from walkeeper.agent.jobs import JobTools, make_scheduler
from walkeeper.agent.observer import Observer
from walkeeper.agent.page.routes import StatusPage
from walkeeper.agent.sinks import Sink
from walkeeper.agent.status_handler import StatusHandler
from walkeeper.agent.watching import Watching, make_alerting, open_http, open_sinks
from walkeeper.errors import PostgresUnavailable
from walkeeper.repository.archive import Archive
from walkeeper.services.agent_status import SinkStatus
from walkeeper.services.fetcher import Fetcher

_PUSH_DEADLINE_S: Final = 20.0
"""Above every hook's own deadline; the hook is told the reason before it."""
_STATUS_DEADLINE_S: Final = 10.0
_GUARD_WAIT_S: Final = 3.0


class Handlers:
    """Builds the handlers and runs what they need in the background."""

    def __init__(
        self,
        shop: Workshop,
        archive: Archive,
        cluster: ClusterService,
        fetcher: Fetcher,
        *,
        http: HttpServer | None,
        sinks: tuple[Sink, ...] | None,
        program: tuple[str, ...],
    ) -> None:
        changed = asyncio.Event()
        self._cluster = cluster
        self._fetcher = fetcher
        self._fetch = FetchHandler(fetcher, archive.segment_size, shop.pool)
        self._backup = BackupHandler(shop, archive, cluster.guard, changed.set)
        tools = JobTools(shop, archive, cluster, self._backup)
        self._scheduler = make_scheduler(tools, changed.set)
        access = watch_access(shop, cluster)
        self._status = StatusHandler(
            shop,
            archive,
            cluster,
            fetcher,
            self._scheduler,
            access=access,
            http=http,
            told=self._told,
        )
        every_s = float(shop.config.agent.look_every)
        observer = Observer(shop, archive, self._status.status, changed=changed, every_s=every_s)
        page = StatusPage(observer, shop.pool, program)
        self._alerting = make_alerting(shop, archive, observer, sinks)
        self.watching = Watching(observer, http, shop.counters, page, self._alerting, access=access)

    @classmethod
    async def open(
        cls,
        shop: Workshop,
        archive: Archive,
        cluster: ClusterService,
        program: tuple[str, ...],
    ) -> Handlers:
        """The handlers of an agent; loads the histories that this host has kept.

        ``program`` are the words that call ``walkeeper`` with the agent's own configuration.
        """
        state_dir = shop.config.agent.state_dir
        places = FetchPlaces(state_dir, state_dir)
        fetcher = await open_fetcher(archive, shop.pool, places, shop.config.fetch)
        http = await open_http(shop.config.agent, shop)
        sinks = await open_sinks(shop)
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(shop.pool, adopt_state, state_dir, archive.record.archive)
        return cls(shop, archive, cluster, fetcher, http=http, sinks=sinks, program=program)

    def register(self, control: ControlServer) -> None:
        """Give the socket its commands."""
        control.register("wal-push", self.push, deadline_s=_PUSH_DEADLINE_S)
        control.register("wal-fetch", self._fetch, deadline_s=None)
        control.register("backup", self._backup, deadline_s=None)
        control.register("status", self._status, deadline_s=_STATUS_DEADLINE_S)

    async def run(self) -> None:
        """Serve what is fetched ahead, and do what is scheduled; cancelled at the end."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._fetcher.run())
            group.create_task(self._scheduler.run())

    async def push(self, request: Request) -> Reply:
        """Answer a ``wal-push``, which need not have come over the socket."""
        if self._cluster.push is None:
            await self._cluster.guard.require(wait_s=_GUARD_WAIT_S)
        if self._cluster.push is None:
            raise PostgresUnavailable("the agent is starting", hint="PostgreSQL asks again")
        return await self._cluster.push(request)

    def _told(self) -> tuple[SinkStatus, ...]:
        return () if self._alerting is None else self._alerting.statuses()
