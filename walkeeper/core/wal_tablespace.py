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


def find_created_tablespaces(segment: WalBytes, before: bytes = b"") -> Iterator[str]:
    """Where the tablespaces lie that a WAL segment's records create; never misses one.

    ``before`` is the end of the segment before this one, at least ``LONGEST_BYTES`` of it, for a
    record that begins there. Only what looks exactly like such a record is taken for one, but it
    is not looked up whether a record begins at its place.
    """
    data = bytes(segment)
    yield from _search(data)
    # Records go on behind the header of the next page, so the bytes between pages are left out.
    gap = b"\xff" * 8
    pieces = []
    for at in range(PAGE_SIZE, len(data), PAGE_SIZE):
        behind = at + _SHORT_HEADER
        pieces += [data[at - LONGEST_BYTES : at], data[behind : behind + LONGEST_BYTES], gap]
    yield from _search(b"".join(pieces))
    if before:
        head = data[_LONG_HEADER : _LONG_HEADER + LONGEST_BYTES]
        yield from _search(before[-LONGEST_BYTES:] + head)


def _search(data: bytes) -> Iterator[str]:
    begin = 0
    # Not finditer: what only looks like a record may overlap one. And find is faster by far.
    while (begin := data.find(_BEGIN, begin + 1)) > 0:
        match = _CREATE.match(data, begin)
        if match is None or data[begin - 1] > _LONGEST_INFO:
            continue
        path = match["path"]
        length = match["short"] if match["long"] is None else match["long"]
        if int.from_bytes(length, "little") == 4 + len(path) + 1:
            yield path.decode("utf-8", "surrogateescape")
