"""Recovery settings are complete, in the right order, and quoted for two languages."""

import subprocess
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from walkeeper.core.lsn import Lsn
from walkeeper.core.target import (
    AtLsn,
    AtName,
    AtTime,
    AtXid,
    Immediate,
    Latest,
    TargetAction,
)
from walkeeper.postgres.recovery_conf import (
    RecoveryConf,
    edit_auto_conf,
    quote,
    restore_command,
)

TARGETS = {
    "recovery_target",
    "recovery_target_lsn",
    "recovery_target_name",
    "recovery_target_time",
    "recovery_target_xid",
}


def edit(text="", **changes):
    facts = {
        "major": 15,
        "restore_command": "fetch",
        "timeline": 3,
        "target": AtLsn(Lsn(0x1_0000_0028)),
    }
    return edit_auto_conf(text, RecoveryConf(**(facts | changes)))


def settings_of(text):
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    pairs = [line.split(" = ", 1) for line in lines]
    assert len({name for name, _ in pairs}) == len(pairs), "a setting is written twice"
    return {name: value.strip("'") for name, value in pairs}


@pytest.mark.parametrize(
    ("target", "name", "value", "inclusive"),
    [
        (Immediate(), "recovery_target", "immediate", None),
        (AtName("before the upgrade"), "recovery_target_name", "before the upgrade", None),
        (AtLsn(Lsn(0x28), inclusive=False), "recovery_target_lsn", "0/28", "off"),
        (AtXid((1 << 32) + 700), "recovery_target_xid", "700", "on"),
        (
            AtTime(datetime(2026, 11, 20, 10, 15, tzinfo=timezone(timedelta(hours=1)))),
            "recovery_target_time",
            "2026-11-20 09:15:00.000000+00:00",
            "on",
        ),
    ],
)
def test_one_target_is_set_after_all_others_are_cleared(target, name, value, inclusive):
    settings = settings_of(edit(target=target))
    order = list(settings)

    assert settings[name] == value
    assert settings.get("recovery_target_inclusive") == inclusive
    for other in TARGETS - {name}:
        assert settings[other] == ""
        assert order.index(other) < order.index(name)


def test_the_end_of_the_wal_is_no_target():
    settings = settings_of(edit(target=Latest()))
    assert {settings[name] for name in TARGETS} == {""}


def test_the_timeline_is_a_number():
    assert settings_of(edit())["recovery_target_timeline"] == "3"


def test_what_an_earlier_recovery_left_is_replaced():
    left = (
        "# by ALTER SYSTEM\n"
        "work_mem = '64MB'\n"
        "restore_command = 'old'\n"
        "Recovery_Target_Time='2020-01-01'\n"
        "  archive_cleanup_command 'rm'\n"
        "recovery_end_command = 'rm'\n"
        "recovery_min_apply_delay = '1d'\n"
        "primary_conninfo = 'host=production'\n"
        "archive_mode = 'on'\n"
        "archive_command = 'keep'\n"
    )
    text = edit(left)
    settings = settings_of(text)

    assert "old" not in text
    assert "2020" not in text
    assert "rm" not in text
    assert "production" not in text
    assert text.startswith("# by ALTER SYSTEM\nwork_mem = '64MB'\n")
    assert settings["archive_command"] == "keep"
    assert settings["recovery_min_apply_delay"] == "0"
    assert settings["archive_cleanup_command"] == settings["recovery_end_command"] == ""
    assert settings["restore_command"] == "fetch"


def test_a_copy_leaves_the_world_alone_unless_told_otherwise():
    assert settings_of(edit())["archive_mode"] == "off"
    assert settings_of(edit())["max_logical_replication_workers"] == "0"
    resumed = settings_of(edit("archive_mode = 'on'\n", detached=False))
    assert resumed["archive_mode"] == "on"
    assert "max_logical_replication_workers" not in resumed


def test_a_standby_keeps_its_primary_and_has_no_target():
    settings = settings_of(edit("primary_conninfo = 'host=primary'\n", standby=True))
    assert settings["primary_conninfo"] == "host=primary"
    assert settings["recovery_target_timeline"] == "latest"
    assert {settings[name] for name in TARGETS} == {""}


@pytest.mark.parametrize(("major", "written"), [(13, True), (15, True), (16, False), (18, False)])
def test_only_settings_that_the_version_has_are_written(major, written):
    assert ("promote_trigger_file" in settings_of(edit(major=major))) is written


def test_the_action_is_written():
    text = edit(action=TargetAction.SHUTDOWN)
    assert settings_of(text)["recovery_target_action"] == "shutdown"


@given(st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=200))
def test_editing_twice_changes_nothing_more(text):
    once = edit(text)
    assert edit(once) == once


def test_a_value_cannot_break_out_of_its_quotes():
    assert quote("it's \\ 100%\n") == "'it''s \\\\ 100%\\n'"
    with pytest.raises(ValueError, match="NUL"):
        quote("a\0b")


def run_as_postgresql(command, file="000000010000000000000001", path="pg_wal/RECOVERYXLOG"):
    """What system(3) gets: src/common/percentrepl.c replaces %f and %p, and halves %%."""
    parts = [part.replace("%f", file).replace("%p", path) for part in command.split("%%")]
    return subprocess.run(
        ["sh", "-c", "%".join(parts)], check=False, capture_output=True, text=True
    )


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (0, 0),
        (66, 1),
        (1, 126),
        (2, 126),
        (65, 126),
        (126, 126),
        (127, 126),
        (130, 126),
        (255, 126),
    ],
)
def test_only_confirmed_absence_reads_as_absent(code, expected):
    command = restore_command(["sh", "-c", f"exit {code}", "wal-fetch"], 1, None)
    assert run_as_postgresql(command).returncode == expected


@pytest.mark.parametrize("signal", ["TERM", "KILL", "SEGV"])
def test_a_client_that_dies_is_never_absence(signal):
    command = restore_command(["sh", "-c", f"kill -{signal} $$", "wal-fetch"], 1, None)
    result = run_as_postgresql(command)
    assert result.returncode == 126 or result.returncode < 0


def test_a_program_that_is_gone_is_never_absence():
    assert run_as_postgresql(restore_command(["/nowhere/walkeeper"], 1, None)).returncode == 126


def test_the_wrapper_holds_in_bash_as_well():
    command = restore_command(["sh", "-c", "exit 3"], 1, None)
    assert subprocess.run(["bash", "-c", command], check=False).returncode == 126


@given(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20)))
def test_words_arrive_as_they_were_given(words):
    print_words = ["python3", "-I", "-S", "-c", "import sys; print(ascii(sys.argv[1:]))"]
    command = restore_command([*print_words, *words], 7, Lsn(0x28))
    expected = [*words, "--timeline", "7", "--end", "0/28"]
    expected += ["000000010000000000000001", "pg_wal/RECOVERYXLOG"]
    assert run_as_postgresql(command).stdout.strip() == ascii(expected)


def test_times_are_utc_whatever_the_zone_of_the_server():
    text = edit(target=AtTime(datetime(2026, 1, 1, tzinfo=UTC)))
    assert "+00:00" in text
