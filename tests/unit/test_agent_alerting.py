"""Alerts of an agent over its own end: what was told is not told again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

from tests.fix_sinks import ORIGIN
from tests.fix_status import AGENT, HEALTHY
from walkeeper.agent.alert_text import Origin
from walkeeper.agent.alerting import Alerting
from walkeeper.agent.observer import Sample
from walkeeper.config_alerts import AlertsConfig
from walkeeper.config_values import Duration
from walkeeper.core.alerts import Notice
from walkeeper.services.agent_status import AgentStatus
from walkeeper.services.look import Look
from walkeeper.services.status_findings import Finding

DEADLINE_S = 60


class Broken:
    """What an observer sees of an archive in which one thing is wrong all the time."""

    samples: Sequence[Sample] = ()
    trouble = None

    @property
    def look(self) -> Look:
        return Look(at=datetime.now(UTC), health=HEALTHY)

    @property
    def agent(self) -> Callable[[], AgentStatus]:
        return lambda: AGENT

    def findings(self) -> tuple[Finding, ...]:
        return (Finding(key="broken", what="it is broken", hint=None, urgent=True),)


class LastWord:
    """A sink; the first notice that reaches one makes the agent stop at that very moment."""

    def __init__(self, name: str, stop: Callable[[], None], after: asyncio.Event) -> None:
        self.name = name
        self.heard: list[str] = []
        self._stop = stop
        self._after = after

    async def tell(self, notice: Notice, origin: Origin) -> None:
        assert origin == ORIGIN
        if notice.alert.key == "broken":
            self.heard.append(notice.event)
            await self._after.wait()
            self._stop()


async def run(
    state_path: Path, pool: ThreadPoolExecutor, names: Sequence[str], *, to_hear: int
) -> dict[str, list[str]]:
    """An agent's alerts until so many sinks have heard, or each had time to; what they heard."""
    all_heard = asyncio.Event()

    def stop() -> None:
        task.cancel()

    sinks = [LastWord(name, stop, all_heard) for name in names]
    alerting = Alerting(
        Broken(),
        AlertsConfig(hold=Duration(0)),
        sinks,
        ORIGIN,
        state_path=state_path,
        pool=pool,
        segment_bytes=1,
    )
    task = asyncio.create_task(alerting.run())
    async with asyncio.timeout(DEADLINE_S):
        while sum(len(one.heard) for one in sinks) < to_hear:
            await asyncio.sleep(0.001)
        if not to_hear:
            while "broken" not in alerting.alerts:
                await asyncio.sleep(0.001)
            await asyncio.sleep(0.1)
            stop()
        all_heard.set()
        await asyncio.wait({task})
    assert task.cancelled()
    return {one.name: one.heard for one in sinks}


async def test_what_was_told_as_the_agent_was_stopped_is_not_told_again_after_its_start(
    tmp_path: Path, pool: ThreadPoolExecutor
) -> None:
    state_path = tmp_path / "alerts" / "archive.json"
    names = ("webhook 1", "webhook 2", "command")
    assert await run(state_path, pool, names, to_hear=3) == {name: ["raised"] for name in names}
    assert await run(state_path, pool, names, to_hear=0) == {name: [] for name in names}
