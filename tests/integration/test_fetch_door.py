"""The side door: a shell alone gets what was fetched ahead, and nothing else is answered there."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.fix_archive import TestKeys, make_archive
from tests.fix_fetch import content_of, put_object, segment
from tests.fix_hooks import Ended, run_process, wait_for
from tests.fix_postgres import send_signal
from walkeeper.agent.control_request import Reply, Request
from walkeeper.agent.fetch_door import DOOR, FetchDoor
from walkeeper.agent.hook_requests import FileIdentity
from walkeeper.core.layout import wal_object
from walkeeper.keys.files import format_identity_file
from walkeeper.storage.filesystem import FilesystemStorage

LAST = 12
DEADLINE_S = 60.0


@dataclass
class Recovery:
    """A data directory that recovers, on a host without an agent."""

    data_dir: Path
    config: Path
    folder: str
    script: Path
    shell_only: Path
    runtime: Path

    async def fetch(
        self,
        number: int,
        program: Path,
        *,
        name: str = "RECOVERYXLOG",
        data_dir: Path | None = None,
        option: str = "--guard-tablespaces",
    ) -> Ended:
        """As PostgreSQL does; what lies there under that name is removed first, as it does."""
        data_dir = data_dir or self.data_dir
        (data_dir / "pg_wal" / name).unlink(missing_ok=True)
        return await run_process(
            program, "--config", self.config, "wal-fetch", "--archive", self.folder,
            option, str(segment(1, number)), f"pg_wal/{name}",
            cwd=data_dir, env={"XDG_RUNTIME_DIR": str(self.runtime)}, timeout_s=DEADLINE_S,
        )  # fmt: skip

    def got(self, name: str = "RECOVERYXLOG") -> bytes:
        return (self.data_dir / "pg_wal" / name).read_bytes()

    @property
    def files(self) -> set[str]:
        return {path.name for path in (self.data_dir / "pg_wal").iterdir()}

    async def begin(self) -> None:
        """The first segments come through the client, which starts the service."""
        for number in (1, 2):
            ended = await self.fetch(number, self.script)
            assert ended.code == 0, ended.err

    def services(self) -> list[int]:
        """Process ids of the fetch services whose sockets lie in our own runtime directory."""
        listens = f"fetch-service\0--listen\0{self.runtime}/".encode()
        found = []
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):
                if listens in path.read_bytes():
                    found.append(int(path.parent.name))
        return found

    @property
    def service(self) -> int:
        (pid,) = self.services()
        return pid


@pytest.fixture
async def recovery(
    short_dir: Path,
    pool: ThreadPoolExecutor,
    keys: TestKeys,
    walkeeper_bin: Path,
    shell_only: Path,
) -> AsyncIterator[Recovery]:
    root, state, runtime = short_dir / "repository", short_dir / "state", short_dir / "run"
    for directory in (root, state, runtime, short_dir / "data" / "pg_wal"):
        directory.mkdir(parents=True, mode=0o700)
    (short_dir / "data" / "recovery.signal").touch()
    # As far as it tells one run of a server from the next; without one nothing is fetched ahead.
    (short_dir / "data" / "postmaster.pid").write_text("4711\n/data\n1700000000\n")
    archive = await make_archive(FilesystemStorage(root, pool), keys, pool)
    for number in range(1, LAST + 1):
        wal = segment(1, number)
        await put_object(archive, wal_object(wal), content_of(wal))
    identity = short_dir / "key.txt"
    now = datetime.now(UTC)
    identity.write_text(format_identity_file(keys.identity, keys.recipient, keys.writer, now))
    identity.chmod(0o600)
    config = short_dir / "walkeeper.toml"
    config.write_text(
        f'[[repository]]\nurl = "file://{root}"\n[encryption]\nidentity_file = "{identity}"\n'
        f'[agent]\nstate_dir = "{state}"\n'
    )
    recovery = Recovery(
        short_dir / "data", config, archive.folder, walkeeper_bin, shell_only, runtime
    )
    yield recovery
    for pid in recovery.services():
        send_signal(pid, signal.SIGKILL)
    await wait_for(lambda: not recovery.services())  # they write nothing any more


async def test_a_shell_gets_one_segment_after_the_other(recovery: Recovery) -> None:
    await recovery.begin()
    for number in range(3, LAST + 1):
        ended = await recovery.fetch(number, recovery.shell_only)
        assert (ended.code, ended.err) == (0, "")
        assert recovery.got() == content_of(segment(1, number))
        status = (recovery.data_dir / "pg_wal" / "RECOVERYXLOG").stat()
        assert (status.st_mode & 0o7777, status.st_nlink) == (0o600, 1)
        assert recovery.files == {DOOR, "RECOVERYXLOG"}


async def test_the_first_segment_comes_through_the_door_once_it_is_fetched_ahead(
    recovery: Recovery,
) -> None:
    ended = await recovery.fetch(1, recovery.script, option="--ahead")
    assert (ended.code, ended.err, recovery.files) == (0, "", {DOOR})
    for number in range(1, LAST + 1):
        assert (await recovery.fetch(number, recovery.shell_only)).code == 0
        assert recovery.got() == content_of(segment(1, number))
    again = await recovery.fetch(LAST, recovery.shell_only, option="--ahead")
    assert (again.code, recovery.files) == (126, {DOOR})  # that is the client's to ask


@pytest.mark.parametrize("gone", ["recovery.signal", "key.txt"])
async def test_what_cannot_be_fetched_ahead_is_said_and_leaves_nothing(
    recovery: Recovery, gone: str
) -> None:
    (recovery.config.parent / gone).unlink(missing_ok=True)
    (recovery.data_dir / gone).unlink(missing_ok=True)
    ended = await recovery.fetch(1, recovery.script, option="--ahead")
    assert ended.code == 126
    assert ended.err.startswith("walkeeper: ")
    assert recovery.files == set()


async def test_without_a_server_a_segment_is_fetched_and_none_behind_it(
    recovery: Recovery,
) -> None:
    (recovery.data_dir / "postmaster.pid").unlink()
    assert (await recovery.fetch(1, recovery.script)).code == 0
    assert (await recovery.fetch(2, recovery.shell_only)).code == 126


async def test_two_copies_are_served_by_one_service_each_through_its_own_door(
    recovery: Recovery,
) -> None:
    copy = recovery.data_dir.with_name("copy")
    shutil.copytree(recovery.data_dir, copy)
    for data_dir in (recovery.data_dir, copy):
        ended = await recovery.fetch(1, recovery.script, data_dir=data_dir, option="--ahead")
        assert ended.code == 0, ended.err
    for data_dir, number in [(recovery.data_dir, 1), (copy, 1), (copy, 2), (recovery.data_dir, 2)]:
        ended = await recovery.fetch(number, recovery.shell_only, data_dir=data_dir)
        assert ended.code == 0
        assert (data_dir / "pg_wal/RECOVERYXLOG").read_bytes() == content_of(segment(1, number))
    assert len(recovery.services()) == 1


async def test_absent_is_told_by_the_client_alone(recovery: Recovery) -> None:
    await recovery.begin()
    assert (await recovery.fetch(LAST + 1, recovery.shell_only)).code == 126
    assert (await recovery.fetch(LAST + 1, recovery.script)).code == 66
    assert recovery.files == {DOOR}


async def test_a_file_that_is_in_the_way_is_left_to_the_client(recovery: Recovery) -> None:
    await recovery.begin()
    old = recovery.data_dir / "pg_wal" / "RX"
    old.write_bytes(b"older")
    words: list[str | Path] = [
        "--config",
        recovery.config,
        "wal-fetch",
        "--archive",
        recovery.folder,
    ]
    ended = await run_process(
        recovery.shell_only, *words, str(segment(1, 3)), "pg_wal/RX",
        cwd=recovery.data_dir, timeout_s=DEADLINE_S,
    )  # fmt: skip
    assert (ended.code, old.read_bytes()) == (126, b"older")


@pytest.mark.parametrize("change", ["configuration", "archive", "trust", "socket"])
async def test_who_means_another_service_is_not_answered(recovery: Recovery, change: str) -> None:
    await recovery.begin()
    words: list[str | Path] = ["--config", recovery.config, "--archive", recovery.folder]
    if change == "configuration":
        other = recovery.config.with_name("other.toml")
        shutil.copy(recovery.config, other)
        words[1] = other
    elif change == "archive":
        words[3] = "another"
    else:
        words += ["--unsigned"] if change == "trust" else ["--socket", "/nobody"]
    (recovery.data_dir / "pg_wal" / "RECOVERYXLOG").unlink()
    ended = await run_process(
        recovery.shell_only, "wal-fetch", *words, str(segment(1, 3)), "pg_wal/RECOVERYXLOG",
        cwd=recovery.data_dir, timeout_s=DEADLINE_S,
    )  # fmt: skip
    assert ended.code == 126
    assert recovery.files == {DOOR}


async def test_a_corrected_configuration_is_not_answered_by_the_old_service(
    recovery: Recovery,
) -> None:
    await recovery.begin()
    recovery.config.write_text(recovery.config.read_text() + "\n# corrected\n")
    assert (await recovery.fetch(3, recovery.shell_only)).code == 126


async def test_a_copy_of_the_directory_gets_nothing_through_the_door_of_its_source(
    recovery: Recovery,
) -> None:
    await recovery.begin()
    copy = recovery.data_dir.with_name("copy")
    shutil.copytree(recovery.data_dir, copy)
    before = recovery.files
    assert (await recovery.fetch(3, recovery.shell_only, data_dir=copy)).code == 126
    assert recovery.files == before
    assert {path.name for path in (copy / "pg_wal").iterdir()} == {DOOR}
    assert (await recovery.fetch(3, recovery.shell_only)).code == 0


async def test_the_door_of_a_killed_service_is_passed_by_and_used_again_by_the_next(
    recovery: Recovery,
) -> None:
    await recovery.begin()
    os.kill(recovery.service, signal.SIGKILL)
    assert (await recovery.fetch(3, recovery.shell_only)).code == 126
    assert recovery.files == {DOOR}
    assert (await recovery.fetch(3, recovery.script)).code == 0
    assert recovery.got() == content_of(segment(1, 3))
    assert (await recovery.fetch(4, recovery.shell_only)).code == 0
    assert recovery.got() == content_of(segment(1, 4))


async def test_a_service_that_is_killed_while_a_shell_waits_lets_it_go_on(
    recovery: Recovery,
) -> None:
    await recovery.begin()
    service = recovery.service
    os.kill(service, signal.SIGSTOP)
    waiting = asyncio.create_task(recovery.fetch(3, recovery.shell_only))
    await wait_for(lambda: any(".walkeeper." in name for name in recovery.files - {DOOR}))
    os.kill(service, signal.SIGKILL)
    assert (await waiting).code == 126
    assert recovery.files == {DOOR}


async def test_what_a_killed_shell_asked_for_is_never_taken_for_what_the_next_one_asks(
    recovery: Recovery,
) -> None:
    await recovery.begin()
    service = recovery.service
    os.kill(service, signal.SIGSTOP)
    argv: list[str | Path] = [recovery.shell_only, "--config", recovery.config, "wal-fetch"]
    argv += ["--archive", recovery.folder, str(segment(1, 3)), "pg_wal/RECOVERYXLOG"]
    (recovery.data_dir / "pg_wal" / "RECOVERYXLOG").unlink()
    killed = await asyncio.create_subprocess_exec(*argv, cwd=recovery.data_dir, env={})
    left = f"RECOVERYXLOG.walkeeper.{killed.pid}"
    await wait_for(lambda: left in recovery.files)
    killed.kill()
    await killed.wait()
    os.kill(service, signal.SIGCONT)
    ended = await recovery.fetch(4, recovery.script)
    assert (ended.code, recovery.got()) == (0, content_of(segment(1, 4)))
    assert (await recovery.fetch(3, recovery.script)).code == 0
    assert recovery.got() == content_of(segment(1, 3))
    assert recovery.files == {DOOR, "RECOVERYXLOG"}


async def test_two_that_ask_at_once_both_get_what_they_asked_for(recovery: Recovery) -> None:
    await recovery.begin()
    for first in range(3, LAST, 2):
        numbers = {"R1": first, "R2": first + 1}
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(recovery.fetch(number, recovery.script, name=name))
                for name, number in numbers.items()
            ]
        assert [task.result().code for task in tasks] == [0, 0]
        assert {name: recovery.got(name) for name in numbers} == {
            name: content_of(segment(1, number)) for name, number in numbers.items()
        }


@asynccontextmanager
async def open_door(directory: Path, pool: ThreadPoolExecutor) -> AsyncIterator[FetchDoor]:
    """A door beside the socket ``s``; closed as the service closes it."""

    async def answer(_: Request) -> Reply:
        return Reply.absent()

    door = FetchDoor(directory / "s", answer, pool, lambda: None)
    serving = asyncio.create_task(door.serve())
    await wait_for((directory / "s.answer").exists)
    yield door
    serving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await serving


async def test_the_door_goes_with_the_service(
    data_directory: Path, pool: ThreadPoolExecutor
) -> None:
    root, pg_wal = data_directory.parent, data_directory / "pg_wal"
    before = set(root.rglob("*"))
    status = data_directory.stat()
    async with open_door(root, pool) as door:
        await door.lead(pg_wal, FileIdentity(status.st_dev, status.st_ino))
        assert (pg_wal / DOOR).read_text() == f"{root}/s.ask\n{root}/s.answer\n"
    assert set(root.rglob("*")) == before


async def test_the_door_of_another_service_is_left_to_it(
    data_directory: Path, pool: ThreadPoolExecutor
) -> None:
    status = data_directory.stat()
    door = data_directory / "pg_wal" / DOOR
    async with open_door(data_directory.parent, pool) as own:
        await own.lead(door.parent, FileIdentity(status.st_dev, status.st_ino))
        door.write_text("of another one")
    assert door.read_text() == "of another one"


async def test_a_hook_that_sees_another_directory_is_led_nowhere(
    data_directory: Path, pool: ThreadPoolExecutor
) -> None:
    status = data_directory.stat()
    async with open_door(data_directory.parent, pool) as door:
        await door.lead(data_directory / "pg_wal", FileIdentity(status.st_dev, status.st_ino + 1))
        assert not (data_directory / "pg_wal" / DOOR).exists()
