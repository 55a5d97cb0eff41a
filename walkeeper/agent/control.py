"""The agent's Unix socket: requests of the hooks and of the command line, one per connection.

The protocol is ``hooks/wire.py``'s. A raw socket and not an asyncio stream, because a request may
carry file descriptors. The connection is the request's lifetime: when the client goes away its
handler is cancelled.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import functools
import os
import socket
import stat
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Self

import structlog

from walkeeper.agent.control_request import Reply, Request, receive_request
from walkeeper.errors import ConfigError, Interrupted, Locked, UsageError, WalkeeperError
from walkeeper.hooks import wire

Handler = Callable[[Request], Awaitable[Reply]]
"""Answers a request. A WalkeeperError becomes a reply of that class's exit code; anything else is
logged and answered as a failure. Cancelled when the client goes away and at the deadline."""

_log = structlog.get_logger(__name__)

_BACKLOG = 128
_READ_TIMEOUT_S = 5.0
_WRITE_TIMEOUT_S = 10.0
_ACCEPT_PAUSE_S = 0.1


class ControlServer:
    """Listens on a Unix socket and gives each request to the handler of its command.

    ``bind``, then ``serve`` in a task; ``stop`` ends it after the running requests. At most
    ``max_connections`` are open at once, others wait in the kernel's queue; a request is at most
    64 KiB and must have arrived within five seconds.
    """

    def __init__(self, path: Path, *, max_connections: int = 64) -> None:
        self._path = path
        self._handlers: dict[str, tuple[Handler, float | None]] = {}
        self._slots = asyncio.Semaphore(max_connections)
        self._stopping = False
        self._wake = asyncio.Event()
        self._changed = asyncio.Event()
        self._connections: set[socket.socket] = set()
        self._socket: socket.socket | None = None
        self._lock: int | None = None

    def register(self, command: str, handler: Handler, *, deadline_s: float | None) -> None:
        """Gives a command its handler, which is cancelled after ``deadline_s`` (None: never)."""
        self._handlers[command] = (handler, deadline_s)

    def bind(self) -> None:
        """Takes the socket, mode 0600; from here on clients can connect.

        A lock on the file beside it (``.lock``, which stays) decides who owns the socket, so what
        a killed process left behind is replaced. Raises Locked when another process listens,
        ConfigError when the socket cannot be made.
        """
        try:
            self._lock = _take_lock(self._path)
            _remove_socket(self._path)
            self._socket = _listen(self._path)
        except OSError as error:
            self._release()
            raise ConfigError(
                f"cannot listen on {self._path}: {error.strerror or error}",
                hint="the directory must exist and belong to the user who runs the agent",
            ) from error
        except WalkeeperError:
            self._release()
            raise

    async def serve(self) -> None:
        """Serves until ``stop`` is called and the last running request has ended.

        Cancelling it cancels the running requests. The socket is closed and removed either way.
        """
        listener = self._socket
        if listener is None:
            raise RuntimeError("serve() before bind()")
        try:
            async with asyncio.TaskGroup() as group:
                while (connection := await self._accept(listener)) is not None:
                    self._connections.add(connection)
                    self._changed.set()
                    group.create_task(self._answer(connection))
                listener.close()
        finally:
            for connection in self._connections:  # accepted, and cancelled before it was answered
                connection.close()
            self._release()

    def stop(self) -> None:
        """Accepts nothing more; clients that are already connected are still served."""
        self._stopping = True
        _remove_socket(self._path)  # nobody else can connect while those who did are served
        self._wake.set()

    def note_request(self) -> None:
        """Says that there was a request that came another way, for `wait_idle`."""
        self._changed.set()

    async def wait_idle(self, seconds: float) -> None:
        """Returns when there has been no request for that long."""
        while True:
            self._changed.clear()
            try:
                async with asyncio.timeout(seconds):
                    await self._changed.wait()
            except TimeoutError:
                if not self._connections:
                    return

    async def _accept(self, listener: socket.socket) -> socket.socket | None:
        """The next connection, its slot taken; None when stopped and nobody waits any more."""
        await self._slots.acquire()
        loop = asyncio.get_running_loop()
        while True:
            stopping = self._stopping
            try:
                connection, _ = listener.accept()
            except BlockingIOError:
                if stopping:
                    return None
                loop.add_reader(listener, self._wake.set)
                try:
                    await self._wake.wait()
                finally:
                    loop.remove_reader(listener)
                self._wake.clear()
            except OSError as error:  # ECONNABORTED, or no descriptors left: EMFILE, ENFILE
                _log.warning("control_accept_failed", error=error.strerror)
                await asyncio.sleep(_ACCEPT_PAUSE_S)
            else:
                connection.setblocking(False)
                return connection

    async def _answer(self, connection: socket.socket) -> None:
        """One connection from request to reply: the outermost frame of its task."""
        try:
            with connection:
                try:
                    reply = await self._reply(connection)
                except Exception:  # noqa: BLE001 - one bad request must not end the agent
                    _log.exception("control_request_failed")
                    reply = Reply.failed("an internal error", hint="see the agent's log")
                if reply is not None:
                    with contextlib.suppress(OSError, TimeoutError):  # the client has gone
                        await _send(connection, reply.encode())
        finally:
            self._connections.discard(connection)
            self._changed.set()
            self._slots.release()

    async def _reply(self, connection: socket.socket) -> Reply | None:
        """The reply to what the connection asks, None when nobody is left to hear it."""
        try:
            async with asyncio.timeout(_READ_TIMEOUT_S):
                request = await receive_request(connection)
        except (OSError, TimeoutError):
            return None
        except wire.WireError as error:
            return Reply.of_error(UsageError(str(error), hint="upgrade or restart the older side"))
        if request is None:  # connected and left, as one who looks whether somebody listens
            return None
        request.attach(functools.partial(_report, connection))
        with request:
            return await self._handle(request, connection)

    async def _handle(self, request: Request, connection: socket.socket) -> Reply | None:
        found = self._handlers.get(request.command)
        if found is None:
            return Reply.of_error(UsageError(f"the agent knows no command {request.command}"))
        handler, deadline_s = found
        try:
            async with asyncio.timeout(deadline_s) as scope:
                with _Hangup(connection, scope) as hangup:
                    return await handler(request)
        except WalkeeperError as error:
            return Reply.of_error(error)
        except TimeoutError:
            if not scope.expired():
                raise
            if hangup.happened:
                return None
            return Reply.failed(f"{request.command} did not end within {deadline_s:g} s")

    def _release(self) -> None:
        """Gives up the socket, its name and the lock; does nothing the second time."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
            _remove_socket(self._path)
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def _take_lock(path: Path) -> int:
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(path.with_name(path.name + ".lock"), flags, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise Locked(f"another process listens on {path}", hint="is the agent running?") from None
    return descriptor


def _remove_socket(path: Path) -> None:
    """Removes a socket of that name. Raises ConfigError when it is something else."""
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise ConfigError(f"{path} exists and is not a socket")
        path.unlink()
    except FileNotFoundError:
        return


def _listen(path: Path) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        listener.bind(os.fspath(path))
        path.chmod(0o600)  # before listen(): until then nobody can connect
        listener.listen(_BACKLOG)
    except BaseException:
        listener.close()
        raise
    return listener


async def _send(connection: socket.socket, frame: bytes) -> None:
    async with asyncio.timeout(_WRITE_TIMEOUT_S):
        await asyncio.get_running_loop().sock_sendall(connection, frame)


async def _report(connection: socket.socket, frame: bytes) -> None:
    """Sends progress. Raises Interrupted when the client has gone."""
    try:
        await _send(connection, frame)
    except (OSError, TimeoutError) as error:
        raise Interrupted("the client has gone") from error


class _Hangup:
    """Ends a scope of asyncio.timeout early when the client closes, or speaks out of turn."""

    def __init__(self, connection: socket.socket, scope: asyncio.Timeout) -> None:
        self._connection = connection
        self._scope = scope
        self.happened = False

    def __enter__(self) -> Self:
        asyncio.get_running_loop().add_reader(self._connection, self._readable)
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.get_running_loop().remove_reader(self._connection)

    def _readable(self) -> None:
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._connection)
        self.happened = True
        self._scope.reschedule(loop.time())
