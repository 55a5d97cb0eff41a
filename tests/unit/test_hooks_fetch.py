"""wal-fetch: what it says about itself, and what it leaves on disk."""

import asyncio
import os
import sys
from pathlib import Path

import pytest

from tests.fix_hooks import CLIENT, PACKAGE_ROOT, Ended, run_hook, serving, wait_for
from tests.fix_wal import WalWriter
from walkeeper.agent.control import ControlServer
from walkeeper.agent.control_request import Reply, Request
from walkeeper.agent.hook_requests import WalFetchRequest
from walkeeper.core.wal import SegmentSize, WalSegment
from walkeeper.hooks import wire

ONLY = "000000010000000000000001"
WANTED = "000000010000000000000002"
CONTENT = b"segment" * 1000

SERVICE = '''
"""Stands in for the command fetch-service: same arguments, the real control server."""
import asyncio, os, sys
from pathlib import Path
from walkeeper.agent.control import ControlServer
from walkeeper.agent.control_request import Reply

command, _, listen, _, idle, *options = sys.argv[1:]
assert command == "fetch-service"
if os.environ.get("BROKEN"):
    sys.exit("walkeeper: the key cannot be read\\n")
open(listen + ".started", "a").write(" ".join(options) + "\\n")

flaky = int(os.environ.get("FLAKY", "0"))

async def fetch(request):
    global flaky
    descriptor = request.take_descriptor()
    with open(descriptor, "wb") as file:
        if flaky > 0:
            flaky -= 1
            file.write(b"x" * 1000)
            raise asyncio.CancelledError  # ends without an answer
        file.write(b"from the private service")
    return Reply.ok("24")

async def serve():
    server = ControlServer(Path(listen))
    server.register("wal-fetch", fetch, deadline_s=10)
    try:
        server.bind()
    except Exception as error:
        sys.exit(error.exit_code)
    async with asyncio.TaskGroup() as group:
        group.create_task(server.serve())
        while os.path.exists(os.environ["NEEDED"]):
            await asyncio.sleep(0.02)
        server.stop()

asyncio.run(serve())
'''


def write_into(request: Request, data: bytes) -> None:
    with os.fdopen(request.take_descriptor(), "wb") as file:
        file.write(data)


@pytest.fixture
def private(short_dir: Path) -> dict[str, str]:
    """An environment in which ``python -m walkeeper`` is the stand-in for the fetch service."""
    package = short_dir / "stand-in" / "walkeeper"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(f"__path__.append({str(PACKAGE_ROOT / 'walkeeper')!r})\n")
    (package / "__main__.py").write_text(SERVICE)
    runtime = short_dir / "run"
    runtime.mkdir(mode=0o700)
    needed = short_dir / "needed"
    needed.touch()
    return {
        "PYTHONPATH": os.fspath(package.parent),
        "XDG_RUNTIME_DIR": os.fspath(runtime),
        "WALKEEPER_SOCKET": os.fspath(short_dir / "no-agent.sock"),
        "NEEDED": os.fspath(needed),
    }


def started(private: dict[str, str]) -> list[str]:
    """The options of each private service that was started."""
    runtime = Path(private["XDG_RUNTIME_DIR"], "walkeeper")
    return [line for path in runtime.glob("*.started") for line in path.read_text().splitlines()]


async def wait_until_ended(private: dict[str, str]) -> None:
    """Tell private services that they are not needed any more; they remove their sockets."""
    Path(private["NEEDED"]).unlink()
    folder = Path(private["XDG_RUNTIME_DIR"], "walkeeper")
    await wait_for(lambda: not list(folder.glob("*.sock")))


async def fetch(
    data_directory: Path, *arguments: str | Path, environ: dict[str, str] | None = None
) -> Ended:
    return await run_hook(
        "wal-fetch", *arguments, WANTED, "pg_wal/RECOVERYXLOG", cwd=data_directory, env=environ
    )


async def test_a_fetched_file_appears_whole_and_for_its_owner_only(
    short_dir: Path, data_directory: Path
) -> None:
    target = data_directory / "pg_wal/RECOVERYXLOG"
    before: list[list[str]] = []

    async def serve(request: Request) -> Reply:
        write_into(request, CONTENT)
        before.append([entry.name for entry in os.scandir(target.parent)])
        return Reply.ok(str(len(CONTENT)))

    server = ControlServer(short_dir / "s")
    server.register("wal-fetch", serve, deadline_s=5)
    async with serving(server):
        ended = await fetch(data_directory, "--socket", short_dir / "s")
    assert (ended.code, ended.err) == (0, "")
    assert target.name not in before[0]
    assert target.read_bytes() == CONTENT
    assert target.stat().st_mode & 0o777 == 0o600
    assert len(list(target.parent.iterdir())) == 2


