"""Things that go wrong on the way to a store: a TCP proxy and an HTTP proxy with faults.

Both run an event loop in a thread of their own: they neither disturb the loop under test nor
need one. All methods may be called from any thread; what they set holds from the next connection or
request on, except `TcpProxy.reset`, which cuts what is there.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import socket
import struct
import threading
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal, NoReturn, TypeVar
from urllib.parse import parse_qs, urlsplit

import aiohttp
import pytest
from aiohttp import web
from yarl import URL

T = TypeVar("T")

Behaviour = Literal["forward", "refuse", "reset", "hang", "half-close"]


class LoopThread:
    """An event loop in a thread; `run` works off a coroutine in it."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(30)

    def close(self) -> None:
        self.run(self._cancel_all())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()

    async def _cancel_all(self) -> None:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        # A connection that was accepted while its server was closing belongs to nobody.
        for transport in list(self.loop._transports.values()):  # type: ignore[attr-defined]
            transport.abort()
        await asyncio.sleep(0)


def keep_port(port: int = 0) -> socket.socket:
    """A port on loopback that nobody else gets, whether or not somebody listens there.

    Servers that share ports (SO_REUSEPORT) may listen on it, and as long as none does connections
    are refused.
    """
    keeper = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    keeper.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    keeper.bind(("127.0.0.1", port))
    return keeper


async def stop_accepting(listening: Iterable[socket.socket]) -> None:
    """To be called before their server is closed.

    A connection that was accepted and has not reached its server by then is never closed: Python
    loses it (python/cpython#109564), and a later test is blamed.
    """
    for one in listening:
        asyncio.get_running_loop().remove_reader(one.fileno())
    for _ in range(3):
        await asyncio.sleep(0)


class TcpProxy:
    """Forwards a port on loopback to ``host:port``.

    ``behaviour``: "refuse" closes the port, "reset" answers with RST, "hang" accepts and says
    nothing, "half-close" ends our sending direction at once and swallows what comes. ``latency_s``
    delays each block in both directions, ``bytes_per_s`` bounds each direction of a connection;
    ``cut_down_after`` and ``cut_up_after`` break a connection with RST after so many bytes from, or
    to, the server.
    """

    def __init__(self, host: str, port: int) -> None:
        self.behaviour: Behaviour = "forward"
        self.latency_s = 0.0
        self.bytes_per_s: float | None = None
        self.cut_down_after: int | None = None
        self.cut_up_after: int | None = None
        self.connections = 0
        self._target = (host, port)
        self._thread = LoopThread()
        self._writers: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None
        self._keeper = keep_port()
        self.port: int = self._keeper.getsockname()[1]
        self._thread.run(self._listen())

    def set_behaviour(self, behaviour: Behaviour) -> None:
        """See the class; "refuse" closes the port, any other value opens the same port again."""
        self.behaviour = behaviour
        self._thread.run(self._stop_listening() if behaviour == "refuse" else self._listen())

    def reset(self) -> None:
        """Breaks every connection there is."""
        self._thread.run(self._reset_all())

    def close(self) -> None:
        self._thread.run(self._stop_listening())
        self._thread.run(self._reset_all())
        self._thread.close()
        self._keeper.close()

    async def _listen(self) -> None:
        if self._server is None:
            self._server = await asyncio.start_server(
                self._serve, "127.0.0.1", self.port, reuse_port=True
            )

    async def _stop_listening(self) -> None:
        server, self._server = self._server, None
        if server is not None:
            await stop_accepting(server.sockets)
            server.close()

    async def _reset_all(self) -> None:
        for writer in self._writers:
            _break(writer)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._writers.add(writer)
        try:
            if self.behaviour == "forward":
                await self._forward(reader, writer)
            elif self.behaviour == "hang":
                await asyncio.sleep(3600)
            elif self.behaviour == "half-close":
                writer.write_eof()
                await reader.read(-1)
        finally:
            self._writers.discard(writer)
            _break(writer)

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            server_reader, server_writer = await asyncio.open_connection(*self._target)
            self._writers.add(server_writer)
            up = asyncio.create_task(self._pump(reader, server_writer, self.cut_up_after))
            down = asyncio.create_task(self._pump(server_reader, writer, self.cut_down_after))
            try:
                await asyncio.wait({up, down}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in (up, down):
                    task.cancel()
                await asyncio.gather(up, down, return_exceptions=True)
                self._writers.discard(server_writer)
                server_writer.close()

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, cut_after: int | None
    ) -> None:
        left = cut_after
        while block := await reader.read(64 * 1024):
            if self.latency_s:
                await asyncio.sleep(self.latency_s)
            if self.bytes_per_s is not None:
                await asyncio.sleep(len(block) / self.bytes_per_s)
            writer.write(block if left is None else block[:left])
            await writer.drain()
            if left is not None:
                left -= len(block)
                if left <= 0:
                    return


