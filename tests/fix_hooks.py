"""Hooks as real processes, and what may listen on the other end of their socket."""

import asyncio
import os
import shutil
import socket
import sys
import tempfile
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

import walkeeper
from walkeeper.agent.control import ControlServer

PACKAGE_ROOT = Path(walkeeper.__file__).parent.parent
SCRIPT = PACKAGE_ROOT / "walkeeper" / "hooks" / "walkeeper.sh"
PATIENCE_S = 30
SITE = f"lib/python3.{sys.version_info.minor}/site-packages"
CLIENT = (
    "import sys; sys.path.append(sys.argv.pop(1));"
    "from walkeeper.hooks.client import main; main(sys.argv[1:])"
)


@dataclass(frozen=True)
class Ended:
    """How a hook ended."""

    code: int
    out: str
    err: str


@pytest.fixture
def short_dir() -> Iterator[Path]:
    """A directory whose name is short enough for a socket in it."""
    path = Path(tempfile.mkdtemp(prefix="wk-", dir="/var/tmp"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


@pytest.fixture
def data_directory(short_dir: Path) -> Path:
    """What looks like a data directory from outside: pg_wal with one segment."""
    wal = short_dir / "data" / "pg_wal"
    wal.mkdir(parents=True)
    (wal / "000000010000000000000001").write_bytes(b"w" * 1000)
    return wal.parent


def copy_script(path: Path, *, patience_s: float = PATIENCE_S) -> Path:
    """The script at another place, waiting so long for an agent that answers a shell.

    Longer than the real one, for on a busy machine no agent answers for sure within two seconds.
    """
    text = SCRIPT.read_text()
    assert text.count(" sleep 2 ") == 1
    path.write_text(text.replace(" sleep 2 ", f" sleep {patience_s} "))
    path.chmod(0o755)
    return path


@pytest.fixture
def installed(short_dir: Path) -> Path:
    """The script in an environment as pip makes it, see `copy_script`; gives its path."""
    home = short_dir / "env with a space"
    (home / "bin").mkdir(parents=True)
    (home / SITE).mkdir(parents=True)
    (home / SITE / "walkeeper").symlink_to(PACKAGE_ROOT / "walkeeper")
    (home / "bin" / "python").symlink_to(sys.executable)
    return copy_script(home / "bin" / "walkeeper")


@pytest.fixture
def shell_only(short_dir: Path) -> Path:
    """`copy_script` where no Python has the package: what it is told comes through a door."""
    script = short_dir / "bin" / "walkeeper"
    script.parent.mkdir()
    return copy_script(script)


async def wait_for(condition: Callable[[], bool], timeout_s: float = 60.0) -> None:
    """Return once it holds."""
    async with asyncio.timeout(timeout_s):
        while not condition():
            await asyncio.sleep(0.02)


async def run_process(
    *command: str | Path, cwd: Path, env: dict[str, str] | None = None, timeout_s: float = 30
) -> Ended:
    """Runs a program to its end in an environment that holds nothing but ``env``."""
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=cwd,
        env=env or {},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(timeout_s):
        out, err = await process.communicate()
    assert process.returncode is not None
    return Ended(process.returncode, out.decode(), err.decode())


async def run_hook(*arguments: str | Path, cwd: Path, env: dict[str, str] | None = None) -> Ended:
    """Runs the client as the installed command does: ``python -I -S``."""
    return await run_process(
        sys.executable, "-I", "-S", "-c", CLIENT, PACKAGE_ROOT, *arguments, cwd=cwd, env=env
    )


@asynccontextmanager
async def serving(server: ControlServer) -> AsyncIterator[ControlServer]:
    """The server, bound and serving until the block ends."""
    server.bind()
    async with asyncio.TaskGroup() as group:
        group.create_task(server.serve())
        try:
            yield server
        finally:
            server.stop()


@pytest.fixture
def listener(short_dir: Path) -> Iterator[Callable[[Callable[[socket.socket], None]], str]]:
    """Listens on a socket and does something to each client, in a thread; gives the path."""
    opened: list[tuple[socket.socket, threading.Thread]] = []

    def listen(act: Callable[[socket.socket], None]) -> str:
        path = os.fspath(short_dir / f"s{len(opened)}")
        server = socket.socket(socket.AF_UNIX)
        server.bind(path)
        server.listen()

        def accept() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection:
                    act(connection)

        thread = threading.Thread(target=accept)
        thread.start()
        opened.append((server, thread))
        return path

    yield listen
    for server, thread in opened:
        server.shutdown(socket.SHUT_RDWR)
        server.close()
        thread.join()
