"""A sealed object, ready to be stored once or several times."""

from __future__ import annotations

import hashlib
import mmap
from collections.abc import Callable, Iterator
from typing import BinaryIO, Final, Self

from walkeeper.codec.memory import STEP_BYTES, PayloadMemory, round_up
from walkeeper.core.layout import ObjectName

BLOCK_BYTES: Final = 1 << 20
"""Size of the pieces that `SealedObject.blocks` gives."""

# Room that is kept in front of the payload, so that the header, made last, needs no copy of it.
# The largest header: an object stanza with 2 KiB of facts, and 31 recipients of 108 bytes each.
_ROOM_BYTES: Final = 8192


class SealedPayload:
    """The encrypted payload: in memory, behind room for the header, or spilled to a file."""

    def __init__(
        self, memory: PayloadMemory, spool: Callable[[], BinaryIO] | None, spool_over_bytes: int
    ) -> None:
        self._open_spool = spool
        self._spool_over_bytes = spool_over_bytes
        self._spool: BinaryIO | None = None
        self._spilled = 0
        self._memory = memory
        self._taken: mmap.mmap | None = memory.take()
        self._end = _ROOM_BYTES

    @property
    def size_bytes(self) -> int:
        """Length of the payload, wherever it lies."""
        return self._spilled + self._end - _ROOM_BYTES

    @property
    def spilled(self) -> bool:
        """Whether the payload lies in a file."""
        return self._spool is not None

    def room(self, size_bytes: int) -> memoryview:
        """See `age_stream.Output`."""
        begin, self._end = self._end, self._end + size_bytes
        buffer = self._buffer
        if self._end > len(buffer):
            buffer.resize(round_up(self._end))
        return memoryview(buffer)[begin : self._end]

    def spill(self) -> None:
        """Move what is in memory to the file, once the payload has grown over the limit."""
        if self._open_spool is None or self.size_bytes <= self._spool_over_bytes:
            return
        if self._spool is None:
            self._spool = self._open_spool()
        with self._in_memory() as view:
            self._spool.write(view)
        self._spilled += self._end - _ROOM_BYTES
        self._end = _ROOM_BYTES

    def settle(self) -> None:
        """Nothing is added any more: let go of memory that a larger payload has left."""
        if len(self._buffer) - self._end > STEP_BYTES:
            self._buffer.resize(round_up(self._end))

    def join(self, header: bytes) -> memoryview:
        """Header and payload in one piece; raises ValueError when the payload was spilled."""
        if self.spilled:
            raise ValueError("a payload in a file has no single buffer")
        begin = _ROOM_BYTES - len(header)
        self._buffer[begin:_ROOM_BYTES] = header
        return memoryview(self._buffer)[begin : self._end].toreadonly()

    def blocks(self) -> Iterator[bytes | memoryview]:
        """The payload in pieces; reads the file from its beginning."""
        if self._spool is None:
            whole = self._in_memory()
            for begin in range(0, len(whole), BLOCK_BYTES):
                yield whole[begin : begin + BLOCK_BYTES]
            return
        self._spool.seek(0)
        while block := self._spool.read(BLOCK_BYTES):
            yield block

    def close(self) -> None:
        """Close the file, if there is one, and give the memory back; idempotent.

        Whoever still has a view may go on reading it.
        """
        if self._taken is not None:
            self._memory.give(self._taken)
            self._taken = None
        if self._spool is not None:
            self._spool.close()

    @property
    def _buffer(self) -> mmap.mmap:
        if self._taken is None:
            raise ValueError("it was closed")
        return self._taken

    def _in_memory(self) -> memoryview:
        return memoryview(self._buffer)[_ROOM_BYTES : self._end].toreadonly()


class SealedObject:
    """One object as it will be stored. To be closed: it owns memory, and may own a file."""

    def __init__(
        self,
        *,
        name: ObjectName,
        header: bytes,
        payload: SealedPayload,
        plain_size: int,
        stored: int,
        content: bytes,
    ) -> None:
        self.name = name
        self.header = header
        self.plain_size = plain_size
        """Bytes of content."""
        self.stored = stored
        """Bytes of the compressed stream."""
        self.content = content
        """Content code, 32 bytes; see `SigningKey.content_code`."""
        self._payload = payload

    @property
    def size_bytes(self) -> int:
        """Bytes as stored."""
        return len(self.header) + self._payload.size_bytes

    @property
    def spilled(self) -> bool:
        """Whether the payload lies in a file: then only `blocks` gives it."""
        return self._payload.spilled

    def body(self) -> memoryview:
        """All of it in one piece, without a copy; raises ValueError when it was spilled."""
        return self._payload.join(self.header)

    def blocks(self) -> Iterator[bytes | memoryview]:
        """All of it in pieces of at most 1 MiB; may be asked for again, not twice at a time."""
        yield self.header
        yield from self._payload.blocks()

    def sha256(self) -> bytes:
        """Digest of the stored bytes; reads all of them."""
        digest = hashlib.sha256()
        for block in self.blocks():
            digest.update(block)
        return digest.digest()

    def close(self) -> None:
        """Give memory and file back; idempotent. Only views that were taken before remain."""
        self._payload.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