@pytest.mark.parametrize("claimed", ["", "6999", "7001", "many", "-7000", "7000 x", "7000 "])
async def test_a_file_of_another_size_than_was_answered_is_not_served(
    claimed: str, short_dir: Path, data_directory: Path
) -> None:
    old = data_directory / "pg_wal/RECOVERYXLOG"
    old.write_bytes(b"an older file")

    async def serve(request: Request) -> Reply:
        write_into(request, CONTENT)
        return Reply.ok(claimed)

    server = ControlServer(short_dir / "s")
    server.register("wal-fetch", serve, deadline_s=5)
    async with serving(server):
        ended = await fetch(data_directory, "--socket", short_dir / "s")
    assert ended.code == 126
    assert old.read_bytes() == b"an older file"
    assert len(list(old.parent.iterdir())) == 2


def put_in_place(request: Request, path: Path, mode: int) -> int:
    """As a service that has fetched the file ahead; returns its inode."""
    temporary = WalFetchRequest.parse(request).temporary
    assert temporary is not None
    path.write_bytes(CONTENT)
    path.chmod(mode)
    path.rename(temporary)
    return temporary.stat().st_ino


@pytest.mark.parametrize(
    ("mode", "told", "code"), [(0o600, 0, 0), (0o600, 1, 126), (0o640, 0, 126), (0o600, None, 126)]
)
async def test_a_file_put_in_its_place_is_taken_if_it_is_the_one_that_was_named(
    mode: int, told: int | None, code: int, short_dir: Path, data_directory: Path
) -> None:
    inodes: list[int] = []

    async def serve(request: Request) -> Reply:
        inodes.append(put_in_place(request, short_dir / "ahead", mode))
        inode = None if told is None else inodes[0] + told
        return Reply.ok(wire.encode_written(len(CONTENT), inode))

    server = ControlServer(short_dir / "s")
    server.register("wal-fetch", serve, deadline_s=5)
    async with serving(server):
        ended = await fetch(data_directory, "--socket", short_dir / "s")
    assert ended.code == code
    target = data_directory / "pg_wal/RECOVERYXLOG"
    if code == 0:
        assert target.stat().st_ino == inodes[0]
        assert target.read_bytes() == CONTENT
    assert len(list(target.parent.iterdir())) == (2 if code == 0 else 1)


async def test_what_killed_hooks_left_behind_is_removed(
    short_dir: Path, data_directory: Path
) -> None:
    wal = data_directory / "pg_wal"
    mine = wal / f"RECOVERYXLOG.walkeeper.{os.getpid()}"
    killed = "RECOVERYXLOG.walkeeper.999999999"
    for name in (killed, f"{killed}.whole", "RECOVERYXLOG.walkeeper.x", mine.name):
        (wal / name).write_bytes(b"")
    await fetch(data_directory, "--socket", short_dir / "nobody")
    left = {path.name for path in wal.iterdir()}
    assert left == {"000000010000000000000001", "RECOVERYXLOG.walkeeper.x", mine.name}


@pytest.mark.parametrize(
    ("signals", "options", "name", "standby", "recovery", "timeline"),
    [
        ([], [], WANTED, False, False, None),
        (["recovery.signal"], [], WANTED, False, True, "3"),
        (["recovery.signal"], [], "00000004.history", False, True, None),
        (["standby.signal"], [], WANTED, True, False, None),
        (["recovery.signal", "standby.signal"], [], WANTED, True, True, None),
        (["recovery.signal"], ["--standby"], WANTED, True, True, None),
        ([], ["--standby"], WANTED, True, False, None),
    ],
)
async def test_a_target_holds_only_during_the_recovery_it_was_made_for(
    signals: list[str],
    options: list[str],
    name: str,
    standby: bool,
    recovery: bool,
    timeline: str | None,
    short_dir: Path,
    data_directory: Path,
) -> None:
    seen: list[WalFetchRequest] = []

    async def look(request: Request) -> Reply:
        seen.append(WalFetchRequest.parse(request))
        return Reply.absent()

    for signal in signals:
        (data_directory / signal).touch()
    server = ControlServer(short_dir / "s")
    server.register("wal-fetch", look, deadline_s=5)
    async with serving(server):
        ended = await run_hook(
            "wal-fetch", "--socket", short_dir / "s", "--timeline", "3", "--end", "0/4000000",
            *options, name, "pg_wal/RECOVERYXLOG", cwd=data_directory,
        )  # fmt: skip
    assert (ended.code, ended.err) == (66, "")
    (request,) = seen
    assert (request.standby, request.recovery) == (standby, recovery)
    assert request.timeline == timeline
    assert request.end == (None if timeline is None else "0/4000000")
    assert request.path == data_directory / "pg_wal/RECOVERYXLOG"
    status = data_directory.stat()
    assert request.data_directory.device == status.st_dev
    assert request.data_directory.inode == status.st_ino


