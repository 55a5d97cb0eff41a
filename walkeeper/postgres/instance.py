"""A private PostgreSQL on a restored directory: started, watched through recovery, stopped."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
import time
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from types import TracebackType
from typing import Final, Self, TypeVar, cast
from urllib.parse import quote

from walkeeper.core.lsn import Lsn
from walkeeper.errors import PostgresError, PostgresUnavailable, RecoveryError
from walkeeper.postgres.control_file import ClusterState, read_control_file
from walkeeper.postgres.postmaster import find_postmaster
from walkeeper.postgres.private_server import (
    PORT,
    RUN_DIR_PARENT,
    ServerFiles,
    command_line,
    make_run_dir,
    private_settings,
    process_options,
)
from walkeeper.postgres.programs import ProcessOwner, find_owner
from walkeeper.postgres.server import Server

_Result = TypeVar("_Result")

_POLL_S: Final = 0.2
_STOP_DEADLINE_S: Final = 60.0
_ANSWER_DEADLINE_S: Final = 30.0
_LOG_TAIL_BYTES: Final = 4096
_FATAL: Final = re.compile(r"(?:FATAL|PANIC): +(.*)")
_FIRST_WITH_PAUSE_STATE: Final = 14
# What a server finds in its environment, besides what the caller gives.
_ENVIRONMENT: Final = {"PATH": "/usr/local/bin:/usr/bin:/bin", "LC_ALL": "C"}


class EndState(StrEnum):
    """How recovery ended."""

    PROMOTED = "promoted"
    PAUSED = "paused"
    SHUT_DOWN = "shut down"


@dataclass(frozen=True, slots=True)
class RecoveryEnd:
    """Where recovery ended.

    ``lsn`` is the end of the last record replayed; ``timeline`` the one the server is on now;
    ``last_commit_at`` the time of the last transaction replayed, None when there was none or the
    server has shut down at its target.
    """

    state: EndState
    lsn: Lsn
    timeline: int
    last_commit_at: datetime | None
    elapsed_s: float


class Instance:
    """A server on ``data_dir``, on a Unix socket in a private directory, nowhere else.

    An async context: entering starts the process, leaving stops it. ``settings`` go on its command
    line and count more than its configuration. ``role`` is a superuser of the cluster. When we are
    root the server runs as the owner of ``data_dir``. ``session_settings`` hold for every session
    of ours and count more than what the cluster's catalog says of databases and roles.
    """

    def __init__(
        self,
        data_dir: Path,
        bin_dir: Path,
        files: ServerFiles,
        executor: ThreadPoolExecutor,
        *,
        role: str,
        settings: Mapping[str, str] | None = None,
        session_settings: Mapping[str, str] | None = None,
        environment: Mapping[str, str] | None = None,
        run_parent: Path = RUN_DIR_PARENT,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._data_dir = data_dir
        self._bin_dir = bin_dir
        self._files = files
        self._executor = executor
        self._role = role
        self._settings = dict(settings or {})
        self._session_settings = dict(session_settings or {})
        self._run_parent = run_parent
        self._environment = _ENVIRONMENT | dict(environment or {})
        self._sleep = sleep
        self._owner: ProcessOwner | None = None
        self._run_dir: Path | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._started_at_s = 0.0

    @property
    def socket_dir(self) -> Path:
        """Where the server's socket is while it runs."""
        assert self._run_dir is not None, "the instance is used as a context"
        return self._run_dir

    @property
    def session_options(self) -> str:
        """The settings of our sessions, as libpq takes them in PGOPTIONS."""
        return " ".join(f"-c {name}={value}" for name, value in self._session_settings.items())

    @property
    def dsn(self) -> str:
        """How to reach the server while it runs."""
        return self._dsn("template1", self._role)

    def _dsn(self, database: str, role: str) -> str:
        words = {"host": str(self._run_dir), "port": PORT, "user": role}
        if self._session_settings:
            words["options"] = self.session_options
        query = "&".join(f"{name}={quote(value, safe='')}" for name, value in words.items())
        return f"postgresql:///{quote(database, safe='')}?{query}"

    async def __aenter__(self) -> Self:
        owner = self._owner = await self._run(lambda: find_owner(self._data_dir))
        run_dir = self._run_dir = await self._run(lambda: make_run_dir(owner, self._run_parent))
        try:
            self._process = await self._start(run_dir)
        except BaseException:
            await self._remove_run_dir()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            await self.stop()
        finally:
            await self._remove_run_dir()

    async def connect(self, database: str = "template1", role: str | None = None) -> Server:
        """A session, by default as the superuser; PostgresUnavailable while the server takes none.

        Raises PostgresError where there is no such database or role.
        """
        dsn = self._dsn(database, role or self._role)
        return await Server.connect(dsn, deadline_s=_ANSWER_DEADLINE_S)

    async def wait_recovered(
        self, *, deadline_s: float, on_progress: Callable[[Lsn], None] | None = None
    ) -> RecoveryEnd:
        """Wait until recovery has ended, in whichever way its target says.

        ``on_progress`` is told from time to time how far replay has come. Raises RecoveryError with
        the server's own words when it gives up, or when ``deadline_s`` have passed.
        """
        try:
            async with asyncio.timeout(deadline_s):
                while True:
                    end = await self._find_end(on_progress)
                    if end is not None:
                        return end
                    await self._sleep(_POLL_S)
        except TimeoutError:
            raise RecoveryError(
                f"recovery has not ended after {deadline_s:.0f} s;"
                f" the server last said: {_last_words(await self.log_tail())}"
            ) from None

    async def log_tail(self) -> str:
        """The end of what the server has said, some 4 KiB; it is gone when the context is left."""
        return await self._run(self._log_tail)

    async def stop(self) -> None:
        """Shut the server down and wait for its end; the last resort is SIGKILL."""
        process = self._process
        if process is None:
            return
        for demand in (signal.SIGINT, signal.SIGQUIT, signal.SIGKILL):  # fast, immediate
            if process.returncode is None:
                process.send_signal(demand)
            try:
                async with asyncio.timeout(_STOP_DEADLINE_S):
                    await process.wait()
            except TimeoutError:
                continue
            break

    async def _remove_run_dir(self) -> None:
        run_dir = self._run_dir
        if run_dir is not None:
            await self._run(lambda: shutil.rmtree(run_dir))

    async def _find_end(self, on_progress: Callable[[Lsn], None] | None) -> RecoveryEnd | None:
        process = self._process
        if process is None or process.returncode is not None:
            return await self._run(self._end_of_stopped)
        postmaster = await self._run(lambda: find_postmaster(self._data_dir))
        if postmaster is None or postmaster.pid != process.pid:
            return None
        if postmaster.status not in {"ready", "standby"}:
            return None
        try:
            async with await self.connect() as server:
                return await self._ask_end(server, on_progress)
        except PostgresUnavailable:
            return None  # it is changing its state; the next look tells

    async def _ask_end(
        self, server: Server, on_progress: Callable[[Lsn], None] | None
    ) -> RecoveryEnd | None:
        row = await server.fetch_row(
            "SELECT pg_is_in_recovery() AS recovering, pg_last_wal_replay_lsn()::text AS lsn,"
            " pg_last_xact_replay_timestamp() AS at",
            doing="ask how far recovery has come",
        )
        lsn = Lsn.parse(cast("str | None", row["lsn"]) or "0/0")
        state = EndState.PROMOTED
        if row["recovering"]:
            if on_progress is not None:
                on_progress(lsn)
            if not await _is_paused(server):
                return None
            await self._check_pause()
            state = EndState.PAUSED
        timeline = (await server.facts()).timeline
        at = cast("datetime | None", row["at"])
        return RecoveryEnd(state, lsn, timeline, at, time.monotonic() - self._started_at_s)

    async def _check_pause(self) -> None:
        """A pause is the target's, unless PostgreSQL says that it cannot go on."""
        for line in (await self.log_tail()).splitlines():
            if "insufficient parameter settings" in line:
                raise RecoveryError(
                    f"replay cannot go on: {line}", hint="raise the setting that the log names"
                )

    def _end_of_stopped(self) -> RecoveryEnd:
        """What a server that ended by itself leaves: its target was shutdown, or it failed."""
        control = read_control_file(self._data_dir)
        returncode = self._process.returncode if self._process is not None else None
        if returncode != 0 or control.state is not ClusterState.SHUT_DOWN_IN_RECOVERY:
            raise RecoveryError(f"the server gave up: {_last_words(self._log_tail())}")
        return RecoveryEnd(
            EndState.SHUT_DOWN,
            control.min_recovery_point,
            control.min_recovery_timeline,
            None,
            time.monotonic() - self._started_at_s,
        )

    async def _start(self, run_dir: Path) -> asyncio.subprocess.Process:
        program = self._bin_dir / "postgres"
        options = await self._run(
            lambda: private_settings(
                self._data_dir,
                program,
                files=self._files,
                run_dir=run_dir,
                owner=self._owner,
                settings=self._settings,
            )
        )
        log = await self._run(lambda: self._log_file.open("ab"))
        with log:
            self._started_at_s = time.monotonic()
            try:
                return await asyncio.create_subprocess_exec(
                    *command_line(program, self._data_dir, options),
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    cwd="/",
                    env=self._environment,
                    start_new_session=True,  # Ctrl-C at the terminal is for us, not for it
                    **process_options(self._owner),
                )
            except OSError as error:
                raise PostgresError(f"cannot start {program}: {error.strerror}") from error

    @property
    def _log_file(self) -> Path:
        assert self._run_dir is not None, "the instance is used as a context"
        return self._run_dir / "server.log"

    def _log_tail(self) -> str:
        with self._log_file.open("rb") as log:
            size = log.seek(0, os.SEEK_END)
            log.seek(max(0, size - _LOG_TAIL_BYTES))
            return log.read().decode(errors="replace").strip()

    async def _run(self, function: Callable[[], _Result]) -> _Result:
        return await asyncio.get_running_loop().run_in_executor(self._executor, function)


def _last_words(log: str) -> str:
    """Why a server ended, from the end of its log: the fatal messages, else the last line."""
    fatal = dict.fromkeys(_FATAL.findall(log))  # in order, each once
    return "; ".join(fatal) or log.rpartition("\n")[2]


async def _is_paused(server: Server) -> bool:
    """Whether replay stands still at its target (before 14: is about to)."""
    if server.major >= _FIRST_WITH_PAUSE_STATE:
        query = "SELECT pg_get_wal_replay_pause_state() = 'paused'"
    else:
        query = "SELECT pg_is_wal_replay_paused()"
    try:
        row = await server.fetch_row(query, doing="ask whether replay has paused")
    except PostgresError:
        if await server.is_in_recovery():
            raise
        return False  # recovery has ended since it was asked about; the next look tells
    return cast(bool, row[0])
