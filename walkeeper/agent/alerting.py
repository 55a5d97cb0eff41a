"""Alerts of the agent: decides what is wrong, keeps it over restarts, has the sinks told."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final, Protocol

import msgspec
import structlog

from walkeeper.agent.alert_text import Origin
from walkeeper.agent.delivery import Delivery
from walkeeper.agent.heartbeat import Heartbeat
from walkeeper.agent.observer import Sample
from walkeeper.agent.sinks import Sink
from walkeeper.agent.state_file import keep_state, read_state
from walkeeper.config_alerts import AlertsConfig
from walkeeper.core.alerts import Alert, Entry, Severity, advance, topic
from walkeeper.core.backlog import BacklogSample
from walkeeper.services.agent_status import AgentStatus, SinkStatus
from walkeeper.services.alert_conditions import (
    Seen,
    Targets,
    find_conditions,
    find_unknown,
    is_within_target,
)
from walkeeper.services.look import Look
from walkeeper.services.status_findings import Finding

_EVERY_S: Final = 5.0
_LEAST_EVERY_S: Final = 0.5
_STALE_S: Final = 60.0
"""Who has judged nothing for so long cannot say that all is well."""
_TREND: Final = timedelta(minutes=15)

log = structlog.get_logger(__name__)


class AlertState(msgspec.Struct, frozen=True, kw_only=True):
    """``state_dir/alerts/<archive>.json``: the alerts, and by the name of each sink its ledger."""

    version: int = 1
    alerts: dict[str, Alert]
    ledgers: dict[str, dict[str, Entry]]


class Observed(Protocol):
    """What is known now; see `Observer`."""

    @property
    def look(self) -> Look:
        """The last look at the archive."""
        ...

    @property
    def samples(self) -> Sequence[Sample]:
        """How the archiver stood in the last hours."""
        ...

    @property
    def trouble(self) -> str | None:
        """Why the last request to the store failed, if it has."""
        ...

    @property
    def agent(self) -> Callable[[], AgentStatus]:
        """Gives the agent's own facts."""
        ...

    def findings(self) -> tuple[Finding, ...]:
        """What needs attention."""
        ...


class Alerting:
    """Judges every few seconds what the observer has seen; each sink is told in its own time.

    ``state_path`` is read when `run` begins. With ``only`` nothing is known of other topics.
    """

    def __init__(
        self,
        observer: Observed,
        config: AlertsConfig,
        sinks: Sequence[Sink],
        origin: Origin,
        *,
        state_path: Path,
        pool: ThreadPoolExecutor,
        segment_bytes: int,
        only: frozenset[str] | None = None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._observer = observer
        self._now = now
        self._pool = pool
        self._state_path = state_path
        self._segment_bytes = segment_bytes
        self._only = only
        self._hold = timedelta(seconds=config.hold)
        self._every_s = max(_LEAST_EVERY_S, min(_EVERY_S, config.hold / 2))
        self._targets = Targets(
            rpo_s=config.rpo,
            max_backup_age_s=config.max_backup_age,
            max_drill_age_s=config.max_drill_age,
            disk_full_within_s=config.disk_full_within,
        )
        repeat = timedelta(seconds=config.repeat)
        self._deliveries = [Delivery(one, origin, repeat, self._save, now=now) for one in sinks]
        self._heartbeat = None
        if config.heartbeat_url is not None:
            interval_s = float(config.heartbeat_interval)
            self._heartbeat = Heartbeat(config.heartbeat_url, interval_s, self.is_well)
        self._saving = asyncio.Lock()
        self._is_loaded = False
        self._began_at: float | None = None
        self._judged_at = 0.0
        self.alerts: dict[str, Alert] = {}

    def statuses(self) -> tuple[SinkStatus, ...]:
        """How each sink fares, the heartbeat behind them."""
        found = [one.status for one in self._deliveries]
        if self._heartbeat is not None:
            found.append(self._heartbeat.status)
        return tuple(found)

    def is_well(self) -> bool:
        """Nothing critical is raised, the server is the right one, the RPO is within its target.

        So soon after the start that nothing can be raised yet, nothing critical may be there at
        all: an agent that dies again and again must not seem well.
        """
        at, hold_s = time.monotonic(), self._hold.total_seconds()
        if self._began_at is None or at - self._judged_at > _STALE_S:
            return False
        starting = at - self._began_at <= hold_s + self._every_s
        critical = (one for one in self.alerts.values() if one.severity is Severity.CRITICAL)
        if any(starting or one.raised_at is not None for one in critical):
            return False
        return is_within_target(self._observer.agent(), self._targets)

    async def run(self) -> None:
        """Watch and tell until cancelled; what was told by then is not told again."""
        if not self._is_loaded:
            await self._load()
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._judge_on())
                for delivery in self._deliveries:
                    group.create_task(delivery.run())
                if self._heartbeat is not None:
                    group.create_task(self._heartbeat.run())
        finally:  # a cancelled delivery has maybe told something and not written it down
            await self._save()

    async def _judge_on(self) -> None:
        while True:
            if self._judge():
                await self._save()
            await asyncio.sleep(self._every_s)

    def _judge(self) -> bool:
        """Whether something has changed that must outlast a restart."""
        before, now = _raised(self.alerts), self._now()
        seen = self._seen(now)
        conditions = find_conditions(seen, self._targets, now)
        unknown = find_unknown(seen)
        if self._only is not None:
            unknown |= {topic(key) for key in self.alerts} - self._only
        self.alerts = advance(self.alerts, conditions, unknown, now, self._hold)
        self._judged_at = time.monotonic()
        if self._began_at is None and seen.look.at is not None:
            self._began_at = self._judged_at
        for delivery in self._deliveries:
            delivery.learn(self.alerts)
        after = _raised(self.alerts)
        for key in after.keys() - before.keys():
            log.warning("alert_raised", key=key, reason=self.alerts[key].summary)
        for key in before.keys() - after.keys():
            log.info("alert_over", key=key)
        return before != after

    def _seen(self, now: datetime) -> Seen:
        samples = [
            BacklogSample(one.at.timestamp(), one.backlog_bytes, one.disk.free_bytes)
            for one in self._observer.samples
            if one.disk is not None and now - one.at <= _TREND
        ]
        return Seen(
            agent=self._observer.agent(),
            look=self._observer.look,
            findings=self._observer.findings(),
            trouble=self._observer.trouble,
            samples=samples,
            segment_bytes=self._segment_bytes,
        )

    async def _load(self) -> None:
        loop = asyncio.get_running_loop()
        state = await loop.run_in_executor(self._pool, read_state, self._state_path, AlertState)
        if state is not None:
            self.alerts = state.alerts
            for delivery in self._deliveries:
                delivery.ledger = state.ledgers.get(delivery.name, {})
        self._is_loaded = True

    async def _save(self) -> None:
        async with self._saving:  # so that no older state comes behind a newer one
            ledgers = {one.name: dict(one.ledger) for one in self._deliveries}
            state = AlertState(alerts=self.alerts, ledgers=ledgers)
            await keep_state(self._pool, self._state_path, state)


def _raised(alerts: dict[str, Alert]) -> dict[str, tuple[object, ...]]:
    return {
        key: (one.raised_at, one.severity, one.clear_since)
        for key, one in alerts.items()
        if one.raised_at is not None
    }
