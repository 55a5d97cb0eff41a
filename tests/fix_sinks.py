"""Those who are told of alerts: a web server and a mail server."""

from __future__ import annotations

import asyncio
import queue
import ssl
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email import message_from_bytes, policy
from email.message import EmailMessage
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session

from tests.fix_certificate import Certificate
from walkeeper import log
from walkeeper.agent.alert_text import Origin
from walkeeper.core.alerts import Alert, Event, Notice, Severity

T0 = datetime(2026, 11, 21, 3, 0, tzinfo=UTC)
ORIGIN = Origin("letta", "s3://bucket/letta", "db1")
CANARY = "c4n4ry-Zq8W"
"""A registered secret, in tests with the fixture ``canary``."""


def make_notice(
    event: Event = "raised",
    *,
    summary: str = "RPO is 22 min, target 15 min",
    hint: str | None = "look at walkeeper status",
    severity: Severity = Severity.CRITICAL,
    key: str = "rpo",
    minutes: float = 12,
) -> Notice:
    """A notice of something that has lasted for so many minutes."""
    alert = Alert(key=key, severity=severity, summary=summary, hint=hint, since=T0, raised_at=T0)
    return Notice(event, alert, T0 + timedelta(minutes=minutes))


@pytest.fixture
def canary(monkeypatch: pytest.MonkeyPatch) -> str:
    """A secret that must appear nowhere."""
    monkeypatch.setattr(log, "_secrets", [])
    log.register_secret(CANARY)
    return CANARY


