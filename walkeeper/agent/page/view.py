"""What a request wants to see: which part of the axis, which moment, and a copy of it where."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import PurePosixPath
from typing import Final
from urllib.parse import urlencode

from walkeeper.core.target import parse_time, parse_timeline
from walkeeper.errors import UsageError

SPANS: Final = {
    "15m": (timedelta(minutes=15), "15 min"),
    "1h": (timedelta(hours=1), "1 hour"),
    "6h": (timedelta(hours=6), "6 hours"),
    "1d": (timedelta(days=1), "1 day"),
    "7d": (timedelta(days=7), "7 days"),
    "30d": (timedelta(days=30), "30 days"),
    "all": (None, "all"),
}
_MAX_PATH: Final = 500
_EARLIEST: Final = datetime(1990, 1, 1, tzinfo=UTC)
_LATEST: Final = datetime(2200, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class View:
    """``end_at``: where the shown part of the axis ends; None: around the moment, or now."""

    span: str = "all"
    end_at: datetime | None = None
    at: datetime | None = None
    timeline: int | None = None
    target_dir: PurePosixPath | None = None

    def link(self, **changes: object) -> str:
        """The address of this view with something else in it."""
        changed = replace(self, **changes)  # type: ignore[arg-type]
        values = {
            "span": changed.span if changed.span != "all" else None,
            "end": changed.end_at and _written(changed.end_at),
            "time": changed.at and _written(changed.at),
            "timeline": changed.timeline,
            "dir": changed.target_dir,
        }
        query = urlencode({key: str(value) for key, value in values.items() if value})
        return f"/?{query}" if query else "/"


def parse_view(query: Mapping[str, str]) -> View:
    """Read a request's query, unknown keys apart; raises UsageError for what has no meaning."""
    span = query.get("span") or "all"
    if span not in SPANS:
        raise UsageError(f"span is one of {', '.join(SPANS)}")
    timeline = query.get("timeline")
    number = parse_timeline(timeline) if timeline else None
    if number is not None and not isinstance(number, int):
        raise UsageError("timeline is a number")
    return View(
        span=span,
        end_at=_parse_moment(query.get("end")),
        at=_parse_moment(query.get("time")),
        timeline=number,
        target_dir=_parse_dir(query.get("dir")),
    )


def _written(at: datetime) -> str:
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _parse_moment(text: str | None) -> datetime | None:
    if not text:
        return None
    at = parse_time(text).at
    if not _EARLIEST < at < _LATEST:
        raise UsageError("that time is out of range")
    return at


def _parse_dir(text: str | None) -> PurePosixPath | None:
    if not text:
        return None
    path = PurePosixPath(text)
    if not path.is_absolute() or len(text) > _MAX_PATH or not text.isprintable():
        raise UsageError("the directory is an absolute path")
    return path
