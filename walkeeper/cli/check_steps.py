"""The order of the steps of ``check``, and which of them need which."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from datetime import datetime

from walkeeper.agent.compose import open_workshop
from walkeeper.agent.keyring import load_keyring
from walkeeper.agent.program import find_program
from walkeeper.cli.main import PATIENCE_S, Options
from walkeeper.cli.status import ask_agent
from walkeeper.config import Config
from walkeeper.keys.files import parse_identity_file
from walkeeper.keys.load import read_key_file
from walkeeper.postgres.facts import ServerFacts
from walkeeper.postgres.server import Server
from walkeeper.repository.archive import Archive
from walkeeper.services import check
from walkeeper.services.archiving_settings import make_archive_command
from walkeeper.services.check_keys import KeysAtHand, check_keys
from walkeeper.services.checklist import Checklist, Remark

_DEADLINE_S = 30.0


class Steps:
    """Runs the steps, each as soon as what it needs is there; the others are skipped.

    What is opened on the way is closed by ``stack``, which the caller owns.
    """

    def __init__(
        self,
        options: Options,
        checklist: Checklist,
        stack: AsyncExitStack,
        timeout_s: float,
        *,
        now: Callable[[], datetime],
    ) -> None:
        self._options = options
        self._list = checklist
        self._stack = stack
        self._timeout_s = timeout_s
        self._now = now
        self._pool = stack.enter_context(ThreadPoolExecutor(2, thread_name_prefix="check"))
        self._config: Config | None = None
        self._archive: Archive | None = None
        self._server: Server | None = None
        self._facts: ServerFacts | None = None

    async def run(self) -> None:
        """Try them all."""
        if not await self._list.step("configuration", self._load):
            return
        config = self._config
        assert config is not None  # loaded
        if await self._list.step("keys", lambda: self._keys(config)):
            await self._check_repository(config)
        else:
            self._list.skip("repository", "needs the keys")
        if config.cluster.dsn is None:
            self._list.skip("PostgreSQL", "this host has no [cluster] dsn, so it only reads")
            return
        server_fits = await self._check_postgres(config)
        agent_runs = await self._list.step("agent", lambda: self._agent(config))
        await self._check_flow(ready=server_fits and agent_runs)

    async def _load(self) -> Remark:
        self._config = self._options.load()
        return Remark("read, without contradictions")

    async def _keys(self, config: Config) -> Remark:
        loop = asyncio.get_running_loop()
        keys = await loop.run_in_executor(self._pool, _load_keys, config)
        return await check_keys(keys, self._pool)

    async def _check_repository(self, config: Config) -> None:
        if not await self._list.step("repository", lambda: self._open(config)):
            return
        archive = self._archive
        assert archive is not None  # opened
        if config.encryption.writer_key_file is not None:
            await self._list.step("overwriting", lambda: check.check_creates(archive))

    async def _open(self, config: Config) -> Remark:
        shop = await self._stack.enter_async_context(open_workshop(config, patience_s=PATIENCE_S))
        archive = await shop.archive(self._options.archive)
        remark = await check.check_archive(archive)
        self._archive = archive
        return remark

    async def _check_postgres(self, config: Config) -> bool:
        """Whether the server is there and archives as it should."""
        if not await self._list.step("PostgreSQL", lambda: self._connect(config)):
            self._list.skip("settings", "needs PostgreSQL")
            return False
        archive, server, facts = self._archive, self._server, self._facts
        assert server is not None  # connected
        assert facts is not None
        fits = False
        if archive is None:
            self._list.skip("settings", "needs the repository")
        else:
            command = make_archive_command(find_program(), config.agent.socket.absolute())
            fits = await self._list.step(
                "settings", lambda: check.check_settings(facts, archive, command)
            )
        may = await self._list.step("rights", lambda: check.check_rights(server))
        return fits and may

    async def _connect(self, config: Config) -> Remark:
        dsn = config.require_dsn().reveal()
        server = await Server.connect(dsn, deadline_s=_DEADLINE_S)
        self._server = await self._stack.enter_async_context(server)
        self._facts = await server.facts()
        return await check.check_same_server(
            server, self._facts, config.cluster.data_directory, self._pool
        )

    async def _agent(self, config: Config) -> Remark:
        agent = await ask_agent(config.agent.socket)
        return await check.check_agent(agent, config.agent.socket, self._archive)

    async def _check_flow(self, *, ready: bool) -> None:
        archive, server, facts = self._archive, self._server, self._facts
        if not ready or archive is None or server is None or facts is None:
            self._list.skip("archiving", "needs all of the above")
            return
        if facts.in_recovery:
            self._list.skip("archiving", "a standby writes no WAL of its own")
            return
        flow = check.FlowCheck(server, archive, self._timeout_s, now=self._now)
        if await self._list.step("archiving", flow.send):
            await self._list.step("reading back", flow.read_back)


def _load_keys(config: Config) -> KeysAtHand:
    """The keys and what is known of their files; blocks."""
    encryption = config.encryption
    keyring = load_keyring(encryption)
    pinned = keyring.writers if encryption.writers else ()
    exposed = []
    for path in (encryption.identity_file, encryption.writer_key_file):
        if path is None:
            continue
        found = read_key_file(path)
        if found.exposed:
            exposed.append(path)
        if path == encryption.identity_file and not pinned:
            pinned = parse_identity_file(found.text, str(path)).writers
    return KeysAtHand(keyring, pinned, tuple(exposed))
