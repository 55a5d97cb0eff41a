"""Page headers of WAL, byte for byte."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from walkeeper.core.lsn import Lsn
from walkeeper.core.pg_version import SUPPORTED_MAJORS, find_major, wal_magic
from walkeeper.core.wal import SegmentSize
from walkeeper.core.walpage import LongPageHeader, page_header_size, parse_long_header

LONG = "<HHIQI4xQII"
U32 = st.integers(0, 2**32 - 1)
U64 = st.integers(0, 2**64 - 1)


@given(
    st.sampled_from(SUPPORTED_MAJORS), U32, U64, U32, U64, st.integers(20, 30),
    st.sampled_from([2, 3, 6, 7, 10]),
)  # fmt: skip
def test_a_long_header_is_read_field_by_field(major, tli, address, rest, system, bits, info):
    data = struct.pack(LONG, wal_magic(major), info, tli, address, rest, system, 1 << bits, 8192)
    header = parse_long_header(data + b"more")
    assert header == LongPageHeader(
        wal_magic(major), major, tli, Lsn(address), rest, system, SegmentSize(1 << bits)
    )
    assert page_header_size(info) == len(data)


@given(st.binary(max_size=60))
def test_noise_is_refused_with_a_sentence(data):
    with pytest.raises(ValueError, match="WAL"):
        parse_long_header(data)


def test_other_page_sizes_are_refused_by_name():
    data = struct.pack(LONG, 0xD110, 2, 1, 1 << 24, 0, 1, 1 << 24, 16384)
    with pytest.raises(ValueError, match="pages of 16384 bytes are not supported, only of 8192"):
        parse_long_header(data)


def test_versions_are_told_by_their_magic_number():
    assert SUPPORTED_MAJORS == (13, 14, 15, 16, 17, 18)
    assert [f"{wal_magic(major):X}" for major in SUPPORTED_MAJORS] == (
        ["D106", "D10D", "D110", "D113", "D116", "D118"]
    )
    assert all(find_major(wal_magic(major)) == major for major in SUPPORTED_MAJORS)
    assert find_major(0xD101) is None
    with pytest.raises(ValueError, match="PostgreSQL 12 is not among 13 to 18"):
        wal_magic(12)
