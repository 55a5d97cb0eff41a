"""The private fetch service: asked over its socket by the real client, it serves and then ends."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.fix_archive import TestKeys, make_archive
from tests.fix_fetch import content_of, put_object, segment
from tests.fix_postgres import wait_until
from walkeeper.agent.compose import open_workshop
from walkeeper.agent.fetch_service import run_fetch_service
from walkeeper.config import AgentConfig, Config, EncryptionConfig, RepositoryConfig
from walkeeper.core.layout import wal_object
from walkeeper.errors import Locked
from walkeeper.keys.files import format_identity_file
from walkeeper.repository.archive import Archive
from walkeeper.storage.filesystem import FilesystemStorage


@dataclass
class Host:
    """A repository, a data directory that recovers from it, and a configuration."""

    archive: Archive
    config: Config
    root: Path
    data_dir: Path
    socket: Path
    hook: Path
    output: list[str] = field(default_factory=list)

    async def fetch(self, name: str, *options: str) -> int:
        """The exit code of ``walkeeper wal-fetch``."""
        destination = self.data_dir / "pg_wal" / "RECOVERYXLOG"
        argv = [self.hook, "wal-fetch", "--socket", self.socket, *options, name, destination]
        result = await asyncio.to_thread(
            subprocess.run, argv, capture_output=True, text=True, check=False
        )
        self.output.append(result.stderr)
        return result.returncode

    @property
    def fetched(self) -> bytes:
        return (self.data_dir / "pg_wal" / "RECOVERYXLOG").read_bytes()


@pytest.fixture
async def host(
    tmp_path: Path, pool: ThreadPoolExecutor, keys: TestKeys, walkeeper_bin: Path
) -> Host:
    root, state = tmp_path / "repository", tmp_path / "state"
    for directory in (root, state, tmp_path / "data" / "pg_wal"):
        directory.mkdir(parents=True)
    archive = await make_archive(FilesystemStorage(root, pool), keys, pool)
    for number in range(1, 6):
        wal = segment(1, number)
        await put_object(archive, wal_object(wal), content_of(wal))
    identity = tmp_path / "key.txt"
    now = datetime.now(UTC)
    identity.write_text(format_identity_file(keys.identity, keys.recipient, keys.writer, now))
    identity.chmod(0o600)
    config = Config(
        repositories=(RepositoryConfig(url=f"file://{root}"),),
        encryption=EncryptionConfig(identity_file=identity),
        agent=AgentConfig(state_dir=state),
    )
    socket = tmp_path / "fetch.sock"
    return Host(archive, config, root, tmp_path / "data", socket, walkeeper_bin)


@asynccontextmanager
async def serving(host: Host, idle_s: float = 60.0) -> AsyncIterator[asyncio.Task[None]]:
    async with open_workshop(host.config) as shop, asyncio.TaskGroup() as group:
        task = group.create_task(run_fetch_service(shop, host.socket, idle_s, None))
        await asyncio.to_thread(wait_until, host.socket.exists, "the service to listen")
        yield task
        task.cancel()


@pytest.mark.parametrize("signal_file", ["recovery.signal", "standby.signal", None])
async def test_the_client_gets_the_file_or_66(host: Host, signal_file: str | None) -> None:
    if signal_file is not None:
        (host.data_dir / signal_file).touch()
    async with serving(host):
        for number in range(1, 6):
            assert await host.fetch(str(segment(1, number))) == 0, host.output
            assert host.fetched == content_of(segment(1, number))
        assert await host.fetch(str(segment(1, 6))) == 66
        assert await host.fetch("00000002.history") == 66


@pytest.mark.parametrize(
    "arguments",
    [
        ["nonsense"],
        ["000000010000000000000003.partial"],
        ["--timeline", "0", "000000010000000000000001"],
        ["--end", "here", "000000010000000000000001"],
    ],
)
async def test_what_has_no_meaning_is_126(host: Host, arguments: list[str]) -> None:
    (host.data_dir / "recovery.signal").touch()
    async with serving(host):
        assert await host.fetch(arguments[-1], *arguments[:-1]) == 126
    assert not (host.data_dir / "pg_wal" / "RECOVERYXLOG").exists()


async def test_an_end_and_a_timeline_reach_the_rules(host: Host) -> None:
    (host.data_dir / "recovery.signal").touch()
    async with serving(host):
        missing = str(segment(1, 8))
        assert await host.fetch(missing, "--timeline", "1", "--end", "0/800000") == 66
        assert await host.fetch(missing, "--timeline", "1", "--end", "0/800001") == 126
    assert "is missing" in host.output[-1]


async def test_it_ends_when_nobody_asks_and_leaves_no_socket(host: Host) -> None:
    async with serving(host, idle_s=6) as task:  # a hook may take seconds to begin
        assert await host.fetch(str(segment(1, 1))) == 0
        async with asyncio.timeout(60):
            await task
    assert not host.socket.exists()


async def test_only_one_serves_a_socket(host: Host) -> None:
    async with serving(host), open_workshop(host.config) as shop:
        with pytest.raises(Locked):
            await run_fetch_service(shop, host.socket, 1.0, None)
        assert await host.fetch(str(segment(1, 1))) == 0


async def test_an_archive_that_is_not_there_yet_is_opened_when_it_is(host: Host) -> None:
    aside = host.root.with_name("aside")
    host.root.rename(aside)
    host.root.mkdir()  # an archive that no one has created: answered at once, not retried
    async with serving(host):
        (host.data_dir / "recovery.signal").touch()
        assert await host.fetch(str(segment(1, 1))) == 126
        host.root.rmdir()
        aside.rename(host.root)
        assert await host.fetch(str(segment(1, 1))) == 0, host.output


async def test_a_standby_asks_again_while_the_archive_cannot_be_opened(host: Host) -> None:
    (host.data_dir / "standby.signal").touch()
    record = host.root / host.archive.folder / "archive.json"
    good = record.read_bytes()
    record.write_bytes(good.replace(b'"body"', b'"ydob"'))
    async with serving(host):
        assert await host.fetch(str(segment(1, 1))) == 66
        assert await host.fetch("00000002.history") == 126
        record.write_bytes(good)
        assert await host.fetch(str(segment(1, 1))) == 0, host.output


async def test_where_the_state_directory_is_missing_it_serves_all_the_same(host: Host) -> None:
    shutil.rmtree(host.config.agent.state_dir)
    (host.data_dir / "recovery.signal").touch()
    async with serving(host):
        for number in range(1, 4):
            assert await host.fetch(str(segment(1, number))) == 0, host.output
    assert not host.config.agent.state_dir.exists()
