"""Object names: the only module that builds or parses them.

A name is relative to the archive's folder and never depends on configuration. Whatever does not
parse here is not ours, and nothing that is not ours is ever deleted.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, NewType

from walkeeper.core.backup_id import BackupId
from walkeeper.core.wal import (
    BackupHistoryFile,
    SegmentSize,
    TimelineHistoryFile,
    WalSegment,
)

ObjectName = NewType("ObjectName", str)
"""The name of an object, relative to its archive: ``wal/00000001/00000000/....zst.age``."""

ARCHIVE_NAME: Final = re.compile(r"[a-z0-9-]{1,63}")
"""What a folder of an archive may be called; a system identifier is one too."""

ARCHIVE_RECORD: Final = ObjectName("archive.json")
CONTENT_DIGITS: Final = 16
"""Hex digits of the content code in the name of a cut-off segment."""

_SEALED: Final = ".zst.age"
_HEX8: Final = r"[0-9A-F]{8}"
_WAL_SEGMENT: Final = re.compile(
    rf"wal/({_HEX8})/({_HEX8})/({_HEX8}{_HEX8}{_HEX8})"
    rf"(?:\.(?P<offset>{_HEX8})\.backup|\.partial\.(?P<content>[0-9a-f]{{16}}))?\.zst\.age"
)
_WAL_HISTORY: Final = re.compile(rf"wal/({_HEX8})\.history\.zst\.age")
_TAIL: Final = re.compile(
    rf"tail/({_HEX8}{_HEX8}{_HEX8})/(?P<merged>merged-)?(?P<offset>{_HEX8})\.zst\.age"
)
_BACKUP_FILE: Final = re.compile(
    r"backups/(?P<id>[^/]+)/(?:(?P<fixed>start\.json|summary\.json|manifest\.json\.zst\.age)"
    r"|data/(?:(?P<oid>[1-9][0-9]*)/)?(?P<part>[0-9]{5})\.tar(?P<files>\.files\.jsonl)?\.zst\.age)"
)
_MAX_PART: Final = 99_999
_MAX_OID: Final = 0xFFFF_FFFF


@dataclass(frozen=True, slots=True)
class CutOffSegment:
    """A segment that ends before its end, stored beside the complete one it must never replace.

    ``content`` holds the first 16 hex digits of its content code: several may exist.
    """

    segment: WalSegment
    content: str


StoredWal = WalSegment | CutOffSegment | BackupHistoryFile | TimelineHistoryFile


@dataclass(frozen=True, slots=True, order=True)
class TailLink:
    """A range of bytes of a growing segment, from offset ``begin``; its end is in its header."""

    segment: WalSegment
    begin: int


@dataclass(frozen=True, slots=True, order=True)
class MergedTail:
    """Everything of a growing segment up to offset ``end``, in one object."""

    segment: WalSegment
    end: int


StoredTail = TailLink | MergedTail


@dataclass(frozen=True, slots=True)
class BackupPart:
    """One numbered piece of a backup, counted from 1; ``tablespace`` is an oid or None."""

    backup: BackupId
    tablespace: int | None
    number: int

    @property
    def data_name(self) -> ObjectName:
        """The tar file."""
        return ObjectName(f"{self._stem}.tar{_SEALED}")

    @property
    def files_name(self) -> ObjectName:
        """The list of the files in it."""
        return ObjectName(f"{self._stem}.tar.files.jsonl{_SEALED}")

    @property
    def _stem(self) -> str:
        if not 1 <= self.number <= _MAX_PART:
            raise ValueError(f"a backup has parts 1 to {_MAX_PART}, not {self.number}")
        folder = "" if self.tablespace is None else f"{self.tablespace}/"
        return f"{backup_data_prefix(self.backup)}{folder}{self.number:05d}"


def wal_object(wal: StoredWal) -> ObjectName:
    """Where a WAL file is stored."""
    match wal:
        case TimelineHistoryFile():
            return ObjectName(f"wal/{wal}{_SEALED}")
        case CutOffSegment(segment, content):
            return ObjectName(f"{wal_prefix(segment)}{segment}.partial.{content}{_SEALED}")
        case BackupHistoryFile(segment):
            return ObjectName(f"{wal_prefix(segment)}{wal}{_SEALED}")
        case _:
            return ObjectName(f"{wal_prefix(wal)}{wal}{_SEALED}")


def names_from(segment: WalSegment, size: SegmentSize) -> Iterator[str]:
    """Where a segment and those behind it in its folder are stored, in order."""
    stem = f"{wal_prefix(segment)}{segment.timeline:08X}{segment.log:08X}"
    return (f"{stem}{seg:08X}{_SEALED}" for seg in range(segment.seg, size.segments_per_log))


def cut_off_prefix(segment: WalSegment) -> str:
    """Where the names of a segment's cut-off objects begin."""
    return f"{wal_prefix(segment)}{segment}.partial."


