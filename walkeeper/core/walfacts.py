"""What a recovery plan needs to know from WAL: transaction ends, restore points, new timelines.

These are the records at which src/backend/access/transam/xlogrecovery.c can stop: commits and
aborts, plain and prepared, for a time and for a transaction id; restore points for a name; any
record's beginning for an LSN.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from struct import Struct
from typing import Final

from walkeeper.core.lsn import Lsn
from walkeeper.core.pg_version import dropped_stats_size

XLOG: Final = 0  # RM_XLOG_ID, src/include/access/rmgrlist.h
TRANSACTION: Final = 1  # RM_XACT_ID

# src/include/catalog/pg_control.h, the upper four bits of xl_info
_CHECKPOINT_SHUTDOWN: Final = 0x00
SWITCH: Final = 0x40
_RESTORE_POINT: Final = 0x70
_END_OF_RECOVERY: Final = 0x90

# src/include/access/xact.h: XLOG_XACT_OPMASK, XLOG_XACT_HAS_INFO and the operations
_OPERATION: Final = 0x70
_HAS_INFO: Final = 0x80
_COMMIT: Final = 0x00
_ABORT: Final = 0x20
_COMMIT_PREPARED: Final = 0x30
_ABORT_PREPARED: Final = 0x40
_PREPARED: Final = frozenset({_COMMIT_PREPARED, _ABORT_PREPARED})
_ABORTED: Final = frozenset({_ABORT, _ABORT_PREPARED})

_FACT_INFO: Final = (
    frozenset({_CHECKPOINT_SHUTDOWN, SWITCH, _RESTORE_POINT, _END_OF_RECOVERY}),
    frozenset(
        operation | flag
        for operation in (_COMMIT, _ABORT, _COMMIT_PREPARED, _ABORT_PREPARED)
        for flag in (0, _HAS_INFO)
    ),
)

# XACT_XINFO_HAS_... of what precedes the two-phase data, in the order it is stored, and its
# size: (flag, fixed bytes, bytes of each counted item). Stats items depend on the version.
_DBINFO: Final = 1 << 0
_COUNTED: Final = ((1 << 1, 4), (1 << 2, 12), (1 << 8, 0), (1 << 3, 16))
_TWOPHASE: Final = 1 << 4

_TIME: Final = Struct("<q")
_UINT32: Final = Struct("<I")
_TIMELINES: Final = Struct("<8xII")  # CheckPoint and xl_end_of_recovery agree so far
_MAIN_SHORT: Final = 255  # XLR_BLOCK_ID_DATA_SHORT, src/include/access/xlogrecord.h
_MAIN_LONG: Final = 254  # XLR_BLOCK_ID_DATA_LONG
_SKIPPED: Final = {253: 3, 252: 5}  # XLR_BLOCK_ID_ORIGIN, XLR_BLOCK_ID_TOPLEVEL_XID with id
_HEADER_SIZE: Final = 24  # SizeOfXLogRecord
_EPOCH: Final = datetime(2000, 1, 1, tzinfo=UTC)  # of TimestampTz, which counts microseconds


@dataclass(frozen=True, slots=True)
class Commit:
    """A transaction that ended: committed, or ``aborted``.

    ``xid`` is the transaction's own also when it was prepared. The record lies in
    ``[begin, end)``; recovery compares ``begin`` with a target LSN.
    """

    begin: Lsn
    end: Lsn
    xid: int
    at: datetime
    aborted: bool


@dataclass(frozen=True, slots=True)
class RestorePoint:
    """A named restore point; bytes of a name that are not UTF-8 are shown escaped."""

    begin: Lsn
    end: Lsn
    name: str
    at: datetime


@dataclass(frozen=True, slots=True)
class TimelineChange:
    """The first record of a new timeline."""

    begin: Lsn
    end: Lsn
    timeline: int
    previous: int


Fact = Commit | RestorePoint | TimelineChange


def bears_fact(rmid: int, info: int) -> bool:
    """Whether a record may hold a fact, or is a segment switch; to be asked before copying it."""
    return rmid <= TRANSACTION and info & 0xF0 in _FACT_INFO[rmid]


def read_fact(record: bytes, begin: Lsn, end: Lsn, major: int) -> Fact | None:
    """The fact in a whole record that bears one and is no switch; None for most checkpoints.

    Raises ValueError when the record is not built as PostgreSQL builds it.
    """
    info, rmid = record[16] & 0xF0, record[17]
    try:
        data = _main_data(record)
        if rmid == TRANSACTION:
            return _read_commit(record, data, begin, end, major)
        if info == _RESTORE_POINT:
            name = data[8:].partition(b"\0")[0].decode("utf-8", "backslashreplace")
            return RestorePoint(begin, end, name, _read_time(data))
        timeline, previous = _TIMELINES.unpack_from(data)
    except (IndexError, OverflowError, struct.error) as error:
        raise ValueError(f"the record at {begin} is malformed") from error
    return None if timeline == previous else TimelineChange(begin, end, timeline, previous)


def _main_data(record: bytes) -> bytes:
    """The record's main data; records that bear facts refer to no blocks."""
    at = _HEADER_SIZE
    while at < len(record):
        kind = record[at]
        if kind == _MAIN_SHORT:
            return record[at + 2 : at + 2 + record[at + 1]]
        if kind == _MAIN_LONG:
            size: int = _UINT32.unpack_from(record, at + 1)[0]
            return record[at + 5 : at + 5 + size]
        if kind not in _SKIPPED:
            break
        at += _SKIPPED[kind]
    return b""


def _read_commit(record: bytes, data: bytes, begin: Lsn, end: Lsn, major: int) -> Commit:
    info = record[16]
    operation = info & _OPERATION
    xid: int = _UINT32.unpack_from(record, 4)[0]
    if operation in _PREPARED:
        xid = _prepared_xid(data, major) if info & _HAS_INFO else 0
        if xid == 0:
            raise ValueError(f"the prepared transaction's end at {begin} names no transaction")
    return Commit(begin, end, xid, _read_time(data), operation in _ABORTED)


def _prepared_xid(data: bytes, major: int) -> int:
    """Find xl_xact_twophase as ParseCommitRecord and ParseAbortRecord do (rmgrdesc/xactdesc.c)."""
    flags: int = _UINT32.unpack_from(data, 8)[0]
    if not flags & _TWOPHASE:
        return 0
    at = 12 + (8 if flags & _DBINFO else 0)
    for flag, size in _COUNTED:
        if flags & flag:
            count: int = _UINT32.unpack_from(data, at)[0]
            at += 4 + count * (size or dropped_stats_size(major))
    xid: int = _UINT32.unpack_from(data, at)[0]
    return xid


def _read_time(data: bytes) -> datetime:
    return _EPOCH + timedelta(microseconds=_TIME.unpack_from(data)[0])
