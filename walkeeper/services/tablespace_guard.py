"""Keeps the recovery of a restored copy out of tablespaces that another cluster uses.

Replaying the creation of a tablespace, PostgreSQL writes into the directory that the record names,
whoever uses it (src/backend/commands/tablespace.c, create_tablespace_directories): on the host of
the source that is the live one. So a segment with such a record is looked into before it is handed
out. A directory of the copy's own is known by the link that its pg_tblspc has to it, which is there
when the same WAL is replayed once more.
"""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from walkeeper.core.wal import SegmentSize, WalSegment
from walkeeper.core.wal_tablespace import (
    LONGEST_BYTES,
    find_created_tablespaces,
    find_places,
)
from walkeeper.core.walpage import PAGE_SIZE, WalBytes
from walkeeper.errors import RecoveryError

_NAME_LENGTH: Final = 24
_TIMELINE_LENGTH: Final = 8
_VERSION_DIRECTORY: Final = "PG_"
"""TABLESPACE_VERSION_DIRECTORY begins so, src/include/common/relpath.h."""


@dataclass(frozen=True, slots=True)
class TablespaceLook:
    """What one segment's content tells: ``created`` are the directories that records in it name.

    ``first_page`` is what a record that begins in the segment before goes on in.
    """

    created: frozenset[str]
    first_page: bytes


class TablespaceSearch:
    """Looks through a segment while it comes, block by block, and is still in the cache."""

    def __init__(self) -> None:
        self._places = array("I")  # offsets; a segment has at most 1 GiB
        self._size_bytes = 0

    def feed(self, block: bytes) -> None:
        """Look through what follows the block before."""
        self._places.extend(find_places(block, self._size_bytes))
        self._size_bytes += len(block)

    def finish(self, content: WalBytes) -> TablespaceLook:
        """What all of the segment tells, which ``content`` holds once more."""
        return _look(content, find_created_tablespaces(content, places=self._places))


def look_for_tablespaces(content: WalBytes) -> TablespaceLook:
    """Look through a whole segment: some 5 ms a core for 16 MiB."""
    return _look(content, find_created_tablespaces(content))


def _look(content: WalBytes, created: Iterable[str]) -> TablespaceLook:
    return TablespaceLook(frozenset(created), bytes(content[:PAGE_SIZE]))


def check_tablespaces(
    look: TablespaceLook, segment: WalSegment, size: SegmentSize, data_dir: Path
) -> None:
    """Raise RecoveryError when a segment's replay would write where another cluster has files.

    ``data_dir`` is the copy that asks for it, looked at now. Blocks.
    """
    created = set(look.created)
    for end in _ends_before(data_dir / "pg_wal", segment, size):
        created.update(find_created_tablespaces(look.first_page, end))
    for location in sorted(created):
        if _is_used(Path(location)) and not _is_own(Path(location), data_dir):
            raise RecoveryError(
                f"{segment} creates a tablespace at {location}, where another cluster has files: "
                "replaying it would write into them",
                hint="restore on a host where nothing lies there; if no server uses it any more, "
                "move its content away and start the recovery again",
            )


def _ends_before(pg_wal: Path, segment: WalSegment, size: SegmentSize) -> list[bytes]:
    """How the segment before this one ends, in which a record of this one may begin.

    Whatever its timeline: it was restored just before, and lies in ``pg_wal``.
    """
    if segment.number(size) == 0:
        return []
    position = str(segment.previous(size))[_TIMELINE_LENGTH:]
    ends = []
    try:
        with os.scandir(pg_wal) as entries:
            names = [entry.name for entry in entries if entry.name.endswith(position)]
        for name in names:
            if len(name) == _NAME_LENGTH:
                with (pg_wal / name).open("rb") as file:
                    file.seek(-LONGEST_BYTES, os.SEEK_END)
                    ends.append(file.read())
    except OSError as error:
        raise RecoveryError(f"cannot look into {pg_wal}: {error.strerror}") from error
    return ends


def _is_used(location: Path) -> bool:
    try:
        return any(path.name.startswith(_VERSION_DIRECTORY) for path in location.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return False  # PostgreSQL makes none there, and says so
    except OSError as error:
        raise RecoveryError(
            f"a tablespace is to be created at {location}, which cannot be looked into: "
            f"{error.strerror}"
        ) from error


def _is_own(location: Path, data_dir: Path) -> bool:
    links = data_dir / "pg_tblspc"
    try:
        return any(link.is_dir() and link.samefile(location) for link in links.iterdir())
    except FileNotFoundError:
        return False
    except OSError as error:
        raise RecoveryError(f"cannot look into {links}: {error.strerror}") from error