def first_page(number: int) -> bytes:
    """A segment of a MiB, as far as its first page tells."""
    writer = WalWriter(WalSegment.numbered(1, number, SegmentSize(1 << 20)))
    writer.append(b"")
    return bytes(writer.data)


async def test_a_file_of_that_name_beside_the_destination_is_reported_unless_it_is_recycled(
    short_dir: Path, data_directory: Path
) -> None:
    seen: list[bool] = []

    async def look(request: Request) -> Reply:
        seen.append(WalFetchRequest.parse(request).present)
        return Reply.absent()

    contents = {
        "000000010000000000000001": first_page(1),
        "000000010000000100000003": first_page(0x1003),
        "000000010000000000000002": first_page(1),
        "000000010000000100000004": first_page(4),
        "000000010000000000000005": bytes(8192),
        "000000010000000000000006": b"what is this",
    }
    for name, content in contents.items():
        (data_directory / "pg_wal" / name).write_bytes(content)
    server = ControlServer(short_dir / "s")
    server.register("wal-fetch", look, deadline_s=5)
    async with serving(server):
        for name in (*contents, WANTED):
            await run_hook(
                "wal-fetch", "--socket", short_dir / "s", name, "pg_wal/R", cwd=data_directory
            )
    assert seen == [True, True, False, False, False, True, False]


async def test_each_run_of_the_server_there_is_told_from_the_next(
    short_dir: Path, data_directory: Path
) -> None:
    seen: list[str] = []

    async def look(request: Request) -> Reply:
        seen.append(WalFetchRequest.parse(request).run)
        return Reply.absent()

    server = ControlServer(short_dir / "s")
    server.register("wal-fetch", look, deadline_s=5)
    async with serving(server):
        for content in (None, "71\n/data\n1700000000\n5432\n", "71\n/data\n1700000009\n", "7", ""):
            if content is not None:
                (data_directory / "postmaster.pid").write_text(content)
            await run_hook(
                "wal-fetch", "--socket", short_dir / "s", WANTED, "pg_wal/R", cwd=data_directory
            )
    assert seen == ["", "71.1700000000", "71.1700000009", "7", ""]


async def test_without_an_agent_one_private_service_serves_all_calls_and_ends(
    data_directory: Path, private: dict[str, str]
) -> None:
    for _ in range(2):
        ended = await fetch(data_directory, environ=private)
        assert (ended.code, ended.err) == (0, "")
    target = data_directory / "pg_wal/RECOVERYXLOG"
    assert target.read_bytes() == b"from the private service"
    assert started(private) == [""]
    await wait_until_ended(private)


async def test_hooks_that_start_at_once_share_one_private_service(
    data_directory: Path, private: dict[str, str]
) -> None:
    async with asyncio.TaskGroup() as group:
        calls = [
            group.create_task(
                run_hook("wal-fetch", WANTED, f"pg_wal/R{n}", cwd=data_directory, env=private)
            )
            for n in range(4)
        ]
    assert [(call.result().code, call.result().err) for call in calls] == [(0, "")] * 4
    await wait_until_ended(private)


