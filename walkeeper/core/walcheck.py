"""Whether a file offered under a segment's name is that segment, whole.

PostgreSQL also marks cut-off segments ready for archiving: at a timeline switch the last one that
a standby received, and a padded tail that was restored with ``archive_mode=always``. What follows
the cut is zeros, or whatever a recycled file held before. Such a file must never take the name of
the complete segment.

One kind of cut cannot be seen in the file alone: within a record that fills the rest of the last
page and goes on in the next segment, once enough of its header is there. PostgreSQL's own writers
do not cut there: what they have flushed, and so what they send, ends with a record or a page.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from walkeeper.core.lsn import Lsn
from walkeeper.core.pg_version import wal_magic
from walkeeper.core.wal import PartialSegment, SegmentSize, WalSegment
from walkeeper.core.walfacts import SWITCH, XLOG
from walkeeper.core.walpage import (
    CONTINUES_RECORD,
    PAGE_FLAGS,
    PAGE_HEADER,
    PAGE_SIZE,
    LongPageHeader,
    PageRules,
    WalBytes,
    page_header_size,
    parse_long_header,
)
from walkeeper.core.walrecord import RecordWalk, SegmentScan

_ZEROS: Final = bytes(1 << 16)
_WINDOW_LIMIT: Final = 4 << 20
_SWITCH_TAIL: Final = bytes((SWITCH, XLOG, 0, 0))  # xl_info, xl_rmid, padding; then the checksum


@dataclass(frozen=True, slots=True)
class Complete:
    """The segment from its first byte to its last, or to a segment switch."""


@dataclass(frozen=True, slots=True)
class CutOff:
    """A segment that ends before its end; whole records reach to ``valid_up_to``.

    That is the segment's begin when nothing in it can be told to be whole.
    """

    reason: str
    valid_up_to: Lsn


@dataclass(frozen=True, slots=True)
class Refused:
    """Not this segment of this cluster at all."""

    reason: str


Verdict = Complete | CutOff | Refused


class SegmentCheck:
    """Judges a segment while its blocks pass by on their way into the archive.

    Looks at page headers only, and at the records of the last pages: some 2 ms for 16 MiB. Holds
    at most a few pages, or 4 MiB when a record is as long as that. ``major`` is the PostgreSQL
    version expected, None for any that is known.
    """

    def __init__(
        self,
        wal: WalSegment | PartialSegment,
        size: SegmentSize,
        system_identifier: int,
        major: int | None = None,
    ) -> None:
        self._segment = wal.segment if isinstance(wal, PartialSegment) else wal
        self._is_partial = isinstance(wal, PartialSegment)
        self._size = size
        self._system_identifier = system_identifier
        self._expected_major = major
        self._begin = self._segment.begin(size)
        self._length = 0
        self._refusal: str | None = None
        self._major = 0
        self._rules = PageRules(0, self._segment.timeline)
        self._timeline = 0
        self._fault: str | None = None  # why the first page that is not of this segment is not
        self._zeros_follow = True  # whether nothing but zeros came since
        # The last pages: from the last page but one on which a record begins.
        self._window = bytearray()
        self._window_begin = self._begin.value
        self._anchors = (self._begin.value, self._begin.value)
        self._floor = self._begin  # everything before it was whole when the window was dropped

    def feed(self, block: WalBytes) -> None:
        """Take the next bytes of the file: whole pages, save for the last block."""
        if self._length % PAGE_SIZE:
            raise ValueError("only the last block may hold a part of a page")
        if self._length == 0:
            self._refusal = self._refuse_first_page(block)
        offset = 0
        if self._refusal is None:
            if self._fault is None:
                offset = self._follow_pages(block)
            if self._fault is not None and self._zeros_follow:
                self._zeros_follow = _is_zero(block, offset)
        self._length += len(block)

    def finish(self) -> Verdict:
        """The verdict, after the last block."""
        if self._length != self._size.bytes:
            return Refused(
                f"{self._segment} has {self._length} bytes, a segment {self._size.bytes}"
            )
        if self._refusal is not None:
            return Refused(self._refusal)
        scan = self._walk_window()
        valid_up_to = self._valid_up_to(scan)
        fault = self._find_cut(scan)
        if fault is not None:
            return CutOff(fault, valid_up_to)
        if self._is_partial:
            return CutOff("a .partial file never stands for the segment", valid_up_to)
        return Complete()

    def _refuse_first_page(self, block: WalBytes) -> str | None:
        try:
            header = parse_long_header(block)
        except ValueError as error:
            return f"{self._segment}: {error}"
        self._major = header.major
        self._rules = PageRules(header.magic, self._segment.timeline)
        fault = self._judge_first_page(header)
        return None if fault is None else f"{self._segment} {fault}"

    def _judge_first_page(self, header: LongPageHeader) -> str | None:
        expected = self._expected_major
        if expected is not None and header.magic != wal_magic(expected):
            return f"was written by PostgreSQL {header.major}, not {expected}"
        if header.system_identifier != self._system_identifier:
            return (
                f"comes from the cluster {header.system_identifier},"
                f" not from {self._system_identifier}"
            )
        if header.segment_size != self._size:
            return f"is a segment of {header.segment_size.bytes} bytes, not {self._size.bytes}"
        if not 0 < header.timeline <= self._segment.timeline:
            return f"holds WAL of timeline {header.timeline}"
        if header.address != self._begin:
            return f"begins at {header.address}, not at {self._begin}"
        return None

    def _follow_pages(self, block: WalBytes) -> int:
        """Check page headers up to the first that is wrong; returns how far they are right."""
        base = self._begin.value + self._length
        unpack, magic = PAGE_HEADER.unpack_from, self._rules.magic
        older, newer = self._anchors
        good = 0
        for offset in range(0, len(block) - PAGE_SIZE + 1, PAGE_SIZE):
            header = unpack(block, offset)
            page_magic, info, timeline, address, remaining = header
            usual = page_magic == magic and timeline == self._timeline and info <= PAGE_FLAGS
            if address != base + offset or not usual:
                self._fault = self._rules.fault(header, base + offset, self._timeline)
                if self._fault is not None:
                    break
                self._timeline = timeline
            if not info & CONTINUES_RECORD or (
                remaining + 7 & ~7 < PAGE_SIZE - page_header_size(info)
            ):
                older, newer = newer, address
            good = offset + PAGE_SIZE
        self._anchors = (older, newer)
        self._keep(block, base, good)
        return good

    def _keep(self, block: WalBytes, base: int, good: int) -> None:
        """Let go of all pages before the last page but one on which a record begins."""
        older, newer = self._anchors
        if older >= base:
            self._window[:] = block[older - base : good]
            self._window_begin = older
            return
        self._window += block[:good]
        if older > self._window_begin:
            del self._window[: older - self._window_begin]
            self._window_begin = older
        if len(self._window) > _WINDOW_LIMIT:
            self._floor = self._valid_up_to(self._walk_window())
            drop = max(newer - self._window_begin, 0)
            if len(self._window) - drop > _WINDOW_LIMIT:
                drop = len(self._window)
            del self._window[:drop]
            self._window_begin += drop
            self._anchors = (self._window_begin, self._window_begin)

    def _walk_window(self) -> SegmentScan:
        walk = RecordWalk(self._window, Lsn(self._window_begin), self._rules, self._major)
        return walk.run("pages are missing" if self._fault is not None else None)

    def _valid_up_to(self, scan: SegmentScan) -> Lsn:
        """Where whole records end; a walk that proved nothing ends where it began."""
        return scan.valid_end if scan.valid_end.value > self._window_begin else self._floor

    def _find_cut(self, scan: SegmentScan) -> str | None:
        """Why the segment is not whole, or None when it is."""
        if scan.switched:
            # Its checksum holds, so nothing behind it is ever read. A server killed while it filled
            # the rest with zeros leaves there what a recycled file held; recovery passes over it.
            return None
        if self._ends_a_switch():
            end = self._after_continuation()
            if self._zeros_follow and _is_zero(self._window, end - self._window_begin):
                return None
            return f"other bytes than zeros follow the segment switch before {Lsn(end)}"
        if self._fault is not None:
            return self._fault
        return scan.stopped

    def _after_continuation(self) -> int:
        info: int
        remaining: int
        _, info, _, _, remaining = PAGE_HEADER.unpack_from(self._window)
        return self._window_begin + page_header_size(info) + (remaining + 7 & ~7)

    def _ends_a_switch(self) -> bool:
        """Whether the segment begins with the end of a segment switch's record and nothing else.

        PostgreSQL then fills this segment, not the one in which the record begins. A switch has
        no data: its header of 24 bytes splits into 8 and 16 or 16 and 8.
        """
        if self._window_begin != self._begin.value or not self._window:
            return False
        _, info, _, _, remaining = PAGE_HEADER.unpack_from(self._window)
        if not info & CONTINUES_RECORD or remaining not in {8, 16}:
            return False
        end = self._after_continuation() - self._window_begin
        return self._window[end - 8 : end - 4] == _SWITCH_TAIL


def _is_zero(data: WalBytes, begin: int) -> bool:
    for offset in range(begin, len(data), len(_ZEROS)):
        piece = bytes(data[offset : offset + len(_ZEROS)])
        if not _ZEROS.startswith(piece):
            return False
    return True
