"""WAL made by hand, byte by byte as PostgreSQL makes it, for what no server does on demand.

``WalWriter`` is written from the layout in src/include/access/xlogrecord.h and
src/backend/access/transam/xlog.c (CopyXLogRecordToWAL), independently of the code under test.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from functools import cache

from walkeeper.core.lsn import Lsn
from walkeeper.core.wal import SegmentSize, WalSegment

PAGE = 8192
MIB = SegmentSize(1 << 20)
MAGIC = {13: 0xD106, 14: 0xD10D, 15: 0xD110, 16: 0xD113, 17: 0xD116, 18: 0xD118}
SYSTEM = 7_574_826_311_893_111_222
HEAP, XLOG, TRANSACTION = 10, 0, 1


@cache
def _crc_bytes(value: int) -> int:
    for _ in range(8):
        value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
    return value


def _running(data: bytes, crc: int = 0xFFFFFFFF) -> int:
    for byte in data:
        crc = crc >> 8 ^ _crc_bytes((crc ^ byte) & 0xFF)
    return crc


_running_of_body = cache(_running)  # tests fill WAL with records of equal bodies


def checksum(data: bytes, body: bytes = b"") -> int:
    """CRC-32C bit by bit, as its definition says, of a body and what follows it."""
    return _running(data, _running_of_body(body)) ^ 0xFFFFFFFF


def main_data(data: bytes, prefix: bytes = b"") -> bytes:
    """A record's body that refers to no blocks; ``prefix`` may hold origin and top-level xid."""
    if len(data) < 256:
        return prefix + struct.pack("<BB", 255, len(data)) + data
    return prefix + struct.pack("<BI", 254, len(data)) + data


@dataclass(frozen=True)
class Written:
    """A record and where it lies.

    ``header_end`` is where its 24 bytes of header end, ``last_byte`` where its content does; both
    count from the writer's first byte.
    """

    begin: Lsn
    end: Lsn
    header_end: int
    last_byte: int


class WalWriter:
    """Writes records one after the other, from the beginning of ``first`` on."""

    def __init__(
        self, first: WalSegment, size: SegmentSize = MIB, major: int = 15, prev: int = 0
    ) -> None:
        self.first = first
        self.size = size
        self.major = major
        self.timeline = first.timeline
        self.base = first.begin(size).value
        self.data = bytearray()
        self.prev = prev or max(self.base - 64, 0)
        self.records: list[Written] = []

    def _page(self, remaining: int, flags: int = 0) -> None:
        assert len(self.data) % PAGE == 0
        first = len(self.data) % self.size.bytes == 0
        flags |= (1 if remaining else 0) | (2 if first else 0) | 4
        address = self.base + len(self.data)
        head = (MAGIC[self.major], flags, self.timeline, address, remaining)
        self.data += struct.pack("<HHIQI4x", *head)
        if first:
            self.data += struct.pack("<QII", SYSTEM, self.size.bytes, PAGE)

    def _put(self, record: bytes, done: int = 0) -> int:
        while done < len(record):
            room = -len(self.data) % PAGE
            if room == 0:
                self._page(len(record) - done)
                room = -len(self.data) % PAGE
            self.data += record[done : done + room]
            done += room
        ends = len(self.data)
        self.data += bytes(-ends % 8)
        return ends

    def continue_until(self, offset: int) -> None:
        """Begin with the rest of a record of zeros that was begun before, up to this offset."""
        assert not self.data
        pages, rest = divmod(offset, PAGE)
        self._put(bytes(offset - 40 - (pages - 1 if rest == 0 else pages) * 24))
        assert len(self.data) == offset, (len(self.data), offset)

    def append(
        self, body: bytes, *, rmid: int = HEAP, info: int = 0, xid: int = 700, flags: int = 0
    ) -> Written:
        """Write a record."""
        if len(self.data) % PAGE == 0:
            self._page(0, flags)
        begin = self.base + len(self.data)
        head = struct.pack("<IIQBBxx", 24 + len(body), xid, self.prev, info, rmid)
        record = head + struct.pack("<I", checksum(head, body)) + body
        last_byte = self._put(record)
        room = -begin % PAGE
        split = 40 if (begin + room) % self.size.bytes == 0 else 24
        header_end = begin + 24 + (0 if room >= 24 else split) - self.base
        self.prev = begin
        written = Written(Lsn(begin), Lsn(self.base + len(self.data)), header_end, last_byte)
        self.records.append(written)
        return written

    def fill_until(self, offset: int) -> None:
        """Write one record so that the next begins at this offset; at least 32 bytes away."""
        at = len(self.data) + (0 if len(self.data) % PAGE else 24)
        assert offset - at >= 32
        assert at % PAGE + (offset - at) <= PAGE, "one page is enough for any test"
        self.append(
            main_data(bytes(offset - at - 24 - 2))
            if offset - at < 280
            else (main_data(bytes(offset - at - 24 - 5)))
        )
        assert len(self.data) == offset

    def switch(self) -> Written:
        """Write a segment switch; the rest of its segment is zeros."""
        written = self.append(b"", rmid=XLOG, info=0x40, xid=0)
        self.data += bytes(-len(self.data) % self.size.bytes)
        return written

    def branch(self, timeline: int, records: int) -> WalWriter:
        """A timeline that leaves this one behind its first ``records`` records: a copy of the
        bytes up to there, then pages of its own (xlog.c, XLogInitNewTimeline)."""
        other = WalWriter(self.first, self.size, self.major)
        other.timeline = timeline
        other.records = self.records[:records]
        other.prev = other.records[-1].begin.value
        other.data = self.data[: other.records[-1].end.value - self.base]
        return other

    def abandon(self, record: Written, pages: int) -> None:
        """Keep only the first pages of the last record: its rest was lost in a crash."""
        assert record is self.records[-1]
        self.records.pop()
        begin = record.begin.value - self.base
        del self.data[(begin // PAGE + pages) * PAGE :]
        self.prev = self.records[-1].begin.value

    def segments(self) -> list[bytes]:
        """All segments, the last one padded with zeros."""
        step = self.size.bytes
        pieces = [bytes(self.data[at : at + step]) for at in range(0, len(self.data), step)]
        return [piece + bytes(step - len(piece)) for piece in pieces]
