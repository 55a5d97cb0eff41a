"""The installed command: a shell script that PostgreSQL starts with a bare environment."""

import os
import re
import shutil
import stat
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.fix_hooks import PACKAGE_ROOT, SCRIPT, SITE, Ended, run_process, serving
from walkeeper.agent.control import ControlServer
from walkeeper.agent.control_request import Reply, Request
from walkeeper.agent.push_door import SLEEP_S
from walkeeper.hooks.client import PUSH_DEADLINE_S


def hook_calls(command: str) -> list[str]:
    if command == "wal-push":
        return ["wal-push", "pg_wal/000000010000000000000001"]
    return ["wal-fetch", "00000002.history", "pg_wal/RECOVERYHISTORY"]


async def call(script: Path, *arguments: str, cwd: Path, **environ: str) -> Ended:
    return await run_process(script, *arguments, cwd=cwd, env=environ)


@pytest.mark.parametrize("environ", [{}, {"PATH": ""}, {"PATH": "/nowhere"}])
@pytest.mark.parametrize("link", ["none", "absolute", "relative", "twice"])
async def test_a_hook_reaches_the_agent_through_links_and_with_a_bare_environment(
    link: str, environ: dict[str, str], installed: Path, short_dir: Path, data_directory: Path
) -> None:
    async def durable(_: Request) -> Reply:
        return Reply.ok()

    links = short_dir / "links"
    links.mkdir()
    (links / "absolute").symlink_to(installed)
    (links / "relative").symlink_to(os.path.relpath(installed, links))
    (links / "twice").symlink_to("relative")
    script = installed if link == "none" else links / link
    server = ControlServer(short_dir / "s")
    server.register("wal-push", durable, deadline_s=5)
    async with serving(server):
        environ = environ | {"WALKEEPER_SOCKET": os.fspath(short_dir / "s")}
        ended = await call(script, *hook_calls("wal-push"), cwd=data_directory, **environ)
    assert (ended.code, ended.out, ended.err) == (0, "", "")


@pytest.mark.parametrize(
    ("reply", "push", "fetch"),
    [(Reply.absent(), 1, 66), (Reply.failed("no"), 1, 126), (Reply.ok(), 0, 126)],
)
async def test_the_answer_of_the_agent_decides(
    reply: Reply, push: int, fetch: int, installed: Path, short_dir: Path, data_directory: Path
) -> None:
    async def answer(_: Request) -> Reply:
        return reply

    server = ControlServer(short_dir / "s")
    server.register("wal-push", answer, deadline_s=5)
    server.register("wal-fetch", answer, deadline_s=5)
    async with serving(server):
        for command, code in (("wal-push", push), ("wal-fetch", fetch)):
            ended = await call(
                installed, *hook_calls(command), cwd=data_directory,
                WALKEEPER_SOCKET=os.fspath(short_dir / "s"),
            )  # fmt: skip
            assert ended.code == code


def no_package(installed: Path) -> None:
    (installed.parent.parent / SITE / "walkeeper").unlink()


def broken_package(installed: Path) -> None:
    package = installed.parent.parent / SITE / "walkeeper"
    package.unlink()
    shutil.copytree(PACKAGE_ROOT / "walkeeper", package)
    (package / "hooks" / "wire.py").write_text("import nothing_of_that_name\n")


def half_upgraded_package(installed: Path) -> None:
    package = installed.parent.parent / SITE / "walkeeper"
    package.unlink()
    (package / "hooks").mkdir(parents=True)
    (package / "hooks" / "client.py").write_text("def main(")


def interpreter(program: str) -> Callable[[Path], None]:
    def replace(installed: Path) -> None:
        python = installed.parent / "python"
        python.unlink()
        python.write_text(program)
        python.chmod(0o755)

    return replace


BREAKAGES = {
    "the package is missing": no_package,
    "a module cannot be imported": broken_package,
    "the package is being upgraded": half_upgraded_package,
    "the interpreter cannot start": interpreter("#!/nowhere/python\n"),
    "the interpreter is killed": interpreter("#!/bin/sh\nkill -9 $$\n"),
    "the interpreter is terminated": interpreter("#!/bin/sh\nkill -15 $$\n"),
    "the interpreter ends with 2": interpreter("#!/bin/sh\nexit 2\n"),
    "the interpreter ends with 255": interpreter("#!/bin/sh\nexit 255\n"),
}


@pytest.mark.parametrize(
    "leading", [[], ["--config", "c"], ["--config=c"], ["--json"]], ids=" ".join
)
@pytest.mark.parametrize("breakage", BREAKAGES)
async def test_the_exit_codes_hold_when(
    breakage: str, leading: list[str], installed: Path, data_directory: Path
) -> None:
    BREAKAGES[breakage](installed)
    environ = {"WALKEEPER_SOCKET": "/nowhere", "XDG_RUNTIME_DIR": "/nowhere"}
    environ |= {"status": "0", "code": "0", "rest": "--help", "shut": "x"}  # means nothing here
    ended = await call(installed, *leading, *hook_calls("wal-push"), cwd=data_directory, **environ)
    assert ended.code == 1
    ended = await call(installed, *leading, *hook_calls("wal-fetch"), cwd=data_directory, **environ)
    assert ended.code == 126


async def test_a_hook_that_cannot_fork_is_neither_success_nor_the_end_of_the_archive(
    installed: Path, data_directory: Path
) -> None:
    for command, code in (("wal-push", 1), ("wal-fetch", 126)):
        limited = (
            "import os, resource, sys; os.setgid(65534); os.setuid(65534);"
            "resource.setrlimit(resource.RLIMIT_NPROC, (0, 0));"
            "os.execv('/bin/sh', ['sh', *sys.argv[1:]])"
        )
        ended = await run_process(
            sys.executable, "-c", limited, installed, *hook_calls(command), cwd=data_directory
        )
        assert ended.code == code
        assert "fork" in ended.err.lower(), "nothing was limited: run as a user who may setuid"


async def test_the_other_commands_keep_their_exit_codes_and_arguments(
    installed: Path, data_directory: Path
) -> None:
    interpreter('#!/bin/sh\nprintf "<%s>" "$@"\nexit 14\n')(installed)
    ended = await call(installed, "--config", "a b", "status", "", "wal-push", cwd=data_directory)
    assert (ended.code, ended.out) == (14, "<-P><-m><walkeeper><--config><a b><status><><wal-push>")


def test_the_script_can_be_run() -> None:
    assert SCRIPT.stat().st_mode & stat.S_IXOTH


def test_the_door_and_the_client_behind_it_take_no_longer_than_the_client_alone() -> None:
    script = SCRIPT.read_text()
    at_door_s, rest_s = (
        float(re.findall(pattern, script)[0])
        for pattern in (r"(?m) sleep (\d+) .*&$", r"(?m)rest=--timeout=(\d+)$")
    )
    assert at_door_s == SLEEP_S
    assert at_door_s + rest_s == PUSH_DEADLINE_S
