"""One session to a PostgreSQL server: what it is, where it stands, what it archives."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Final, Self, cast

import asyncpg
from asyncpg import Connection, Record

from walkeeper.core.lsn import Lsn
from walkeeper.core.pg_version import SUPPORTED_MAJORS
from walkeeper.core.wal import WalSegment
from walkeeper.errors import PostgresError, PostgresUnavailable, WrongServer
from walkeeper.postgres.errors import map_errors
from walkeeper.postgres.facts import ServerFacts, parse_facts
from walkeeper.postgres.same_server import find_difference, holds_snapshot

_RIGHTS_HINT: Final = "GRANT pg_monitor TO the role of the dsn, or use a superuser"
_CLOSE_TIMEOUT_S: Final = 5.0
_FACTS: Final = (
    "server_version_num",
    "data_directory",
    "config_file",
    "hba_file",
    "ident_file",
    "archive_mode",
    "archive_command",
    "archive_library",
    "archive_timeout",
    "wal_segment_size",
    "data_checksums",
    "wal_level",
    "max_wal_senders",
    "block_size",
)


@dataclass(frozen=True, slots=True)
class ArchiverStatistics:
    """One row of pg_stat_archiver; names are as PostgreSQL wrote them."""

    archived_count: int
    last_archived_wal: str | None
    last_archived_at: datetime | None
    failed_count: int
    last_failed_wal: str | None
    last_failed_at: datetime | None


class Server:
    """A session to a server of a supported version.

    Its statements run one after another; each has ``deadline_s`` to be answered. All methods raise
    PostgresUnavailable when the server or the session is gone (the object is then of no more use)
    and PostgresError when the server refuses. Usable as an async context that closes it.
    """

    def __init__(self, connection: Connection[Record], deadline_s: float) -> None:
        self._connection = connection
        self._deadline_s = deadline_s
        self._lock = asyncio.Lock()

    @classmethod
    async def connect(cls, dsn: str, *, deadline_s: float) -> Self:
        """Open a session; ``deadline_s`` holds for connecting and for every later statement.

        The dsn may name a Unix socket, a service or a password file, as with libpq. Raises
        PostgresError for a version that is not supported.
        """
        with map_errors("connect to PostgreSQL"):
            connection: Connection[Record] = await asyncpg.connect(
                dsn,
                timeout=deadline_s,
                command_timeout=deadline_s,
                statement_cache_size=0,  # a pooler between us hands out other sessions
                server_settings={"application_name": "walkeeper"},
            )
        server = cls(connection, deadline_s)
        if server.major not in SUPPORTED_MAJORS:
            await server.close()
            raise PostgresError(
                f"PostgreSQL {server.major} is not supported",
                hint=f"versions {SUPPORTED_MAJORS[0]} to {SUPPORTED_MAJORS[-1]} are",
            )
        return server

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    @property
    def major(self) -> int:
        """The server's major version."""
        return self._connection.get_server_version().major

    async def close(self) -> None:
        """End the session, politely if the server answers; never raises for a lost one."""
        try:
            with map_errors("close the session"):
                await self._connection.close(timeout=_CLOSE_TIMEOUT_S)
        except (PostgresError, PostgresUnavailable):
            self._connection.terminate()

    async def fetch_row(
        self,
        query: str,
        *arguments: object,
        doing: str,
        rights_hint: str | None = None,
        deadline_s: float | None = None,
    ) -> Record:
        """Run a query that returns one row; ``doing`` says in errors what it was for."""
        rows = await self._fetch(
            query, arguments, doing=doing, rights_hint=rights_hint, deadline_s=deadline_s
        )
        return rows[0]

    async def execute(self, statement: str, *, doing: str, rights_hint: str | None = None) -> None:
        """Run a statement that returns no rows, in a transaction of its own."""
        await self._fetch(statement, doing=doing, rights_hint=rights_hint)

    async def _fetch(
        self,
        query: str,
        arguments: Sequence[object] = (),
        *,
        doing: str,
        rights_hint: str | None = None,
        deadline_s: float | None = None,
    ) -> list[Record]:
        with map_errors(doing, rights_hint=rights_hint or _RIGHTS_HINT):
            async with self._lock:
                return await self._connection.fetch(
                    query, *arguments, timeout=deadline_s or self._deadline_s
                )

    async def facts(self) -> ServerFacts:
        """What the server is and how it is set up, asked now."""
        doing = "read the server's settings"
        rows = await self._fetch(
            "SELECT name, setting FROM pg_catalog.pg_settings WHERE name = ANY($1::text[])",
            [list(_FACTS)],
            doing=doing,
        )
        settings = {cast(str, row["name"]): cast(str, row["setting"]) for row in rows}
        row = await self.fetch_row(
            "SELECT pg_catalog.pg_is_in_recovery() AS in_recovery,"
            " pg_catalog.pg_postmaster_start_time() AS started_at, system_identifier"
            " FROM pg_catalog.pg_control_system()",
            doing=doing,
        )
        in_recovery = cast(bool, row["in_recovery"])
        return parse_facts(
            settings,
            system_identifier=cast(int, row["system_identifier"]),
            in_recovery=in_recovery,
            postmaster_started_at=cast(datetime, row["started_at"]),
            timeline=await self._timeline(in_recovery=in_recovery),
        )

    async def is_in_recovery(self) -> bool:
        """Whether the server is a standby or still recovering."""
        row = await self.fetch_row(
            "SELECT pg_catalog.pg_is_in_recovery()", doing="ask whether the server is in recovery"
        )
        return cast(bool, row[0])

    async def flush_lsn(self) -> Lsn:
        """Up to where the WAL of a primary is on its disk; a PostgresError on a standby."""
        return await self._lsn("pg_current_wal_flush_lsn()", "ask for the flush position")

    async def wal_position(self) -> tuple[int, Lsn] | None:
        """Timeline of a primary and up to where its WAL is on its disk; None on a standby."""
        row = await self.fetch_row(
            "SELECT CASE WHEN pg_catalog.pg_is_in_recovery() THEN NULL"
            " ELSE pg_catalog.pg_current_wal_flush_lsn()::text END AS lsn,"
            " CASE WHEN pg_catalog.pg_is_in_recovery() THEN NULL"
            " ELSE pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_flush_lsn()) END AS name",
            doing="ask for the flush position",
        )
        if row["lsn"] is None:
            return None
        return WalSegment.parse(cast(str, row["name"])).timeline, Lsn.parse(cast(str, row["lsn"]))

    async def create_restore_point(self, name: str) -> Lsn:
        """Write a named restore point into the WAL; returns the end of its record."""
        return await self._lsn(
            "pg_create_restore_point($1)",
            "create a restore point",
            name,
            rights_hint="GRANT EXECUTE ON FUNCTION pg_create_restore_point(text) TO the role",
        )

    async def switch_wal(self) -> Lsn:
        """Finish the current segment; returns the end of the WAL just before its end.

        On a server that wrote nothing since the last switch, nothing is switched.
        """
        return await self._lsn(
            "pg_switch_wal()",
            "switch to a new WAL segment",
            rights_hint="GRANT EXECUTE ON FUNCTION pg_switch_wal() TO the role",
        )

    async def archiver_statistics(self) -> ArchiverStatistics:
        """What PostgreSQL's archiver process has counted."""
        row = await self.fetch_row(
            "SELECT archived_count, last_archived_wal, last_archived_time, failed_count,"
            " last_failed_wal, last_failed_time FROM pg_catalog.pg_stat_archiver",
            doing="read the archiver's statistics",
        )
        return ArchiverStatistics(*row.values())

    async def find_last_commit(self) -> datetime | None:
        """When the last transaction committed; None where track_commit_timestamp is off."""
        doing = "ask for the last commit"
        row = await self.fetch_row(
            "SELECT pg_catalog.current_setting('track_commit_timestamp')::bool", doing=doing
        )
        if not row[0]:
            return None
        row = await self.fetch_row(
            "SELECT timestamp FROM pg_catalog.pg_last_committed_xact()", doing=doing
        )
        return cast("datetime | None", row[0])

    async def check_same_server(self, data_dir: Path, executor: ThreadPoolExecutor) -> None:
        """Make sure that this session's server is the one that runs on ``data_dir``.

        Raises WrongServer, naming the difference, when it is not.
        """
        loop = asyncio.get_running_loop()
        difference = None
        for _ in range(2):  # the second time in case it was promoted or restarted in between
            facts = await self.facts()
            difference = await loop.run_in_executor(executor, find_difference, facts, data_dir)
            if difference is None:
                return
        # A clock that was set while the server started makes its times differ. A file tells.
        check = partial(find_difference, facts, data_dir, any_start=True)
        same = await loop.run_in_executor(executor, check) is None
        if same and await self.writes_into(data_dir, executor):
            return
        raise WrongServer(
            f"the dsn leads to another server than the one that runs on {data_dir}: {difference}",
            hint="a proxy, a virtual address or a wrong port? The dsn should be the local socket",
        )

    async def writes_into(self, data_dir: Path, executor: ThreadPoolExecutor) -> bool:
        """Whether this session's server has its files in ``data_dir``.

        It exports a snapshot, which any role may, and that makes a file for as long.
        """
        query = "SELECT pg_catalog.pg_export_snapshot(), pg_catalog.pg_backend_pid()"
        with map_errors("export a snapshot", rights_hint=_RIGHTS_HINT):
            async with self._lock, self._connection.transaction():
                row = await self._connection.fetchrow(query, timeout=self._deadline_s)
                look = partial(holds_snapshot, data_dir, *cast("tuple[str, int]", row))
                return await asyncio.get_running_loop().run_in_executor(executor, look)

    async def _timeline(self, *, in_recovery: bool) -> int:
        doing = "ask for the timeline"
        if in_recovery:
            row = await self.fetch_row(
                "SELECT greatest(c.timeline_id, r.min_recovery_end_timeline)"
                " FROM pg_catalog.pg_control_checkpoint() c, pg_catalog.pg_control_recovery() r",
                doing=doing,
            )
            return cast(int, row[0])
        # pg_control knows a new timeline only from the next checkpoint on.
        row = await self.fetch_row(
            "SELECT pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_lsn())", doing=doing
        )
        return WalSegment.parse(cast(str, row[0])).timeline

    async def _lsn(
        self, call: str, doing: str, *arguments: object, rights_hint: str | None = None
    ) -> Lsn:
        row = await self.fetch_row(
            f"SELECT pg_catalog.{call}::text",
            *arguments,
            doing=doing,
            rights_hint=rights_hint,
        )
        return Lsn.parse(cast(str, row[0]))
