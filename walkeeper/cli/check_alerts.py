"""``walkeeper check --alerts``: a test alert to everybody who would be told of one."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime

from walkeeper.agent.alert_text import Origin
from walkeeper.agent.sinks import Sink, make_sinks
from walkeeper.cli.main import Options
from walkeeper.config import Config
from walkeeper.core.alerts import Alert, Notice, Severity
from walkeeper.errors import ConfigError
from walkeeper.services.checklist import Checklist, Remark


async def check_alerts(
    options: Options, checklist: Checklist, *, now: Callable[[], datetime]
) -> None:
    """One step for each sink; raises ConfigError where there is none."""
    with ThreadPoolExecutor(1, thread_name_prefix="check") as pool:
        config = await asyncio.get_running_loop().run_in_executor(pool, options.load)
        sinks = await make_sinks(config.alerts, pool)
        if not sinks:
            raise ConfigError(
                "[alerts] names no webhook, mail or command, so nobody would be told",
                hint="conf/walkeeper.toml shows how",
            )
        origin = _origin_of(config, options.archive)
        for sink in sinks:
            await checklist.step(sink.name, _test(sink, origin, now))
    if config.alerts.heartbeat_url is not None:
        checklist.skip("heartbeat", "only the agent sends it, while all is well")


def _origin_of(config: Config, archive: str | None) -> Origin:
    """The store is not asked: alerts must be tried out while it is away, too."""
    name = archive or config.cluster.archive or "test"
    return Origin(name, config.repository.url, socket.gethostname())


def _test(
    sink: Sink, origin: Origin, now: Callable[[], datetime]
) -> Callable[[], Awaitable[Remark]]:
    async def tell() -> Remark:
        moment = now()
        alert = Alert(
            key="test",
            severity=Severity.INFO,
            summary="This is a test by 'walkeeper check --alerts', nothing is wrong.",
            hint=None,
            since=moment,
            raised_at=moment,
        )
        await sink.tell(Notice("raised", alert, moment), origin)
        return Remark("a test alert was taken")

    return tell
