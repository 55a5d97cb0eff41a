"""The HTTP port: who may ask, what is answered, and what a stranger cannot do."""

from __future__ import annotations

import asyncio
import base64
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fix_http import Reply, ask
from walkeeper.agent.http import HttpServer, bind
from walkeeper.agent.http_answer import Answer, Question, text_answer
from walkeeper.agent.http_doors import MOST_CONNECTIONS
from walkeeper.agent.http_entry import Entry, names_loopback, open_entry
from walkeeper.config import AgentConfig
from walkeeper.config_values import Listen
from walkeeper.errors import ConfigError
from walkeeper.storage.settings import Secret

TOKEN = "a-token-of-good-length"
ANY_PORT = Listen("127.0.0.1:0")


async def echo(question: Question) -> Answer:
    return text_answer(f"{question.path} {sorted(question.query.items())}")


async def broken(_: Question) -> Answer:
    raise RuntimeError("secret details")


def make_server(entry: Entry, listen: Listen = ANY_PORT) -> HttpServer:
    server = HttpServer(listen, entry)
    server.register("/echo", echo)
    server.register("/broken", broken)
    server.register("/healthz", echo, public=True)
    return server


async def wait_for(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.01)


@asynccontextmanager
async def serving(entry: Entry | None = None) -> AsyncIterator[str]:
    """A server that runs; its address."""
    server = make_server(entry or Entry())
    async with asyncio.TaskGroup() as group:
        group.create_task(server.run())
        await wait_for(lambda: server.status.address is not None)
        assert server.status.address is not None
        yield server.status.address
        server.stop()


async def get(address: str, path: str, method: str = "GET", **headers: str) -> Reply:
    return await asyncio.to_thread(ask, address, path, method, **headers)


async def talk(address: str, sent: bytes) -> bytes:
    """What comes back for bytes as they are, until the server closes."""
    host, port = address.split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    received = b""
    try:
        with suppress(ConnectionError):
            writer.write(sent)
            await writer.drain()
            async with asyncio.timeout(60):
                received = await reader.read()
    finally:
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()
    return received


async def test_a_path_is_answered_by_its_handler_with_headers_that_close_everything() -> None:
    async with serving() as address:
        reply = await get(address, "/echo?b=2&a=1&a=3")
    assert (reply.status, reply.text) == (200, "/echo [('a', '1'), ('b', '2')]\n")
    assert reply.headers["content-security-policy"].startswith("default-src 'none';")
    assert "frame-ancestors 'none'" in reply.headers["content-security-policy"]
    assert reply.headers["x-content-type-options"] == "nosniff"
    assert reply.headers["x-frame-options"] == "DENY"
    assert reply.headers["referrer-policy"] == "no-referrer"
    assert reply.headers["cache-control"] == "no-store"
    assert reply.headers["server"] == "walkeeper"
    assert "access-control-allow-origin" not in reply.headers


async def test_a_page_opens_of_the_policy_what_it_needs() -> None:
    headers = Answer(b"", policy=("style-src 'sha256-x'",)).all_headers()
    assert headers["Content-Security-Policy"].endswith("; style-src 'sha256-x'")


@pytest.mark.parametrize(
    ("site", "mode", "dest", "status"),
    [
        ("cross-site", "no-cors", "image", 403),
        ("same-site", "cors", "empty", 403),
        ("cross-site", "navigate", "iframe", 403),
        ("cross-site", "navigate", "document", 200),
        ("same-origin", "cors", "empty", 200),
        ("none", "navigate", "document", 200),
    ],
)
async def test_a_page_from_elsewhere_may_link_here_and_do_nothing_else(
    site: str, mode: str, dest: str, status: int
) -> None:
    fetch = {"Sec_Fetch_Site": site, "Sec_Fetch_Mode": mode, "Sec_Fetch_Dest": dest}
    async with serving() as address:
        assert (await get(address, "/echo", **fetch)).status == status


