"""The agent's side door: a shell alone hears that a WAL file is durable, and nothing else."""

from __future__ import annotations

import asyncio
import ctypes
import os
import shutil
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.fix_hooks import Ended, copy_script, run_process, serving, wait_for
from walkeeper.agent.control import ControlServer
from walkeeper.agent.control_request import Reply, Request
from walkeeper.agent.push_door import PushDoor

DEADLINE_S = 60.0
PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h
FIRST, SECOND = "000000010000000000000001", "000000010000000000000002"
UNSHARE = ["unshare"] if os.geteuid() == 0 else ["unshare", "--map-root-user"]
SHELLS = {"dash": ["dash"], "bash": ["bash", "--posix"], "busybox": ["busybox", "sh"]}


@dataclass
class Agent:
    """Answers what is asked, over the socket and at the door, with the same handler."""

    socket: Path
    script: Path
    data_dir: Path
    answer: Callable[[Request], Awaitable[Reply]]
    asked: list[dict[str, bytes]] = field(default_factory=list)

    async def __call__(self, request: Request) -> Reply:
        self.asked.append(request.fields)
        return await self.answer(request)

    async def push(self, path: str = f"pg_wal/{FIRST}", *before: str | Path) -> Ended:
        """Call the script as PostgreSQL does, ``before`` in front of it."""
        return await run_process(
            *before, self.script, "wal-push", "--socket", self.socket, path,
            cwd=self.data_dir, timeout_s=DEADLINE_S,
        )  # fmt: skip

    @property
    def files(self) -> set[str]:
        """What lies beside the socket, without its name."""
        name = self.socket.name
        return {path.name.removeprefix(name) for path in self.socket.parent.glob(f"{name}*")}


async def durable(_: Request) -> Reply:
    return Reply.ok()


async def refused(_: Request) -> Reply:
    return Reply.failed("not now")


def read_link(agent: Agent) -> Path | None:
    link = Path(f"{agent.socket}.push.agent")
    return link.readlink() if link.is_symlink() else None


@asynccontextmanager
async def open_door(agent: Agent, pool: ThreadPoolExecutor) -> AsyncIterator[PushDoor]:
    door = PushDoor(agent.socket, agent, pool)
    before = read_link(agent)
    task = asyncio.create_task(door.serve())
    await wait_for(lambda: read_link(agent) not in {before, None})
    yield door
    door.stop()
    await task


@pytest.fixture
async def agent(
    short_dir: Path, data_directory: Path, shell_only: Path, pool: ThreadPoolExecutor
) -> AsyncIterator[Agent]:
    """One for which everything is durable, until its ``answer`` is changed."""
    (data_directory / "pg_wal" / SECOND).write_bytes(b"x" * 2000)
    agent = Agent(short_dir / "s", shell_only, data_directory, durable)
    server = ControlServer(agent.socket)
    server.register("wal-push", agent, deadline_s=None)
    async with serving(server), open_door(agent, pool):
        yield agent


@pytest.fixture
def adopting() -> Iterator[None]:
    """Children of children that have ended become ours, as they do the first process's."""
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.prctl(PR_SET_CHILD_SUBREAPER, 1) == 0
    yield
    assert libc.prctl(PR_SET_CHILD_SUBREAPER, 0) == 0


OPEN = {"", ".lock", ".push", ".push.agent"}


@pytest.mark.parametrize("shell", SHELLS)
async def test_a_shell_hears_that_a_file_is_durable(agent: Agent, shell: str) -> None:
    assert await agent.push(f"pg_wal/{FIRST}", *SHELLS[shell]) == Ended(0, "", "")
    assert await agent.push(f"{agent.data_dir}/pg_wal/{SECOND}", *SHELLS[shell]) == Ended(0, "", "")
    assert [fields["size"] for fields in agent.asked] == [b"1000", b"2000"]
    assert agent.files == OPEN


@pytest.mark.parametrize("shell", SHELLS)
async def test_a_shell_hears_nothing_else(agent: Agent, shell: str) -> None:
    agent.answer = refused
    ended = await agent.push(f"pg_wal/{FIRST}", *SHELLS[shell])
    assert (ended.code, len(agent.asked)) == (1, 1)
    assert agent.files == OPEN


async def test_the_reason_is_told_by_the_client(agent: Agent, installed: Path) -> None:
    agent.answer = refused
    agent.script = installed
    assert await agent.push() == Ended(1, "", "walkeeper: not now\n")
    assert len(agent.asked) == 2


