"""WAL pages: the header that begins each, and the long one that begins a segment.

Read as a little-endian machine writes them. Layout: src/include/access/xlog_internal.h,
XLogPageHeaderData and XLogLongPageHeaderData.
"""

from __future__ import annotations

from dataclasses import dataclass
from struct import Struct
from typing import Final

from walkeeper.core.lsn import Lsn
from walkeeper.core.pg_version import find_major
from walkeeper.core.wal import SegmentSize

WalBytes = bytes | bytearray | memoryview
"""Any buffer of bytes; a memoryview must have format ``B``."""

PAGE_SIZE: Final = 8192
"""XLOG_BLCKSZ as PostgreSQL is built by default; clusters with another one are refused."""

# xlp_info. 0x0004 (XLP_BKP_REMOVABLE) says nothing that matters here; 19 gives it a new meaning.
CONTINUES_RECORD: Final = 0x0001  # XLP_FIRST_IS_CONTRECORD
LONG_HEADER: Final = 0x0002  # XLP_LONG_HEADER
OVERWRITES_RECORD: Final = 0x0008  # XLP_FIRST_IS_OVERWRITE_CONTRECORD
PAGE_FLAGS: Final = 0x000F  # XLP_ALL_FLAGS

PAGE_HEADER: Final = Struct("<HHIQI")  # xlp_magic, xlp_info, xlp_tli, xlp_pageaddr, xlp_rem_len
_LONG: Final = Struct("<HHIQI4xQII")  # ... xlp_sysid, xlp_seg_size, xlp_xlog_blcksz
_SHORT_SIZE: Final = 24  # SizeOfXLogShortPHD
_LONG_SIZE: Final = 40  # SizeOfXLogLongPHD


@dataclass(frozen=True, slots=True)
class LongPageHeader:
    """What the first page of a segment says about the segment and its cluster.

    ``remaining`` counts the bytes of a record begun before the segment that are still to come.
    """

    magic: int
    major: int
    timeline: int
    address: Lsn
    remaining: int
    system_identifier: int
    segment_size: SegmentSize


def parse_long_header(page: WalBytes) -> LongPageHeader:
    """Read the header of a segment's first page; ``page`` holds at least its first 40 bytes.

    Raises ValueError, with a sentence for an operator, for what no supported PostgreSQL wrote.
    """
    if len(page) < _LONG_SIZE:
        raise ValueError(f"a WAL segment begins with {_LONG_SIZE} bytes of header, not {len(page)}")
    magic, info, timeline, address, remaining, system, size, page_size = _LONG.unpack_from(page)
    major = find_major(magic)
    if major is None:
        raise ValueError(f"no supported PostgreSQL writes WAL with magic number {magic:04X}")
    if not info & LONG_HEADER or info & ~PAGE_FLAGS:
        raise ValueError(f"the first WAL page has info bits {info:04X}, not those of a segment")
    if page_size != PAGE_SIZE:
        raise ValueError(f"WAL pages of {page_size} bytes are not supported, only of {PAGE_SIZE}")
    return LongPageHeader(
        magic, major, timeline, Lsn(address), remaining, system, SegmentSize(size)
    )


def page_header_size(info: int) -> int:
    """Bytes before the first byte of content of a page with these info bits."""
    return _LONG_SIZE if info & LONG_HEADER else _SHORT_SIZE


@dataclass(frozen=True, slots=True)
class PageRules:
    """What must hold for each page of a run, as XLogReaderValidatePageHeader checks it."""

    magic: int
    highest_timeline: int

    def fault(
        self, header: tuple[int, int, int, int, int], address: int, lowest_timeline: int
    ) -> str | None:
        """Why an unpacked PAGE_HEADER cannot stand at ``address``, or None when it can.

        ``lowest_timeline`` is that of the page before: timelines never go back.
        """
        magic, info, timeline, found, _ = header
        if magic != self.magic:
            return f"the page at {Lsn(address)} has magic number {magic:04X}"
        if found != address:
            return f"the page at {Lsn(address)} carries the address {Lsn(found)}"
        if info & ~PAGE_FLAGS:
            return f"the page at {Lsn(address)} has info bits {info:04X}"
        if not lowest_timeline <= timeline <= self.highest_timeline:
            return f"the page at {Lsn(address)} is of timeline {timeline}"
        return None
