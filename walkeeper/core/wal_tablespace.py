"""Finds the WAL records that create tablespaces.

Replaying one makes PostgreSQL write into the directory that the record names, whatever lies there
and whoever uses it: on the host of the source that is the live tablespace
(src/backend/commands/tablespace.c, tblspc_redo and create_tablespace_directories).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Final

from walkeeper.core.walpage import PAGE_SIZE, WalBytes

LONGEST_BYTES: Final = 1100
"""A whole record, its header included: paths are at most MAXPGPATH, 1024 bytes."""

_SHORT_HEADER: Final = 24  # SizeOfXLogShortPHD
_LONG_HEADER: Final = 40  # SizeOfXLogLongPHD: of the first page of a segment
_LONGEST_INFO: Final = 0x0F
# From xl_rmid of XLogRecord on (src/include/access/xlogrecord.h): RM_TBLSPC_ID, two bytes of
# padding, xl_crc; maybe an origin and a top-level transaction; the main data, with its length in
# one byte or four; in it xl_tblspc_create_rec: an oid, a path, a NUL. The byte before is xl_info:
# XLOG_TBLSPC_CREATE is 0, the lower four bits are not the resource manager's.
_BEGIN: Final = b"\x05\x00\x00"
_CREATE: Final = re.compile(
    re.escape(_BEGIN) + rb".{4}(?:\xfd..)?(?:\xfc.{4})?"
    rb"(?:\xff(?P<short>.)|\xfe(?P<long>.{4})).{4}(?P<path>/[^\x00]{0,1023})\x00",
    re.DOTALL,
)
# A slash is rarer in WAL than what the record begins with, and one character is found faster by
# far. So many bytes may lie between _BEGIN and the path: xl_crc, origin, transaction, length, oid.
_BETWEEN: Final = sorted(
    {4 + origin + xid + length + 4 for origin in (0, 3) for xid in (0, 5) for length in (2, 5)}
)
_FURTHEST: Final = len(_BEGIN) + _BETWEEN[-1]
_CANDIDATE: Final = re.compile(
    b"/(?:" + b"|".join(b"(?<=%s.{%d}/)" % (_BEGIN, count) for count in _BETWEEN) + b")", re.DOTALL
)
_MANY: Final = 256
"""Slashes in a block behind which the expression is faster than looking at one after the other."""
_BLOCK_BYTES: Final = 1 << 17


def find_places(block: bytes, at: int) -> Iterator[int]:
    """Where the paths of such records may begin in a segment, given a block of it, offset ``at``.

    All such places, some of them twice, and few others: `find_created_tablespaces` tells them
    apart. 1 to 3 ms a core for 16 MiB of usual WAL.
    """
    # What stands before a slash here lies in the block before, or before the header of its page.
    for begin in (0, *range(-at % PAGE_SIZE, len(block), PAGE_SIZE)):
        end = begin + _LONG_HEADER + _FURTHEST
        slash = block.find(b"/", begin, end)
        while slash >= 0:
            yield at + slash
            slash = block.find(b"/", slash + 1, end)
    slash = block.find(b"/", _FURTHEST)
    for _ in range(_MANY):
        if slash < 0:
            return
        if block.find(_BEGIN, slash - _FURTHEST, slash) >= 0:
            yield at + slash
        slash = block.find(b"/", slash + 1)
    if slash >= 0:
        yield from (at + match.start() for match in _CANDIDATE.finditer(block, slash))


def find_created_tablespaces(
    segment: WalBytes, before: bytes = b"", places: Iterable[int] | None = None
) -> Iterator[str]:
    """Where the tablespaces lie that a WAL segment's records create; never misses one.

    ``before`` is the end of the segment before this one, at least ``LONGEST_BYTES`` of it, for a
    record that begins there. ``places`` are all that `find_places` has found, if it was asked. Only
    what looks exactly like such a record is taken for one, but it is not looked up whether a record
    begins at its place.
    """
    data = memoryview(segment)
    if places is None:
        places = _places_in(data)
    for place in places:
        yield from _paths_at(*_carried_around(data, place))
    if before:
        around = before[-LONGEST_BYTES:] + bytes(data[_LONG_HEADER:][:LONGEST_BYTES])
        for place in find_places(around, 0):
            yield from _paths_at(around, place)


def _places_in(data: memoryview) -> Iterator[int]:
    for at in range(0, len(data), _BLOCK_BYTES):
        yield from find_places(bytes(data[at : at + _BLOCK_BYTES]), at)


def _carried_around(data: memoryview, place: int) -> tuple[bytes, int]:
    """The bytes around a place without the page headers between them, and the place in them."""
    page = place - place % PAGE_SIZE
    begin = page + (_SHORT_HEADER if page else _LONG_HEADER)
    end = page + PAGE_SIZE
    if place < begin:
        return b"", 0
    behind = bytes(data[place : min(end, place + LONGEST_BYTES)])
    if place + LONGEST_BYTES > end:
        behind += bytes(data[end + _SHORT_HEADER :][:LONGEST_BYTES])
    ahead = bytes(data[max(begin, place - _FURTHEST - 1) : place])
    if place - _FURTHEST - 1 < begin and page:
        ahead = bytes(data[page - _FURTHEST - 1 : page]) + ahead
    return ahead + behind, len(ahead)


def _paths_at(data: bytes, slash: int) -> Iterator[str]:
    """The path that begins at this slash, where it is that of a record."""
    for count in _BETWEEN:
        begin = slash - count - len(_BEGIN)
        match = _CREATE.match(data, begin) if begin > 0 else None
        # A count that does not fit may match as well, at another slash: it is met there.
        if match is None or match.start("path") != slash:
            continue
        path = match["path"]
        length = match["short"] if match["long"] is None else match["long"]
        fits = int.from_bytes(length, "little") == 4 + len(path) + 1
        if fits and data[begin - 1] <= _LONGEST_INFO:
            yield path.decode("utf-8", "surrogateescape")
