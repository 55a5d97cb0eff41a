"""Boots a restored cluster, follows its recovery to the end, and leaves it running.

Recovery runs on a private server that nobody else can reach, which is asked where it ended and
then stopped; what stays up afterwards is a second, ordinary start.
"""

from __future__ import annotations

import asyncio
import shlex
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

import msgspec

from walkeeper.core.lsn import Lsn
from walkeeper.core.target import AtLsn, AtName, AtTime, AtXid, Latest, TargetAction
from walkeeper.errors import PostgresError
from walkeeper.postgres.instance import EndState, Instance, RecoveryEnd
from walkeeper.postgres.private_server import ServerFiles
from walkeeper.postgres.programs import find_bin_dir
from walkeeper.services.restore_config import HBA_CONF, IDENT_CONF, MAIN_CONF
from walkeeper.services.restore_plan import Planned
from walkeeper.services.restore_target import Destination

T = TypeVar("T")

STARTUP_LOG: Final = "walkeeper-startup.log"
"""In the data directory: what the server says before its own logging begins."""
_RECOVERY_DEADLINE_S: Final = 30 * 24 * 3600.0
"""No deadline in earnest: the operator watches, and recovery may take days."""
_START_TIMEOUT_S: Final = 300


class ReplayProgress(msgspec.Struct, frozen=True):
    """How far replay has come on its way."""

    lsn: str
    begin_lsn: str
    end_lsn: str


@dataclass(frozen=True, slots=True)
class StartSettings:
    """How to start: ``port`` None leaves it to the configuration; ``role`` is a superuser."""

    bin_dir: Path | None = None
    port: int | None = None
    role: str = "postgres"


@dataclass(frozen=True, slots=True)
class Started:
    """How a recovery ended; ``end`` None for a standby, which goes on. ``problem`` is None when
    it ended where the plan said."""

    end: RecoveryEnd | None
    problem: str | None
    running: bool
    stop_command: str


