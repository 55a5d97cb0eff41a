"""pg_control is read whole or not at all."""

import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from walkeeper.core.crc32c import crc32c
from walkeeper.core.lsn import Lsn
from walkeeper.errors import IntegrityError, PostgresError
from walkeeper.postgres.control_file import (
    ClusterState,
    parse_control_file,
    read_control_bytes,
    read_control_file,
)

# Offsets of ControlFileData on a 64-bit machine, counted by hand from pg_control.h.
CRC_AT = {1300: 288, 1700: 288, 1800: 292}


def make_control(version=1300, *, system_identifier=7, redo=0x1_0000_0028, state=6, checksums=1):
    content = bytearray(8192)
    struct.pack_into("=QIII", content, 0, system_identifier, version, 202209061, state)
    struct.pack_into("=QI", content, 40, redo, 3)
    struct.pack_into("=5i", content, 180, 100, 8, 10, 0, 64)
    struct.pack_into("=I", content, 216, 8192)
    struct.pack_into("=I", content, 228, 1 << 20)
    struct.pack_into("=I", content, 252, checksums)
    at = CRC_AT[version]
    struct.pack_into("=I", content, at, crc32c(bytes(content[:at])))
    return bytes(content)


@pytest.mark.parametrize("version", [1300, 1700, 1800])
def test_every_supported_version_is_read(version):
    control = parse_control_file(make_control(version, checksums=0))

    assert control.control_version == version
    assert control.system_identifier == 7
    assert control.redo == Lsn(0x1_0000_0028)
    assert control.timeline == 3
    assert control.state is ClusterState.IN_PRODUCTION
    assert control.standby_settings.max_connections == 100
    assert control.standby_settings.max_locks_per_transaction == 64
    assert control.block_size == 8192
    assert control.segment_size.bytes == 1 << 20
    assert control.data_checksums is False


@given(st.integers(0, 291), st.integers(1, 255))
def test_any_changed_byte_is_noticed(position, flip):
    damaged = bytearray(make_control())
    damaged[position] ^= flip

    with pytest.raises((IntegrityError, PostgresError)):
        parse_control_file(bytes(damaged))


@pytest.mark.parametrize("size", [0, 100, 8191, 8193])
def test_a_file_of_another_size_is_refused(size):
    with pytest.raises(IntegrityError, match="bytes"):
        parse_control_file(make_control().ljust(size, b"\0")[:size])


def test_an_unknown_version_is_named():
    content = bytearray(make_control())
    struct.pack_into("=I", content, 8, 1900)

    with pytest.raises(PostgresError, match="1900"):
        parse_control_file(bytes(content))


def test_an_impossible_value_under_a_valid_checksum_is_refused():
    with pytest.raises(IntegrityError, match="no meaning"):
        parse_control_file(make_control(state=99))


def test_a_file_caught_in_the_middle_of_an_update_is_read_again(tmp_path: Path):
    path = tmp_path / "global" / "pg_control"
    path.parent.mkdir()
    old, new = make_control(redo=0x28), make_control(redo=0x1000028)
    path.write_bytes(new[:48] + old[48:])
    pauses = []

    def finish_the_update(seconds):
        pauses.append(seconds)
        if len(pauses) == 3:
            path.write_bytes(new)

    assert read_control_bytes(tmp_path, sleep=finish_the_update) == new
    assert len(pauses) == 3


def test_a_file_that_stays_damaged_is_an_error_in_the_end(tmp_path: Path):
    path = tmp_path / "global" / "pg_control"
    path.parent.mkdir()
    path.write_bytes(b"\1" + make_control()[1:])
    pauses = []

    with pytest.raises(IntegrityError):
        read_control_file(tmp_path, sleep=pauses.append)
    assert 0.5 < sum(pauses) < 5


def test_a_missing_file_is_no_data_directory(tmp_path: Path):
    with pytest.raises(PostgresError, match="pg_control"):
        read_control_file(tmp_path)
