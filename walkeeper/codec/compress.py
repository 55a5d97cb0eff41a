"""zstd (RFC 8878): the only place where it is imported.

What is stored is exactly one data frame with a content checksum, a window of at most 8 MiB and
no dictionary, then only skippable frames. A reader refuses everything else.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Final

from walkeeper.errors import IntegrityError

if sys.version_info >= (3, 14):
    from compression.zstd import (
        CompressionParameter,
        DecompressionParameter,
        ZstdCompressor,
        ZstdDecompressor,
        ZstdError,
    )
else:
    from backports.zstd import (
        CompressionParameter,
        DecompressionParameter,
        ZstdCompressor,
        ZstdDecompressor,
        ZstdError,
    )

Buffer = bytes | bytearray | memoryview

MAX_WINDOW_LOG: Final = 23
"""8 MiB, what every decoder must support (RFC 8878, section 3.1.1.1.2)."""
MIN_LEVEL: Final = 1
MAX_LEVEL: Final = 19
"""zstd's levels above take windows of more than 8 MiB."""
STEP_BYTES: Final = 1 << 20
"""The most that one step of decompression gives out, however much its input expands."""
SMALL_STEP_BYTES: Final = 96 << 10
"""A step for whoever takes the blocks in the same thread.

Below malloc's threshold (see hooks/walkeeper.sh) memory is used again as soon as a block is let go;
a block above it is fresh pages each time, and their faults cost more than the decompression.
"""
MAX_TRAILER_BYTES: Final = 64 * 1024
"""The most that all skippable frames after the data may take."""

_FRAME_MAGIC: Final = b"\x28\xb5\x2f\xfd"
# RFC 8878, section 3.1.2: sixteen magic numbers; the low nibble is free to choose.
_SKIPPABLE_MAGIC: Final = 0x184D2A50
_SKIPPABLE_HEADER: Final = 8
# What is looked at: magic, descriptor, window or size; a dictionary is refused.
_MAX_FRAME_HEADER: Final = 4 + 1 + 8
# RFC 8878, section 3.1.1.1.1: bits of the frame header descriptor.
_SINGLE_SEGMENT: Final = 0x20
_RESERVED: Final = 0x08
_CHECKSUM: Final = 0x04
_DICTIONARY: Final = 0x03


def skippable_frame(payload: bytes) -> bytes:
    """A frame that decoders skip: room for facts beside the data, inside the encryption."""
    magic = _SKIPPABLE_MAGIC.to_bytes(4, "little")
    return magic + len(payload).to_bytes(4, "little") + payload


class Compressor:
    """Compresses a stream into one data frame. ``level`` is 1 (fast) to 19 (small)."""

    def __init__(self, level: int) -> None:
        if not MIN_LEVEL <= level <= MAX_LEVEL:
            raise ValueError(f"a zstd level lies between {MIN_LEVEL} and {MAX_LEVEL}: {level}")
        options: dict[int, int] = {
            CompressionParameter.compression_level: level,
            CompressionParameter.checksum_flag: 1,
        }
        self._zstd = ZstdCompressor(options=options)

    def compress(self, data: Buffer) -> bytes:
        """Take ``data`` in; returns what is ready, often nothing."""
        return self._zstd.compress(data)

    def finish(self) -> bytes:
        """Return the rest of the frame; the compressor is of no use afterwards."""
        return self._zstd.flush(ZstdCompressor.FLUSH_FRAME)


class Decompressor:
    """Decompresses what `Compressor` and `skippable_frame` made, in bounded steps.

    ``feed`` takes input in, ``drain`` gives output out in blocks of at most ``step_bytes``,
    ``finish`` checks the end. Errors are `IntegrityError`. With ``size_bytes`` output beyond it is
    refused before it is given out.
    """

    def __init__(self, size_bytes: int | None = None, *, step_bytes: int = STEP_BYTES) -> None:
        options: dict[int, int] = {DecompressionParameter.window_log_max: MAX_WINDOW_LOG}
        self._zstd = ZstdDecompressor(options=options)
        self._limit = size_bytes
        self._step_bytes = step_bytes
        self._pending: Buffer = b""
        self._started = False
        self.plain_size = 0

    def feed(self, data: Buffer) -> None:
        """Take compressed bytes in, of any length; they must not change until they are drained."""
        self._pending = bytes(self._pending) + data if self._pending else data

    def drain(self) -> Iterator[bytes]:
        """Everything that can be given out now, in blocks of a step at most, none empty."""
        while block := self._step():
            self.plain_size += len(block)
            if self._limit is not None and self.plain_size > self._limit:
                raise IntegrityError(f"it holds more than the {self._limit} bytes it declares")
            yield block

    def finish(self) -> tuple[bytes, ...]:
        """The payloads of the skippable frames; raises `IntegrityError` unless all is complete.

        To be called when ``drain`` has nothing left.
        """
        if not self._zstd.eof:
            raise IntegrityError("the zstd frame is cut")
        return tuple(_parse_skippable(bytes(self._pending)))

    def _step(self) -> bytes:
        if not self._started:
            self._started = _check_frame_header(bytes(self._pending[:_MAX_FRAME_HEADER]))
        block = b""
        while self._started and not self._zstd.eof and not block:
            data: Buffer = b""
            if self._zstd.needs_input:
                if not self._pending:
                    break
                data, self._pending = self._pending, b""
            block = self._decompress(data)
        if self._zstd.eof and len(self._pending) > MAX_TRAILER_BYTES:
            raise IntegrityError("too much follows the zstd frame")
        return block

    def _decompress(self, data: Buffer) -> bytes:
        try:
            block = self._zstd.decompress(data, max_length=self._step_bytes)
        except ZstdError:
            raise IntegrityError("the zstd frame is damaged") from None
        if self._zstd.eof:
            self._pending = self._zstd.unused_data + self._pending
        return block


def _check_frame_header(head: bytes) -> bool:
    """Whether the frame may be decompressed; False when more bytes are needed to tell.

    libzstd enforces its window limit only while streaming, and never asks for a checksum.
    """
    if not head.startswith(_FRAME_MAGIC[: len(head)]):
        raise IntegrityError("it does not begin with a zstd data frame")
    if len(head) < 6:
        return False
    descriptor = head[4]
    if descriptor & (_RESERVED | _DICTIONARY) or not descriptor & _CHECKSUM:
        raise IntegrityError("the zstd frame has no checksum, or needs a dictionary")
    if descriptor & _SINGLE_SEGMENT:
        width = (1, 2, 4, 8)[descriptor >> 6]
        if len(head) < 5 + width:
            return False
        window = int.from_bytes(head[5 : 5 + width], "little") + (256 if width == 2 else 0)
    else:
        base = 1 << (10 + (head[5] >> 3))
        window = base + base // 8 * (head[5] & 7)
    if window > 1 << MAX_WINDOW_LOG:
        raise IntegrityError("the zstd frame has a window of more than 8 MiB")
    return True


def _parse_skippable(data: bytes) -> Iterator[bytes]:
    at = 0
    while at < len(data):
        begin = at + _SKIPPABLE_HEADER
        magic = int.from_bytes(data[at : at + 4], "little")
        end = begin + int.from_bytes(data[at + 4 : begin], "little")
        if magic & ~0xF != _SKIPPABLE_MAGIC or begin > len(data) or end > len(data):
            raise IntegrityError("something other than a skippable frame follows the zstd frame")
        yield data[begin:end]
        at = end
