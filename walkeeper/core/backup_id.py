"""The name of a base backup."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

_TEXT: Final = re.compile(r"(\d{8}T\d{6}Z)-(full)-([0-9a-f]{6})")
_STAMP: Final = "%Y%m%dT%H%M%SZ"


@dataclass(frozen=True, slots=True, order=True)
class BackupId:
    """Start time (UTC, whole seconds), kind and chance: ``20261120T101500Z-full-3fa9c1``.

    The order is that of the clock that named them, good for display only: "newest" is decided by
    stop LSN.
    """

    started_at: datetime
    kind: str
    chance: str

    @classmethod
    def parse(cls, text: str) -> BackupId:
        """Read an id; raises ValueError for anything that is not exactly one."""
        match = _TEXT.fullmatch(text)
        if match is None or not text.isascii():
            raise ValueError(f"not a backup id: {text!r}")
        started_at = datetime.strptime(match[1], _STAMP).replace(tzinfo=UTC)
        return cls(started_at, match[2], match[3])

    @classmethod
    def create(cls, started_at: datetime, random_bytes: bytes) -> BackupId:
        """A new id of a full backup; ``random_bytes`` are three bytes of chance."""
        return cls(started_at.astimezone(UTC).replace(microsecond=0), "full", random_bytes.hex())

    def __str__(self) -> str:
        return f"{self.started_at.strftime(_STAMP)}-{self.kind}-{self.chance}"
