"""The agent's socket, spoken to by real clients."""

import asyncio
import os
import socket
import stat
import time
from pathlib import Path

import pytest

from tests.fix_hooks import serving
from walkeeper.agent.control import ControlServer
from walkeeper.agent.control_client import control_request
from walkeeper.agent.control_request import Reply, Request
from walkeeper.errors import ConfigError, Locked, StorageDenied, WalkeeperError
from walkeeper.hooks import wire


async def echo(request: Request) -> Reply:
    return Reply.ok(request.text("text"))


def server_at(path: Path, **handlers: object) -> ControlServer:
    server = ControlServer(path)
    for command, handler in handlers.items():
        server.register(command, handler, deadline_s=5)  # type: ignore[arg-type]
    return server


async def test_a_request_is_answered_by_the_handler_of_its_command(short_dir: Path) -> None:
    async with serving(server_at(short_dir / "s", echo=echo)):
        reply = await control_request(short_dir / "s", "echo", {"text": "häm"}, timeout_s=5)
        unknown = await control_request(short_dir / "s", "backup", {}, timeout_s=5)
        missing = await control_request(short_dir / "s", "echo", {}, timeout_s=5)
    assert reply == Reply.ok("häm")
    assert unknown is not None
    assert (unknown.status, unknown.exit_code) == (wire.FAILED, 2)
    assert missing is not None
    assert "text is missing" in missing.message


async def test_nobody_listening_is_none_and_not_an_error(short_dir: Path) -> None:
    assert await control_request(short_dir / "s", "echo", {}, timeout_s=5) is None


async def test_an_error_keeps_its_exit_code_and_hint(short_dir: Path) -> None:
    async def refuse(_: Request) -> Reply:
        raise StorageDenied("no access", hint="check the policy")

    async with serving(server_at(short_dir / "s", refuse=refuse)):
        reply = await control_request(short_dir / "s", "refuse", {}, timeout_s=5)
    assert reply == Reply.failed("no access", hint="check the policy", exit_code=22)


