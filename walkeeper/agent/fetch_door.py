"""A side door to the private fetch service for hooks that are a shell and nothing more.

Starting Python takes longer than handing over a segment that was fetched ahead. So the service
listens on a FIFO too, and the script walkeeper.sh asks there first. It only ever hears "ok" there,
when the file lies whole under its temporary name; otherwise it hears nothing of use and goes on to
the client, which asks again over the socket and can tell absent from failed.

A question is one line, separated by tabs: the shell's process id, its working directory and the
words of the call. An answer is one line: how many digits the process id has, it, and ``ok``. Each
question uses up the FIFO of the answers: when the service closes it, whoever still reads there
meets its end, also when the service is killed or two hooks ask at once; and what one of these took
from the other's answer cannot be read as its own, thanks to that number. A file
``.walkeeper.door`` beside %p leads the shell to both: the names of the two FIFOs on one line each.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import stat
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar, TypeVarTuple

import structlog

from walkeeper.agent.control import Handler
from walkeeper.agent.control_request import Request
from walkeeper.agent.door import open_questions, remove
from walkeeper.agent.hook_requests import FileIdentity
from walkeeper.errors import UsageError, WalkeeperError
from walkeeper.hooks import client, fetch, private_service, wire
from walkeeper.hooks.channel import Failure
from walkeeper.hooks.options import Options, encoded

DOOR: Final = ".walkeeper.door"
"""In the directory of %p. PostgreSQL knows its files there by their names and lets it be."""

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Question:
    pid: bytes
    fields: dict[str, bytes]
    descriptor: int
    """Of the hook's temporary file, which is empty."""

    @property
    def temporary(self) -> bytes:
        return self.fields["temporary"]


class FetchDoor:
    """Answers hooks for the service on ``socket``; ``serve`` in a task.

    ``handler`` answers a ``wal-fetch`` with what was fetched ahead, or raises; ``noted`` is called
    for each question. Nothing is asked here before `lead` has been called.
    """

    def __init__(
        self,
        socket: Path,
        handler: Handler,
        pool: ThreadPoolExecutor,
        noted: Callable[[], None],
    ) -> None:
        self._socket = socket
        self._handler = handler
        self._pool = pool
        self._questions = Path(f"{socket}.ask")
        self._answers = Path(f"{socket}.answer")
        self._text = f"{self._questions}\n{self._answers}\n"
        self._leads: set[Path] = set()
        self._noted = noted

    async def lead(self, directory: Path, parent: FileIdentity) -> None:
        """Let hooks whose %p lies in this directory find the door; it is removed by `serve`.

        ``parent`` is the directory above it as the hook sees it, maybe not where we see it.
        """
        door = directory / DOOR
        if door in self._leads:
            return
        self._leads.add(door)
        try:
            await self._in_thread(_write_door, door, parent, self._text)
        except OSError as error:  # then they ask over the socket
            _log.info("no_fetch_door", directory=str(directory), reason=error.strerror)

    async def serve(self) -> None:
        """Answer until cancelled."""
        answers = -1
        try:
            with open_questions(self._questions) as questions:
                answers = self._renew()
                async with asyncio.TaskGroup() as group:
                    while line := await questions.read():
                        old, answers = answers, self._renew()
                        self._noted()
                        group.create_task(self._answer(line, old))
        except OSError as error:
            _log.info("no_fetch_door", reason=error.strerror)
        finally:
            if answers >= 0:
                os.close(answers)
            for door in self._leads:
                with contextlib.suppress(OSError):
                    if door.read_text() == self._text:  # not that of another service
                        door.unlink()
            remove(self._answers)

    def _renew(self) -> int:
        """A new FIFO for the next answer, whose name is the old one's."""
        new = Path(f"{self._answers}.new")
        remove(new)
        os.mkfifo(new, 0o600)
        descriptor = os.open(new, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        new.rename(self._answers)
        return descriptor

    async def _answer(self, line: bytes, answers: int) -> None:
        """The outermost frame of a question: what fails here is told by the client."""
        try:
            pid = await self._serve_question(line)
            os.write(answers, b"%d %s ok\n" % (len(pid), pid))
        except (WalkeeperError, Failure, OSError) as error:
            _log.debug("fetch_door_shut", reason=str(error))
        except Exception:  # noqa: BLE001 - one bad question must not end the service
            _log.exception("fetch_door_failed")
        finally:
            os.close(answers)

    async def _serve_question(self, line: bytes) -> bytes:
        """The process id of who asked, when the file lies there. Raises what kept it away."""
        question = await self._in_thread(self._read, line)
        own = os.dup(question.descriptor)
        try:
            with Request("wal-fetch", question.fields, [question.descriptor]) as request:
                reply = await self._handler(request)
            if reply.status != wire.OK:
                raise UsageError(f"the answer is {reply.status}")
            await self._in_thread(fetch.check_written, reply.message, own, question.temporary)
        finally:
            os.close(own)
        return question.pid

    def _read(self, line: bytes) -> _Question:
        """What is asked, its temporary file open. Raises Failure and OSError."""
        if not line.endswith(b"\n") or line.count(b"\n") != 1 or line.count(b"\t") < 3:
            raise Failure("not one question")
        pid, directory, *words = line[:-1].split(b"\t")
        call = client.parse_fetch([os.fsdecode(word) for word in words])
        if not pid.isdigit() or call is None:
            raise Failure("not a question for WAL")
        name, path = (encoded(operand) for operand in call.operands)
        fields = fetch.ask_for(name, os.path.join(directory, path), call, pid)  # noqa: PTH118 - bytes
        self._expect_own(call)
        return _Question(pid, fields, _open_empty(fields["temporary"]))

    def _expect_own(self, call: Options) -> None:
        """Raise Failure unless the client would ask this service, and no other."""
        choice = private_service.Choice(
            call.get("--config"), call.get("--archive"), call.get("--unsigned") is not None
        )
        # Without it the environment counts, which is the hook's.
        fixed = choice.config is not None and choice.config.startswith("/")
        if not fixed or call.get("--socket") is not None:
            raise Failure("another service may be meant")
        if private_service.describe(choice).socket != str(self._socket):
            raise Failure("another service is meant")

    async def _in_thread(self, work: Callable[[*Ts], T], *args: *Ts) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._pool, work, *args)


def _open_empty(path: bytes) -> int:
    """The hook's temporary file. Raises Failure unless it is empty, ours, and nobody else's."""
    descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    status = os.fstat(descriptor)
    own = stat.S_ISREG(status.st_mode) and status.st_uid == os.geteuid()
    if own and stat.S_IMODE(status.st_mode) == 0o600 and status.st_size == 0:
        return descriptor
    os.close(descriptor)
    raise Failure("the temporary file is not as hooks make it")


def _write_door(door: Path, parent: FileIdentity, text: str) -> None:
    status = door.parent.parent.stat()
    if FileIdentity(status.st_dev, status.st_ino) != parent:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
    new = door.with_name(f"{DOOR}.new")
    remove(new)
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        os.write(descriptor, text.encode())
    finally:
        os.close(descriptor)
    new.rename(door)
