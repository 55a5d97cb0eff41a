"""Telling a sink what it must know, through its outages and a restart of ours."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime, timedelta

from tests.fix_sinks import ORIGIN, T0
from walkeeper.agent.alert_text import Origin
from walkeeper.agent.delivery import Delivery
from walkeeper.core.alerts import Alert, Notice, Severity
from walkeeper.errors import NotifyError

DEADLINE_S = 60
REPEAT = timedelta(hours=1)


class Ear:
    """A sink that keeps what it hears, unless ``error`` is raised or it is deaf."""

    name = "webhook 1"

    def __init__(self) -> None:
        self.heard: list[tuple[str, str]] = []
        self.error: Exception | None = None
        self.tried = 0

    async def tell(self, notice: Notice, origin: Origin) -> None:
        assert origin == ORIGIN
        self.tried += 1
        if self.error is not None:
            raise self.error
        self.heard.append((notice.event, notice.alert.key))


class Scene:
    """A delivery in a time of its own."""

    def __init__(self) -> None:
        self.ear = Ear()
        self.now = T0
        self.saved = 0
        self.pauses: list[float] = []
        self.delivery = Delivery(
            self.ear, ORIGIN, REPEAT, self._save, now=lambda: self.now, sleep=self._sleep
        )

    async def _save(self) -> None:
        self.saved += 1

    async def _sleep(self, pause_s: float) -> None:
        self.pauses.append(pause_s)
        await asyncio.sleep(0)

    def learn(self, *alerts: Alert) -> None:
        self.delivery.learn({one.key: one for one in alerts})

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with asyncio.timeout(DEADLINE_S):
            task = asyncio.create_task(self.delivery.run())
            try:
                yield
            finally:
                task.cancel()
                await asyncio.wait({task})

    async def until(self, *heard: tuple[str, str]) -> None:
        while self.ear.heard != [*heard]:
            await asyncio.sleep(0.001)


def alert(key: str, severity: Severity = Severity.CRITICAL, at: datetime = T0) -> Alert:
    return Alert(key=key, severity=severity, summary="so", hint=None, since=at, raised_at=at)


async def test_what_was_raised_is_told_once_and_the_worst_first() -> None:
    scene = Scene()
    async with scene.running():
        scene.learn(alert("small", Severity.WARNING), alert("rpo"))
        await scene.until(("raised", "rpo"), ("raised", "small"))
        scene.learn(alert("small", Severity.WARNING), alert("rpo"))
        scene.learn(alert("small", Severity.WARNING))
        await scene.until(("raised", "rpo"), ("raised", "small"), ("recovered", "rpo"))
    assert scene.saved == 3
    assert scene.delivery.status.told == 3


async def test_what_goes_on_is_told_again_after_the_interval() -> None:
    scene = Scene()
    async with scene.running():
        scene.learn(alert("rpo"))
        await scene.until(("raised", "rpo"))
        scene.now += REPEAT
        scene.learn(alert("rpo"))
        await scene.until(("raised", "rpo"), ("repeated", "rpo"))


async def test_a_sink_that_is_away_is_tried_with_growing_pauses_and_told_when_it_is_back() -> None:
    scene = Scene()
    scene.ear.error = NotifyError("refused", hint="is it there?")
    async with scene.running():
        scene.learn(alert("rpo"))
        while len(scene.pauses) < 9:
            await asyncio.sleep(0.001)
        assert scene.pauses[:9] == [5, 10, 20, 40, 80, 160, 300, 300, 300]
        status = scene.delivery.status
        assert (status.problem, status.hint, status.told) == ("refused", "is it there?", 0)
        assert status.failed >= 9
        scene.ear.error = None
        await scene.until(("raised", "rpo"))
    assert scene.delivery.status.problem is None


async def test_an_outage_that_a_sink_slept_through_is_told_as_what_is_over() -> None:
    scene = Scene()
    scene.ear.error = NotifyError("refused")
    async with scene.running():
        scene.learn(alert("rpo"))
        while not scene.ear.tried:
            await asyncio.sleep(0.001)
        scene.learn()
        scene.ear.error = None
        await scene.until(("recovered", "rpo"))


async def test_a_fault_of_our_own_in_a_sink_is_shown_without_its_text() -> None:
    scene = Scene()
    scene.ear.error = RuntimeError("a secret")
    async with scene.running():
        scene.learn(alert("rpo"))
        while not scene.pauses:
            await asyncio.sleep(0.001)
    assert scene.delivery.status.problem == "an internal error: RuntimeError"


async def test_a_sink_is_not_told_that_it_cannot_be_told() -> None:
    scene = Scene()
    async with scene.running():
        scene.learn(alert("sink:webhook 1"), alert("sink:mail"))
        await scene.until(("raised", "sink:mail"))


async def test_a_ledger_that_was_kept_repeats_nothing_and_forgets_no_all_clear() -> None:
    first, second = Scene(), Scene()
    async with first.running():
        first.learn(alert("rpo"))
        await first.until(("raised", "rpo"))
    second.delivery.ledger = first.delivery.ledger
    async with second.running():
        second.learn(alert("rpo"))
        second.learn()
        await second.until(("recovered", "rpo"))