async def test_few_answers_are_made_at_once_and_health_does_not_wait_for_them() -> None:
    at_once, most, free = 0, 0, asyncio.Event()

    async def slow(_: Question) -> Answer:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        await free.wait()
        at_once -= 1
        return text_answer("done")

    server = make_server(Entry())
    server.register("/slow", slow)
    async with asyncio.TaskGroup() as group:
        group.create_task(server.run())
        await wait_for(lambda: server.status.address is not None)
        address = server.status.address or ""
        asked = [group.create_task(get(address, "/slow")) for _ in range(5)]
        await wait_for(lambda: at_once == 4)
        assert (await get(address, "/healthz")).status == 200
        free.set()
        assert [(await one).status for one in asked] == [200] * 5
        server.stop()
    assert most == 4


async def test_head_is_answered_without_a_body() -> None:
    async with serving() as address:
        reply = await get(address, "/echo", "HEAD")
        assert (reply.status, reply.body) == (200, b"")
        assert reply.headers["content-length"] == str(len("/echo []\n"))


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "TRACE", "PATCH"])
async def test_nothing_but_reading_is_possible(method: str) -> None:
    async with serving() as address:
        reply = await get(address, "/echo", method)
    assert reply.status == 405
    assert reply.headers["allow"] == "GET, HEAD"


async def test_what_is_not_there_is_not_found() -> None:
    async with serving() as address:
        for path in ("/", "/echo/", "/echo/../etc/passwd", "/%2e%2e/x"):
            assert (await get(address, path)).status == 404


async def test_a_handler_that_breaks_says_nothing_of_the_reason() -> None:
    async with serving() as address:
        reply = await get(address, "/broken")
        assert reply.status == 500
        assert "secret" not in reply.text
        assert (await get(address, "/echo")).status == 200


@pytest.mark.parametrize(
    "host", ["localhost", "localhost:9188", "127.0.0.1", "127.0.0.1:80", "[::1]:9188", "LOCALHOST"]
)
def test_the_own_host_is_asked_by_its_own_name(host: str) -> None:
    assert names_loopback(host)
    assert Entry().refusal([host], None) is None


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:9188",
        "127.0.0.1.evil.example",
        "localhost.evil.example",
        "localhost@evil.example",
        "192.0.2.1:9188",
        "0.0.0.0:9188",
        "[::]:1",
        "::1",
        "",
        "127.0.0.1:80:80",
        "127.0.0.1/evil",
        "evil.example\tlocalhost",
    ],
)
async def test_a_page_that_leads_here_by_a_name_of_its_own_reads_nothing(host: str) -> None:
    refusal = Entry().refusal([host], None)
    assert refusal is not None
    assert refusal.status == 421


async def test_a_request_of_another_name_is_refused_on_the_wire_too() -> None:
    async with serving() as address:
        assert (await get(address, "/echo", Host="evil.example")).status == 421
        assert (await get(address, "/healthz", Host="evil.example")).status == 200
        two = b"GET /echo HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n"
        assert b" 400 " in (await talk(address, two)).split(b"\r\n")[0]
        none = b"GET /echo HTTP/1.1\r\n\r\n"
        assert b" 400 " in (await talk(address, none)).split(b"\r\n")[0]


def basic(password: str, user: str = "anybody") -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


async def test_with_a_token_it_must_be_shown_as_a_bearers_or_as_a_password() -> None:
    async with serving(Entry(Secret(TOKEN))) as address:
        assert (await get(address, "/echo", Authorization=f"Bearer {TOKEN}")).status == 200
        shown = basic(TOKEN)
        assert (await get(address, "/echo", Host="db1", Authorization=shown)).status == 200
        reply = await get(address, "/echo")
        assert reply.status == 401
        assert reply.headers["www-authenticate"].startswith('Basic realm="walkeeper"')
        assert (await get(address, "/nothing")).status == 401
        assert (await get(address, "/healthz")).status == 200


@given(st.one_of(st.none(), st.text(), st.text().map(basic), st.text().map("Bearer {}".format)))
def test_nothing_but_the_token_opens(shown: str | None) -> None:
    refusal = Entry(Secret(TOKEN)).refusal(["localhost"], shown)
    assert refusal is not None
    assert refusal.status == 401


@pytest.mark.parametrize("shown", [TOKEN, f"Basic {TOKEN}", basic(TOKEN + "x"), "Basic", "Bearer"])
def test_almost_the_token_does_not_open(shown: str) -> None:
    assert Entry(Secret(TOKEN)).refusal(["localhost"], shown) is not None


