"""Base backups: long ones to be disturbed, and the page that says how to use one by hand.

`by_hand` runs the commands of FORMAT.md's last section as they stand there.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

import walkeeper.repository
from tests.fix_cli import Installation
from tests.fix_postgres import BARE_ENVIRONMENT, Cluster, find_client_dir, wait_until
from tests.fix_tree import files_below

GIB = 1 << 30


def committed(installation: Installation) -> list[str]:
    """The ids that ``walkeeper backups`` shows, oldest first."""
    return [one["id"] for one in installation.json("backups", code=None)["backups"]]


def backup_files(installation: Installation) -> list[Path]:
    """Every object of every backup, complete or not."""
    return list(files_below(installation.archive_dir / "backups"))


def alone(installation: Installation) -> Path:
    """A second configuration whose socket nobody listens on: commands work without the agent."""
    text = installation.config_file.read_text()
    path = installation.root / "alone.toml"
    path.write_text(text.replace("agent.sock", "nobody.sock"))
    path.chmod(0o644)
    return path


@dataclass
class RunningCommand:
    """A command under way, its output going to files."""

    process: subprocess.Popen[bytes]
    output: Path

    @property
    def text(self) -> str:
        return self.output.read_text(errors="replace")

    def interrupt(self) -> None:
        """Control-C."""
        self.process.send_signal(signal.SIGINT)

    def wait(self, timeout_s: float = 40.0) -> int:
        try:
            return self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            pytest.fail(f"{self.process.args!r} does not end:\n{self.text}")


StartCommand = Callable[..., RunningCommand]


def _obey_interrupts() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.fixture
def start_command() -> Iterator[StartCommand]:
    """Start a command of an installation without waiting; killed at the end of the test."""
    with ExitStack() as stack:
        started = 0

        def start(
            installation: Installation, *arguments: str | Path, config: Path | None = None
        ) -> RunningCommand:
            nonlocal started
            started += 1
            output = installation.root / f"command-{started}.out"
            argv = [installation.program, "--config", config or installation.config_file]
            with output.open("wb") as file:
                process = subprocess.Popen(
                    [str(word) for word in (*argv, *arguments)],
                    stdin=subprocess.DEVNULL,
                    stdout=file,
                    stderr=file,
                    cwd="/",
                    env=BARE_ENVIRONMENT | installation.environment,
                    # Whoever runs the tests in the background has it ignored, and so their heirs.
                    preexec_fn=_obey_interrupts,  # noqa: PLW1509 - nothing but one system call
                    **installation.workspace.owner.process_options(),
                )
            stack.callback(process.wait)
            stack.callback(process.kill)
            return RunningCommand(process, output)

        yield start


def make_long(cluster: Cluster, size_bytes: int) -> None:
    """Give the data directory a file of holes: seconds to read, nothing to store."""
    path = cluster.data_dir / "holes"
    with path.open("wb") as file:
        file.truncate(size_bytes)
    os.chown(path, cluster.workspace.owner.uid, cluster.workspace.owner.gid)


_SLOW_AGENT = """#!{python}
import asyncio, sys
from walkeeper.storage.filesystem import FilesystemStorage

put_stream = FilesystemStorage.put_stream

async def slow_put_stream(self, name, chunks):
    async def slowly():
        async for chunk in chunks:
            await asyncio.sleep(0.5)
            yield chunk
    return await put_stream(self, name, slowly())

