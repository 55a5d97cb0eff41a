"""An agent whose repository is away when it starts: it lives, says so, and goes on trying.

Until the archive was opened, and creates were probed, nothing is written and nothing is served:
hooks are answered that they failed and why, ``/readyz`` says no, and the sinks are told.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Awaitable, Callable, Coroutine
from datetime import UTC, datetime
from typing import Final, Generic, TypeVar

import structlog

from walkeeper import __version__
from walkeeper.agent.alert_state import find_last_state
from walkeeper.agent.alert_text import Origin
from walkeeper.agent.alerting import Alerting
from walkeeper.agent.compose import Workshop
from walkeeper.agent.control import ControlServer
from walkeeper.agent.control_request import Reply, Request
from walkeeper.agent.http_answer import Answer, Question, json_answer
from walkeeper.agent.observer import Sample
from walkeeper.agent.watching import alive, open_http, open_sinks
from walkeeper.errors import StorageError, StorageUnavailable, unwrapped
from walkeeper.services.agent_status import AgentStatus, FetchStatus, SourceStatus, StoreStatus
from walkeeper.services.look import Look
from walkeeper.services.status_findings import Finding
from walkeeper.services.status_report import Subject, find_problems

T = TypeVar("T")

COMMANDS: Final = ("wal-push", "wal-fetch", "backup", "status")
_PATIENCE_S: Final = 15.0
"""Of whoever waits for the start to end, such as systemd, and PostgreSQL behind it."""
_FIRST_PAUSE_S: Final = 1.0
_LONGEST_PAUSE_S: Final = 30.0
_ANSWER_S: Final = 5.0
_NO_FETCH: Final = FetchStatus(
    fetched=0, from_prefetch=0, absent=0, holes=0, errors=0, last_error=None
)
_NO_STORE: Final = StoreStatus(
    conditional_put=None,
    conditional_multipart=None,
    requests=0,
    errors=0,
    bytes_written=0,
    bytes_read=0,
)

log = structlog.get_logger(__name__)


class Start(Generic[T]):
    """Opens with ``opening`` until that succeeds; what it raises but StorageError ends the start.

    Once the first attempt has failed or takes long ``begun`` is called, for the start is over as
    far as others are concerned, and ``watchdog`` is run beside the attempts.
    """

    def __init__(
        self,
        shop: Workshop,
        opening: Callable[[], Awaitable[T]],
        *,
        archive: str | None,
        begun: Callable[[str], None],
        watchdog: Callable[[], Coroutine[object, object, None]],
    ) -> None:
        self._shop = shop
        self._opening = opening
        self._begun = begun
        self._watchdog = watchdog
        self._archive = archive or shop.config.cluster.archive or "unknown"
        self._began = time.monotonic()
        self._failed = asyncio.Event()
        self._error: StorageError | None = None
        self.samples: tuple[Sample, ...] = ()
        self.trouble: str | None = None

    async def run(self, stopped: asyncio.Event) -> T | None:
        """What was opened, None when ``stopped`` was set before."""
        with unwrapped():
            async with asyncio.TaskGroup() as group:
                opening = group.create_task(self._open_on())
                stopping = group.create_task(stopped.wait())
                failing = group.create_task(self._failed.wait())
                ends = {opening, stopping}
                first = asyncio.FIRST_COMPLETED
                done, _ = await asyncio.wait(
                    {*ends, failing}, timeout=_PATIENCE_S, return_when=first
                )
                if not done & ends:
                    meanwhile = group.create_task(self._meanwhile())
                    await asyncio.wait({*ends, meanwhile}, return_when=first)
                    meanwhile.cancel()
                    await asyncio.wait({meanwhile})  # its sockets are taken over
                for task in (opening, stopping, failing):
                    task.cancel()
        return None if opening.cancelled() else opening.result()

    async def _open_on(self) -> T:
        pause_s = _FIRST_PAUSE_S
        while True:
            try:
                return await self._opening()
            except StorageError as error:
                if self._error is None or error.message != self._error.message:
                    log.warning("archive_not_opened", reason=error.message, hint=error.hint)
                self._error = error
                self._failed.set()
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    async def _meanwhile(self) -> None:
        config = self._shop.config
        control = ControlServer(config.agent.socket)
        for command in COMMANDS:
            control.register(command, self._refuse, deadline_s=_ANSWER_S)
        http, sinks = await open_http(config.agent, self._shop), await open_sinks(self._shop)
        state_path = await asyncio.get_running_loop().run_in_executor(
            self._shop.pool, find_last_state, config.agent.state_dir
        )
        control.bind()
        self._begun(f"waiting for the repository: {self._reason()}")
        async with asyncio.TaskGroup() as group:
            group.create_task(control.serve())
            group.create_task(self._watchdog())
            if http is not None:
                http.register("/healthz", alive, public=True)
                for path in ("/", "/readyz", "/api/v1/status"):
                    http.register(path, self._unready)
                group.create_task(http.run())
            if sinks is not None:
                alerting = Alerting(
                    self,
                    config.alerts,
                    sinks,
                    Origin(self._archive, self._shop.storage.url, socket.gethostname()),
                    state_path=state_path,
                    pool=self._shop.pool,
                    segment_bytes=1,  # of WAL that nobody has seen
                    only=frozenset({"repository"}),
                )
                group.create_task(alerting.run())

    async def _refuse(self, _: Request) -> Reply:
        what = f"the agent cannot open the archive yet: {self._reason()}"
        raise StorageUnavailable(what, hint=self._error.hint if self._error else None)

    async def _unready(self, _: Question) -> Answer:
        return json_answer({"ready": False, "reasons": [f"repository: {self._reason()}"]}, 503)

    def _reason(self) -> str:
        if self._error is not None:
            return self._error.message
        return self._shop.counters.failing() or "it has not answered yet"

    @property
    def look(self) -> Look:
        """What alerts see of the archive."""
        hint = self._error.hint if self._error else None
        return Look(at=datetime.now(UTC), error=self._reason(), hint=hint)

    def findings(self) -> tuple[Finding, ...]:
        """That the repository is away."""
        subject = Subject(repository=self._shop.storage.url)
        return tuple(find_problems(subject, self.look, None))

    def agent(self) -> AgentStatus:
        """Of an agent that knows nothing yet."""
        return AgentStatus(
            version=__version__,
            pid=os.getpid(),
            uptime_s=time.monotonic() - self._began,
            repository=self._shop.storage.url,
            folder=self._archive,
            archive="",
            source=SourceStatus(verified=False, reason="the archive is not open yet"),
            archiving=None,
            fetch=_NO_FETCH,
            store=_NO_STORE,
        )