@pytest.mark.parametrize("words", [["--socket", "S"], ["--socket=S"], []], ids=" ".join)
async def test_the_door_is_beside_the_socket_that_the_client_would_ask(
    agent: Agent, words: list[str]
) -> None:
    ended = await run_process(
        agent.script, "wal-push", *(word.replace("S", str(agent.socket)) for word in words),
        f"pg_wal/{FIRST}", cwd=agent.data_dir, env={"WALKEEPER_SOCKET": str(agent.socket)},
    )  # fmt: skip
    assert ended == Ended(0, "", "")


async def test_another_socket_is_not_answered_here(agent: Agent) -> None:
    ended = await run_process(
        agent.script, "wal-push", "--socket", f"{agent.socket}2", f"pg_wal/{FIRST}",
        cwd=agent.data_dir, env={"WALKEEPER_SOCKET": str(agent.socket)},
    )  # fmt: skip
    assert (ended.code, agent.asked) == (1, [])


def as_it_is(_: Path) -> str:
    return f"pg_wal/{FIRST}"


def changed(data_dir: Path) -> str:
    os.utime(data_dir / "pg_wal" / FIRST, ns=(1, 1_234_567_890_123_456_789))
    return f"pg_wal/{FIRST}"


def elsewhere(data_dir: Path) -> str:
    (data_dir / "pg_wal").rename(data_dir.parent / "wal")
    (data_dir / "pg_wal").symlink_to(data_dir.parent / "wal")
    return f"./pg_wal//{FIRST}"


def link(data_dir: Path) -> str:
    (data_dir / "other").mkdir()
    (data_dir / "other" / SECOND).symlink_to(data_dir / "pg_wal" / FIRST)
    return f"other/{SECOND}"


def odd(data_dir: Path) -> str:
    name = "  a\tb\\n*'\"$x ok "
    shutil.copy(data_dir / "pg_wal" / FIRST, data_dir / "pg_wal" / name)
    return f"pg_wal/{name}"


@pytest.mark.parametrize("prepare", [as_it_is, changed, elsewhere, link, odd])
async def test_the_agent_learns_at_the_door_what_the_client_would_tell(
    agent: Agent, installed: Path, prepare: Callable[[Path], str]
) -> None:
    path = prepare(agent.data_dir)
    assert (await agent.push(path)).code == 0
    agent.script = installed
    agent.answer = refused
    await agent.push(path)
    shell, again, client = agent.asked
    assert shell == again
    for fields in (shell, client):
        fields.pop("timeout_ms")
        fields["path"] = fields["path"].rpartition(b"/")[2]
    assert shell == client


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount for the user who it is")
async def test_a_hook_in_another_mount_namespace_is_asked_what_it_sees_there(agent: Agent) -> None:
    copy = agent.data_dir / "copy"
    shutil.copytree(agent.data_dir / "pg_wal", copy)
    hidden = 'mount --bind copy pg_wal && exec "$0" "$@"'
    ended = await agent.push(f"pg_wal/{FIRST}", "unshare", "--mount", "sh", "-c", hidden)
    assert ended == Ended(0, "", "")
    (fields,) = agent.asked
    assert fields["dir_ino"] == b"%d" % copy.stat().st_ino
    assert fields["ino"] == b"%d" % (copy / FIRST).stat().st_ino


@pytest.mark.parametrize("proc", [[], ["--mount-proc"]], ids=["proc of ours", "proc of its own"])
async def test_a_hook_whose_process_cannot_be_found_is_served_by_the_client(
    agent: Agent, installed: Path, proc: list[str]
) -> None:
    inside = [*UNSHARE, "--pid", "--fork", *proc, "sh", "-c", '"$@"; exit $?', "sh"]
    copy_script(agent.script, patience_s=2)
    assert (await agent.push(f"pg_wal/{FIRST}", *inside)).code == 1
    assert agent.asked == []
    agent.script = installed
    assert (await agent.push(f"pg_wal/{FIRST}", *inside)).code == 0
    assert len(agent.asked) == 1


async def test_two_that_ask_at_once_get_their_own_answers(agent: Agent) -> None:
    async def answer(request: Request) -> Reply:
        await wait_for(lambda: len(agent.asked) == 2)
        own = request.fields["path"].endswith(SECOND.encode())
        return Reply.ok() if own else Reply.failed("not this one")

    agent.answer = answer
    async with asyncio.TaskGroup() as group:
        first = group.create_task(agent.push(f"pg_wal/{FIRST}"))
        second = group.create_task(agent.push(f"pg_wal/{SECOND}"))
    assert (first.result().code, second.result().code) == (1, 0)


