"""WAL records: walking their chain across pages and segments.

Every record names the begin of the one before it (``xl_prev``), so what a chain links together is
whole; a checksum is computed only for the last record, the one that a cut can have gone through.
Layout: src/include/access/xlogrecord.h, XLogRecord; the rules of walking:
src/backend/access/transam/xlogreader.c, XLogDecodeNextRecord.
"""

from __future__ import annotations

from dataclasses import dataclass
from struct import Struct
from typing import Final

from walkeeper.core.crc32c import crc32c
from walkeeper.core.lsn import Lsn
from walkeeper.core.wal import SegmentSize, WalSegment
from walkeeper.core.walfacts import SWITCH, XLOG, Fact, bears_fact, read_fact
from walkeeper.core.walpage import (
    CONTINUES_RECORD,
    OVERWRITES_RECORD,
    PAGE_HEADER,
    PAGE_SIZE,
    PageRules,
    WalBytes,
    page_header_size,
    parse_long_header,
)

# xl_tot_len, xl_xid, xl_prev, xl_info, xl_rmid, two bytes of padding, xl_crc
_RECORD: Final = Struct("<IIQBBxxI")
_RECORD_SIZE: Final = 24
_LENGTH: Final = Struct("<I")
_PREV: Final = Struct("<8xQ")
_CRC_OFFSET: Final = 20
_LONGEST: Final = 1020 << 20  # XLogRecordMaxSize
# src/include/access/rmgrlist.h ends with 21 in all of 13 to 18; 128 on is for extensions (15+).
_LAST_BUILTIN_RMGR: Final = 21
_FIRST_CUSTOM_RMGR: Final = 128
_UNKNOWN: Final = -1


@dataclass(frozen=True, slots=True)
class Carry:
    """What goes over from one segment to the next: the last record, and one begun but not ended.

    ``pieces`` holds the bytes of the begun record so far, as much as the record is long;
    ``begin`` is None when the walk itself began inside that record. ``valid_end`` is where the
    record before it ended.
    """

    valid_end: Lsn
    last_record: Lsn | None
    begin: Lsn | None
    remaining: int
    pieces: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class SegmentScan:
    """What a walk found.

    ``valid_end`` is where the last record known to be whole ends: PostgreSQL's next position to
    read. It lies before the segment when a record begun earlier is broken, and is the segment's
    begin when nothing is known. ``last_record`` is the begin of that record. ``stopped`` says why
    the walk ended early, None when records run to the end; ``switched`` that it ended at a
    segment switch, behind which nothing is left to read. ``carry`` is there to go on with the
    next segment, unless stopped.
    """

    facts: tuple[Fact, ...]
    valid_end: Lsn
    last_record: Lsn | None
    stopped: str | None
    switched: bool
    carry: Carry | None


def scan_segment(
    segment: WalSegment, size: SegmentSize, data: WalBytes, carry: Carry | None = None
) -> SegmentScan:
    """Walk the records of a segment; ``data`` is its content or a beginning of it.

    Without the ``carry`` of the segment before, the walk starts at the first record that begins
    here. Some 10^6 records a second, all on the calling thread. Raises ValueError when the first
    page is not that of this segment.
    """
    header = parse_long_header(data)
    begin = segment.begin(size)
    if header.segment_size != size:
        raise ValueError(f"{segment} is of a cluster with segments of {header.segment_size}")
    rules = PageRules(header.magic, segment.timeline)
    if fault := rules.fault(PAGE_HEADER.unpack_from(data), begin.value, 0):
        raise ValueError(fault)
    missing = -len(data) % PAGE_SIZE
    if missing:
        data = bytes(data) + bytes(missing)
    walk = RecordWalk(data, begin, rules, header.major, carry)
    ends_early = len(data) - missing < size.bytes
    return walk.run("the data ends before the segment does" if ends_early else None)


class _Begun:
    """A record that goes on on the next page; ``begin`` is _UNKNOWN when we came in the middle."""

    __slots__ = ("before", "begin", "carried", "checked", "remaining", "spans")

    def __init__(self, begin: int, remaining: int, before: int) -> None:
        self.begin = begin
        self.remaining = remaining
        self.before = before  # where the record before it ended, which is not always its begin
        self.carried: tuple[bytes, ...] = ()
        self.spans: list[tuple[int, int]] = []
        self.checked = False


