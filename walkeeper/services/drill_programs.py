"""Checks by PostgreSQL's own programs: pg_amcheck on the running server, pg_checksums behind it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

from walkeeper.errors import IntegrityError, PostgresError, PostgresUnavailable
from walkeeper.postgres.control_file import ClusterState, read_control_file
from walkeeper.postgres.instance import Instance
from walkeeper.postgres.private_server import PORT, ProcessOptions
from walkeeper.services.drill_report import CheckResult, Outcome

AMCHECK: Final = "pg_amcheck"
CHECKSUMS: Final = "pg_checksums"
_SHOWN_BYTES: Final = 4096
_END_S: Final = 10.0
_ENVIRONMENT: Final = {
    "PATH": "/usr/local/bin:/usr/bin:/bin",
    "LC_ALL": "C",
    "PGCONNECT_TIMEOUT": "30",
}


@dataclass(frozen=True, slots=True)
class ProgramChecks:
    """Runs the programs that lie beside the server's, each for at most ``timeout_s``."""

    bin_dir: Path
    data_dir: Path
    process_options: ProcessOptions
    pool: ThreadPoolExecutor
    timeout_s: float
    clock: Callable[[], float] = time.monotonic

    async def amcheck(self, instance: Instance, superuser: str) -> CheckResult:
        """Check tables and B-tree indexes of all databases.

        The extension goes into pg_catalog, for a database may have no schema ``public``.
        """
        if not await self._has(AMCHECK):
            return _skipped(AMCHECK, f"there is no {AMCHECK} in {self.bin_dir}")
        try:
            async with await instance.connect() as server:
                row = await server.fetch_row(
                    "SELECT EXISTS (SELECT FROM pg_catalog.pg_available_extensions"
                    " WHERE name = 'amcheck')",
                    doing="look for the extension amcheck",
                )
        except (PostgresError, PostgresUnavailable) as error:
            return CheckResult(name=AMCHECK, outcome="failed", detail=error.message)
        if not row[0]:
            return _skipped(AMCHECK, "the extension amcheck is not installed")
        words = ["--all", "--install-missing", "--no-password", "--username", superuser]
        words += ["--host", str(instance.socket_dir), "--port", PORT]
        more = {"PGOPTIONS": instance.session_options}
        return await self._check(AMCHECK, words, "all tables and B-tree indexes are sound", more)

    async def checksums(self, *, enabled: bool) -> CheckResult:
        """Check every page of the cluster, once the server has stopped."""
        if not enabled:
            return _skipped(CHECKSUMS, "the cluster has no data checksums")
        if not await self._has(CHECKSUMS):
            return _skipped(CHECKSUMS, f"there is no {CHECKSUMS} in {self.bin_dir}")
        loop = asyncio.get_running_loop()
        try:
            control = await loop.run_in_executor(self.pool, read_control_file, self.data_dir)
        except (PostgresError, IntegrityError) as error:
            return CheckResult(name=CHECKSUMS, outcome="failed", detail=error.message)
        if control.state is not ClusterState.SHUT_DOWN:
            return CheckResult(
                name=CHECKSUMS, outcome="failed", detail="the server did not shut down cleanly"
            )
        return await self._check(
            CHECKSUMS, ["--check", "-D", str(self.data_dir)], "all pages fit", {}
        )

    async def _check(
        self, name: str, words: Sequence[str], fine: str, environment: Mapping[str, str]
    ) -> CheckResult:
        begun = self.clock()
        loop = asyncio.get_running_loop()
        output = await loop.run_in_executor(self.pool, tempfile.TemporaryFile)
        with output:
            code = await self._run([str(self.bin_dir / name), *words], output, environment)
            said = await loop.run_in_executor(self.pool, _read, output)
        outcome: Outcome = "failed"
        detail = f"ended with {code}: {said}"
        if code is None:
            outcome, detail = "unfinished", f"it was stopped after {self.timeout_s:.0f} s"
        elif code == 0:
            outcome, detail = "ok", fine
        return CheckResult(
            name=name, outcome=outcome, detail=detail, seconds=round(self.clock() - begun, 3)
        )

    async def _run(
        self, argv: Sequence[str], output: IO[bytes], environment: Mapping[str, str]
    ) -> int | None:
        """The exit code; None when it was stopped for taking too long."""
        process = await asyncio.create_subprocess_exec(
            *argv,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd="/",
            env=_ENVIRONMENT | dict(environment),
            start_new_session=True,
            **self.process_options,
        )
        try:
            async with asyncio.timeout(self.timeout_s):
                return await process.wait()
        except TimeoutError:
            return None
        finally:
            await _end(process)

    async def _has(self, name: str) -> bool:
        path = self.bin_dir / name
        return await asyncio.get_running_loop().run_in_executor(
            self.pool, lambda: os.access(path, os.X_OK)
        )


async def _end(process: asyncio.subprocess.Process) -> None:
    """Stop a program that still runs, and its children with it."""
    for demand in (signal.SIGTERM, signal.SIGKILL):
        if process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, demand)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_END_S):
                await process.wait()


def _read(output: IO[bytes]) -> str:
    """The beginning of what a program said: what it found first."""
    output.seek(0)
    return " ".join(output.read(_SHOWN_BYTES).decode(errors="replace").split())


def _skipped(name: str, why: str) -> CheckResult:
    return CheckResult(name=name, outcome="skipped", detail=why)
