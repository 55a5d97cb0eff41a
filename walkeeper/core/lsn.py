"""Log sequence numbers: positions in the write-ahead log."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

# PostgreSQL prints and accepts %X/%08X and %X/%X (src/backend/utils/adt/pg_lsn.c, pg_lsn_in).
_TEXT: Final = re.compile(r"([0-9A-Fa-f]{1,8})/([0-9A-Fa-f]{1,8})")
_MAX: Final = 0xFFFF_FFFF_FFFF_FFFF


@dataclass(frozen=True, slots=True, order=True)
class Lsn:
    """A byte position in the WAL, 0 to 2^64 - 1, ordered; ``str()`` prints PostgreSQL's form."""

    value: int

    def __post_init__(self) -> None:
        if not 0 <= self.value <= _MAX:
            raise ValueError(f"an LSN lies between 0/0 and FFFFFFFF/FFFFFFFF, not {self.value}")

    @classmethod
    def parse(cls, text: str) -> Lsn:
        """Read ``X/X``; raises ValueError for anything else."""
        match = _TEXT.fullmatch(text)
        if match is None:
            raise ValueError(f"not an LSN: {text!r}")
        return cls(int(match[1], 16) << 32 | int(match[2], 16))

    def __str__(self) -> str:
        return f"{self.value >> 32:X}/{self.value & 0xFFFF_FFFF:X}"

    def __add__(self, size_bytes: int) -> Lsn:
        return Lsn(self.value + size_bytes)

    def __sub__(self, other: Lsn) -> int:
        """The distance in bytes; negative when ``other`` lies ahead."""
        return self.value - other.value
