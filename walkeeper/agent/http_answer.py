"""Questions and answers of the HTTP port, without the library that carries them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

import msgspec

TEXT: Final = "text/plain; charset=utf-8"
JSON: Final = "application/json"
HTML: Final = "text/html; charset=utf-8"

_CLOSED: Final = (
    "default-src 'none'",
    "base-uri 'none'",
    "form-action 'none'",
    "frame-ancestors 'none'",
)


@dataclass(frozen=True, slots=True)
class Question:
    """What a GET or HEAD asks for; of a parameter that comes several times the first counts."""

    path: str
    query: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Answer:
    """What is sent back. ``policy`` are directives of Content-Security-Policy that open what the
    page itself needs, such as "style-src 'sha256-...'": without them nothing at all is loaded."""

    body: bytes
    content_type: str = TEXT
    status: int = 200
    policy: tuple[str, ...] = ()
    headers: Mapping[str, str] = field(default_factory=dict)

    def all_headers(self) -> dict[str, str]:
        """The headers to send, those of every answer included."""
        return {
            "Content-Type": self.content_type,
            "Content-Security-Policy": "; ".join((*self._closed(), *self.policy)),
            "X-Content-Type-Options": "nosniff",
            "X-Frame-Options": "DENY",
            "Referrer-Policy": "no-referrer",
            "Cross-Origin-Resource-Policy": "same-origin",
            "Cache-Control": "no-store",
            "Server": "walkeeper",
            **self.headers,
        }

    def _closed(self) -> list[str]:
        """What stays closed: the first of several directives of one name would count."""
        opened = {directive.partition(" ")[0] for directive in self.policy}
        return [one for one in _CLOSED if one.partition(" ")[0] not in opened]


Handler = Callable[[Question], Awaitable[Answer]]
"""Answers what is asked under a path; it must not wait for the store or the server."""


def text_answer(text: str, status: int = 200, **headers: str) -> Answer:
    """A line of plain text; in the names of headers ``_`` stands for ``-``."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Answer(f"{text}\n".encode(), status=status, headers=named)


def json_answer(value: object, status: int = 200) -> Answer:
    """A JSON document."""
    return Answer(msgspec.json.encode(value), JSON, status)