class Starter:
    """Starts one restored cluster."""

    def __init__(
        self,
        destination: Destination,
        pool: ThreadPoolExecutor,
        settings: StartSettings,
        progress: Callable[[ReplayProgress], None],
    ) -> None:
        self._destination = destination
        self._pool = pool
        self._settings = settings
        self._progress = progress

    async def find_programs(self, major: int) -> Path:
        """Where PostgreSQL's programs are; raises PostgresError. To be asked before a restore."""
        return await self._in_thread(lambda: find_bin_dir(major, self._settings.bin_dir))

    async def start(self, planned: Planned, bin_dir: Path, *, standby: bool) -> Started:
        """Recover, compare with the plan, and start for good unless the target says shutdown.

        Raises RecoveryError with the server's own words when recovery fails, PostgresError when
        the second start does.
        """
        end = None if standby else await self._recover(planned, bin_dir)
        shut_down = end is not None and end.state is EndState.SHUT_DOWN
        if not shut_down:
            await self._in_thread(lambda: self._start_for_good(bin_dir))
        problem = None if end is None else disagreement(planned, end)
        return Started(end, problem, not shut_down, self.stop_command(bin_dir))

    def stop_command(self, bin_dir: Path) -> str:
        """What stops the server, to be typed."""
        command = f"{bin_dir / 'pg_ctl'} -D {self._destination.data_dir} stop"
        owner = self._destination.owner
        return command if owner.uid is None else f"sudo -u {owner.name} {command}"

    async def _recover(self, planned: Planned, bin_dir: Path) -> RecoveryEnd:
        data_dir, plan = self._destination.data_dir, planned.plan
        files = ServerFiles(data_dir / MAIN_CONF, data_dir / IDENT_CONF)
        instance = Instance(data_dir, bin_dir, files, self._pool, role=self._settings.role)

        def progress(lsn: Lsn) -> None:
            self._progress(ReplayProgress(str(lsn), str(plan.backup.start), str(plan.end)))

        async with instance:
            return await instance.wait_recovered(
                deadline_s=_RECOVERY_DEADLINE_S, on_progress=progress
            )

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._pool, work)

    def _start_for_good(self, bin_dir: Path) -> None:
        data_dir, owner = self._destination.data_dir, self._destination.owner
        options = {
            "data_directory": data_dir,
            "config_file": data_dir / MAIN_CONF,
            "hba_file": data_dir / HBA_CONF,
            "ident_file": data_dir / IDENT_CONF,
        }
        words = [f"-c {shlex.quote(f'{name}={path}')}" for name, path in options.items()]
        if self._settings.port is not None:
            words.append(f"-c port={self._settings.port}")
        log = data_dir / STARTUP_LOG
        argv = [str(bin_dir / "pg_ctl"), "-D", str(data_dir), "-w", "-t", str(_START_TIMEOUT_S)]
        ended = subprocess.run(
            [*argv, "-l", str(log), "-o", " ".join(words), "start"],
            cwd="/",
            env={"PATH": "/usr/local/bin:/usr/bin:/bin", "LC_ALL": "C"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            check=False,
            start_new_session=True,
            **owner.process_options(),
        )
        if ended.returncode != 0:
            raise PostgresError(
                f"the cluster is restored and recovered, but does not start: {_last_words(log)}",
                hint="is its port taken? choose another one with --port; the directory is complete",
            )


def disagreement(planned: Planned, end: RecoveryEnd) -> str | None:
    """How the end of a recovery differs from its plan; None when it ended where it should."""
    plan = planned.plan
    expected = _STATES[plan.request.action]
    if end.state is not expected:
        return f"the server has {end.state}, where it should have {expected}"
    # Recovery to the latest goes on with what was archived after the plan was made.
    latest = isinstance(plan.request.target, Latest)
    if end.lsn < plan.backup.stop or (end.lsn > plan.end and not latest):
        return (
            f"recovery ended at {end.lsn}, not between {plan.backup.stop} and {plan.end} "
            "as was planned"
        )
    if end.state is EndState.SHUT_DOWN:
        return None  # the control file says no more than that
    return _time_differs(planned, end) or _place_differs(planned, end)


def _time_differs(planned: Planned, end: RecoveryEnd) -> str | None:
    target, finding = planned.plan.request.target, planned.finding
    last = end.last_commit_at
    if isinstance(target, AtTime) and last is not None and target.stops_at(last):
        return f"a transaction of {last} was replayed, which lies behind the target"
    expected = None if finding is None else finding.last_commit_at
    went_on = end.lsn > planned.plan.end and last is not None
    if isinstance(target, Latest) and expected is not None and last != expected and not went_on:
        return f"the last transaction is of {last}, the plan found one of {expected}"
    return None


def _place_differs(planned: Planned, end: RecoveryEnd) -> str | None:
    target, finding = planned.plan.request.target, planned.finding
    if finding is None or finding.found_at is None:
        return None
    short = long = False
    match target:
        case AtName():
            short = end.lsn <= finding.found_at
        case AtXid():
            short = target.inclusive and end.lsn <= finding.found_at
            long = not target.inclusive and end.lsn > finding.found_at
        case AtLsn(lsn, inclusive):
            short = inclusive and end.lsn <= lsn
        case AtTime():
            long = end.lsn > finding.found_at
        case _:
            return None
    if short or long:
        where = "before" if short else "behind"
        return f"recovery ended at {end.lsn}, {where} {target}, which lies at {finding.found_at}"
    return None


def _last_words(log: Path) -> str:
    try:
        lines = log.read_text(errors="replace").strip().splitlines()
    except OSError as error:
        return f"its log {log} cannot be read: {error.strerror}"
    return lines[-1] if lines else f"its log {log} is empty"


_STATES: Final = {
    TargetAction.PROMOTE: EndState.PROMOTED,
    TargetAction.PAUSE: EndState.PAUSED,
    TargetAction.SHUTDOWN: EndState.SHUT_DOWN,
}
