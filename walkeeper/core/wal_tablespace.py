"""Finds the WAL records that create tablespaces.

Replaying one makes PostgreSQL write into the directory that the record names, whatever lies there
and whoever uses it: on the host of the source that is the live tablespace
(src/backend/commands/tablespace.c, tblspc_redo and create_tablespace_directories).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
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
_CANDIDATE: Final = re.compile(
    b"/(?:" + b"|".join(b"(?<=%s.{%d}/)" % (_BEGIN, count) for count in _BETWEEN) + b")", re.DOTALL
)


def find_created_tablespaces(segment: WalBytes, before: bytes = b"") -> Iterator[str]:
    """Where the tablespaces lie that a WAL segment's records create; never misses one.

    ``before`` is the end of the segment before this one, at least ``LONGEST_BYTES`` of it, for a
    record that begins there. Only what looks exactly like such a record is taken for one, but it
    is not looked up whether a record begins at its place.
    """
    data = memoryview(segment)
    yield from _search(data)
    # Records go on behind the header of the next page, so the bytes between pages are left out.
    gap = b"\xff" * 8
    pieces: list[WalBytes] = []
    for at in range(PAGE_SIZE, len(data), PAGE_SIZE):
        behind = at + _SHORT_HEADER
        pieces += [data[at - LONGEST_BYTES : at], data[behind : behind + LONGEST_BYTES], gap]
    yield from _search(b"".join(pieces))
    if before:
        yield from _search(before[-LONGEST_BYTES:] + bytes(data[_LONG_HEADER:][:LONGEST_BYTES]))


def _search(data: WalBytes) -> Iterator[str]:
    for slash in _CANDIDATE.finditer(data):
        for count in _BETWEEN:
            begin = slash.start() - count - len(_BEGIN)
            match = _CREATE.match(data, begin) if begin > 0 else None
            # A count that does not fit may match as well, at another slash: it is met there.
            if match is None or match.start("path") != slash.start():
                continue
            path = match["path"]
            length = match["short"] if match["long"] is None else match["long"]
            fits = int.from_bytes(length, "little") == 4 + len(path) + 1
            if fits and data[begin - 1] <= _LONGEST_INFO:
                yield path.decode("utf-8", "surrogateescape")
