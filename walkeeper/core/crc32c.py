"""CRC-32C (Castagnoli), the checksum of WAL records and of ``pg_control``.

Pure Python at some 10 MB/s: meant for single records and small files, not for whole segments.
"""

from __future__ import annotations

from typing import Final

_POLYNOMIAL: Final = 0x82F6_3B78  # src/port/pg_crc32c_sb8.c: 0x1EDC6F41, bits reversed


def _entry(value: int) -> int:
    for _ in range(8):
        value = (value >> 1) ^ (_POLYNOMIAL if value & 1 else 0)
    return value


_TABLE: Final = tuple(_entry(byte) for byte in range(256))


def crc32c(data: bytes | bytearray | memoryview, previous: int = 0) -> int:
    """The checksum of ``data``; ``previous`` is that of what comes before it, to go on from."""
    table = _TABLE
    crc = previous ^ 0xFFFF_FFFF
    for byte in data:
        crc = table[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    return crc ^ 0xFFFF_FFFF