@dataclass
class Posted:
    """One request; the names of ``headers`` are in lower case."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass
class WebSink:
    """A web server that keeps what it is sent and answers ``status`` with ``headers``.

    While ``hangs`` is set it answers nothing; paths that begin with ``failing`` are answered 500.
    """

    address: str = ""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    received: list[Posted] = field(default_factory=list)
    hangs: bool = False
    failing: str | None = None
    over: threading.Event = field(default_factory=threading.Event)

    def url(self, path: str = "/hook") -> str:
        return f"http://{self.address}{path}"


def _handler_of(sink: WebSink) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
            headers = {name.lower(): value for name, value in self.headers.items()}
            sink.received.append(Posted(self.command, self.path, headers, body))
            if sink.hangs:
                sink.over.wait(60)
                self.close_connection = True
                return
            fails = sink.failing is not None and self.path.startswith(sink.failing)
            self.send_response(500 if fails else sink.status)
            for name, value in sink.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_GET = do_POST  # noqa: N815 - the name that http.server wants

        def log_message(self, *arguments: Any) -> None:
            pass

    return Handler


@pytest.fixture
def make_web_sink() -> Iterator[Callable[[ssl.SSLContext | None], WebSink]]:
    """Starts web servers on loopback, with TLS where a context is given."""
    running: list[tuple[ThreadingHTTPServer, threading.Thread, WebSink]] = []

    def make(context: ssl.SSLContext | None = None) -> WebSink:
        sink = WebSink()
        server = ThreadingHTTPServer(("127.0.0.1", 0), _handler_of(sink))
        server.handle_error = lambda *_: None  # type: ignore[method-assign]
        if context is not None:
            server.socket = context.wrap_socket(
                server.socket, server_side=True, do_handshake_on_connect=False
            )
        sink.address = f"127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        running.append((server, thread, sink))
        return sink

    yield make
    for server, thread, sink in running:
        sink.over.set()
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def web_sink(make_web_sink: Callable[[ssl.SSLContext | None], WebSink]) -> WebSink:
    """One without TLS."""
    return make_web_sink(None)


@dataclass
class MailServer:
    """An SMTP server; ``mails`` are what it took, ``logins`` who came in and how.

    It refuses the addresses in ``refused``, and all mails while ``trouble`` is an answer. With
    ``stays`` it does not answer a goodbye before that is set.
    """

    password: str = "right"
    port: int = 0
    mails: list[EmailMessage] = field(default_factory=list)
    recipients: list[list[str]] = field(default_factory=list)
    logins: list[str] = field(default_factory=list)
    refused: set[str] = field(default_factory=set)
    trouble: str | None = None
    stays: asyncio.Event | None = None

    async def handle_QUIT(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        if self.stays is not None:
            await self.stays.wait()
        return "221 Bye"

    async def handle_RCPT(
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        if address in self.refused:
            return f"550 no {address} here"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        if self.trouble is not None:
            return self.trouble
        assert isinstance(envelope.content, bytes)
        found = message_from_bytes(envelope.content, policy=policy.default)
        assert isinstance(found, EmailMessage)
        self.mails.append(found)
        self.recipients.append(list(envelope.rcpt_tos))
        return "250 OK"

    def authenticate(
        self, server: SMTP, session: Session, envelope: Envelope, mechanism: str, data: Any
    ) -> AuthResult:
        assert isinstance(data, LoginPassword)
        right = data.password == self.password.encode()
        if right:
            self.logins.append(data.login.decode())
        return AuthResult(success=right, handled=False)


@asynccontextmanager
async def mail_server(
    *, starttls: Certificate | None = None, tls: Certificate | None = None, login: bool = False
) -> AsyncIterator[MailServer]:
    """A server on loopback for the block's time, in the test's own event loop."""
    found = MailServer()
    loop = asyncio.get_running_loop()
    talks: list[SMTP] = []

    def make() -> SMTP:
        talk = SMTP(
            found,
            hostname="mail.test",
            loop=loop,
            tls_context=starttls.context if starttls else None,
            require_starttls=starttls is not None,
            authenticator=found.authenticate if login else None,
            auth_required=login,
            auth_require_tls=starttls is not None,
        )
        talks.append(talk)
        return talk

    server = await loop.create_server(make, "127.0.0.1", 0, ssl=tls.context if tls else None)
    found.port = server.sockets[0].getsockname()[1]
    try:
        yield found
    finally:
        server.close()
        for talk in talks:  # whoever has just come in, or has not said goodbye
            if talk.transport is not None and not talk.transport.is_closing():
                talk.transport.abort()
        await server.wait_closed()
        await asyncio.sleep(0)  # the transports tell their talks, which end


@contextmanager
def _in_thread(**options: Any) -> Iterator[MailServer]:
    """A `mail_server` in a thread of its own."""
    servers: queue.Queue[tuple[MailServer, asyncio.AbstractEventLoop]] = queue.Queue()
    over = asyncio.Event()

    async def serve() -> None:
        async with mail_server(**options) as server:
            servers.put((server, asyncio.get_running_loop()))
            await over.wait()

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    server, loop = servers.get(timeout=60)
    try:
        yield server
    finally:
        loop.call_soon_threadsafe(over.set)
        thread.join()


@pytest.fixture
def mail_sink() -> Iterator[MailServer]:
    """A mail server without TLS."""
    with _in_thread() as server:
        yield server


@pytest.fixture
def login_mail_sink(certificate: Certificate) -> Iterator[MailServer]:
    """A mail server with STARTTLS that wants a password."""
    with _in_thread(starttls=certificate, login=True) as server:
        yield server


Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Coroutine[Any, Any, None]]


@asynccontextmanager
async def odd_server(talk: Talk) -> AsyncIterator[int]:
    """A server that speaks as ``talk`` does, until the block ends; the port."""
    talks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        talks.add(task)
        try:
            await talk(reader, writer)
        except (ConnectionError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in talks:
            task.cancel()
        await asyncio.wait(talks) if talks else None


@pytest.fixture
def sink_pool() -> Iterator[ThreadPoolExecutor]:
    """One thread; the end of the test waits for what still goes on in it."""
    with ThreadPoolExecutor(1) as pool:
        yield pool
