"""What ``init`` does: the archive in the repository, and the settings of the server."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

from walkeeper.codec.writer import SigningKey
from walkeeper.core.layout import ARCHIVE_RECORD
from walkeeper.errors import ForeignCluster, PostgresError, UsageError
from walkeeper.postgres.facts import ServerFacts
from walkeeper.postgres.server import Server
from walkeeper.postgres.settings import (
    HIDDEN,
    alter_system,
    find_in_files,
    read_settings,
    reload_configuration,
)
from walkeeper.repository.identity import Trust, create_archive, probe_archive
from walkeeper.repository.records import FORMAT_VERSION, SOURCE_POSTGRESQL, ArchiveRecord
from walkeeper.services.archiving_settings import (
    NAMES,
    NeededSetting,
    SettingState,
    compare_settings,
    make_archive_command,
)
from walkeeper.services.host_check import find_host_problems
from walkeeper.storage.base import Capabilities, Storage

_RELOAD_DEADLINE_S: Final = 5.0
_RELOAD_POLL_S: Final = 0.1
_SETTLED: Final = frozenset({SettingState.OK, SettingState.RESTART})


@dataclass(frozen=True, slots=True)
class SetupOptions:
    """What is wanted. ``program`` and ``socket`` go into archive_command.

    ``folder`` is the archive's; None names it by the system identifier. ``replace`` allows to take
    over from another way of archiving.
    """

    folder: str | None
    program: Path
    socket: Path
    apply: bool = False
    replace: bool = False


@dataclass(frozen=True, slots=True)
class SetupResult:
    """What was found and done; ``settings`` are as they stand at the end.

    ``changed`` names the settings written by this run.
    """

    folder: str
    record: ArchiveRecord
    created: bool
    capabilities: Capabilities
    settings: tuple[NeededSetting, ...]
    changed: tuple[str, ...]
    warnings: tuple[str, ...]

    @property
    def settled(self) -> bool:
        """Whether nothing is left to set; a restart may be."""
        return all(setting.state in _SETTLED for setting in self.settings)

    @property
    def waiting_for_restart(self) -> tuple[str, ...]:
        """The settings that count from the next start of the server."""
        return tuple(
            setting.name for setting in self.settings if setting.state is SettingState.RESTART
        )


class Setup:
    """Creates an archive and makes a server ready for it; running it again changes nothing."""

    def __init__(
        self,
        storage: Storage,
        trust: Trust,
        signing: SigningKey,
        pool: ThreadPoolExecutor,
        options: SetupOptions,
        *,
        now: Callable[[], datetime],
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._storage = storage
        self._trust = trust
        self._signing = signing
        self._pool = pool
        self._options = options
        self._now = now
        self._sleep = sleep

    async def run(self, server: Server) -> SetupResult:
        """Create or find the archive, compare the settings, and set them if that is wanted.

        Raises PostgresError on a standby, UsageError when another way of archiving would have to be
        replaced, before anything was written; ForeignCluster and what storage raises.
        """
        facts = await server.facts()
        _require_primary(facts)
        options = self._options
        command = make_archive_command(options.program, options.socket)
        settings = await _compare(server, command)
        if options.apply and not options.replace:
            _require_free(settings)
        folder = options.folder or str(facts.system_identifier)
        record, created = await create_archive(
            self._storage, folder, self._record(folder, facts), self._signing, self._trust
        )
        _require_segment_size(record, facts, folder)
        capabilities = await probe_archive(self._storage, folder)
        changed: tuple[str, ...] = ()
        if options.apply:
            changed = await _apply(server, settings)
            settings = await self._wait_settled(server, command)
        loop = asyncio.get_running_loop()
        warnings = await loop.run_in_executor(
            self._pool, find_host_problems, facts.data_directory, options.program, options.socket
        )
        if not (capabilities.conditional_put and capabilities.conditional_multipart):
            warnings.append(SINGLE_WRITER)
        return SetupResult(
            folder, record, created, capabilities, settings, changed, tuple(warnings)
        )

    def _record(self, folder: str, facts: ServerFacts) -> ArchiveRecord:
        return ArchiveRecord(
            name=ARCHIVE_RECORD,
            archive=secrets.token_hex(16),
            label=folder,
            source=SOURCE_POSTGRESQL,
            system_identifier=str(facts.system_identifier),
            segment_size=facts.segment_size.bytes,
            format=FORMAT_VERSION,
            created=self._now(),
        )

    async def _wait_settled(self, server: Server, command: str) -> tuple[NeededSetting, ...]:
        """The settings once the server has read its files again, or when it takes too long."""
        for _ in range(round(_RELOAD_DEADLINE_S / _RELOAD_POLL_S)):
            settings = await _compare(server, command)
            if all(setting.state in _SETTLED for setting in settings):
                break
            await self._sleep(_RELOAD_POLL_S)
        return settings


SINGLE_WRITER: Final = (
    "the store does not enforce conditional creates: promise 2 is not enforced here, so only one "
    "host may write into this repository"
)


async def _compare(server: Server, command: str) -> tuple[NeededSetting, ...]:
    current = await read_settings(server, NAMES)
    configured = {
        name: await find_in_files(server, name)
        for name, setting in current.items()
        if setting.pending_restart or setting.value == HIDDEN
    }
    return compare_settings(current, configured, command)


async def _apply(server: Server, settings: tuple[NeededSetting, ...]) -> tuple[str, ...]:
    changes = [setting for setting in settings if setting.state not in _SETTLED]
    for setting in changes:
        await alter_system(server, setting.name, setting.needed)
    if changes:
        await reload_configuration(server)
    return tuple(setting.name for setting in changes)


def _require_primary(facts: ServerFacts) -> None:
    if facts.in_recovery:
        raise PostgresError(
            "the server is a standby: its archive is created from the primary",
            hint="run walkeeper init on the primary; after a promotion run init --apply here",
        )


def _require_free(settings: tuple[NeededSetting, ...]) -> None:
    for setting in settings:
        if setting.state is SettingState.FOREIGN:
            what = "cannot be seen" if setting.current is None else f"is {setting.current!r}"
            raise UsageError(
                f"{setting.name} {what}: somebody else may be archiving this cluster; nothing was "
                "changed",
                hint="to take over from it: walkeeper init --apply --replace",
            )


def _require_segment_size(record: ArchiveRecord, facts: ServerFacts, folder: str) -> None:
    if record.segment_size != facts.segment_size.bytes:
        raise ForeignCluster(
            f"the archive {folder} holds WAL segments of {record.segment_size} bytes, the server "
            f"writes {facts.segment_size.bytes}",
            hint="pg_resetwal --wal-segsize begins a new archive: choose another [cluster] archive",
        )