def _break(writer: asyncio.StreamWriter) -> None:
    """RST, so that nobody takes it for an orderly end."""
    stream: socket.socket | None = writer.get_extra_info("socket")
    if stream is not None and stream.fileno() >= 0:
        with contextlib.suppress(OSError):
            stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


@dataclass
class Fault:
    """What to do with the next ``times`` requests that match, instead of forwarding them.

    ``after``: forward first, so that the store acts, and then answer with the fault all the same.
    ``hang``: answer nothing. ``refuse``: break the connection and take no other one, whatever is
    asked, until `HttpFaults.reopen`. ``cut_body_at``: forward, and break the connection after so
    many bytes of the answer's body. ``damage``: forward with one byte of the body changed.
    """

    times: int = 1
    kind: str | None = None
    path_contains: str = ""
    status: int = 503
    code: str = "SlowDown"
    body: bytes | None = None
    headers: dict[str, str] = field(default_factory=dict)
    after: bool = False
    hang: bool = False
    refuse: bool = False
    cut_body_at: int | None = None
    damage: bool = False

    def matches(self, seen: Seen) -> bool:
        kind_fits = self.kind is None or self.kind == seen.kind
        return self.times > 0 and kind_fits and self.path_contains in seen.path


@dataclass(frozen=True)
class Seen:
    """One request as it arrived; ``kind`` is its method, or LIST."""

    kind: str
    path: str
    headers: dict[str, str]
    size_bytes: int


