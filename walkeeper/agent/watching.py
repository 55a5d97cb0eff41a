"""Everything that watches: the observer, the HTTP port through which it is seen, the alerts."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from typing import Final

import structlog

from walkeeper.agent.access import AccessWatch
from walkeeper.agent.alert_state import state_of
from walkeeper.agent.alert_text import Origin
from walkeeper.agent.alerting import Alerting
from walkeeper.agent.compose import Workshop
from walkeeper.agent.http import HttpServer
from walkeeper.agent.http_answer import JSON, Answer, Question, json_answer, text_answer
from walkeeper.agent.http_entry import open_entry
from walkeeper.agent.observer import Observer
from walkeeper.agent.page.routes import StatusPage
from walkeeper.agent.sinks import Sink, make_sinks
from walkeeper.config import AgentConfig
from walkeeper.repository.archive import Archive
from walkeeper.storage.observe import StorageCounters

_AGAIN_S: Final = 30.0

log = structlog.get_logger(__name__)


class Watching:
    """Runs the observer and what shows or tells what it sees; `run` returns after `stop`.

    Without the HTTP port and alerts nobody would see the archive, so that it is not looked at.
    """

    def __init__(
        self,
        observer: Observer,
        http: HttpServer | None,
        counters: StorageCounters,
        page: StatusPage,
        alerting: Alerting | None,
        *,
        access: AccessWatch,
    ) -> None:
        self._access = access
        self.observer = observer
        self._http = http
        self._stopped = asyncio.Event()
        self._page = page
        self._alerting = alerting
        if http is not None:
            from walkeeper.agent.metrics_page import MetricsPage

            http.register("/healthz", alive, public=True)
            http.register("/metrics", MetricsPage(observer, counters))
            http.register("/readyz", self._ready)
            http.register("/api/v1/status", self._status)
            page.register(http)

    async def run(self) -> None:
        """Watch until stopped or cancelled; a fault of our own in it does not end archiving."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._keep_on(self._check_access))
            if self._http is not None or self._alerting is not None:
                group.create_task(self._keep_on(self._watch))
            if self._alerting is not None:
                group.create_task(self._keep_on(self._alert))

    async def _keep_on(self, work: Callable[[], Awaitable[None]]) -> None:
        while not self._stopped.is_set():
            try:
                await work()
            except Exception:
                log.exception("watching_broke", what=work.__name__)
                with suppress(TimeoutError):
                    async with asyncio.timeout(_AGAIN_S):
                        await self._stopped.wait()

    async def _watch(self) -> None:
        async with asyncio.TaskGroup() as group:
            observing = [group.create_task(self.observer.run())]
            if self._http is not None:
                observing.append(group.create_task(self._page.run()))
                await self._http.run()
            else:
                await self._stopped.wait()
            for task in observing:
                task.cancel()

    async def _alert(self) -> None:
        assert self._alerting is not None
        await self._until_stopped(self._alerting.run())

    async def _check_access(self) -> None:
        await self._until_stopped(self._access.run())

    async def _until_stopped(self, work: Coroutine[object, object, None]) -> None:
        async with asyncio.TaskGroup() as group:
            task = group.create_task(work)
            await self._stopped.wait()
            task.cancel()

    def stop(self) -> None:
        """Begin nothing more; `run` returns when what is being answered has ended."""
        self._stopped.set()
        if self._http is not None:
            self._http.stop()

    async def _ready(self, _: Question) -> Answer:
        reasons = self.observer.unready()
        document = {"ready": not reasons, "reasons": reasons}
        return json_answer(document, 503 if reasons else 200)

    async def _status(self, _: Question) -> Answer:
        return Answer(self.observer.document(), JSON)


async def alive(_: Question) -> Answer:
    """That the event loop runs, and nothing more."""
    return text_answer("ok")


async def open_http(agent: AgentConfig, shop: Workshop) -> HttpServer | None:
    """The HTTP server that the configuration wants; raises ConfigError without its token."""
    if not agent.http.is_on:
        return None
    loop = asyncio.get_running_loop()
    return HttpServer(agent.http, await loop.run_in_executor(shop.pool, open_entry, agent))


async def open_sinks(shop: Workshop) -> tuple[Sink, ...] | None:
    """Whom alerts go to, None where [alerts] is not used; raises ConfigError without a secret."""
    alerts = shop.config.alerts
    return await make_sinks(alerts, shop.mail_pool) if alerts.is_used else None


def make_alerting(
    shop: Workshop, archive: Archive, observer: Observer, sinks: tuple[Sink, ...] | None
) -> Alerting | None:
    """The alerts of an agent; None where nobody is to be told."""
    if sinks is None:
        return None
    config = shop.config
    return Alerting(
        observer,
        config.alerts,
        sinks,
        Origin(archive.folder, shop.storage.url, socket.gethostname()),
        state_path=state_of(config.agent.state_dir, archive.record.archive),
        pool=shop.pool,
        segment_bytes=archive.segment_size.bytes,
    )
