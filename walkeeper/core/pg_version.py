"""The PostgreSQL major versions that walkeeper knows, and where their WAL differs."""

from __future__ import annotations

from typing import Final

# XLOG_PAGE_MAGIC in src/include/access/xlog_internal.h of each release branch.
_WAL_MAGIC: Final = {13: 0xD106, 14: 0xD10D, 15: 0xD110, 16: 0xD113, 17: 0xD116, 18: 0xD118}
_MAJOR: Final = {magic: major for major, magic in _WAL_MAGIC.items()}

SUPPORTED_MAJORS: Final = tuple(_WAL_MAGIC)
"""Major versions whose WAL is understood, oldest first."""


def wal_magic(major: int) -> int:
    """The number at the start of every WAL page of a version; ValueError for an unknown one."""
    try:
        return _WAL_MAGIC[major]
    except KeyError:
        raise ValueError(f"PostgreSQL {major} is not among {_supported()}") from None


def find_major(magic: int) -> int | None:
    """The major version that writes WAL pages with this magic number, or None."""
    return _MAJOR.get(magic)


def dropped_stats_size(major: int) -> int:
    """Bytes of one xl_xact_stats_item (src/include/access/xact.h): its objid grew in 18."""
    return 16 if major >= 18 else 12


def _supported() -> str:
    return f"{SUPPORTED_MAJORS[0]} to {SUPPORTED_MAJORS[-1]}"