def test_behind_a_trusted_proxy_any_name_will_do() -> None:
    assert Entry(trusted_proxy=True).refusal(["backups.example"], None) is None


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "there is no such"),
        ("", "at least 16"),
        ("short", "at least 16"),
        ("ä" * 20, "plain"),
    ],
)
def test_a_token_that_cannot_protect_is_refused(
    tmp_path: Path, content: str | None, said: str
) -> None:
    path = tmp_path / "token"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ConfigError, match=said):
        open_entry(AgentConfig(http_token_file=path))


def test_the_token_is_what_stands_in_the_file_and_shows_in_no_repr(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text(f"{TOKEN}\n")
    entry = open_entry(AgentConfig(http_token_file=path))
    assert entry.token == Secret(TOKEN)
    assert TOKEN not in repr(entry)


async def test_a_port_that_is_taken_is_told_and_taken_when_it_is_free() -> None:
    with bind(ANY_PORT) as holder:
        listen = Listen(f"127.0.0.1:{holder.getsockname()[1]}")
        with pytest.raises(ConfigError, match="another process listens there"):
            bind(listen)
        server = make_server(Entry(), listen)
        async with asyncio.TaskGroup() as group:
            group.create_task(server.run())
            await wait_for(lambda: server.status.problem is not None)
            assert "another process listens there" in (server.status.problem or "")
            holder.close()
            await wait_for(lambda: server.status.address is not None)
            assert (server.status.address, server.status.problem) == (listen, None)
            assert (await get(listen, "/echo")).status == 200
            server.stop()


async def test_an_address_of_another_host_is_told() -> None:
    with pytest.raises(ConfigError, match=r"192\.0\.2\.1:9188: "):
        bind(Listen("192.0.2.1:9188"))


async def test_too_many_connections_are_turned_away_and_those_inside_are_served() -> None:
    async with serving() as address:
        host, port = address.split(":")
        place = (host, int(port))

        def connect_all() -> list[socket.socket]:
            return [socket.create_connection(place) for _ in range(MOST_CONNECTIONS + 8)]

        idle = await asyncio.to_thread(connect_all)
        try:
            await wait_for(lambda: sum(_is_closed(one) for one in idle) == 8)
            inside = next(one for one in idle if not _is_closed(one))
            inside.setblocking(True)
            inside.sendall(b"GET /echo HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert b" 200 " in await asyncio.to_thread(inside.recv, 4096)
        finally:
            for one in idle:
                one.close()
        reply = None
        async with asyncio.timeout(60):
            while reply is None:
                with suppress(OSError):
                    reply = await get(address, "/echo")
        assert reply.status == 200


def _is_closed(one: socket.socket) -> bool:
    one.setblocking(False)
    try:
        return one.recv(1, socket.MSG_PEEK) == b""
    except BlockingIOError:
        return False
    except ConnectionError:
        return True


@pytest.mark.parametrize(
    "sent",
    [
        b"GET /echo HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 10_000 + b"\r\n\r\n",
        b"GET /" + b"x" * 10_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /echo HTTP/1.1\r\nHost: localhost\r\n" + b"X: x\r\n" * 200 + b"\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        b"GARBAGE\r\n\r\n",
    ],
)
async def test_what_is_too_large_or_no_http_is_refused_and_changes_nothing(sent: bytes) -> None:
    async with serving() as address:
        status_line = (await talk(address, sent)).split(b"\r\n")[0]
        assert not status_line or b" 400 " in status_line
        assert (await get(address, "/echo")).status == 200


async def test_a_connection_serves_one_request() -> None:
    async with serving() as address:
        twice = 2 * b"GET /echo HTTP/1.1\r\nHost: localhost\r\n\r\n"
        assert (await talk(address, twice)).count(b"HTTP/1.1 ") == 1


async def test_at_the_stop_what_is_being_answered_may_end() -> None:
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def slow(_: Question) -> Answer:
        begun.set()
        await go_on.wait()
        return text_answer("whole")

    server = make_server(Entry())
    server.register("/slow", slow)
    async with asyncio.TaskGroup() as group:
        running = group.create_task(server.run())
        await wait_for(lambda: server.status.address is not None)
        reply = group.create_task(get(str(server.status.address), "/slow"))
        await begun.wait()
        server.stop()
        assert not running.done()
        go_on.set()
    assert reply.result().text == "whole\n"
    assert server.status.address is None
