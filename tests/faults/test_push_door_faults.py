"""The agent's side door while agents are killed, frozen and restarted, and with a live server."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from tests.fix_archiving import (
    FileShelf,
    StockTools,
    Witness,
    finish_segment,
    set_archive_command,
    stored_as,
    wait_archived,
    waiting,
    watch_archiving,
    write_segments,
)
from tests.fix_cli import Installation
from tests.fix_hooks import SCRIPT
from tests.fix_postgres import BARE_ENVIRONMENT, wait_until

DEADLINE_S = 60.0
REOPENED_S = 180.0
"""Above the minute for which a hook shuts the door that was not answered in time."""


@pytest.fixture
def shell_only(segments_only: Installation) -> Path:
    """The script where no Python has the package, for the cluster's owner."""
    folder = segments_only.workspace.directory("walkeeper-alone")
    return Path(shutil.copy(SCRIPT, folder / "walkeeper"))


@pytest.fixture
def at_door(segments_only: Installation, shell_only: Path) -> Installation:
    """An installation whose server archives through the door alone; its agent runs."""
    cluster = segments_only.cluster
    command = cluster.value("SHOW archive_command")
    assert str(segments_only.program) in command
    set_archive_command(cluster, command.replace(str(segments_only.program), str(shell_only)))
    segments_only.start_agent()
    segments_only.wait_recognised()
    return segments_only


def door_files(installation: Installation) -> set[str]:
    """What lies beside the socket for the door, hooks that wait included."""
    prefix = f"{installation.socket.name}.push"
    names = {path.name for path in installation.socket.parent.iterdir()}
    return {name.removeprefix(prefix) for name in names if name.startswith(prefix)}


def patient_path(installation: Installation) -> str:
    """A PATH for hooks that wait at the door for eight seconds in place of two."""
    folder = installation.workspace.directory("patient")
    (folder / "sleep").write_text("#!/bin/sh\nexec /usr/bin/sleep 8\n")
    (folder / "sleep").chmod(0o755)
    return f"{folder}:{BARE_ENVIRONMENT['PATH']}"


def start_hook(
    installation: Installation,
    script: Path,
    file: str,
    cwd: Path | None = None,
    path: str = BARE_ENVIRONMENT["PATH"],
) -> subprocess.Popen[str]:
    argv = [str(script), "wal-push", "--socket", str(installation.socket), f"pg_wal/{file}"]
    return subprocess.Popen(
        argv,
        cwd=cwd or installation.cluster.data_dir,
        env=BARE_ENVIRONMENT | {"PATH": path},
        stderr=subprocess.PIPE,
        text=True,
        **installation.workspace.owner.process_options(),
    )


def end_of(hook: subprocess.Popen[str]) -> tuple[int, str]:
    _, message = hook.communicate(timeout=DEADLINE_S)
    return hook.returncode, message


def require_pushed(installation: Installation, script: Path, file: str) -> None:
    """Like PostgreSQL, ask again where the store took longer than a hook waits at the door."""
    wait_until(
        lambda: end_of(start_hook(installation, script, file))[0] == 0,
        f"{file} to be acknowledged:\n{installation.agent_log}",
        REOPENED_S,
    )


def hold_back(installation: Installation) -> str:
    """A segment that PostgreSQL keeps ready, for hooks that are called by hand."""
    set_archive_command(installation.cluster, "false # walkeeper wal-push comes by hand")
    return finish_segment(installation.cluster)


def require_acknowledged_is_stored(
    installation: Installation, witness: Witness, stock: StockTools
) -> None:
    shelf = FileShelf(installation.repository)
    for file in witness.acknowledged:
        (name,) = stored_as(shelf, file)
        assert stock.open(installation, shelf, name) == witness.content(file), file


@pytest.mark.slow
def test_a_server_archives_through_the_door_while_its_agent_comes_and_goes(
    at_door: Installation, stock: StockTools
) -> None:
    witness = watch_archiving(at_door)
    for leave in (at_door.kill_agent, at_door.stop_agent, at_door.kill_agent):
        write_segments(at_door.cluster, 8)
        leave()
        write_segments(at_door.cluster, 2)
        at_door.start_agent()
        wait_archived(at_door, REOPENED_S)
    assert len(witness.acknowledged) > 30
    require_acknowledged_is_stored(at_door, witness, stock)
    at_door.stop_agent()
    assert door_files(at_door) == set()


