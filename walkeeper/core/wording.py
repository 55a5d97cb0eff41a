"""Sizes, spans and moments in words, the same on a terminal and on the status page."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

_UNITS: Final = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")


def size_text(size_bytes: int) -> str:
    """``31.2 MiB``."""
    size = float(size_bytes)
    for unit in _UNITS:
        if size < 1024 or unit == _UNITS[-1]:
            break
        size /= 1024
    return f"{size_bytes} B" if unit == "B" else f"{size:.1f} {unit}"


def span_text(seconds: float) -> str:
    """``0.4 s``, ``12 s``, ``5 min``, ``3.2 h``, ``9.0 d``: how long something takes or took."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    if seconds < 48 * 3600:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 86400:.1f} d"


def age_text(seconds: float) -> str:
    """``5 min ago``; a clock that runs behind makes it ``in the future``."""
    return f"{span_text(seconds)} ago" if seconds >= 0 else f"{span_text(-seconds)} in the future"


def moment_text(moment: datetime) -> str:
    """``2026-11-20 10:15:30Z``."""
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%SZ")


def counted(number: int, thing: str) -> str:
    """``1 backup``, ``2 backups``."""
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"
