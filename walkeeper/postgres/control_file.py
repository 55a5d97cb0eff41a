"""``global/pg_control`` of PostgreSQL 13 to 18: what a data directory says about itself.

The file is the C structure ControlFileData (src/include/catalog/pg_control.h) in the byte order
and alignment of its host, CRC-32C last, then zeros. Version 1300 is used by 13 to 16, 1700 by 17,
1800 by 18. The offsets of 1300 and 1700 are the same: the field that 17 added fills a hole.
"""

from __future__ import annotations

import enum
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from walkeeper.core.crc32c import crc32c
from walkeeper.core.lsn import Lsn
from walkeeper.core.wal import SegmentSize
from walkeeper.errors import IntegrityError, PostgresError

CONTROL_FILE: Final = "global/pg_control"
# src/include/catalog/pg_control.h: PG_CONTROL_FILE_SIZE. The structure takes about 300 bytes of it.
CONTROL_FILE_SIZE: Final = 8192

# "@" is the alignment of this machine's C compiler, which is also that of its PostgreSQL.
_HEAD: Final = "@QIIiqQ"  # identifier, versions, state, time, checkPoint
_CHECKPOINT: Final = "QII?iQ7Iq3I0Q"  # struct CheckPoint, padded to 8
_RECOVERY: Final = "QQIQQ?"  # unloggedLSN, minRecoveryPoint and its timeline, backup points
_SETTINGS: Final = "i?5i?"  # wal_level ... track_commit_timestamp
_STORAGE: Final = "Id8I?I"  # maxAlign ... data_checksum_version
_COMMON: Final = _HEAD + _CHECKPOINT + _RECOVERY + _SETTINGS + _STORAGE
_NONCE_AND_CRC: Final = "32sI"
_LAYOUTS: Final = {
    1300: struct.Struct(_COMMON + _NONCE_AND_CRC),
    1700: struct.Struct(_COMMON + _NONCE_AND_CRC),
    1800: struct.Struct(_COMMON + "?" + _NONCE_AND_CRC),  # default_char_signedness
}
_VERSION_AT: Final = 8
_CRC_SIZE: Final = 4

_ATTEMPTS: Final = 50
_PAUSE_S: Final = 0.02


class ClusterState(enum.IntEnum):
    """What the server was doing when it last wrote the file (DBState)."""

    STARTUP = 0
    SHUT_DOWN = 1
    SHUT_DOWN_IN_RECOVERY = 2
    SHUTTING_DOWN = 3
    IN_CRASH_RECOVERY = 4
    IN_ARCHIVE_RECOVERY = 5
    IN_PRODUCTION = 6


@dataclass(frozen=True, slots=True)
class StandbySettings:
    """The five settings that must not be lower in recovery than where the WAL was written."""

    max_connections: int
    max_worker_processes: int
    max_wal_senders: int
    max_prepared_transactions: int
    max_locks_per_transaction: int


@dataclass(frozen=True, slots=True)
class ControlFile:
    """The facts of one pg_control; sizes in bytes, times in UTC to the second."""

    system_identifier: int
    control_version: int
    catalog_version: int
    state: ClusterState
    updated_at: datetime
    checkpoint: Lsn
    redo: Lsn
    timeline: int
    previous_timeline: int
    checkpoint_at: datetime
    min_recovery_point: Lsn
    min_recovery_timeline: int
    backup_start: Lsn
    backup_end: Lsn
    backup_end_required: bool
    standby_settings: StandbySettings
    block_size: int
    blocks_per_file: int
    wal_block_size: int
    segment_size: SegmentSize
    data_checksums: bool


def parse_control_file(content: bytes) -> ControlFile:
    """Read pg_control from its bytes.

    Raises PostgresError for a version that this program does not know and IntegrityError when the
    bytes contradict their CRC: a writer was in the middle, or the file is damaged.
    """
    layout = _find_layout(content)
    body = content[: layout.size]
    (stored,) = struct.unpack("=I", body[-_CRC_SIZE:])
    if crc32c(body[:-_CRC_SIZE]) != stored:
        raise IntegrityError("the checksum of pg_control does not match its content")
    try:
        return _interpret(layout.unpack(body))
    except ValueError as error:
        raise IntegrityError(f"pg_control has a valid checksum and no meaning: {error}") from error


def read_control_bytes(data_dir: Path, *, sleep: Callable[[float], None] = time.sleep) -> bytes:
    """The bytes of a running server's pg_control, read whole: their CRC fits.

    The server overwrites the file in place, so a reader may see half of an update; it is read
    again for about a second. Blocks: call it in a thread. Raises PostgresError when the file cannot
    be read and IntegrityError when its CRC never fits.
    """
    path = data_dir / CONTROL_FILE
    for _ in range(_ATTEMPTS - 1):
        content = _read(path)
        try:
            parse_control_file(content)
        except IntegrityError:
            sleep(_PAUSE_S)
        else:
            return content
    content = _read(path)
    parse_control_file(content)
    return content


def read_control_file(
    data_dir: Path, *, sleep: Callable[[float], None] = time.sleep
) -> ControlFile:
    """Read and parse pg_control of a data directory, as ``read_control_bytes`` does."""
    return parse_control_file(read_control_bytes(data_dir, sleep=sleep))


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise PostgresError(
            f"cannot read {path}: {error.strerror}",
            hint="is this a data directory, and may this user read it?",
        ) from error


def _find_layout(content: bytes) -> struct.Struct:
    if len(content) != CONTROL_FILE_SIZE:
        raise IntegrityError(f"pg_control has {len(content)} bytes, not {CONTROL_FILE_SIZE}")
    (version,) = struct.unpack_from("=I", content, _VERSION_AT)
    layout = _LAYOUTS.get(version)
    if layout is None:
        raise PostgresError(
            f"pg_control has version {version}, which is unknown",
            hint="PostgreSQL 13 to 18 are supported, on the same architecture as this program",
        )
    return layout


def _interpret(fields: tuple[int, ...]) -> ControlFile:
    """Name the fields; the numbers count the members of ControlFileData, CheckPoint included."""
    return ControlFile(
        system_identifier=fields[0],
        control_version=fields[1],
        catalog_version=fields[2],
        state=ClusterState(fields[3]),
        updated_at=_time(fields[4]),
        checkpoint=Lsn(fields[5]),
        redo=Lsn(fields[6]),
        timeline=fields[7],
        previous_timeline=fields[8],
        checkpoint_at=_time(fields[19]),
        min_recovery_point=Lsn(fields[24]),
        min_recovery_timeline=fields[25],
        backup_start=Lsn(fields[26]),
        backup_end=Lsn(fields[27]),
        backup_end_required=bool(fields[28]),
        standby_settings=StandbySettings(*fields[31:36]),
        block_size=fields[39],
        blocks_per_file=fields[40],
        wal_block_size=fields[41],
        segment_size=SegmentSize(fields[42]),
        data_checksums=fields[48] != 0,
    )


def _time(seconds: int) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
