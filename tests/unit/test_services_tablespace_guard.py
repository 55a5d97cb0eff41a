"""A restored copy makes a tablespace where nothing lies, or where it has made it before."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from tests.fix_archive import ONE_MIB
from tests.fix_fetch import segment
from tests.fix_wal import WalWriter, main_data
from walkeeper.core.wal import WalSegment
from walkeeper.core.walpage import PAGE_SIZE
from walkeeper.errors import RecoveryError
from walkeeper.services.tablespace_guard import check_tablespaces, look_for_tablespaces

RM_TBLSPC_ID = 5


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    for name in ("pg_wal", "pg_tblspc"):
        (tmp_path / "copy" / name).mkdir(parents=True)
    return tmp_path / "copy"


def wal_with(location: Path, offset: int = 0) -> bytes:
    """WAL from segment 3 on with a record at this offset that creates a tablespace."""
    writer = WalWriter(segment(1, 3))
    while len(writer.data) < offset - PAGE_SIZE:
        writer.append(main_data(bytes(4000)))
    if offset:
        writer.fill_until(offset)
    record = struct.pack("<I", 16400) + bytes(location) + b"\0"
    writer.append(main_data(record), rmid=RM_TBLSPC_ID)
    return bytes(writer.data)


def check(copy: Path, wal: WalSegment, content: bytes) -> None:
    look = look_for_tablespaces(content.ljust(ONE_MIB.bytes, b"\0"))
    check_tablespaces(look, wal, ONE_MIB, copy)


def used(path: Path) -> Path:
    (path / "PG_15_202209061").mkdir(parents=True)
    return path


def test_a_directory_in_use_is_named_and_an_empty_or_missing_one_is_left_to_postgresql(
    copy: Path, tmp_path: Path
) -> None:
    with pytest.raises(RecoveryError, match=f"a tablespace at {tmp_path}/live, where"):
        check(copy, segment(1, 3), wal_with(used(tmp_path / "live")))
    (tmp_path / "empty").mkdir()
    for name in ("empty", "missing"):
        check(copy, segment(1, 3), wal_with(tmp_path / name))


def test_what_the_copy_itself_has_made_before_may_be_made_again(copy: Path, tmp_path: Path) -> None:
    content = wal_with(used(tmp_path / "own"))
    (copy / "pg_tblspc" / "16399").symlink_to(tmp_path / "gone")
    with pytest.raises(RecoveryError):
        check(copy, segment(1, 3), content)
    (copy / "pg_tblspc" / "16400").symlink_to(tmp_path / "own")
    check(copy, segment(1, 3), content)


@pytest.mark.parametrize("timeline", [1, 2])
def test_a_record_that_begins_in_the_segment_before_is_found(
    copy: Path, tmp_path: Path, timeline: int
) -> None:
    location = used(tmp_path / ("live" * 10))
    content = wal_with(location, ONE_MIB.bytes - 64)
    split = ONE_MIB.bytes
    assert bytes(location) not in content[:split]
    assert bytes(location) not in content[split:]
    (copy / "pg_wal" / str(segment(1, 3))).write_bytes(content[:split])
    with pytest.raises(RecoveryError):
        check(copy, segment(timeline, 4), content[split:])