def wal_prefix(segment: WalSegment) -> str:
    """The folder of a segment: its timeline and log."""
    return f"wal/{segment.timeline:08X}/{segment.log:08X}/"


def first_of_folder(prefix: str) -> WalSegment:
    """The first segment of a folder ``wal/<timeline>/<log>/``; raises ValueError for any other."""
    match = re.fullmatch(rf"wal/({_HEX8})/({_HEX8})/", prefix)
    if match is None:
        raise ValueError(f"not a folder of WAL segments: {prefix!r}")
    return WalSegment(int(match[1], 16), int(match[2], 16), 0)


def timeline_prefix(timeline: int) -> str:
    """The folder of a timeline's segments."""
    return f"wal/{timeline:08X}/"


def timeline_end(timeline: int) -> str:
    """Where a listing begins behind everything of this timeline and those before it.

    The history file sorts before the folder and the folder before this: ``.``, ``/``, ``0``.
    """
    return f"wal/{timeline:08X}0"


def tail_prefix(segment: WalSegment) -> str:
    """The folder of a growing segment's tail."""
    return f"{TAIL_PREFIX}{segment}/"


def merged_tail_prefix(segment: WalSegment) -> str:
    """Where the names of a segment's merged tails begin; they sort behind those of its links."""
    return f"{tail_prefix(segment)}merged-"


def tail_object(tail: StoredTail) -> ObjectName:
    """Where a piece of a tail is stored."""
    if isinstance(tail, MergedTail):
        return ObjectName(f"{merged_tail_prefix(tail.segment)}{tail.end:08X}{_SEALED}")
    return ObjectName(f"{tail_prefix(tail.segment)}{tail.begin:08X}{_SEALED}")


def tail_links_after(segment: WalSegment, offset: int) -> str:
    """Where a listing of the links begins that start at ``offset`` or behind it."""
    return f"{tail_prefix(segment)}{offset:08X}"


def parse_tail_object(name: str) -> StoredTail | None:
    """What a stored piece of a tail is, or None when the name is not one of ours."""
    match = _TAIL.fullmatch(name)
    if match is None:
        return None
    try:
        segment = WalSegment.parse(match[1])
    except ValueError:
        return None
    offset = int(match["offset"], 16)
    return MergedTail(segment, offset) if match["merged"] else TailLink(segment, offset)


def parse_tail_folder(name: str) -> WalSegment | None:
    """The segment of a folder ``tail/<segment>/``, or None."""
    if not name.startswith(TAIL_PREFIX) or not name.endswith("/"):
        return None
    try:
        return WalSegment.parse(name.removeprefix(TAIL_PREFIX).removesuffix("/"))
    except ValueError:
        return None


