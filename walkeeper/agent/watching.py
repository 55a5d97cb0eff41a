"""Everything that watches: the observer, and the HTTP port through which it is seen."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Final

import structlog

from walkeeper.agent.compose import Workshop
from walkeeper.agent.http import HttpServer
from walkeeper.agent.http_answer import JSON, Answer, Question, json_answer, text_answer
from walkeeper.agent.http_entry import open_entry
from walkeeper.agent.observer import Observer
from walkeeper.agent.page.routes import StatusPage
from walkeeper.config import AgentConfig
from walkeeper.storage.observe import StorageCounters

_AGAIN_S: Final = 30.0

log = structlog.get_logger(__name__)


class Watching:
    """Runs the observer and what shows what it sees; `run` returns after `stop`.

    Without the HTTP port nobody would see it, so that nothing is looked at.
    """

    def __init__(
        self,
        observer: Observer,
        http: HttpServer | None,
        counters: StorageCounters,
        page: StatusPage,
    ) -> None:
        self.observer = observer
        self._http = http
        self._stopped = asyncio.Event()
        self._page = page
        if http is not None:
            from walkeeper.agent.metrics_page import MetricsPage

            http.register("/healthz", _alive, public=True)
            http.register("/metrics", MetricsPage(observer, counters))
            http.register("/readyz", self._ready)
            http.register("/api/v1/status", self._status)
            page.register(http)

    async def run(self) -> None:
        """Watch until stopped or cancelled; a fault of our own in it does not end archiving."""
        while self._http is not None and not self._stopped.is_set():
            try:
                await self._watch(self._http)
            except Exception:
                log.exception("watching_broke")
                with suppress(TimeoutError):
                    async with asyncio.timeout(_AGAIN_S):
                        await self._stopped.wait()

    async def _watch(self, http: HttpServer) -> None:
        async with asyncio.TaskGroup() as group:
            observing = [
                group.create_task(self.observer.run()),
                group.create_task(self._page.run()),
            ]
            await http.run()
            for task in observing:
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


async def _alive(_: Question) -> Answer:
    return text_answer("ok")


async def open_http(agent: AgentConfig, shop: Workshop) -> HttpServer | None:
    """The HTTP server that the configuration wants; raises ConfigError without its token."""
    if not agent.http.is_on:
        return None
    loop = asyncio.get_running_loop()
    return HttpServer(agent.http, await loop.run_in_executor(shop.pool, open_entry, agent))
