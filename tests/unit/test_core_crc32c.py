"""CRC-32C against published values and its own definition."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from walkeeper.core.crc32c import crc32c


@pytest.mark.parametrize(
    ("data", "checksum"),
    [
        (b"", 0),
        (b"123456789", 0xE3069283),
        (bytes(32), 0x8A9136AA),  # RFC 3720, B.4
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
        (bytes(reversed(range(32))), 0x113FDB5C),
    ],
)
def test_published_checksums_come_out(data, checksum):
    assert crc32c(data) == checksum
    assert crc32c(memoryview(data)) == checksum


@given(st.binary(max_size=200), st.binary(max_size=200))
def test_a_checksum_can_be_gone_on_from(one, other):
    assert crc32c(other, crc32c(one)) == crc32c(one + other)