WAL_PREFIX: Final = "wal/"
TAIL_PREFIX: Final = "tail/"
BACKUPS_PREFIX: Final = "backups/"
FORMAT_PREFIX: Final = "format/"
FOLDERS: Final = frozenset(
    {
        *(WAL_PREFIX, TAIL_PREFIX, BACKUPS_PREFIX, FORMAT_PREFIX),
        *("drills/", "pins/", "leases/", "expiring/", "keys/"),
    }
)
"""Every folder that format 1 knows directly in an archive; all else is somebody else's."""


KINDS: Final = ("wal", "history", "tail", "backup_part", "backup_list", "other")
"""What `object_kind` says."""


def object_kind(name: str) -> str:
    """One of `KINDS`; a backup's list is any object of it that is no part."""
    match name.partition("/")[0]:
        case "wal":
            return "history" if _WAL_HISTORY.fullmatch(name) else "wal"
        case "tail":
            return "tail"
        case "backups":
            return "backup_part" if name.endswith(f".tar{_SEALED}") else "backup_list"
        case _:
            return "other"


def parse_wal_object(name: str) -> StoredWal | None:
    """What a stored WAL object is, or None when the name is not one of ours."""
    if match := _WAL_HISTORY.fullmatch(name):
        timeline = int(match[1], 16)
        return TimelineHistoryFile(timeline) if timeline else None
    match = _WAL_SEGMENT.fullmatch(name)
    if match is None or not match[3].startswith(match[1] + match[2]):
        return None
    try:
        segment = WalSegment.parse(match[3])
    except ValueError:
        return None
    if match["offset"] is not None:
        return BackupHistoryFile(segment, int(match["offset"], 16))
    if match["content"] is not None:
        return CutOffSegment(segment, match["content"])
    return segment


def parse_timeline_folder(name: str) -> int | None:
    """The timeline of a folder ``wal/<8 hex>/``, or None."""
    match = re.fullmatch(rf"wal/({_HEX8})/", name)
    return int(match[1], 16) or None if match else None


def backup_prefix(backup: BackupId) -> str:
    """The folder of a backup."""
    return f"{BACKUPS_PREFIX}{backup}/"


def backup_data_prefix(backup: BackupId) -> str:
    """The folder of a backup's parts."""
    return f"{BACKUPS_PREFIX}{backup}/data/"


def backup_start(backup: BackupId) -> ObjectName:
    """The claim on a backup's id."""
    return ObjectName(f"{backup_prefix(backup)}start.json")


def backup_summary(backup: BackupId) -> ObjectName:
    """What a listing of backups needs."""
    return ObjectName(f"{backup_prefix(backup)}summary.json")


def backup_manifest(backup: BackupId) -> ObjectName:
    """The commit point of a backup."""
    return ObjectName(f"{backup_prefix(backup)}manifest.json{_SEALED}")


def parse_backup_folder(name: str) -> BackupId | None:
    """The backup of a folder ``backups/<id>/``, or None."""
    if not name.startswith(BACKUPS_PREFIX) or not name.endswith("/"):
        return None
    try:
        return BackupId.parse(name.removeprefix(BACKUPS_PREFIX).removesuffix("/"))
    except ValueError:
        return None


def parse_backup_part(name: str) -> tuple[BackupPart, bool] | None:
    """The part of a stored name and whether it is the list of its files, or None."""
    match = _BACKUP_FILE.fullmatch(name)
    if match is None or match["part"] is None or int(match["part"]) == 0:
        return None
    backup = parse_backup_folder(f"{BACKUPS_PREFIX}{match['id']}/")
    if backup is None:
        return None
    oid = None if match["oid"] is None else int(match["oid"])
    if oid is not None and oid > _MAX_OID:
        return None
    return BackupPart(backup, oid, int(match["part"])), match["files"] is not None


def format_marker(version: int) -> ObjectName:
    """Created when something of a format above 1 is first written."""
    return ObjectName(f"{FORMAT_PREFIX}{version}.json")


def parse_format_marker(name: str) -> int | None:
    """The format version of a marker, or None."""
    match = re.fullmatch(r"format/([1-9][0-9]*)\.json", name)
    return int(match[1]) if match else None
