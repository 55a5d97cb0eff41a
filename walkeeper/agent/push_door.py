"""A side door to the agent for ``wal-push`` hooks that are a shell and nothing more.

Starting Python takes longer than an answer for a segment that is durable already. So the agent
listens on a FIFO too, and the script walkeeper.sh asks there first. It only ever hears "ok" there,
which means what it means over the socket; for all else it goes on to the client, which asks again
and can tell the reason.

A shell cannot say what file it sees, but it can open it. It creates a file for its answer, named
``SOCKET.push.`` and its process id, and opens that as descriptor 4, the WAL file as 6 and the
directory that holds it as 7. A background ``sleep`` inherits these. The question is one line,
separated by tabs: the shell's process id, the sleeper's, and %p. The agent looks at the sleeper's
descriptors through /proc, which shows the very files that the hook has opened, in whichever mount
namespace. It serves nobody whose descriptor 4 is not the file of the answer, so a process of the
same number elsewhere is never taken for the hook. The answer is the question and ``ok``, written
into that file, which nobody else reads or creates; then the sleeper is killed, and so the shell
wakes. Whatever happens to the agent meanwhile, the shell waits no longer than its sleeper sleeps.

``SOCKET.push`` is the FIFO; ``SOCKET.push.agent`` leads to the agent's descriptor of it in /proc. A
hook asks only where both are the same: so the agent lives, in its own pid namespace. One that hears
nothing until its sleeper ends removes that link: no other one waits in vain, and the FIFO of an
agent that does not read never fills up. Calls with other options than --socket are the client's.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import signal
import stat
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import structlog

from walkeeper.agent.control import Handler
from walkeeper.agent.control_request import Request
from walkeeper.agent.door import Questions, open_questions, remove
from walkeeper.errors import WalkeeperError
from walkeeper.hooks import wire
from walkeeper.hooks.channel import Failure
from walkeeper.hooks.client import describe_push

SLEEP_S: Final = 2.0
"""How long the hook's sleeper sleeps, see walkeeper.sh."""

_REOPEN_S: Final = 60.0
"""How soon the door is opened again that a hook has shut."""

_log = structlog.get_logger(__name__)


class _OutOfReach(Exception):
    """Hooks may not be looked at or woken, as when they have capabilities that we lack."""


@dataclass(frozen=True, slots=True)
class _Hook:
    """One that waits; ``fields`` is its request as hooks/wire.py has it."""

    question: bytes
    fields: dict[str, bytes]
    answer: int
    """Descriptor of the file that the answer goes into."""
    waiting: ExitStack
    """The hook is woken at its end."""

    def say_ok(self) -> None:
        """Answer; it is heard when the hook is woken."""
        os.write(self.answer, self.question + b" ok\n")


class PushDoor:
    """Answers hooks for the agent on ``socket``; ``serve`` in a task.

    ``handler`` answers a ``wal-push``. The socket must be ours: what lies there is removed.
    """

    def __init__(self, socket: Path, handler: Handler, pool: ThreadPoolExecutor) -> None:
        self._door = Path(f"{socket}.push")
        self._lead = Path(f"{self._door}.agent")
        self._handler = handler
        self._pool = pool
        self._stopping = asyncio.Event()

    def stop(self) -> None:
        """Let nobody in any more; who has asked is still answered."""
        self._stopping.set()

    async def serve(self) -> None:
        """Answer until `stop` is called and the last one has been answered, or until cancelled."""
        try:
            self._remove_leftovers()
            _require_signals()
            with open_questions(self._door) as questions:
                async with asyncio.TaskGroup() as group:
                    group.create_task(self._lead_here(questions))
                    while asked := await questions.read():
                        for question in asked.split(b"\n")[:-1]:
                            group.create_task(self._answer(question))
        except OSError as error:
            _log.info("no_push_door", reason=error.strerror)

    async def _lead_here(self, questions: Questions) -> None:
        """Lead hooks here until stopped, also after one of them has shut the door."""
        end = f"/proc/{os.getpid()}/fd/{questions.descriptor}"
        try:
            while not self._stopping.is_set():
                with contextlib.suppress(OSError):  # it is there, or they ask over the socket
                    self._lead.symlink_to(end)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_REOPEN_S):
                        await self._stopping.wait()
        finally:
            with contextlib.suppress(OSError):
                if str(self._lead.readlink()) == end:  # not that of the next agent
                    self._lead.unlink()
        questions.stop()

    def _remove_leftovers(self) -> None:
        """What hooks and an agent left that were killed."""
        prefix = f"{self._door.name}."
        for path in self._door.parent.iterdir():
            if path.name.startswith(prefix) and path.name.removeprefix(prefix).isdigit():
                remove(path)
        remove(self._lead)

    async def _answer(self, question: bytes) -> None:
        """The outermost frame of a question: what fails here is told by the client."""
        loop = asyncio.get_running_loop()
        try:
            hook = await loop.run_in_executor(self._pool, _find_hook, self._door, question)
            with hook.waiting:
                reply = await self._handler(Request("wal-push", hook.fields, []))
                if reply.status == wire.OK:
                    hook.say_ok()
        except _OutOfReach as error:  # nor would be the next ones
            _log.info("no_push_door", reason=str(error))
            self.stop()
        except (WalkeeperError, Failure, OSError) as error:
            _log.debug("push_door_shut", reason=str(error))
        except Exception:  # noqa: BLE001 - one bad question must not end the agent
            _log.exception("push_door_failed")


