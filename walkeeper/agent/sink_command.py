"""Alerts to a program: as JSON on its standard input, and in its environment."""

from __future__ import annotations

import asyncio
import fcntl
import os
import signal
from asyncio.subprocess import Process
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Final

from walkeeper.agent.alert_text import Origin, document_of, fields_of
from walkeeper.core.alerts import Notice
from walkeeper.errors import NotifyError
from walkeeper.log import redact_text

_INHERITED: Final = ("PATH", "HOME", "LANG", "LC_ALL", "TZ")
"""The rest of the agent's environment may hold secrets."""
_KEPT_BYTES: Final = 8192
_SHOWN: Final = 300
_REAPED_WITHIN_S: Final = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandSink:
    """Starts ``argv`` without a shell for each notice, in a session of its own."""

    argv: tuple[str, ...]
    timeout_s: float
    name: str = "command"

    async def tell(self, notice: Notice, origin: Origin) -> None:
        """Run it; raises `NotifyError` unless it ends with 0 and in time.

        A program that takes too long is killed with all that it started; so it is when the caller
        is cancelled. What it prints is shown, redacted, where it fails.
        """
        with _Output.opened() as output:
            process = await self._start(notice, origin, output)
            try:
                async with asyncio.timeout(self.timeout_s):
                    await _feed(process, document_of(notice, origin))
                    code = await process.wait()
            except TimeoutError:
                raise NotifyError(
                    f"{self.argv[0]} took longer than {self.timeout_s:g} s and was killed"
                    f"{output.text()}"
                ) from None
            finally:
                await _kill(process)
            if code != 0:
                how = f"signal {-code}" if code < 0 else f"exit code {code}"
                raise NotifyError(f"{self.argv[0]} failed with {how}{output.text()}")

    async def _start(self, notice: Notice, origin: Origin, output: _Output) -> Process:
        environment = {name: os.environ[name] for name in _INHERITED if name in os.environ}
        for name, value in fields_of(notice, origin).items():
            environment[f"WALKEEPER_ALERT_{name.upper()}"] = value
        try:
            return await asyncio.create_subprocess_exec(
                *self.argv,
                stdin=asyncio.subprocess.PIPE,
                stdout=output.write_end,
                stderr=output.write_end,
                env=environment,
                start_new_session=True,
            )
        except OSError as error:
            raise NotifyError(f"{self.argv[0]} cannot be started: {error.strerror}") from None
        finally:
            output.close_write_end()


async def _feed(process: Process, document: bytes) -> None:
    """Write it all and close; a program need not read."""
    assert process.stdin is not None  # a pipe
    with suppress(BrokenPipeError, ConnectionResetError):
        process.stdin.write(document)
        await process.stdin.drain()
    process.stdin.close()


async def _kill(process: Process) -> None:
    """End the program and its group unless it has ended by itself."""
    if process.returncode is not None:
        return
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    with suppress(TimeoutError):
        async with asyncio.timeout(_REAPED_WITHIN_S):
            await process.wait()


class _Output:
    """The last of what a program prints.

    A pipe of our own: asyncio's waits for its end, and a child that was left behind may hold it
    open for ever.
    """

    def __init__(self) -> None:
        self._read_end, self.write_end = os.pipe()
        self._writable = True
        self._kept = b""
        flags = fcntl.fcntl(self._read_end, fcntl.F_GETFL)
        fcntl.fcntl(self._read_end, fcntl.F_SETFL, flags | os.O_NONBLOCK)

    @classmethod
    @contextmanager
    def opened(cls) -> Iterator[_Output]:
        output = cls()
        loop = asyncio.get_running_loop()
        loop.add_reader(output._read_end, output._read)
        try:
            yield output
        finally:
            loop.remove_reader(output._read_end)
            output.close_write_end()
            os.close(output._read_end)

    def close_write_end(self) -> None:
        """Leave it to the program; may be repeated."""
        if self._writable:
            self._writable = False
            os.close(self.write_end)

    def text(self) -> str:
        """The end of it, without secrets, to be put behind a message."""
        self._read()
        # Redacted before it is cut: a part of a secret would not be recognised.
        printed = " ".join(redact_text(self._kept.decode("utf-8", "replace")).split())
        return f": {printed[-_SHOWN:]}" if printed else ""

    def _read(self) -> None:
        try:
            data = os.read(self._read_end, 65_536)
        except BlockingIOError:
            return
        if not data:
            asyncio.get_running_loop().remove_reader(self._read_end)
        self._kept = (self._kept + data)[-_KEPT_BYTES:]