class HttpFaults:
    """An HTTP proxy before an S3 server: counts requests, answers some with faults, forwards the
    rest unchanged (the Host header too, so that signatures stay valid).

    Also works as the ``http_proxy`` of a client; without ``target`` it answers what no fault
    answers with 404 NoSuchKey.
    """

    def __init__(self, target: str | None) -> None:
        self._target = target
        self._lock = threading.Lock()
        self._faults: list[Fault] = []
        self._seen: list[Seen] = []
        self._refusing = False
        self._thread = LoopThread()
        self._keeper = keep_port()
        self.port: int = self._keeper.getsockname()[1]
        self._runner = self._thread.run(self._start())
        self.url = f"http://127.0.0.1:{self.port}"

    def add(self, **fault: Any) -> Fault:
        """From now on do as `Fault` says; returns it, to change or end it (``times = 0``)."""
        added = Fault(**fault)
        with self._lock:
            self._faults.append(added)
        return added

    @property
    def requests(self) -> list[Seen]:
        """All requests so far, those answered with faults as well."""
        with self._lock:
            return list(self._seen)

    @property
    def counts(self) -> Counter[str]:
        """How many requests of each kind: PUT, GET, HEAD, LIST, DELETE, POST."""
        return Counter(seen.kind for seen in self.requests)

    def forget(self) -> None:
        """Counts from zero, and has no faults any more."""
        with self._lock:
            self._seen.clear()
            self._faults.clear()

    def reopen(self) -> None:
        """Take connections again, on the same port."""
        if self._refusing:
            self._refusing = False
            self._thread.run(self._listen())

    def close(self) -> None:
        self._thread.run(self._stop())
        self._thread.close()
        self._keeper.close()

    async def _listen(self) -> None:
        await self._listen_for(self._runner)

    async def _listen_for(self, runner: web.AppRunner) -> None:
        self._listening = keep_port(self.port)
        self._site = web.SockSite(runner, self._listening)
        await self._site.start()

    async def _stop_listening(self) -> None:
        site = self._site
        await stop_accepting([self._listening])
        await site.stop()

    async def _start(self) -> web.AppRunner:
        self._client = aiohttp.ClientSession(auto_decompress=False)
        application = web.Application(client_max_size=1 << 30)
        application.router.add_route("*", "/{path:.*}", self._handle)
        runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        await self._listen_for(runner)
        return runner

    async def _stop(self) -> None:
        if not self._refusing:
            await self._stop_listening()
        await self._runner.cleanup()
        await self._client.close()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        seen = Seen(_kind(request), request.raw_path, dict(request.headers), len(body))
        fault = self._note(seen)
        if self._refusing or (fault is not None and fault.refuse):
            await self._refuse(request)
        if fault is None:
            return await self._forward(request, body, None)
        if fault.damage:
            return await self._forward(request, bytes([body[0] ^ 1]) + body[1:], None)
        if fault.cut_body_at is not None:
            return await self._forward(request, body, fault.cut_body_at)
        if fault.after:
            await self._forward(request, body, 0, answer=False)
        if fault.hang:
            await asyncio.sleep(3600)
        return web.Response(
            status=fault.status,
            headers={"Content-Type": "application/xml", **fault.headers},
            body=_error(fault.code) if fault.body is None else fault.body,
        )

    async def _refuse(self, request: web.Request) -> NoReturn:
        if not self._refusing:
            self._refusing = True
            await self._stop_listening()
        if request.transport is not None:
            request.transport.abort()
        raise ConnectionResetError

    def _note(self, seen: Seen) -> Fault | None:
        with self._lock:
            self._seen.append(seen)
            fault = next((fault for fault in self._faults if fault.matches(seen)), None)
            if fault is not None:
                fault.times -= 1
            return fault

    async def _forward(
        self, request: web.Request, body: bytes, cut_at: int | None, *, answer: bool = True
    ) -> web.StreamResponse:
        if self._target is None:
            return web.Response(status=404, body=_error("NoSuchKey"))
        path = request.raw_path if request.raw_path.startswith("/") else _path(request.raw_path)
        url = URL(self._target + path, encoded=True)
        skip = {"transfer-encoding", "connection", "content-length"}
        headers = [(k, v) for k, v in request.headers.items() if k.lower() not in skip]
        headers.append(("Content-Length", str(len(body))))
        async with self._client.request(
            request.method,
            url,
            headers=headers,
            data=io.BytesIO(body) if body else None,
            allow_redirects=False,
            skip_auto_headers={"Content-Type", "Accept", "Accept-Encoding", "User-Agent"},
        ) as upstream:
            response = web.StreamResponse(status=upstream.status, reason=upstream.reason)
            for name, value in upstream.headers.items():
                if name.lower() not in {"transfer-encoding", "connection", "date", "server"}:
                    response.headers.add(name, value)
            if not answer:
                await upstream.read()
                return response
            await response.prepare(request)
            await self._copy(upstream, response, request, cut_at)
        return response

    async def _copy(
        self,
        upstream: aiohttp.ClientResponse,
        response: web.StreamResponse,
        request: web.Request,
        cut_at: int | None,
    ) -> None:
        left = cut_at
        async for block in upstream.content.iter_chunked(64 * 1024):
            await response.write(block if left is None else block[:left])
            if left is not None:
                left -= len(block)
                if left <= 0 and request.transport is not None:
                    await asyncio.sleep(0.05)  # let what was written arrive
                    request.transport.abort()
                    raise ConnectionResetError
        await response.write_eof()


def _kind(request: web.Request) -> str:
    query = parse_qs(urlsplit(request.raw_path).query, keep_blank_values=True)
    return "LIST" if request.method == "GET" and "list-type" in query else request.method


def _path(absolute: str) -> str:
    parts = urlsplit(absolute)
    return parts.path + ("?" + parts.query if parts.query else "")


def _error(code: str) -> bytes:
    return f'<?xml version="1.0"?><Error><Code>{code}</Code><Message></Message></Error>'.encode()


@pytest.fixture
def tcp_proxy() -> Iterator[Callable[[str], TcpProxy]]:
    """Makes a `TcpProxy` before the host and port of a URL."""
    made: list[TcpProxy] = []

    def make(url: str) -> TcpProxy:
        parts = urlsplit(url)
        assert parts.hostname is not None
        assert parts.port is not None
        made.append(TcpProxy(parts.hostname, parts.port))
        return made[-1]

    yield make
    for proxy in made:
        proxy.close()


@pytest.fixture
def http_faults() -> Iterator[Callable[[str | None], HttpFaults]]:
    """Makes an `HttpFaults` before an S3 server's endpoint."""
    made: list[HttpFaults] = []

    def make(target: str | None) -> HttpFaults:
        made.append(HttpFaults(target))
        return made[-1]

    yield make
    for proxy in made:
        proxy.close()
