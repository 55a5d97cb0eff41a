"""Tells somebody outside that all is well, so that silence is the alarm."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Final

import structlog

from walkeeper.agent.web_request import request
from walkeeper.errors import NotifyError
from walkeeper.services.agent_status import HEARTBEAT, SinkStatus
from walkeeper.storage.settings import Secret

_DEADLINE_S: Final = 10.0

log = structlog.get_logger(__name__)


class Heartbeat:
    """Asks an address every ``interval_s`` while ``is_well`` says so.

    ``last_ok_at`` is when it last answered; ``sent`` and ``failed`` count what it did and did not.
    ``trouble`` is why it did not, two times running or more: one beat may get lost.
    """

    def __init__(
        self,
        url: Secret,
        interval_s: float,
        is_well: Callable[[], bool],
        *,
        deadline_s: float = _DEADLINE_S,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._url = url
        self._interval_s = interval_s
        self._is_well = is_well
        self._deadline_s = deadline_s
        self._now = now
        self._sleep = sleep
        self._failing = False
        self.trouble: NotifyError | None = None
        self.last_ok_at: datetime | None = None
        self.sent = 0
        self.failed = 0

    @property
    def status(self) -> SinkStatus:
        """How it fares."""
        error = self.trouble
        return SinkStatus(
            name=HEARTBEAT,
            told=self.sent,
            failed=self.failed,
            problem=None if error is None else error.message,
            hint=None if error is None else error.hint,
        )

    async def run(self) -> None:
        """Serve until cancelled. What goes wrong is logged when it begins and when it ends."""
        while True:
            if self._is_well():
                await self._beat()
            await self._sleep(self._interval_s)

    async def _beat(self) -> None:
        try:
            await request("GET", self._url, deadline_s=self._deadline_s)
        except NotifyError as error:
            self.failed += 1
            if self._failing:
                self.trouble = error
            else:
                log.warning("heartbeat_not_heard", reason=error.message, hint=error.hint)
            self._failing = True
            return
        self.sent += 1
        self.last_ok_at = self._now()
        if self._failing:
            log.info("heartbeat_heard_again")
        self._failing, self.trouble = False, None
