"""The hooks as PostgreSQL starts them: real processes, judged by their exit codes."""

import asyncio
import os
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.fix_hooks import CLIENT, PACKAGE_ROOT, run_hook, run_process, serving, wait_for
from walkeeper.agent.control import ControlServer
from walkeeper.agent.control_request import Reply, Request
from walkeeper.agent.hook_requests import FileIdentity, WalPushRequest
from walkeeper.errors import WalRefused
from walkeeper.hooks import wire

Listener = Callable[[Callable[[socket.socket], None]], str]
ONLY = "000000010000000000000001"
SEGMENT = f"pg_wal/{ONLY}"

LOADED_BY_THE_INTERPRETER = {
    "__main__", "_abc", "_codecs", "_frozen_importlib", "_frozen_importlib_external", "_imp",
    "_io", "_signal", "_thread", "_warnings", "_weakref", "abc", "builtins", "codecs", "encodings",
    "encodings.aliases", "encodings.ascii", "encodings.utf_8", "encodings.latin_1", "io",
    "marshal", "posix", "sys", "time", "winreg", "zipimport",
}  # fmt: skip
OURS = {"_socket", "walkeeper", "walkeeper.hooks"} | {
    f"walkeeper.hooks.{name}" for name in ("channel", "client", "options", "wire")
}


async def test_the_push_hook_answers_0_when_the_agent_says_durable(
    short_dir: Path, data_directory: Path
) -> None:
    seen: list[WalPushRequest] = []

    async def durable(request: Request) -> Reply:
        seen.append(WalPushRequest.parse(request))
        return Reply.ok()

    server = ControlServer(short_dir / "agent.sock")
    server.register("wal-push", durable, deadline_s=5)
    async with serving(server):
        ended = await run_hook(
            "wal-push", "--socket", short_dir / "agent.sock", SEGMENT, cwd=data_directory
        )
    assert (ended.code, ended.out, ended.err) == (0, "", "")
    segment = data_directory / SEGMENT
    status, directory = segment.stat(), segment.parent.stat()
    assert seen == [
        WalPushRequest(
            path=segment,
            directory=FileIdentity(directory.st_dev, directory.st_ino),
            file=FileIdentity(status.st_dev, status.st_ino),
            size_bytes=1000,
            mtime_ns=status.st_mtime_ns,
            timeout_s=12,
        )
    ]


async def test_the_push_hook_passes_on_why_the_agent_refused(
    short_dir: Path, data_directory: Path
) -> None:
    async def refuse(request: Request) -> Reply:
        raise WalRefused("another cluster's file\nreally", hint="look at archive_command")

    server = ControlServer(short_dir / "agent.sock")
    server.register("wal-push", refuse, deadline_s=5)
    async with serving(server):
        environ = {"WALKEEPER_SOCKET": os.fspath(short_dir / "agent.sock")}
        ended = await run_hook("wal-push", SEGMENT, cwd=data_directory, env=environ)
    assert ended.code == 1
    assert ended.err == "walkeeper: another cluster's file really (look at archive_command)\n"


def close_at_once(connection: socket.socket) -> None:
    return


def close_after_reading(connection: socket.socket) -> None:
    connection.recv(65536)