async def test_an_answer_that_comes_late_is_not_heard_and_the_door_is_shut(agent: Agent) -> None:
    may_answer = asyncio.Event()
    copy_script(agent.script, patience_s=7)  # so long that it is asked for sure

    async def answer(_: Request) -> Reply:
        await may_answer.wait()
        return Reply.ok()

    agent.answer = answer
    assert (await agent.push()).code == 1
    assert ".push.agent" not in agent.files
    may_answer.set()
    assert (await agent.push()).code == 1
    assert len(agent.asked) == 1


async def test_a_hook_that_was_killed_is_no_other_ones_business(agent: Agent) -> None:
    async def answer(request: Request) -> Reply:
        if request.fields["path"].endswith(SECOND.encode()):
            return Reply.failed("not this one")
        killed.send_signal(signal.SIGKILL)
        await killed.wait()
        return Reply.ok()

    agent.answer = answer
    argv = [agent.script, "wal-push", "--socket", agent.socket, f"pg_wal/{FIRST}"]
    killed = await asyncio.create_subprocess_exec(*argv, cwd=agent.data_dir, env={})
    await wait_for(lambda: len(agent.asked) == 1)
    assert (await agent.push(f"pg_wal/{SECOND}")).code == 1
    assert agent.files == OPEN


async def test_a_sleeper_whose_shell_has_died_is_left_to_end_by_itself(
    agent: Agent, adopting: None
) -> None:
    may_answer = asyncio.Event()
    copy_script(agent.script, patience_s=7)  # so long that it is asked for sure

    async def answer(_: Request) -> Reply:
        await may_answer.wait()
        return Reply.ok()

    agent.answer = answer
    argv = [agent.script, "wal-push", "--socket", agent.socket, f"pg_wal/{FIRST}"]
    shell = await asyncio.create_subprocess_exec(*argv, cwd=agent.data_dir, env={})
    await wait_for(lambda: len(agent.asked) == 1)
    sleeper = int(Path(f"/proc/{shell.pid}/task/{shell.pid}/children").read_text())
    shell.kill()
    await shell.wait()
    may_answer.set()
    _, status = await asyncio.to_thread(os.waitpid, sleeper, 0)
    assert os.waitstatus_to_exitcode(status) == 0


@pytest.mark.parametrize(
    "line",
    ["", "\t\t", "1\t1\tpg_wal/x", "x\ty\tpg_wal/x", "999999999\t1\tpg_wal/x", "\xff" * 3000],
)
async def test_nonsense_at_the_door_changes_nothing(agent: Agent, line: str) -> None:
    with Path(f"{agent.socket}.push").open("wb", buffering=0) as door:
        door.write(line.encode("latin-1") + b"\n")
    assert (await agent.push()).code == 0
    assert len(agent.asked) == 1


async def test_a_process_without_the_file_of_the_answer_is_neither_asked_about_nor_killed(
    agent: Agent,
) -> None:
    other = await asyncio.create_subprocess_exec("sleep", "60")
    answer = Path(f"{agent.socket}.push.{os.getpid()}")
    answer.touch(mode=0o600)
    with Path(f"{agent.socket}.push").open("wb", buffering=0) as door:
        door.write(f"{os.getpid()}\t{other.pid}\tpg_wal/{FIRST}\n".encode())
    await wait_for(lambda: not answer.exists())
    assert (await agent.push()).code == 0
    assert (len(agent.asked), other.returncode) == (1, None)
    other.kill()
    await other.wait()


async def test_who_has_asked_is_answered_when_the_agent_stops(
    short_dir: Path, data_directory: Path, shell_only: Path, pool: ThreadPoolExecutor
) -> None:
    async def answer(_: Request) -> Reply:
        door.stop()
        await wait_for(lambda: ".push.agent" not in agent.files)
        return Reply.ok()

    agent = Agent(short_dir / "s", shell_only, data_directory, answer)
    async with open_door(agent, pool) as door:
        assert (await agent.push()).code == 0
    assert agent.files == set()


async def test_what_was_left_by_killed_ones_goes_and_what_the_next_agent_made_stays(
    short_dir: Path, data_directory: Path, shell_only: Path, pool: ThreadPoolExecutor
) -> None:
    agent = Agent(short_dir / "s", shell_only, data_directory, durable)
    for name in ("s.push", "s.push.agent", "s.push.12", "s.push.new"):
        (short_dir / name).touch()
    async with open_door(agent, pool):
        assert agent.files == {".push", ".push.agent", ".push.new"}
    async with AsyncExitStack() as next_one:
        async with open_door(agent, pool):
            await next_one.enter_async_context(open_door(agent, pool))
        assert (await agent.push()).code == 0
    assert agent.files == {".push.new"}
