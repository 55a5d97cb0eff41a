"""Backup mode: the time between pg_backup_start and pg_backup_stop, on one session.

The server forgets the backup when the session ends (src/backend/access/transam/xlogfuncs.c), so
the session is kept alive, watched, and never replaced.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final, cast

from walkeeper.core.lsn import Lsn
from walkeeper.errors import BackupError, Locked, PostgresError
from walkeeper.postgres.server import Server

_FIRST_WITH_NEW_NAMES: Final = 15  # release notes of 15: pg_start_backup became pg_backup_start
_LOCK: Final = int.from_bytes(b"walkbase")
"""Of PostgreSQL's advisory locks; other programs have no reason to take just this number."""
# Each could end a session that has nothing to do for hours: setting, first version that has it.
_TIMEOUTS: Final = (
    ("statement_timeout", 13),
    ("lock_timeout", 13),
    ("idle_in_transaction_session_timeout", 13),
    ("idle_session_timeout", 14),
    ("transaction_timeout", 17),
)
_START: Final = "SELECT {call}::text AS lsn, pg_catalog.clock_timestamp() AS at"
# convert_to gives the label's own bytes, whatever the encodings of database and client.
_STOP: Final = (
    "SELECT lsn::text, pg_catalog.clock_timestamp() AS at,"
    " pg_catalog.convert_to(labelfile, pg_catalog.getdatabaseencoding()) AS label,"
    " pg_catalog.convert_to(spcmapfile, pg_catalog.getdatabaseencoding()) AS map FROM {call}"
)


@dataclass(frozen=True, slots=True)
class BackupStop:
    """What PostgreSQL hands out at the end; both files go into the backup byte for byte.

    ``tablespace_map`` is empty without tablespaces; the file is then left out.
    """

    stop_lsn: Lsn
    stopped_at: datetime
    backup_label: bytes
    tablespace_map: bytes


class BackupMode:
    """A server in backup mode; made by ``backup_mode``."""

    def __init__(self, server: Server, start_lsn: Lsn, started_at: datetime) -> None:
        self._server = server
        self._stopped = False
        self.start_lsn = start_lsn
        """The redo point: replay of the backup begins here."""
        self.started_at = started_at
        """The server's clock when it had entered backup mode."""

    async def check_same_server(self, data_dir: Path, executor: ThreadPoolExecutor) -> None:
        """Make sure that this session's server runs on ``data_dir``; raises WrongServer.

        A dsn may lead to another server with each connection, and a label of one server with the
        files of another is no backup.
        """
        await self._server.check_same_server(data_dir, executor)

    async def stop(self) -> BackupStop:
        """End backup mode; returns what the backup needs besides the files.

        Does not wait for the archiver. Raises BackupError when the session was lost: what was
        copied is then worthless.
        """
        new = self._server.major >= _FIRST_WITH_NEW_NAMES
        call = "pg_backup_stop(false)" if new else "pg_stop_backup(false, false)"
        try:
            row = await self._server.fetch_row(
                _STOP.format(call=f"pg_catalog.{call}"),
                doing="end the backup",
                rights_hint=_rights_hint(self._server.major),
            )
        except PostgresError as error:
            raise BackupError(
                f"the backup is void: {error}", hint=error.hint or "take another one"
            ) from error
        self._stopped = True
        return BackupStop(
            stop_lsn=Lsn.parse(cast(str, row["lsn"])),
            stopped_at=cast(datetime, row["at"]),
            backup_label=cast("bytes | None", row["label"]) or b"",
            tablespace_map=cast("bytes | None", row["map"]) or b"",
        )

    async def keep_alive(
        self, interval_s: float, sleep: Callable[[float], Awaitable[None]]
    ) -> None:
        """Ask something every ``interval_s``; BackupError when the session is gone."""
        while not self._stopped:
            await sleep(interval_s)
            try:
                await self._server.is_in_recovery()
            except PostgresError as error:
                raise BackupError(
                    f"the session that held the backup was lost: {error}", hint="take another one"
                ) from error


@asynccontextmanager
async def backup_mode(
    dsn: str,
    label: str,
    *,
    fast: bool,
    deadline_s: float,
    checkpoint_deadline_s: float = 3600.0,
    ping_interval_s: float = 30.0,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> AsyncIterator[BackupMode]:
    """Hold a primary in backup mode on a session of its own.

    With ``fast`` the checkpoint that opens the backup is made at once, otherwise it is spread over
    time and may take minutes. Leaving the block without ``stop()`` abandons the backup; the server
    cleans up by itself. When the session is lost the block is cancelled and BackupError comes out
    of it. Raises BackupError on a standby, Locked while another session that came by the same
    database is in here, PostgresUnavailable, PostgresError.
    """
    async with await Server.connect(dsn, deadline_s=deadline_s) as server:
        mode = await _start(server, label, fast=fast, deadline_s=checkpoint_deadline_s)
        failure: Exception | None = None
        try:
            async with asyncio.TaskGroup() as group:
                pinger = group.create_task(mode.keep_alive(ping_interval_s, sleep))
                try:
                    yield mode
                except Exception as error:  # noqa: BLE001 - carried past the group, not into it
                    failure = error
                finally:
                    pinger.cancel()
        except BaseExceptionGroup as lost:  # the pinger is the group's only task
            raise lost.exceptions[0] from None
        if failure is not None:
            raise failure


async def _start(server: Server, label: str, *, fast: bool, deadline_s: float) -> BackupMode:
    if await server.is_in_recovery():
        raise BackupError(
            "the server is a standby; base backups are taken from a primary",
            hint="point the dsn at the primary",
        )
    for setting, since in _TIMEOUTS:
        if server.major >= since:
            await server.fetch_row(
                "SELECT pg_catalog.set_config($1, '0', false)", setting, doing=f"set {setting}"
            )
    await _lock(server)
    new = server.major >= _FIRST_WITH_NEW_NAMES
    call = "pg_backup_start($1, $2)" if new else "pg_start_backup($1, $2, false)"
    row = await server.fetch_row(
        _START.format(call=f"pg_catalog.{call}"),
        label,
        fast,
        doing="start a backup",
        rights_hint=_rights_hint(server.major),
        deadline_s=deadline_s,
    )
    return BackupMode(server, Lsn.parse(cast(str, row["lsn"])), cast(datetime, row["at"]))


async def _lock(server: Server) -> None:
    """Held by the session, so it ends with it, however that ends."""
    row = await server.fetch_row(
        "SELECT pg_catalog.pg_try_advisory_lock($1) AS taken", _LOCK, doing="lock out other backups"
    )
    if not row["taken"]:
        raise Locked(
            "a backup of this server is already being taken",
            hint="by another walkeeper: wait for it, or end it",
        )


def _rights_hint(major: int) -> str:
    if major >= _FIRST_WITH_NEW_NAMES:
        functions = "pg_backup_start(text, boolean), pg_backup_stop(boolean)"
    else:
        functions = "pg_start_backup(text, boolean, boolean), pg_stop_backup(boolean, boolean)"
    return f"GRANT EXECUTE ON FUNCTION {functions} TO the role"
