"""An alert in words, and in fields: the same in every mail, webhook and command."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime

from walkeeper.core.alerts import Notice
from walkeeper.core.wording import span_text
from walkeeper.log import redact_text

VERSION = 1
"""Of the document of `document_of`."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Whom an alert is about: the archive by its name, the repository, and this host."""

    archive: str
    repository: str
    host: str


def fields_of(notice: Notice, origin: Origin) -> dict[str, str]:
    """The values of ``TEMPLATE_FIELDS``, free of secrets; times are RFC 3339 in UTC.

    What the alert has not, as a hint, is an empty text.
    """
    alert = notice.alert
    values = {
        "event": notice.event,
        "severity": alert.severity.value,
        "key": alert.key,
        "summary": alert.summary,
        "hint": alert.hint or "",
        "text": text_of(notice, origin),
        "since": _moment(alert.since),
        "at": _moment(notice.at),
        "lasted": span_text(notice.lasted.total_seconds()),
        "archive": origin.archive,
        "repository": origin.repository,
        "host": origin.host,
    }
    return {name: _clean(value) for name, value in values.items()}


def document_of(notice: Notice, origin: Origin) -> bytes:
    """The fields as one JSON object, with ``version`` and ``lasted_s`` beside them."""
    fields: dict[str, str | int] = {"version": VERSION, **fields_of(notice, origin)}
    fields["lasted_s"] = round(notice.lasted.total_seconds())
    return json.dumps(fields).encode()


def text_of(notice: Notice, origin: Origin) -> str:
    """A text for a person: how bad, where, what, and what to do next; free of secrets."""
    alert = notice.alert
    lasted = span_text(notice.lasted.total_seconds())
    opening = {
        "raised": alert.severity.upper(),
        "repeated": f"STILL {alert.severity.upper()} after {lasted}",
        "recovered": f"RECOVERED after {lasted}",
    }[notice.event]
    text = f"{opening}: walkeeper {origin.archive} on {origin.host}: {_sentence(alert.summary)}"
    if alert.hint and notice.event != "recovered":
        text += f" Next: {alert.hint}"
    return _clean(text)


def _sentence(text: str) -> str:
    return text if text.endswith((".", "!", "?")) else f"{text}."


def _moment(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def _clean(text: str) -> str:
    """Without secrets, and fit for JSON, a mail and an environment alike."""
    plain = redact_text(text).encode("utf-8", "replace").decode("utf-8")
    return plain.replace("\0", "?")
