"""Names of WAL files and their arithmetic.

The only module that takes WAL file names apart. Segment size is chosen at initdb, so every
conversion between a name and a position takes it as a parameter.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from walkeeper.core.lsn import Lsn

# src/include/access/xlog_internal.h: WalSegMinSize, WalSegMaxSize, IsValidWalSegSize.
MIN_SEGMENT_SIZE: Final = 1 << 20
MAX_SEGMENT_SIZE: Final = 1 << 30
MAX_SEGMENTS_PER_LOG: Final = 0x1_0000_0000 // MIN_SEGMENT_SIZE
_UINT32: Final = 0xFFFF_FFFF

# src/include/access/xlog_internal.h: IsXLogFileName, IsPartialXLogFileName,
# IsTLHistoryFileName, IsBackupHistoryFileName. PostgreSQL writes upper case only.
_SEGMENT: Final = re.compile(r"([0-9A-F]{8})([0-9A-F]{8})([0-9A-F]{8})")
_BACKUP: Final = re.compile(r"([0-9A-F]{24})\.([0-9A-F]{8})\.backup")
_HISTORY: Final = re.compile(r"([0-9A-F]{8})\.history")


@dataclass(frozen=True, slots=True, order=True)
class SegmentSize:
    """Bytes in one WAL segment: a power of two between 1 MiB and 1 GiB."""

    bytes: int

    def __post_init__(self) -> None:
        size = self.bytes
        if not MIN_SEGMENT_SIZE <= size <= MAX_SEGMENT_SIZE or size & (size - 1):
            raise ValueError(f"not a WAL segment size: {size} bytes")

    @property
    def segments_per_log(self) -> int:
        """How many segments share one value of the middle eight digits of a name."""
        return 0x1_0000_0000 // self.bytes


@dataclass(frozen=True, slots=True, order=True)
class WalSegment:
    """One WAL segment as its name says it; ordered by timeline, then position."""

    timeline: int
    log: int
    seg: int

    def __post_init__(self) -> None:
        if not (0 < self.timeline <= _UINT32 and 0 <= self.log <= _UINT32):
            raise ValueError(f"no WAL segment: timeline {self.timeline}, log {self.log}")
        if not 0 <= self.seg < MAX_SEGMENTS_PER_LOG:
            raise ValueError(f"no WAL segment: number {self.seg} of a log")

    @classmethod
    def parse(cls, name: str) -> WalSegment:
        """Read a 24-digit name; raises ValueError for anything else, timeline 0 included."""
        match = _SEGMENT.fullmatch(name)
        if match is None:
            raise ValueError(f"not the name of a WAL segment: {name!r}")
        return cls(int(match[1], 16), int(match[2], 16), int(match[3], 16))

    @classmethod
    def at(cls, timeline: int, lsn: Lsn, size: SegmentSize) -> WalSegment:
        """The segment that holds the byte at ``lsn``."""
        return cls.numbered(timeline, lsn.value // size.bytes, size)

    @classmethod
    def before(cls, timeline: int, lsn: Lsn, size: SegmentSize) -> WalSegment:
        """The segment that holds the byte just before ``lsn``: the last one that ends there."""
        return cls.numbered(timeline, max(lsn.value - 1, 0) // size.bytes, size)

    @classmethod
    def numbered(cls, timeline: int, number: int, size: SegmentSize) -> WalSegment:
        """The segment with this number, counted from LSN 0."""
        return cls(timeline, number // size.segments_per_log, number % size.segments_per_log)

    def __str__(self) -> str:
        return f"{self.timeline:08X}{self.log:08X}{self.seg:08X}"

    def fits(self, size: SegmentSize) -> bool:
        """Whether such a name can exist with this segment size."""
        return self.seg < size.segments_per_log

    def number(self, size: SegmentSize) -> int:
        """The segment's number, counted from LSN 0; raises ValueError when it does not fit."""
        if not self.fits(size):
            raise ValueError(f"{self} is no segment of {size.bytes} bytes")
        return self.log * size.segments_per_log + self.seg

    def begin(self, size: SegmentSize) -> Lsn:
        """Position of its first byte."""
        return Lsn(self.number(size) * size.bytes)

    def end(self, size: SegmentSize) -> Lsn:
        """Position just after its last byte; ValueError for the very last segment of all."""
        return Lsn((self.number(size) + 1) * size.bytes)

    def next(self, size: SegmentSize) -> WalSegment:
        """The segment after it on the same timeline; ValueError after the very last."""
        return WalSegment.numbered(self.timeline, self.number(size) + 1, size)

    def previous(self, size: SegmentSize) -> WalSegment:
        """The segment before it on the same timeline; ValueError before the very first."""
        return WalSegment.numbered(self.timeline, self.number(size) - 1, size)

    def on(self, timeline: int) -> WalSegment:
        """The segment at the same position on another timeline."""
        return WalSegment(timeline, self.log, self.seg)


@dataclass(frozen=True, slots=True)
class PartialSegment:
    """``<segment>.partial``: what a promotion keeps of the old timeline's last segment."""

    segment: WalSegment

    def __str__(self) -> str:
        return f"{self.segment}.partial"


@dataclass(frozen=True, slots=True)
class BackupHistoryFile:
    """``<segment>.<offset>.backup``: written where a base backup ends."""

    segment: WalSegment
    offset: int

    def __str__(self) -> str:
        return f"{self.segment}.{self.offset:08X}.backup"


@dataclass(frozen=True, slots=True)
class TimelineHistoryFile:
    """``<timeline>.history``: the ancestry of a timeline."""

    timeline: int

    def __str__(self) -> str:
        return f"{self.timeline:08X}.history"


WalFile = WalSegment | PartialSegment | BackupHistoryFile | TimelineHistoryFile


def parse_wal_file(name: str) -> WalFile:
    """Read the name of any file that PostgreSQL hands to ``archive_command``.

    Raises ValueError for every other name.
    """
    match = _HISTORY.fullmatch(name)
    if match and int(match[1], 16) > 0:
        return TimelineHistoryFile(int(match[1], 16))
    if match := _BACKUP.fullmatch(name):
        return BackupHistoryFile(WalSegment.parse(match[1]), int(match[2], 16))
    if name.endswith(".partial"):
        return PartialSegment(WalSegment.parse(name.removesuffix(".partial")))
    return WalSegment.parse(name)