def _find_hook(door: Path, question: bytes) -> _Hook:
    """The hook that has asked this; blocks.

    Raises Failure and OSError when it is not there as hooks are, _OutOfReach when it may not be
    looked at.
    """
    shell, sleeper, path = _parse(question)
    with ExitStack() as stack:
        answer = _open_answer(Path(f"{door}.{shell}"), stack)
        try:
            process = _open_process(sleeper)  # and no later one of that number
            stack.callback(os.close, process)
            if not os.path.samestat(os.fstat(answer), os.stat("fd/4", dir_fd=process)):
                raise Failure("that process is not the hook's")
            stack.callback(_wake, process, shell)
            return _Hook(question, _describe(process, path), answer, stack.pop_all())
        except PermissionError as error:
            raise _OutOfReach(f"/proc/{sleeper}: {error.strerror}") from error


def _parse(question: bytes) -> tuple[str, str, bytes]:
    """The process ids of the shell and its sleeper, and the path. Raises Failure."""
    shell, sleeper, path = (*question.split(b"\t", 2), b"", b"")[:3]
    if not (shell.isdigit() and sleeper.isdigit() and b"/" in path):
        raise Failure("not a question for the door")
    return shell.decode(), sleeper.decode(), path


def _open_answer(path: Path, stack: ExitStack) -> int:
    """The empty file for the answer, its name removed. Raises Failure unless it is the hook's."""
    answer = os.open(path, os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    stack.callback(os.close, answer)
    status = os.fstat(answer)
    own = stat.S_ISREG(status.st_mode) and status.st_uid == os.geteuid()
    if not own or (status.st_size, status.st_nlink) != (0, 1):
        raise Failure("the file for the answer is not as hooks make it")
    path.unlink()
    return answer


def _describe(process: int, path: bytes) -> dict[str, bytes]:
    """What the client would say of a path, by what the hook has opened."""
    directory, file = os.stat("fd/7", dir_fd=process), os.stat("fd/6", dir_fd=process)
    place = os.fsencode(os.readlink("fd/7", dir_fd=process))
    return describe_push(place + b"/" + path.rpartition(b"/")[2], directory, file, SLEEP_S)


def _open_process(name: str) -> int:
    return os.open(f"/proc/{name}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


def _wake(process: int, shell: str) -> None:
    """Kill the sleeper whose directory in /proc that is, if its shell still waits for it.

    One whose shell has died ends by itself. Where the postmaster is a container's first process it
    inherits that one, and takes a stranger that was killed for a backend that has crashed
    (src/backend/postmaster/postmaster.c, CleanupBackend).
    """
    try:
        if _parent(process) == shell:
            signal.pidfd_send_signal(process, signal.SIGKILL)
    except (ProcessLookupError, FileNotFoundError):
        return  # it has ended
    except PermissionError as error:
        raise _OutOfReach(f"no signal reaches a hook: {error.strerror}") from error


def _parent(process: int) -> str:
    """Its parent's process id, proc(5): the second field behind the name in parentheses."""
    stat_file = os.open("stat", os.O_RDONLY | os.O_CLOEXEC, dir_fd=process)
    try:
        return os.read(stat_file, 4096).rpartition(b") ")[2].split()[1].decode()
    finally:
        os.close(stat_file)


def _require_signals() -> None:
    """Raise OSError where signals cannot be sent by way of /proc, pidfd_send_signal(2)."""
    if not hasattr(signal, "pidfd_send_signal"):  # a Python that was built on Linux before 5.1
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    own = _open_process("self")
    try:
        signal.pidfd_send_signal(own, 0)
    finally:
        os.close(own)
