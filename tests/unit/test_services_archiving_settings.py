"""Which settings a server needs."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from walkeeper.postgres.settings import HIDDEN, Setting
from walkeeper.services.archiving_settings import (
    NeededSetting,
    SettingState,
    compare_settings,
    is_our_command,
    make_archive_command,
)

COMMAND = "/opt/walkeeper/bin/walkeeper wal-push --socket /run/walkeeper/agent.sock %p"
NEW = {
    "wal_level": "replica",
    "archive_mode": "off",
    "archive_library": "",
    "archive_command": HIDDEN,
    "archive_timeout": "0",
}


def compare(
    values: dict[str, str],
    configured: dict[str, str | None] | None = None,
    pending: set[str] | None = None,
) -> dict[str, NeededSetting]:
    current = {
        name: Setting(value, name in (pending or set()), "default")
        for name, value in (NEW | values).items()
    }
    files: dict[str, str | None] = {"archive_command": ""}
    compared = compare_settings(current, files | (configured or {}), COMMAND)
    return {setting.name: setting for setting in compared}


def test_a_new_server_needs_mode_command_and_timeout() -> None:
    found = compare({})
    changes = {name: s.needed for name, s in found.items() if s.state is SettingState.CHANGE}
    assert changes == {"archive_mode": "on", "archive_command": COMMAND, "archive_timeout": "60"}
    assert found["archive_mode"].needs_restart
    assert not found["archive_command"].needs_restart


@pytest.mark.parametrize("level", ["replica", "logical"])
def test_every_wal_level_above_minimal_will_do(level: str) -> None:
    assert compare({"wal_level": level})["wal_level"].state is SettingState.OK


def test_minimal_wal_is_raised() -> None:
    setting = compare({"wal_level": "minimal"})["wal_level"]
    assert (setting.state, setting.needed) == (SettingState.CHANGE, "replica")


@pytest.mark.parametrize("seconds", ["1", "60", "3600"])
def test_a_timeout_that_was_chosen_stays(seconds: str) -> None:
    setting = compare({"archive_timeout": seconds})["archive_timeout"]
    assert (setting.state, setting.needed) == (SettingState.OK, seconds)


def test_a_command_that_is_hidden_is_judged_by_the_files() -> None:
    assert compare({}, {"archive_command": COMMAND})["archive_command"].state is SettingState.OK
    foreign = compare({}, {"archive_command": "cp %p /x/%f"})["archive_command"]
    assert (foreign.state, foreign.current) == (SettingState.FOREIGN, "cp %p /x/%f")


def test_a_command_that_may_not_be_seen_is_not_taken_for_free() -> None:
    setting = compare({}, {"archive_command": None})["archive_command"]
    assert (setting.state, setting.current) == (SettingState.FOREIGN, None)


def test_a_library_is_foreign_whatever_it_is() -> None:
    assert compare({"archive_library": "x"})["archive_library"].state is SettingState.FOREIGN


def test_the_library_is_compared_before_the_command() -> None:
    names = list(compare({}))
    assert names.index("archive_library") < names.index("archive_command")


def test_what_a_version_does_not_have_is_left_out() -> None:
    current = {name: Setting(value, False, "default") for name, value in NEW.items()}
    del current["archive_library"]
    names = [s.name for s in compare_settings(current, {"archive_command": ""}, COMMAND)]
    assert "archive_library" not in names


def test_what_is_set_and_waits_for_a_restart_is_told_from_what_is_not_set() -> None:
    waiting = compare({}, {"archive_mode": "on"}, {"archive_mode"})["archive_mode"]
    assert (waiting.state, waiting.configured) == (SettingState.RESTART, "on")
    wrong = compare({}, {"archive_mode": "off"}, {"archive_mode"})["archive_mode"]
    assert wrong.state is SettingState.CHANGE


def test_an_older_command_of_ours_is_changed_without_ado() -> None:
    setting = compare({"archive_command": "/old/walkeeper wal-push %p"})["archive_command"]
    assert setting.state is SettingState.CHANGE
    assert is_our_command(COMMAND)
    assert not is_our_command("cp %p /x")


@given(st.text(st.characters(blacklist_characters="\0/", blacklist_categories=["Cs"]), min_size=1))
def test_the_command_means_the_same_after_postgresql_and_the_shell(name: str) -> None:
    program, socket = Path("/opt") / f"x{name}", Path("/run") / f"y{name}"
    command = make_archive_command(program, socket)
    words = _as_the_shell_reads(_as_postgresql_replaces(command)).split(b"\0")
    expected = [str(program), "wal-push", "--socket", str(socket), "pg_wal/0001"]
    assert [word.decode("utf-8", "surrogateescape") for word in words] == expected


def _as_postgresql_replaces(command: str) -> str:
    """percentrepl.c, replace_percent_placeholders: %% and %p; anything else is an error."""
    parts = command.split("%")
    text = parts.pop(0)
    while parts:
        part = parts.pop(0)
        if part == "" and parts:
            text += "%" + parts.pop(0)
        elif part.startswith("p"):
            text += "pg_wal/0001" + part[1:]
        else:
            raise AssertionError(f"PostgreSQL refuses %{part[:1]}")
    return text


def _as_the_shell_reads(command: str) -> bytes:
    """The words of a simple command, split by a real /bin/sh."""
    script = f"for word in {command}; do printf '%s\\0' \"$word\"; done"
    result = subprocess.run(["/bin/sh", "-c", script], capture_output=True, check=True, env={})
    return result.stdout.rstrip(b"\0")