async def test_a_defect_in_a_handler_fails_its_request_and_nothing_else(
    short_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async def broken(_: Request) -> Reply:
        raise KeyError("oops")

    async def impatient(_: Request) -> Reply:
        raise TimeoutError

    async with serving(server_at(short_dir / "s", broken=broken, impatient=impatient, echo=echo)):
        for command in ("broken", "impatient"):
            reply = await control_request(short_dir / "s", command, {}, timeout_s=5)
            assert reply is not None
            assert (reply.status, reply.message) == (wire.FAILED, "an internal error")
        assert await control_request(short_dir / "s", "echo", {"text": "x"}, timeout_s=5)
    assert "control_request_failed" in capsys.readouterr().out


async def test_progress_arrives_in_order_before_the_reply(short_dir: Path) -> None:
    async def backup(request: Request) -> Reply:
        for n in range(100):
            await request.progress(b'{"done":%d}' % n)
        return Reply.ok()

    seen: list[bytes] = []
    async with serving(server_at(short_dir / "s", backup=backup)):
        reply = await control_request(
            short_dir / "s", "backup", {}, timeout_s=None, on_progress=seen.append
        )
    assert reply == Reply.ok()
    assert seen == [b'{"done":%d}' % n for n in range(100)]


async def test_a_handler_is_cancelled_when_its_client_goes_away(short_dir: Path) -> None:
    begun, cancelled = asyncio.Event(), asyncio.Event()

    async def wait(_: Request) -> Reply:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()
        raise AssertionError

    async with serving(server_at(short_dir / "s", wait=wait)), asyncio.timeout(10):
        client = asyncio.create_task(control_request(short_dir / "s", "wait", {}, timeout_s=None))
        await begun.wait()
        assert not cancelled.is_set()
        client.cancel()
        await cancelled.wait()


async def test_a_handler_is_cancelled_at_its_deadline(short_dir: Path) -> None:
    async def wait(_: Request) -> Reply:
        await asyncio.Event().wait()
        raise AssertionError

    server = ControlServer(short_dir / "s")
    server.register("wait", wait, deadline_s=0.05)
    async with serving(server):
        reply = await control_request(short_dir / "s", "wait", {}, timeout_s=5)
    assert reply is not None
    assert "did not end within 0.05 s" in reply.message


async def test_the_socket_is_for_its_owner_only_and_removed_at_the_end(short_dir: Path) -> None:
    path = short_dir / "s"
    async with serving(server_at(path)):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert not path.exists()


async def test_a_second_agent_on_the_same_socket_is_locked_out(short_dir: Path) -> None:
    async with serving(server_at(short_dir / "s", echo=echo)):
        with pytest.raises(Locked):
            ControlServer(short_dir / "s").bind()
        assert await control_request(short_dir / "s", "echo", {"text": "x"}, timeout_s=5)


async def test_what_a_killed_agent_left_is_replaced_and_a_file_is_not(short_dir: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(os.fspath(short_dir / "s"))
    async with serving(server_at(short_dir / "s", echo=echo)):
        assert await control_request(short_dir / "s", "echo", {"text": "x"}, timeout_s=5)
    (short_dir / "file").write_text("precious")
    with pytest.raises(ConfigError, match="not a socket"):
        ControlServer(short_dir / "file").bind()
    assert (short_dir / "file").read_text() == "precious"
    with pytest.raises(ConfigError, match="cannot listen"):
        ControlServer(short_dir / "missing" / "s").bind()


async def test_stopping_serves_those_who_are_already_there(short_dir: Path) -> None:
    release = asyncio.Event()

    async def wait(_: Request) -> Reply:
        await release.wait()
        return Reply.ok("served")

    server = server_at(short_dir / "s", wait=wait, echo=echo)
    server.bind()
    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        early = group.create_task(control_request(short_dir / "s", "wait", {}, timeout_s=5))
        queued = socket.socket(socket.AF_UNIX)
        queued.connect(os.fspath(short_dir / "s"))
        queued.send(wire.encode_request("echo", {"text": b"queued"}))
        queued.setblocking(False)
        serving_task = group.create_task(server.serve())
        await asyncio.sleep(0.05)
        server.stop()
        assert await control_request(short_dir / "s", "echo", {"text": "x"}, timeout_s=5) is None
        release.set()
        await serving_task
        assert await early == Reply.ok("served")
        assert b"queued" in await asyncio.get_running_loop().sock_recv(queued, 1000)
        queued.close()


async def test_clients_beyond_the_limit_wait_for_their_turn(short_dir: Path) -> None:
    running, most = 0, 0

    async def count(_: Request) -> Reply:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.01)
        running -= 1
        return Reply.ok()

    server = ControlServer(short_dir / "s", max_connections=3)
    server.register("count", count, deadline_s=5)
    async with serving(server), asyncio.TaskGroup() as group:
        calls = [
            group.create_task(control_request(short_dir / "s", "count", {}, timeout_s=5))
            for _ in range(20)
        ]
        for call in calls:
            assert await call == Reply.ok()
    assert most == 3


async def test_a_client_that_connects_and_leaves_disturbs_nobody(short_dir: Path) -> None:
    async with serving(server_at(short_dir / "s", echo=echo)):
        for data in (b"", b"WK", wire.encode_request("echo", {"text": b"x"})[:-1]):
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(os.fspath(short_dir / "s"))
                client.send(data)
        assert await control_request(short_dir / "s", "echo", {"text": "x"}, timeout_s=5)


@pytest.mark.parametrize("header", [b"GET / HT", b"WK\x09Q\0\0\0\1", b"WK\x01R\0\0\0\0"])
async def test_what_is_no_request_of_this_version_is_answered_with_a_failure(
    header: bytes, short_dir: Path
) -> None:
    async with serving(server_at(short_dir / "s", echo=echo)):
        reader, writer = await asyncio.open_unix_connection(short_dir / "s")
        writer.write(header + b"more")
        kind, length = wire.decode_header(await reader.readexactly(wire.HEADER_SIZE))
        status, _, message, _ = wire.decode_reply(await reader.readexactly(length))
        writer.close()
    assert (kind, status) == (wire.REPLY, wire.FAILED)
    assert ("version 9" in message) == (header[2] == 9)


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def test_no_descriptor_stays_open_that_nobody_took(short_dir: Path) -> None:
    async def ignore(_: Request) -> Reply:
        return Reply.ok()

    frames = [
        wire.encode_request("ignore", {}),
        wire.encode_request("unknown", {}),
        wire.encode_request("ignore", {})[:-1],
        b"rubbish!",
    ]
    async with serving(server_at(short_dir / "s", ignore=ignore)):
        before = open_descriptors()
        await control_request(short_dir / "s", "ignore", {}, timeout_s=5)
        for frame in frames:
            for count in (1, 2):
                with socket.socket(socket.AF_UNIX) as client, Path("/dev/null").open() as null:
                    client.connect(os.fspath(short_dir / "s"))
                    socket.send_fds(client, [frame], [null.fileno()] * count)
        await control_request(short_dir / "s", "ignore", {}, timeout_s=5)
        deadline = time.monotonic() + 60
        while open_descriptors() != before and time.monotonic() < deadline:
            await asyncio.sleep(0.01)
        assert open_descriptors() == before


async def test_the_server_is_idle_only_when_no_request_runs(short_dir: Path) -> None:
    began, may_end = asyncio.Event(), asyncio.Event()

    async def slow(_: Request) -> Reply:
        began.set()
        await may_end.wait()
        return Reply.ok()

    server = server_at(short_dir / "s", slow=slow)
    async with serving(server), asyncio.TaskGroup() as group:
        group.create_task(control_request(short_dir / "s", "slow", {}, timeout_s=60))
        await began.wait()
        idle = group.create_task(server.wait_idle(0.1))
        done, _ = await asyncio.wait([idle], timeout=0.5)
        assert not done
        may_end.set()
        await asyncio.wait_for(idle, 60)


async def test_an_agent_that_dies_is_an_error_for_the_command_line(short_dir: Path) -> None:
    async def hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    async with await asyncio.start_unix_server(hang_up, short_dir / "s"):
        with pytest.raises(WalkeeperError, match="did not answer"):
            await control_request(short_dir / "s", "backup", {}, timeout_s=5)
