"""What PostgreSQL hands over when a base backup stops: the backup label and the tablespace map.

Both are stored byte for byte; they are parsed here only to be understood, and a tablespace map is
written again only when a restore moves a tablespace.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Final

from walkeeper.core.lsn import Lsn
from walkeeper.core.wal import WalSegment
from walkeeper.errors import UsageError

# src/backend/access/transam/xlogbackup.c: build_backup_content; read back by read_backup_label in
# xlogrecovery.c. Lines of later versions (INCREMENTAL FROM LSN of 17) are passed over.
_LABEL_LINE: Final = re.compile(r"([A-Z][A-Z ]*): (.*)")
_START: Final = re.compile(r"([0-9A-F]{1,8}/[0-9A-F]{1,8}) \(file ([0-9A-F]{24})\)")

# src/backend/access/transam/xlog.c: do_pg_backup_start puts a backslash before each of these;
# xlogrecovery.c: read_tablespace_map takes any character after a backslash as itself.
_ESCAPED: Final = re.compile(r"[\n\r\\]")
_UNESCAPE: Final = re.compile(r"\\(.)", re.DOTALL)
_MAP_LINE: Final = re.compile(r"((?:[^\\\n\r]|\\[\s\S])*)[\n\r]")
_MAP_ENTRY: Final = re.compile(r"([1-9][0-9]{0,9}) (/[\s\S]*)")


@dataclass(frozen=True, slots=True)
class BackupLabel:
    """The facts in a ``backup_label``; ``start_time`` is in the server's own zone, for display."""

    start: Lsn
    start_segment: WalSegment
    checkpoint: Lsn
    method: str
    source: str
    start_time: str
    label: str
    timeline: int

    @classmethod
    def parse(cls, text: str) -> BackupLabel:
        """Read a label; raises ValueError when a line that recovery relies on is not there."""
        facts: dict[str, str] = {}
        for line in text.split("\n"):
            if match := _LABEL_LINE.fullmatch(line):
                facts.setdefault(match[1], match[2])
        try:
            start = _START.fullmatch(facts["START WAL LOCATION"])
            if start is None:
                raise ValueError(f"not a start location: {facts['START WAL LOCATION']!r}")
            label = cls(
                start=Lsn.parse(start[1]),
                start_segment=WalSegment.parse(start[2]),
                checkpoint=Lsn.parse(facts["CHECKPOINT LOCATION"]),
                method=facts["BACKUP METHOD"],
                source=facts["BACKUP FROM"],
                start_time=facts["START TIME"],
                label=facts["LABEL"],
                timeline=int(facts["START TIMELINE"]),
            )
        except KeyError as error:
            raise ValueError(f"the backup label has no line {error.args[0]}") from None
        if label.timeline != label.start_segment.timeline:
            raise ValueError(
                f"the backup label names timeline {label.timeline} and segment "
                f"{label.start_segment}"
            )
        return label


@dataclass(frozen=True, slots=True, order=True)
class Tablespace:
    """A tablespace outside the data directory: its oid and the directory it lies in."""

    oid: int
    location: str


@dataclass(frozen=True, slots=True)
class TablespaceMap:
    """The ``tablespace_map`` of a backup: which directories recovery links to."""

    tablespaces: tuple[Tablespace, ...] = ()

    @classmethod
    def parse(cls, text: str) -> TablespaceMap:
        """Read a map; raises ValueError for a line that is not an oid and an absolute path."""
        found: list[Tablespace] = []
        position = 0
        while position < len(text):
            line = _MAP_LINE.match(text, position)
            if line is None:
                raise ValueError("the tablespace map ends inside a line")
            position = line.end()
            if not line[1]:  # a line that ends in \r\n is followed by an empty one
                continue
            entry = _MAP_ENTRY.fullmatch(line[1])
            if entry is None:
                raise ValueError(f"not a line of a tablespace map: {line[1]!r}")
            found.append(Tablespace(int(entry[1]), _UNESCAPE.sub(r"\1", entry[2])))
        return cls(tuple(found))

    def encode(self) -> str:
        """The file's text, as PostgreSQL writes it."""
        return "".join(
            f"{space.oid} {_ESCAPED.sub(lambda found: chr(92) + found[0], space.location)}\n"
            for space in self.tablespaces
        )

    def remap(self, moves: Mapping[str, str]) -> TablespaceMap:
        """The map with tablespaces moved, old location to new one.

        Raises UsageError for a location at which no tablespace lies, for a new one that is not
        absolute, and when two tablespaces would share a directory or lie inside each other.
        """
        known = {space.location for space in self.tablespaces}
        for old, new in moves.items():
            if old not in known:
                raise UsageError(
                    f"no tablespace of this backup lies at {old!r}",
                    hint="its tablespaces lie at: " + (", ".join(sorted(known)) or "(none)"),
                )
            if not new.startswith("/") or "\0" in new:
                raise UsageError(f"a tablespace needs an absolute path, not {new!r}")
        moved = tuple(
            replace(space, location=moves.get(space.location, space.location))
            for space in self.tablespaces
        )
        _refuse_overlap(moved)
        return TablespaceMap(moved)


def _refuse_overlap(tablespaces: tuple[Tablespace, ...]) -> None:
    # Sorted with a slash at the end, a directory stands right before what lies inside it.
    folders = sorted((space.location.rstrip("/") + "/", space) for space in tablespaces)
    for (outer, first), (inner, second) in pairwise(folders):
        if inner.startswith(outer):
            raise UsageError(
                f"tablespaces {first.oid} and {second.oid} would share the directory "
                f"{first.location!r}"
            )
