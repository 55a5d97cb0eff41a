"""What somebody types who installs walkeeper: each command, with what it says and its exit code."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.fix_cli import Installation
from tests.fix_postgres import Workspace
from tests.fix_tree import files_below

COMMANDS = [
    "agent",
    "backup",
    "backups",
    "check",
    "init",
    "keygen",
    "restore",
    "status",
]


def test_from_nothing_to_a_healthy_archive(installation: Installation) -> None:
    """Each step says what the next one is."""
    assert "walkeeper init" in installation.run("status", code=10).stderr
    assert "init --apply" in installation.run("init").stdout
    assert "restart PostgreSQL" in installation.run("init", "--apply").stdout
    installation.cluster.restart()
    assert "walkeeper agent" in installation.run("check", code=1).stdout
    installation.start_agent()
    installation.wait_recognised()
    assert "was decrypted and is whole" in installation.run("check").stdout
    assert "walkeeper backup" in installation.run("status", code=3).stdout
    installation.run("backup")
    report = installation.run("status").stdout
    assert "healthy" in report
    assert "Recoverable, without a gap" in report
    assert re.search(r"\d{8}T\d{6}Z-full-[0-9a-f]{6}", installation.run("backups").stdout)
    assert installation.stop_agent() == 0


def test_the_server_stops_with_all_its_wal_in_the_archive(archiving: Installation) -> None:
    archiving.cluster.sql("CREATE TABLE t AS SELECT generate_series(1, 1000)")
    archiving.cluster.stop()
    ready = list((archiving.cluster.wal_dir / "archive_status").glob("*.ready"))
    assert ready == []
    done = (archiving.cluster.wal_dir / "archive_status").glob("*.done")
    stored = {path.name for path in files_below(archiving.archive_dir)}
    for marker in done:
        name = marker.name.removesuffix(".done")
        assert f"{name}.zst.age" in stored


def test_an_agent_that_was_killed_goes_on_where_it_was(archiving: Installation) -> None:
    first = archiving.archive_now()
    archiving.kill_agent()
    archiving.cluster.sql("SELECT pg_logical_emit_message(true, 'test', 'while it was gone')")
    archiving.cluster.sql("SELECT pg_switch_wal()")
    archiving.start_agent()
    last = archiving.archive_now()
    stored = {path.name[:24] for path in files_below(archiving.archive_dir / "wal")}
    begin, end = int(first, 16), int(last, 16)
    assert {f"{number:024X}" for number in range(begin, end + 1)} <= stored


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_every_command_ends_with_its_exit_codes(
    walkeeper_bin: Path, workspace: Workspace, name: str
) -> None:
    text = workspace.run([walkeeper_bin, name, "--help"]).stdout
    assert re.search(r"Exit codes:\n( +\d+  .+\n)+$", text)


def test_no_secret_shows_up_in_what_commands_say(archiving: Installation) -> None:
    secrets = [
        line
        for path in (archiving.identity_file, archiving.writer_key_file)
        for line in path.read_text().splitlines()
        if line and not line.startswith("#")
    ]
    assert len(secrets) == 2
    said = archiving.agent_log
    for command in ("init", "status", "check", "backups"):
        for more in ([], ["--json"]):
            result = archiving.run(command, *more, code=None)
            said += result.stdout + result.stderr
    assert not [secret for secret in secrets if secret in said]