def answer(data: bytes) -> Callable[[socket.socket], None]:
    def act(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(data)

    return act


OK_REPLY = wire.encode_reply(wire.OK, 0, "", "")
FAULTS = {
    "closes at once": close_at_once,
    "closes after the request": close_after_reading,
    "answers HTTP": answer(b"HTTP/1.1 200 OK\r\n\r\n"),
    "answers nothing but ok": answer(b"ok"),
    "answers half a reply": answer(OK_REPLY[:-1]),
    "answers in another version": answer(b"WK\x02R" + OK_REPLY[4:]),
    "answers ok with an error's code": answer(wire.encode_reply(wire.OK, 20, "", "")),
    "answers with a request": answer(wire.encode_request("wal-push", {})),
    "promises more than it may": answer(b"WK\x01R\xff\xff\xff\xff"),
    "says absent": answer(wire.encode_reply(wire.ABSENT, 13, "", "")),
    "says failed": answer(wire.encode_reply(wire.FAILED, 22, "denied", "")),
}


@pytest.mark.parametrize("fault", FAULTS)
async def test_the_push_hook_answers_1_when_the_agent(
    fault: str, listener: Listener, data_directory: Path
) -> None:
    path = listener(FAULTS[fault])
    ended = await run_hook("wal-push", "--socket", path, SEGMENT, cwd=data_directory)
    assert ended.code == 1
    if fault != "says absent":
        assert ended.err.startswith("walkeeper: ")
        assert ended.err.count("\n") == 1


@pytest.mark.parametrize("fault", FAULTS)
async def test_the_fetch_hook_answers_126_and_leaves_nothing_when_the_agent(
    fault: str, listener: Listener, data_directory: Path
) -> None:
    path = listener(FAULTS[fault])
    ended = await run_hook(
        "wal-fetch", "--socket", path, "00000002.history", "pg_wal/RECOVERYHISTORY",
        cwd=data_directory,
    )  # fmt: skip
    assert ended.code == (66 if fault == "says absent" else 126)
    assert [path.name for path in (data_directory / "pg_wal").iterdir()] == [ONLY]


@pytest.mark.parametrize(("command", "code"), [("wal-push", 1), ("wal-fetch", 126)])
async def test_an_agent_that_hangs_is_left_at_the_deadline(
    command: str, code: int, listener: Listener, data_directory: Path
) -> None:
    gone: list[bytes] = []

    def hang(connection: socket.socket) -> None:
        while data := connection.recv(65536):
            gone.append(data)

    path = listener(hang)
    timeout_s = 3.0  # enough for a busy host's hook to come and ask
    operands = [SEGMENT] if command == "wal-push" else ["000000010000000000000002", "pg_wal/R"]
    began = time.monotonic()
    ended = await run_hook(
        command, "--socket", path, "--timeout", str(timeout_s), *operands, cwd=data_directory
    )
    assert ended.code == code
    assert "deadline" in ended.err
    assert timeout_s <= time.monotonic() - began < 30
    await wait_for(lambda: bool(gone))


@pytest.mark.parametrize(("command", "code"), [("wal-push", 1), ("wal-fetch", 126)])
async def test_a_listener_that_accepts_nobody_is_left_at_the_deadline(
    command: str, code: int, short_dir: Path, data_directory: Path
) -> None:
    path = os.fspath(short_dir / "full")
    with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as first:
        server.bind(path)
        server.listen(0)
        first.connect(path)
        operands = [SEGMENT] if command == "wal-push" else ["000000010000000000000002", "pg_wal/R"]
        ended = await run_hook(
            command, "--socket", path, "--timeout", "0.3", *operands, cwd=data_directory
        )
    assert ended.code == code
    assert "accepts no connection" in ended.err


async def test_no_agent_is_reported_at_once_with_the_socket_and_what_to_start(
    short_dir: Path, data_directory: Path
) -> None:
    missing = os.fspath(short_dir / "missing.sock")
    stale = os.fspath(short_dir / "stale.sock")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(stale)
    for path in (missing, stale):
        ended = await run_hook("wal-push", "--socket", path, SEGMENT, cwd=data_directory)
        assert ended.code == 1
        assert path in ended.err
        assert "walkeeper agent" in ended.err
        ended = await run_hook("wal-fetch", "--socket", path, "f", "pg_wal/R", cwd=data_directory)
        assert ended.code == 126


@pytest.mark.parametrize(
    "arguments",
    [
        ["wal-push"],
        ["wal-push", ""],
        ["wal-push", SEGMENT, SEGMENT],
        ["wal-push", "--sokcet", "x", SEGMENT],
        ["wal-push", "--timeout", "16", SEGMENT],
        ["wal-push", "--timeout", "nan", SEGMENT],
        ["wal-push", "--timeout", "-1", SEGMENT],
        ["wal-push", "--socket", "s", "--socket", "s", SEGMENT],
        ["wal-push", SEGMENT, "--socket"],
        ["wal-push", "--help"],
        ["wal-push", "pg_wal/missing"],
        ["--config", "/etc/x.toml", "wal-push", SEGMENT],
        ["--archive", "a", "wal-push", SEGMENT],
        ["--json", "wal-push", SEGMENT],
        ["--json", "wal-fetch", "f", "pg_wal/R"],
        ["wal-fetch"],
        ["wal-fetch", "f"],
        ["wal-fetch", "--standby=yes", "f", "pg_wal/R"],
        ["wal-fetch", "--socket", "s", "--config", "c", "f", "pg_wal/R"],
        ["wal-fetch", "--socket", "s", "--archive", "a", "f", "pg_wal/R"],
        ["wal-fetch", "--socket", "s", "--timeline", "one", "f", "pg_wal/R"],
        ["wal-fetch", "--socket", "s", "../f", "pg_wal/R"],
        ["wal-fetch", "--socket", "s", "f", "no/such/directory/R"],
        ["wal-fetch", "--help"],
        ["wal-other"],
        [],
    ],
    ids=" ".join,
)
async def test_a_wrong_call_is_never_success_nor_the_end_of_the_archive(
    arguments: list[str], data_directory: Path
) -> None:
    ended = await run_hook(*arguments, cwd=data_directory)
    assert ended.code == (1 if "wal-push" in arguments else 126)
    assert ended.err


async def test_a_path_that_is_not_utf_8_arrives_byte_for_byte(short_dir: Path) -> None:
    seen: list[bytes] = []

    async def look(request: Request) -> Reply:
        seen.append(os.fsencode(request.path("path")))
        return Reply.ok()

    name = os.fsencode(short_dir) + b"/\xff\xe4"
    await asyncio.to_thread(Path(os.fsdecode(name)).write_bytes, b"w")
    server = ControlServer(short_dir / "agent.sock")
    server.register("wal-push", look, deadline_s=5)
    async with serving(server):
        for environ in ({}, {"LC_ALL": "C"}, {"LC_ALL": "C.UTF-8"}):
            ended = await run_hook(
                "wal-push", "--socket", short_dir / "agent.sock", os.fsdecode(name),
                cwd=short_dir, env=environ,
            )  # fmt: skip
            assert ended.code == 0, ended.err
    assert seen == [name] * 3


@pytest.mark.parametrize("command", ["wal-push", "wal-fetch"])
async def test_the_hook_loads_nothing_beyond_what_it_is_allowed(
    command: str, data_directory: Path
) -> None:
    operands = [SEGMENT] if command == "wal-push" else ["f", "pg_wal/R"]
    program = (
        "import sys; sys.path.append(sys.argv.pop(1));"
        "from walkeeper.hooks import client; code = client.run(sys.argv[1], sys.argv[2:]);"
        "print(code, *sorted(sys.modules))"
    )
    ended = await run_process(
        sys.executable, "-I", "-S", "-c", program, PACKAGE_ROOT,
        command, "--socket", "/nowhere", *operands, cwd=data_directory,
    )  # fmt: skip
    code, *modules = ended.out.split()
    allowed = OURS | (
        {"walkeeper.hooks.fetch", "walkeeper.hooks.private_service"}
        if command == "wal-fetch"
        else set()
    )
    assert code == ("1" if command == "wal-push" else "126")
    assert set(modules) - LOADED_BY_THE_INTERPRETER == allowed


async def test_a_hook_without_standard_streams_still_ends_with_its_code(
    data_directory: Path,
) -> None:
    program = f"import os, sys; os.closerange(0, 3); os.execv(sys.executable, {[sys.executable, '-I', '-S', '-c', CLIENT, str(PACKAGE_ROOT), 'wal-fetch', '--socket', '/nowhere', 'f', 'pg_wal/R']!r})"  # noqa: E501
    ended = await run_process(sys.executable, "-c", program, cwd=data_directory)
    assert ended.code == 126