FilesystemStorage.put_stream = slow_put_stream
from walkeeper.cli.main import main
sys.exit(main())
"""


def slow_agent(installation: Installation, pieces: int) -> None:
    """Let backups take half a second for each of so many pieces at least, however fast the host.

    A file of noise is put into the data directory, and the agent is replaced by one that waits.
    """
    owner = installation.workspace.owner
    noise = installation.cluster.data_dir / "noise"
    noise.write_bytes(os.urandom(4 << 20) * pieces)  # farther apart than zstd looks
    os.chown(noise, owner.uid, owner.gid)
    slow = installation.root / "slow"
    slow.write_text(_SLOW_AGENT.format(python=installation.program.parent / "python"))
    slow.chmod(0o755)
    installation.stop_agent()
    program, installation.program = installation.program, slow
    installation.start_agent()
    installation.program = program
    installation.wait_recognised()


def wait_copying(installation: Installation) -> Path:
    """Return once a part is being written; the folder of its backup."""
    found: list[Path] = []

    def look() -> bool:
        found[:] = installation.archive_dir.glob("backups/*/data/.walkeeper-*")
        return bool(found)

    wait_until(look, f"a part to be begun; the agent:\n{installation.agent_log[-2000:]}")
    return found[0].parent.parent


@dataclass(frozen=True)
class ByHand:
    """A backup unpacked with stock tools, as the last section of FORMAT.md says."""

    installation: Installation
    root: Path
    blocks: list[str]

    @property
    def data_dir(self) -> Path:
        return self.root / "data"

    def step(self, text: str) -> str:
        """The one command block with this in it, made for this place."""
        (block,) = (block for block in self.blocks if text in block)
        archive = self.installation.archive_dir
        places = {
            "/repository/ARCHIVE": str(archive),
            "/path/key.txt": str(self.installation.identity_file),
            "/new/": f"{self.root}/",
        }
        for place, actual in places.items():
            block = block.replace(place, actual)
        return block

    def unpack(self, backup: str) -> None:
        """Data directory and tablespaces; then verified against PostgreSQL's own manifest."""
        self.run(self.step("/data/*.tar.zst.age; do").replace("backups/ID/", f"backups/{backup}/"))
        tablespaces = self.step("ls -d [0-9]*/").replace("backups/ID/", f"backups/{backup}/")
        if any((self.installation.archive_dir / "backups" / backup / "data").glob("[0-9]*/")):
            self.run(tablespaces)
        programs = find_client_dir(self.installation.cluster.version)
        verify = self.step("pg_verifybackup -n")
        assert "successfully verified" in self.run(verify, path=f"{programs}:/usr/bin:/bin")

    def prepare(self, *, settings: str = "") -> None:
        """All that stands between the unpacked directory and its first start."""
        if (self.data_dir / "tablespace_map").exists():
            self.run(self.step("tablespace_map.edited"))
        script = self.root / "wal-fetch.sh"
        script.write_text(self.step("#!/bin/sh"))
        script.chmod(0o755)
        lines = self.step("restore_command = ")
        with (self.data_dir / "postgresql.auto.conf").open("a") as conf:
            conf.write(lines + settings)
        self.run(f"touch {self.data_dir}/recovery.signal")

    def run(self, script: str, *, path: str = "/usr/bin:/bin") -> str:
        """Run it as the owner; fails when it fails or complains."""
        done = self.installation.workspace.run(
            ["sh", "-ec", script], env=BARE_ENVIRONMENT | {"PATH": path}
        )
        # tar says this of names that are not UTF-8, and takes them as they are.
        complaints = [line for line in done.stderr.splitlines() if "'hdrcharset'" not in line]
        assert complaints == []
        return done.stdout


@pytest.fixture
def by_hand() -> Callable[[Installation], ByHand]:
    """Follow the page for an installation."""
    made = 0

    def make(installation: Installation) -> ByHand:
        nonlocal made
        made += 1
        page = Path(str(walkeeper.repository.__file__)).with_name("FORMAT.md").read_text()
        section = page.partition("## 10. By hand")[2]
        blocks = re.findall(r"```\w*\n(.*?)```", section, re.DOTALL)
        return ByHand(installation, installation.workspace.directory(f"hand{made}"), blocks)

    return make


def part_lists(by_hand: ByHand, backup: str) -> dict[str, dict[str, object]]:
    """Every line of every list of a backup, by path (tablespaces under pg_tblspc/<oid>/)."""
    data = by_hand.installation.archive_dir / "backups" / backup / "data"
    lines: dict[str, dict[str, object]] = {}
    for path in sorted(data.rglob("*.files.jsonl.zst.age")):
        oid = path.parent.relative_to(data).as_posix()
        text = by_hand.run(f"age -d -i {by_hand.installation.identity_file} {path} | zstd -d")
        for line in text.splitlines():
            entry = json.loads(line)
            name = entry.get("path") or os.fsdecode(bytes.fromhex(entry["path_hex"]))
            lines[name if oid == "." else f"pg_tblspc/{oid}/{name}"] = entry
    return lines


@pytest.fixture
def start_load() -> Callable[[Cluster], contextlib.AbstractContextManager[None]]:
    """pgbench against a cluster for the time of the block, and until it has committed some."""

    @contextlib.contextmanager
    def load(cluster: Cluster) -> Iterator[None]:
        argv = [find_client_dir(cluster.version) / "pgbench", "-h", cluster.socket_dir]
        argv += ["-p", str(cluster.port), "-U", "postgres", "-n", "-c", "2", "-T", "120"]
        process = subprocess.Popen(
            [*map(str, argv), "postgres"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=BARE_ENVIRONMENT,
        )
        try:
            cluster.wait_for("SELECT count(*) > 100 FROM pgbench_history", "t")
            yield
            assert process.poll() is None, "the load has ended before its time"
        finally:
            process.terminate()
            process.wait()

    return load
