"""HTML and SVG from values: what is not made here is text, and is escaped."""

from __future__ import annotations

import html
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Final

from walkeeper.core.wording import moment_text

_VOID: Final = {"br", "col", "input", "link", "meta"}


class Markup(str):
    """Markup that is trusted, because `tag` made it or it is a file of this package."""

    __slots__ = ()


Content = str | int | None | Iterable["Content"]


def tag(name: str, /, *content: Content, **attributes: str | float | bool | None) -> Markup:
    """An element. ``class_`` is class, ``data_x`` is data-x; None and False leave it out."""
    words = [name]
    for key, value in attributes.items():
        if value is None or value is False:
            continue
        written = key.rstrip("_").replace("_", "-")
        words.append(written if value is True else f'{written}="{_escaped(str(value))}"')
    opening = f"<{' '.join(words)}>"
    return Markup(opening if name in _VOID else f"{opening}{join(*content)}</{name}>")


def join(*content: Content) -> Markup:
    """Everything one after the other."""
    return Markup("".join(_text(one) for one in content))


def moment(at: datetime | None, otherwise: str = "never") -> Markup:
    """A moment that scripts can read."""
    if at is None:
        return join(otherwise)
    return tag("time", moment_text(at), datetime=at.astimezone(UTC).isoformat())


def percent(part: float) -> str:
    """A coordinate, of 0 to 1."""
    return f"{part * 100:.3f}%"


def _text(content: Content) -> str:
    match content:
        case None:
            return ""
        case Markup():
            return content
        case str():
            return _escaped(content)
        case int():
            return str(content)
        case _:
            return "".join(_text(one) for one in content)


def _escaped(text: str) -> str:
    shown = "".join(char if char.isprintable() or char == "\n" else " " for char in text)
    return html.escape(shown)
