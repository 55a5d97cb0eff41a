"""The name of a base backup."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

_TEXT: Final = re.compile(r"(\d{8}T\d{6}Z)-(full)-([0-9a-f]{6})")
_STAMP_IN_YEAR: Final = "%m%dT%H%M%SZ"
_STAMP: Final = f"%Y{_STAMP_IN_YEAR}"
_CHANCE_BYTES: Final = 3


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
        try:
            started_at = datetime.strptime(match[1], _STAMP).replace(tzinfo=UTC)
        except ValueError as error:
            raise ValueError(f"not a backup id: {text!r}") from error
        return cls(started_at, match[2], match[3])

    @classmethod
    def create(cls, started_at: datetime, random_bytes: bytes) -> BackupId:
        """A new id of a full backup; ``random_bytes`` are three bytes of chance.

        Raises ValueError for another number of bytes, or for a time without a zone.
        """
        if len(random_bytes) != _CHANCE_BYTES or started_at.tzinfo is None:
            raise ValueError("a backup id is made of a time with a zone and three bytes")
        return cls(started_at.astimezone(UTC).replace(microsecond=0), "full", random_bytes.hex())

    def __str__(self) -> str:
        # strftime does not pad the year on every platform.
        stamp = f"{self.started_at.year:04d}{self.started_at.strftime(_STAMP_IN_YEAR)}"
        return f"{stamp}-{self.kind}-{self.chance}"