class RecordWalk:
    """One walk over whole pages that lie next to each other; ``run`` once.

    ``begin`` is the address of the first page, which need not be a segment's first.
    """

    def __init__(
        self, data: WalBytes, begin: Lsn, rules: PageRules, major: int, carry: Carry | None = None
    ) -> None:
        self._data = data
        self._base = begin.value
        self._rules = rules
        self._major = major
        self._facts: list[Fact] = []
        self._stopped: str | None = None
        self._switched = False
        self._timeline = 0
        self._end = begin.value
        self._unproven = _UNKNOWN  # where a record ended of which we did not see the begin
        self._last = _UNKNOWN
        self._last_begun: _Begun | None = None  # the last record, when it spans pages
        self._begun: _Begun | None = None
        if carry is not None:
            self._take_over(carry)

    def run(self, reason_at_end: str | None = None) -> SegmentScan:
        """Walk to the end of the data or of the chain.

        With ``reason_at_end`` the end of the data counts as an early end, for that reason.
        """
        for offset in range(0, len(self._data), PAGE_SIZE):
            if not self._walk_page(offset):
                break
        if self._stopped is None and not self._switched:
            self._stopped = reason_at_end
        if self._stopped is not None or self._begun is None or not self._begun.checked:
            self._doubt_last_record()
        return SegmentScan(
            tuple(self._facts),
            Lsn(self._end),
            None if self._last == _UNKNOWN else Lsn(self._last),
            self._stopped,
            self._switched,
            self._hand_over() if self._stopped is None else None,
        )

    def _walk_page(self, offset: int) -> bool:
        header = PAGE_HEADER.unpack_from(self._data, offset)
        fault = self._rules.fault(header, self._base + offset, self._timeline)
        if fault is not None:
            return self._stop(fault)
        if self._unproven != _UNKNOWN:
            # Pages are written in order: the one before is whole, and so is what ended there.
            self._end, self._unproven = self._unproven, _UNKNOWN
        _, info, self._timeline, _, remaining = header
        at = offset + page_header_size(info)
        page_end = offset + PAGE_SIZE
        begun = self._begun
        if begun is not None and info & OVERWRITES_RECORD:
            begun = self._begun = None
        if begun is None and info & CONTINUES_RECORD:
            if offset or self._last != _UNKNOWN:
                return self._stop(f"the page at {Lsn(self._base + offset)} continues no record")
            begun = self._begun = _Begun(_UNKNOWN, remaining, self._end)
        if begun is not None:
            if not info & CONTINUES_RECORD or remaining != begun.remaining or remaining == 0:
                return self._stop(f"the record at {Lsn(self._end)} is not continued")
            at = self._continue(begun, at, page_end)
        return self._stopped is None and not self._switched and self._walk_records(at, page_end)

    def _continue(self, begun: _Begun, at: int, page_end: int) -> int:
        """Take up what this page holds of a begun record; returns where the next one begins."""
        stop = min(at + begun.remaining, page_end)
        begun.remaining -= stop - at
        if begun.begin != _UNKNOWN:
            begun.spans.append((at, stop))
        after = at + (stop - at + 7 & ~7)
        if begun.remaining:
            return after
        self._begun = None
        if begun.begin == _UNKNOWN:
            self._unproven = self._base + after
        else:
            self._finish(begun, after)
        return after

    def _finish(self, begun: _Begun, after: int) -> None:
        head = self._gather(begun, _RECORD_SIZE)
        total, _, back, info, rmid, _ = _RECORD.unpack_from(head)
        if not begun.checked and not self._fits(begun.begin, total, back, rmid):
            return
        if bears_fact(rmid, info) and not self._note(
            self._gather(begun, total), begun.begin, self._base + after
        ):
            return
        self._last, self._last_begun, self._end = begun.begin, begun, self._base + after

    def _walk_records(self, at: int, page_end: int) -> bool:
        """Walk the records that begin on this page: the loop where the time goes."""
        data, base, last = self._data, self._base, self._last
        unpack = _RECORD.unpack_from
        first, header_end = at, page_end - _RECORD_SIZE
        begun = None
        while at <= header_end:
            total, _, back, info, rmid, _ = unpack(data, at)
            here = base + at
            if (back != last or total < _RECORD_SIZE or rmid > _LAST_BUILTIN_RMGR) and not (
                self._fits(here, total, back, rmid, last)
            ):
                break
            if at + total > page_end:
                begun = _Begun(here, total, self._end)
                begun.checked = True
                break
            after = at + (total + 7 & ~7)
            if rmid <= 1 and bears_fact(rmid, info):
                if not self._note(bytes(data[at : at + total]), here, base + after):
                    break
                if self._switched:
                    last, at = here, after
                    break
            last, at = here, after
        if at > first:
            self._last, self._last_begun, self._end = last, None, base + at
            self._unproven = _UNKNOWN
        if self._stopped is not None or self._switched:
            return False
        return self._begin(begun, at, page_end)

    def _begin(self, begun: _Begun | None, at: int, page_end: int) -> bool:
        """Note the record that runs over this page's end, if there is one."""
        if at >= page_end:
            return True
        if begun is None:  # its header is split: 8 or 16 bytes of it are here
            here, total = self._base + at, _LENGTH.unpack_from(self._data, at)[0]
            whole_prev = page_end - at >= _PREV.size
            back = _PREV.unpack_from(self._data, at)[0] if whole_prev else max(self._last, 0)
            if not self._fits(here, total, back, XLOG):
                return False
            begun = _Begun(here, total, self._end)
        elif self._last == _UNKNOWN:
            self._end, self._unproven = self._end_before(begun.begin), _UNKNOWN
        begun.before = self._end
        begun.spans.append((at, page_end))
        begun.remaining -= page_end - at
        self._begun = begun
        return True

    def _fits(self, here: int, total: int, back: int, rmid: int, last: int | None = None) -> bool:
        """Check a header as ValidXLogRecordHeader does; stops the walk when it is not one."""
        last = self._last if last is None else last
        chained = back < here if last == _UNKNOWN else back == last
        known = rmid <= _LAST_BUILTIN_RMGR or rmid >= _FIRST_CUSTOM_RMGR
        if _RECORD_SIZE <= total <= _LONGEST and chained and known:
            return True
        return self._stop(f"no record begins at {Lsn(here)}")

    def _note(self, record: bytes, begin: int, end: int) -> bool:
        if record[17] == XLOG and record[16] & 0xF0 == SWITCH:
            self._switched = True
            return True
        try:
            fact = read_fact(record, Lsn(begin), Lsn(end), self._major)
        except ValueError as error:
            return self._stop(str(error))
        if fact is not None:
            self._facts.append(fact)
        return True

    def _stop(self, reason: str) -> bool:
        self._stopped = reason
        return False

    def _doubt_last_record(self) -> None:
        """Take the last record back when its checksum says that the cut went through it."""
        begun = self._last_begun
        if begun is None:
            offset = self._last - self._base
            if self._last == _UNKNOWN or offset < 0:
                return  # nothing of it is here
            begun = _Begun(self._last, 0, self._end_before(self._last))
            total = _LENGTH.unpack_from(self._data, offset)[0]
            begun.spans.append((offset, offset + total))
        record = self._gather(begun)
        _, _, back, _, _, crc = _RECORD.unpack_from(record)
        # src/backend/access/transam/xlogreader.c, ValidXLogRecord: the header comes last.
        if crc32c(record[:_CRC_OFFSET], crc32c(record[_RECORD_SIZE:])) == crc:
            return
        if self._stopped is None:
            self._switched = self._stop(f"the record at {Lsn(self._last)} is damaged")
        self._facts = [fact for fact in self._facts if fact.begin.value != self._last]
        self._end, self._last = begun.before, back

    def _end_before(self, begin: int) -> int:
        """Where the record before one that begins here ended: not within a page header."""
        page = (begin - self._base) // PAGE_SIZE * PAGE_SIZE
        info = PAGE_HEADER.unpack_from(self._data, page)[1]
        first = self._base + page + page_header_size(info)
        return self._base + page if begin == first else begin

    def _gather(self, begun: _Begun, limit: int | None = None) -> bytes:
        """The bytes of a record that spans pages, at least the first ``limit`` of them."""
        found = bytearray()
        for piece in begun.carried:
            found += piece
        for begin, end in begun.spans:
            if limit is not None and len(found) >= limit:
                break
            found += self._data[begin:end]
        return bytes(found)

    def _take_over(self, carry: Carry) -> None:
        self._last = _UNKNOWN if carry.last_record is None else carry.last_record.value
        if not carry.remaining:
            return
        begin = _UNKNOWN if carry.begin is None else carry.begin.value
        self._begun = _Begun(begin, carry.remaining, carry.valid_end.value)
        self._begun.carried = carry.pieces
        self._end = carry.valid_end.value

    def _hand_over(self) -> Carry:
        last = None if self._last == _UNKNOWN else Lsn(self._last)
        begun = self._begun
        if begun is None:
            return Carry(Lsn(self._end), last, None, 0, ())
        begin = None if begun.begin == _UNKNOWN else Lsn(begun.begin)
        pieces = tuple(bytes(self._data[start:stop]) for start, stop in begun.spans)
        return Carry(Lsn(begun.before), last, begin, begun.remaining, begun.carried + pieces)
