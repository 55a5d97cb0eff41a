"""Text for operators."""

from __future__ import annotations

import io
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from walkeeper.cli.render import (
    Page,
    age_text,
    counted,
    moment_text,
    size_text,
    span_text,
)

words = st.lists(
    st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=30),
    min_size=1,
    max_size=40,
)


def page(*, terminal: bool = False) -> tuple[Page, io.StringIO]:
    out = io.StringIO()
    console = Console(
        file=out, width=80, force_terminal=terminal, highlight=False, markup=False, no_color=False
    )
    return Page(console), out


@given(words)
def test_facts_and_items_stay_within_80_columns_and_lose_no_word(texts: list[str]) -> None:
    shown, out = page()
    shown.fact("repository", " ".join(texts))
    shown.item("failed", " ".join(texts), hint=" ".join(texts))
    assert all(len(line) <= 80 for line in out.getvalue().splitlines())
    printed = out.getvalue().split()
    for text in texts:
        assert printed.count(text) >= 3 or text in {"repository", "failed", "hint:"}


def test_brackets_are_no_markup() -> None:
    shown, out = page()
    shown.fact("hint", "set [encryption] identity_file, see [bold]")
    shown.line("[cluster] dsn :warning:")
    assert "[encryption]" in out.getvalue()
    assert "[bold]" in out.getvalue()
    assert "[cluster] dsn :warning:" in out.getvalue()


def test_control_characters_never_reach_the_terminal() -> None:
    shown, out = page()
    for show in (shown.line, shown.heading):
        show("a\x1b[2Jb\x9bc\rd\u202ee")
    shown.fact("name", "a\x1b[2Jb\x9bc\rd")
    shown.item("failed", "a\x1bb", hint="c\x1bd")
    shown.setting("ok", "a\x1bb")
    assert not set("\x1b\x9b\r\u202e").intersection(out.getvalue())


def test_there_are_colours_on_a_terminal_only() -> None:
    for terminal in (True, False):
        shown, out = page(terminal=terminal)
        shown.item("failed", "it did not work", hint="try again")
        shown.heading("Findings")
        assert ("\x1b[" in out.getvalue()) is terminal


def test_only_the_mark_and_the_label_are_coloured() -> None:
    shown, out = page(terminal=True)
    shown.item("failed", "plain text")
    shown.fact("agent", "plain text")
    assert out.getvalue().count("plain text\n") == 2


def test_what_is_to_be_copied_is_never_broken() -> None:
    shown, out = page()
    command = "archive_command = '" + "/very/long/path " * 20 + "'"
    shown.setting("change", command)
    shown.line(command)
    assert out.getvalue().count(command) == 2


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (32_715_571, "31.2 MiB"),
        (5 * 1024**4, "5.0 TiB"),
        (3000 * 1024**5, "3000.0 PiB"),
    ],
)
def test_sizes_are_binary_with_one_decimal(size: int, text: str) -> None:
    assert size_text(size) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "0.0 s"),
        (9.94, "9.9 s"),
        (9.96, "10 s"),
        (119, "119 s"),
        (300, "5 min"),
        (11_520, "3.2 h"),
        (777_600, "9.0 d"),
    ],
)
def test_spans_are_given_in_the_unit_that_people_use(seconds: float, text: str) -> None:
    assert span_text(seconds) == text


def test_a_clock_that_runs_behind_is_not_hidden() -> None:
    assert age_text(12) == "12 s ago"
    assert age_text(-300) == "5 min in the future"


def test_moments_are_in_utc_and_say_so() -> None:
    paris = timezone(timedelta(hours=1))
    assert moment_text(datetime(2026, 11, 20, 11, 15, 30, tzinfo=paris)) == "2026-11-20 10:15:30Z"
    assert moment_text(datetime(2026, 11, 20, tzinfo=UTC)) == "2026-11-20 00:00:00Z"


def test_one_is_not_many() -> None:
    assert counted(1, "backup") == "1 backup"
    assert counted(0, "backup") == "0 backups"
