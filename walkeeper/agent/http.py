"""The agent's HTTP port: read-only, for people and monitoring, and never open by accident."""

from __future__ import annotations

import asyncio
import errno
import socket
from contextlib import nullcontext, suppress
from typing import Final

import structlog

from walkeeper.agent.http_answer import Answer, Handler, Question, text_answer
from walkeeper.agent.http_entry import Entry
from walkeeper.config_values import Listen
from walkeeper.errors import ConfigError
from walkeeper.services.agent_status import HttpStatus

_RETRY_S: Final = 10.0
_HANDLER_S: Final = 10.0
_AT_ONCE: Final = 4
"""Answers in the making: they must not take all threads from those who archive."""
_METHODS: Final = ("GET", "HEAD")

log = structlog.get_logger(__name__)


class HttpServer:
    """Gives each path to its handler. ``register`` them all, then ``run``; ``stop`` ends that.

    Archiving comes first: a port that is taken, or anything else that goes wrong here, is told by
    ``status`` and tried again, and ends nothing.
    """

    def __init__(self, listen: Listen, entry: Entry) -> None:
        self._listen = listen
        self._entry = entry
        self._handlers: dict[str, Handler] = {}
        self._public: set[str] = set()
        self._stop = asyncio.Event()
        self._turns = asyncio.Semaphore(_AT_ONCE)
        self.status = HttpStatus(address=None)

    def register(self, path: str, handler: Handler, *, public: bool = False) -> None:
        """Give a path its handler; a ``public`` one answers without the token."""
        self._handlers[path] = handler
        if public:
            self._public.add(path)

    def stop(self) -> None:
        """Accept nothing more; `run` returns when what is being answered has ended."""
        self._stop.set()

    async def run(self) -> None:
        """Serve until stopped or cancelled."""
        while not self._stop.is_set():
            try:
                listener = bind(self._listen)
            except ConfigError as error:
                self._trouble(error.message)
                with suppress(TimeoutError):
                    async with asyncio.timeout(_RETRY_S):
                        await self._stop.wait()
            else:
                await self._serve(listener)

    async def _serve(self, listener: socket.socket) -> None:
        from walkeeper.agent.http_doors import Doors

        host, port = listener.getsockname()[:2]
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        self.status = HttpStatus(address=address)
        log.info("http_listening", address=address)
        try:
            with listener:
                await Doors(self._respond).serve(listener, self._stop)
        finally:
            self.status = HttpStatus(address=None)

    def _trouble(self, reason: str) -> None:
        if self.status.problem != reason:
            log.warning("http_not_listening", reason=reason)
        self.status = HttpStatus(address=None, problem=reason)

    async def _respond(
        self, method: str, question: Question, hosts: list[str], authorization: str | None
    ) -> Answer:
        """The answer to a request: the outermost frame of its task."""
        handler = self._handlers.get(question.path)
        if question.path not in self._public:
            refusal = self._entry.refusal(hosts, authorization)
            if refusal is not None:
                return refusal
        if handler is None:
            return text_answer("there is nothing here", 404)
        if method not in _METHODS:
            return text_answer("this is only to be read", 405, Allow=", ".join(_METHODS))
        turn = nullcontext() if question.path in self._public else self._turns
        try:
            async with asyncio.timeout(_HANDLER_S), turn:
                return await handler(question)
        except TimeoutError:
            return text_answer("this took too long", 503)
        except Exception:
            log.exception("http_request_failed", path=question.path)
            return text_answer("an internal error: see the agent's log", 500)


def bind(listen: Listen) -> socket.socket:
    """A socket that listens there. Raises ConfigError, saying why it cannot."""
    host = "127.0.0.1" if listen.host == "localhost" else listen.host
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    except OSError as error:
        raise _cannot_listen(listen, error) from error
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, listen.port))
        listener.listen()
    except OSError as error:
        listener.close()
        raise _cannot_listen(listen, error) from error
    return listener


def _cannot_listen(listen: Listen, error: OSError) -> ConfigError:
    taken = error.errno == errno.EADDRINUSE
    reason = "another process listens there" if taken else error.strerror or str(error)
    return ConfigError(f"[agent] http {listen}: {reason}", hint="choose another port there")