def test_only_what_the_agent_serves_is_served_at_the_door(
    at_door: Installation, shell_only: Path
) -> None:
    file = hold_back(at_door)
    pg_wal = at_door.cluster.wal_dir
    copy = at_door.workspace.directory("copy") / "pg_wal"
    at_door.workspace.run(["cp", "-a", pg_wal, copy])
    at_door.workspace.run(["cp", "-a", pg_wal / file, pg_wal / "no-wal-file"])
    for cwd, name, reason in (
        (copy.parent, file, "is not in the pg_wal of this agent's cluster"),
        (pg_wal.parent, "no-wal-file", "is not the name of a WAL file"),
        (pg_wal.parent, "000000990000000000000001", "No such file"),
    ):
        code, _ = end_of(start_hook(at_door, shell_only, name, cwd))
        assert code == 1, name
        code, message = end_of(start_hook(at_door, at_door.program, name, cwd))
        assert (code, reason in message) == (1, True), message
    assert waiting(at_door.cluster) == [file]
    require_pushed(at_door, shell_only, file)


def test_a_file_that_changed_after_it_was_archived_is_looked_at_again(
    at_door: Installation, shell_only: Path
) -> None:
    file = hold_back(at_door)
    require_pushed(at_door, shell_only, file)
    path = at_door.cluster.wal_dir / file
    content = path.read_bytes()
    with path.open("r+b") as wal:
        wal.seek(len(content) // 2)
        wal.write(b"changed")
    assert end_of(start_hook(at_door, shell_only, file))[0] == 1
    path.write_bytes(content)
    require_pushed(at_door, shell_only, file)


def freeze(installation: Installation) -> None:
    assert installation.agent is not None
    os.kill(installation.agent.pid, signal.SIGSTOP)


@pytest.mark.slow
def test_a_frozen_agent_holds_one_hook_for_no_longer_than_its_deadline_and_others_not_at_all(
    at_door: Installation, shell_only: Path
) -> None:
    file = hold_back(at_door)
    freeze(at_door)
    code, message = end_of(start_hook(at_door, at_door.program, file))
    assert (code, "no answer before the deadline" in message) == (1, True), message
    assert door_files(at_door) == {""}
    assert end_of(start_hook(at_door, shell_only, file))[0] == 1
    assert at_door.agent is not None
    os.kill(at_door.agent.pid, signal.SIGCONT)
    wait_until(lambda: door_files(at_door) == {"", ".agent"}, "the door to open", REOPENED_S)
    require_pushed(at_door, shell_only, file)


def test_an_agent_that_is_killed_while_a_hook_waits_at_its_door_lets_it_tell_why(
    at_door: Installation, shell_only: Path
) -> None:
    file = hold_back(at_door)
    freeze(at_door)
    hook = start_hook(at_door, at_door.program, file, path=patient_path(at_door))
    wait_until(lambda: f".{hook.pid}" in door_files(at_door), "the hook to ask", DEADLINE_S)
    at_door.kill_agent()
    code, message = end_of(hook)
    assert (code, "no agent listens" in message) == (1, True), message
    assert f".{hook.pid}" not in door_files(at_door)
    assert end_of(start_hook(at_door, shell_only, file))[0] == 1
    at_door.start_agent()
    at_door.wait_recognised()
    require_pushed(at_door, shell_only, file)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a process capabilities")
def test_hooks_that_the_agent_may_not_look_at_close_its_door_and_are_served_by_the_client(
    at_door: Installation,
) -> None:
    file = hold_back(at_door)
    owner = at_door.workspace.owner
    privileged = ["setpriv", f"--reuid={owner.uid}", f"--regid={owner.gid}", "--clear-groups"]
    privileged += ["--inh-caps=+sys_nice", "--ambient-caps=+sys_nice"]
    hook = [at_door.program, "wal-push", "--socket", at_door.socket, f"pg_wal/{file}"]

    def is_pushed() -> bool:
        done = subprocess.run(
            [*privileged, *map(str, hook)],
            cwd=at_door.cluster.data_dir,
            env=BARE_ENVIRONMENT,
            check=False,
            timeout=DEADLINE_S,
        )
        return done.returncode == 0

    for _ in range(2):  # and asked again where the disk took longer than a hook waits
        wait_until(is_pushed, f"{file} to be acknowledged:\n{at_door.agent_log}", REOPENED_S)
    assert door_files(at_door) == set()
    assert "no_push_door" in at_door.agent_log