async def test_each_configuration_archive_and_trust_has_a_private_service_of_its_own(
    short_dir: Path, data_directory: Path, private: dict[str, str]
) -> None:
    config = short_dir / "a.toml"
    config.write_text("one")
    calls = [["--config", "../a.toml"], ["--archive", "b"], ["--config", "../a.toml"]]
    calls += [["--archive", "b", "--unsigned"]]
    for options in calls:
        assert (await fetch(data_directory, *options, environ=private)).code == 0
    absolute = os.fspath(data_directory / "../a.toml")
    assert sorted(started(private)) == [
        "--archive b",
        "--archive b --unsigned",
        f"--config {absolute}",
    ]
    config.write_text("corrected")
    assert (await fetch(data_directory, "--config", config, environ=private)).code == 0
    assert len(started(private)) == 4
    await wait_until_ended(private)


async def test_the_agent_is_not_asked_what_its_own_configuration_does_not_answer(
    short_dir: Path, data_directory: Path, private: dict[str, str]
) -> None:
    async def serve(_: Request) -> Reply:
        return Reply.absent()

    server = ControlServer(short_dir / "no-agent.sock")
    server.register("wal-fetch", serve, deadline_s=5)
    async with serving(server):
        assert (await fetch(data_directory, environ=private)).code == 66
        assert (await fetch(data_directory, "--archive", "b", environ=private)).code == 0
        assert (await fetch(data_directory, "--unsigned", environ=private)).code == 0
    await wait_until_ended(private)


async def test_a_private_service_that_cannot_start_says_why_through_the_hook(
    data_directory: Path, private: dict[str, str]
) -> None:
    ended = await fetch(data_directory, environ=private | {"BROKEN": "1"})
    assert ended.code == 126
    assert "the key cannot be read" in ended.err
    assert [path.name for path in (data_directory / "pg_wal").iterdir()] == [ONLY]


@pytest.mark.parametrize(("times", "code"), [("1", 0), ("9", 126)])
async def test_a_private_service_that_ends_as_it_is_asked_is_asked_again_a_few_times(
    times: str, code: int, data_directory: Path, private: dict[str, str]
) -> None:
    ended = await fetch(data_directory, environ=private | {"FLAKY": times})
    assert ended.code == code
    target = data_directory / "pg_wal/RECOVERYXLOG"
    if code == 0:
        assert target.read_bytes() == b"from the private service"
    else:
        assert "without an answer" in ended.err
        assert not target.exists()
    await wait_until_ended(private)


async def test_a_private_service_keeps_nothing_of_postgresqls(
    data_directory: Path, private: dict[str, str]
) -> None:
    program = (
        "import os, subprocess, sys\n"
        "read, write = os.pipe()\n"
        "os.set_inheritable(write, True)\n"
        "code = subprocess.call(sys.argv[1:], close_fds=False)\n"
        "os.close(write)\n"
        "assert os.read(read, 1) == b'', 'the pipe is still held'\n"
        "sys.exit(code)"
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, sys.executable, "-I", "-S", "-c", CLIENT, PACKAGE_ROOT,
        "wal-fetch", WANTED, "pg_wal/R", cwd=data_directory, env=private,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    async with asyncio.timeout(60):
        out, _ = await process.communicate()  # ends only when nobody holds stdout any more
    assert (process.returncode, out) == (0, b"")
    assert list(Path(private["XDG_RUNTIME_DIR"], "walkeeper").glob("*.sock"))
    await wait_until_ended(private)


def read_if_there(path: Path) -> str:
    try:
        return path.read_text()
    except FileNotFoundError:
        return ""


@pytest.mark.parametrize("fault", ["open to others", "a link"])
async def test_a_directory_that_others_can_enter_is_not_used_for_the_socket(
    fault: str, short_dir: Path, data_directory: Path, private: dict[str, str]
) -> None:
    directory = Path(private["XDG_RUNTIME_DIR"], "walkeeper")
    if fault == "a link":
        (short_dir / "elsewhere").mkdir(mode=0o700)
        directory.symlink_to(short_dir / "elsewhere")
    else:
        directory.mkdir()
        directory.chmod(0o711)
    fallback = Path(f"/tmp/walkeeper-{os.geteuid()}")  # where services of other tests may be
    own = short_dir.name
    assert (await fetch(data_directory, "--archive", own, environ=private)).code == 0
    assert not list(directory.iterdir())
    (begun,) = (path for path in fallback.glob("*.started") if own in read_if_there(path))
    socket = begun.with_suffix("")
    assert socket.exists()
    Path(private["NEEDED"]).unlink()
    await wait_for(lambda: not socket.exists())
    for path in fallback.glob(f"{socket.stem}*"):
        path.unlink()
