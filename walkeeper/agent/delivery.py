"""Telling one sink what it must know, however long it is away."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import Final

import structlog

from walkeeper.agent.alert_text import Origin
from walkeeper.agent.sinks import Sink
from walkeeper.core.alerts import Alerts, Ledger, Notice, find_due, reconcile, record
from walkeeper.errors import NotifyError, find_known
from walkeeper.services.agent_status import SinkStatus

_FIRST_PAUSE_S: Final = 5.0
_LONGEST_PAUSE_S: Final = 300.0

log = structlog.get_logger(__name__)


class Delivery:
    """One sink and its ledger: what the sink was not told it is owed, and told when it is back.

    The pause after a failure doubles, from 5 s to 5 min. ``save`` keeps the ledger for the next
    start; it is called after each notice, so that a restart tells at most one of them again.
    """

    def __init__(
        self,
        sink: Sink,
        origin: Origin,
        repeat: timedelta,
        save: Callable[[], Awaitable[None]],
        *,
        now: Callable[[], datetime],
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._sink = sink
        self._origin = origin
        self._repeat = repeat
        self._save = save
        self._now = now
        self._sleep = sleep
        self._learned = asyncio.Event()
        self.status = SinkStatus(name=sink.name)
        self.ledger: Ledger = {}

    @property
    def name(self) -> str:
        """That of the sink."""
        return self._sink.name

    def learn(self, alerts: Alerts) -> None:
        """Bring the ledger up to date. A sink is not told that it cannot be told."""
        others = {key: alert for key, alert in alerts.items() if key != f"sink:{self.name}"}
        self.ledger = reconcile(self.ledger, others, self._now())
        self._learned.set()

    async def run(self) -> None:
        """Tell what is due whenever something was learned, until cancelled."""
        pause_s = _FIRST_PAUSE_S
        while True:
            self._learned.clear()
            if await self._tell_due():
                pause_s = _FIRST_PAUSE_S
                await self._learned.wait()
            else:
                await self._sleep(pause_s)
                pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    async def _tell_due(self) -> bool:
        """Tell the worst first; False after a failure, since the next would meet the same."""
        while due := find_due(self.ledger, self._now(), self._repeat):
            if not await self._tell(due[0]):
                return False
            self.ledger = record(self.ledger, due[0], self._now())
            await self._save()
        return True

    async def _tell(self, notice: Notice) -> bool:
        was, told, failed = self.status.problem, self.status.told, self.status.failed
        try:
            await self._sink.tell(notice, self._origin)
        except Exception as error:
            known = find_known(error)
            if known is None:  # the other sinks must live on
                log.exception("alert_failed_unexpectedly", sink=self.name)
                known = NotifyError(f"an internal error: {type(error).__name__}")
            if known.message != was:
                log.warning("alert_not_told", sink=self.name, reason=known.message, hint=known.hint)
            self.status = SinkStatus(
                name=self.name,
                told=told,
                failed=failed + 1,
                problem=known.message,
                hint=known.hint,
            )
            return False
        log.info("alert_told", sink=self.name, alert_event=notice.event, key=notice.alert.key)
        self.status = SinkStatus(name=self.name, told=told + 1, failed=failed)
        return True
