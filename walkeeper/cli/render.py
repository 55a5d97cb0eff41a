"""What commands print: text that reads well at 80 columns, colours on a terminal only.

Everything goes to stdout; with ``--json`` that is one document and nothing else. Texts are never
taken for markup, for messages are full of brackets, and control characters in them, which may
come out of a repository, never reach the terminal.
"""

from __future__ import annotations

import sys
import textwrap
from typing import Final

import click
import msgspec
from rich.console import Console
from rich.text import Text

from walkeeper.core.wording import age_text, counted, moment_text, size_text, span_text

__all__ = [
    "Page",
    "age_text",
    "counted",
    "moment_text",
    "print_json",
    "size_text",
    "span_text",
]

_LABEL_WIDTH: Final = 13
_MAX_WIDTH: Final = 100
_STYLES: Final = {
    "ok": "green",
    "warning": "yellow",
    "skipped": "dim",
    "change": "yellow",
    "restart": "yellow",
    "foreign": "red",
    "failed": "bold red",
    "problem": "bold red",
}


class Page:
    """Prints a report line by line; ``console`` is for tests."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(file=sys.stdout, highlight=False, markup=False)
        self._width = min(self._console.width, _MAX_WIDTH)

    def heading(self, text: str, *, style: str = "bold") -> None:
        """Begin a section, after an empty line."""
        self._console.print()
        self.line(text, style=style)

    def fact(self, label: str, text: str, *, style: str = "") -> None:
        """One fact with its label; long texts continue below themselves."""
        self._print(f"{label:<{_LABEL_WIDTH}}", "cyan", text, style)

    def more(self, text: str) -> None:
        """Continue the fact above."""
        self.fact("", text)

    def item(self, mark: str, text: str, *, hint: str | None = None) -> None:
        """One line of a list; the mark ("ok", "failed", ...) decides the colour."""
        self._print(f"  {mark:<8} ", _STYLES.get(mark, ""), text)
        if hint:
            self._print(" " * 11, "", f"hint: {hint}", "dim")

    def setting(self, mark: str, text: str) -> None:
        """As `item`, on one line however long: to be copied."""
        self._put(f"  {mark:<8} ", _STYLES.get(mark, ""), text)

    def line(self, text: str, *, style: str = "") -> None:
        """One line that is never broken, to be copied."""
        self._put("", "", text, style)

    def _print(self, lead: str, lead_style: str, text: str, style: str = "") -> None:
        room = max(self._width - len(lead), 20)
        lines = textwrap.wrap(
            _printable(text), room, break_long_words=False, break_on_hyphens=False
        )
        for line in lines or [""]:
            self._put(lead, lead_style, line, style)
            lead = " " * len(lead)

    def _put(self, lead: str, lead_style: str, text: str, style: str = "") -> None:
        parts = (lead, lead_style), (_printable(text), style)
        self._console.print(Text.assemble(*parts), soft_wrap=True)


def _printable(text: str) -> str:
    return "".join(char if char.isprintable() else " " for char in text)


def print_json(document: msgspec.Struct) -> None:
    """The one document of a command that was given ``--json``."""
    click.echo(msgspec.json.format(msgspec.json.encode(document), indent=2))
