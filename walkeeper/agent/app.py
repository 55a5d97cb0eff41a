"""The resident process: builds the objects, owns the TaskGroup, obeys signals."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import structlog

from walkeeper.agent.cluster import ClusterService
from walkeeper.agent.compose import Workshop, open_workshop
from walkeeper.agent.control import ControlServer
from walkeeper.agent.handlers import Handlers
from walkeeper.agent.push_door import PushDoor
from walkeeper.agent.starting import Start
from walkeeper.agent.systemd import SystemdNotifier
from walkeeper.config import Config
from walkeeper.errors import ConfigError, WalkeeperError
from walkeeper.log import configure_logging
from walkeeper.repository.archive import Archive

_DRAIN_S: Final = 20.0
"""How long uploads and requests under way may take once the agent was asked to stop."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Opened:
    """What an agent needs to begin."""

    archive: Archive
    cluster: ClusterService
    handlers: Handlers


class Agent:
    """The service; `run` returns after SIGTERM or SIGINT, when what was under way has ended.

    A second signal, or the drain's deadline, ends it at once: what is on its way is then either
    stored whole or not at all, and PostgreSQL offers it again. SIGHUP reads the configuration again
    with ``reload``. ``program`` are the words that call ``walkeeper`` with this configuration.
    """

    def __init__(
        self,
        config: Config,
        reload: Callable[[], Config],
        archive: str | None = None,
        program: tuple[str, ...] = ("walkeeper",),
    ) -> None:
        self._config = config
        self._reload = reload
        self._archive = archive
        self._program = program
        self._stop = asyncio.Event()
        self._stop_now = asyncio.Event()
        self._hangup = asyncio.Event()
        self._notifier = SystemdNotifier(os.environ)

    async def run(self) -> None:
        """Serve; raises what makes it impossible to begin, such as NotInitialised.

        A repository that is away does not: it is waited for, see `Start`.
        """
        self._config.require_dsn()
        self._config.require_writer_key_file()
        self._catch_signals()
        async with open_workshop(self._config) as shop:
            state_dir = self._config.agent.state_dir
            await asyncio.get_running_loop().run_in_executor(shop.pool, make_state_dir, state_dir)
            start = Start(
                shop,
                partial(self._open, shop),
                archive=self._archive,
                begun=self._notifier.ready,
                watchdog=self._watchdog,
            )
            opened = await start.run(self._stop)
            if opened is not None:
                await self._serve(shop, opened)
        log.info("agent_stopped")

    async def _open(self, shop: Workshop) -> Opened:
        archive = await shop.archive(self._archive, probe=True)
        # A writer key that readers do not believe is told now, not at the restore.
        shop.sealer(archive.record, level=self._config.archive.level)
        cluster = ClusterService(shop, archive)
        return Opened(archive, cluster, await Handlers.open(shop, archive, cluster, self._program))

    async def _serve(self, shop: Workshop, opened: Opened) -> None:
        config = self._config
        archive, cluster, handlers = opened.archive, opened.cluster, opened.handlers
        control = ControlServer(config.agent.socket)
        handlers.register(control)
        control.bind()
        door = PushDoor(config.agent.socket, handlers.push, shop.pool)
        async with asyncio.TaskGroup() as group:
            archiving = group.create_task(cluster.run())
            background = [
                group.create_task(handlers.run()),
                group.create_task(self._watchdog()),
                group.create_task(self._reload_on_hangup()),
            ]
            serving = group.create_task(control.serve())
            answering = group.create_task(door.serve())
            watching = group.create_task(handlers.watching.run())
            self._notifier.ready(f"archiving to {shop.storage.url}")
            log.info("agent_ready", socket=str(config.agent.socket), archive=archive.folder)
            await self._stop.wait()
            self._notifier.stopping("draining")
            log.info("agent_draining")
            control.stop()
            door.stop()
            handlers.watching.stop()
            cluster.drain()
            await self._drained({serving, answering, archiving, watching})
            for task in (serving, answering, archiving, watching, *background):
                task.cancel()

    async def _drained(self, pending: set[asyncio.Task[None]]) -> None:
        """Return when these have ended, at the drain's deadline, or with a second signal."""
        impatient = asyncio.ensure_future(self._stop_now.wait())
        try:
            async with asyncio.timeout(_DRAIN_S):
                while pending and not impatient.done():
                    ended, _ = await asyncio.wait(
                        {*pending, impatient}, return_when=asyncio.FIRST_COMPLETED
                    )
                    pending = pending - ended
        except TimeoutError:
            log.warning("agent_gave_up_draining", seconds=_DRAIN_S)
        finally:
            impatient.cancel()

    def _catch_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._asked_to_stop)
        loop.add_signal_handler(signal.SIGHUP, self._hangup.set)

    def _asked_to_stop(self) -> None:
        if self._stop.is_set():
            self._stop_now.set()
        self._stop.set()

    async def _watchdog(self) -> None:
        interval_s = self._notifier.watchdog_interval_s
        while interval_s is not None:
            self._notifier.watchdog()
            await asyncio.sleep(interval_s)

    async def _reload_on_hangup(self) -> None:
        while True:
            await self._hangup.wait()
            self._hangup.clear()
            self._notifier.reloading()
            try:
                # Some kilobytes from a local file, read once in a while on somebody's order.
                config = self._reload()
            except WalkeeperError as error:
                log.warning("reload_failed", reason=str(error), hint=error.hint)
            else:
                self._apply(config)
            self._notifier.ready()

    def _apply(self, config: Config) -> None:
        """Logging changes at once; everything else is bound to connections and waits."""
        configure_logging(config.log.level, config.log.format)
        waiting = [
            name
            for name in config.__struct_fields__
            if name != "log" and getattr(config, name) != getattr(self._config, name)
        ]
        log.info("configuration_reloaded", level=config.log.level, needs_restart=waiting)


def make_state_dir(path: Path) -> None:
    """Make the agent's directory; blocks. Raises ConfigError when it cannot be written to."""
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"[agent] state_dir {path} cannot be made: {error.strerror}",
            hint="it must belong to the user who runs the agent",
        ) from error
    if not os.access(path, os.W_OK | os.X_OK):
        raise ConfigError(
            f"[agent] state_dir {path} cannot be written to",
            hint="it must belong to the user who runs the agent",
        )
