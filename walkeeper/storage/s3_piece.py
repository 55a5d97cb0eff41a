"""The bodies of uploads: bytes, and the digest by which the store checks what arrives of them."""

from __future__ import annotations

import asyncio
import hashlib
import mmap
from base64 import b64encode
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from walkeeper.storage.base import Buffer


@dataclass(frozen=True, slots=True)
class Piece:
    """Bytes to send with one of two digests: the other is empty.

    ``sha256`` in hexadecimal becomes part of the signature (``x-amz-content-sha256``), ``md5`` in
    base64 is sent as Content-MD5. ``data`` may be a view of the caller's memory, which then must
    not change before it was sent.
    """

    data: bytes | memoryview
    md5: str = ""
    sha256: str = ""


Digest = Callable[[bytes | memoryview], Piece]
"""Makes a piece of bytes, without a copy of them; takes a second of CPU a GiB."""


def with_md5(data: bytes | memoryview) -> Piece:
    """What every S3 store checks."""
    md5 = hashlib.md5(data, usedforsecurity=False).digest()
    return Piece(data, md5=b64encode(md5).decode())


def with_sha256(data: bytes | memoryview) -> Piece:
    """For half of the CPU; for a store that is known to check it."""
    return Piece(data, sha256=hashlib.sha256(data).hexdigest())


async def make_piece(
    data: bytes | memoryview, digest: Digest, executor: ThreadPoolExecutor
) -> Piece:
    """``data`` itself and its digest, which is computed in a thread."""
    return await asyncio.get_running_loop().run_in_executor(executor, digest, data)


class PieceCutter:
    """Cuts a stream into pieces of ``piece_bytes``, which ``digest`` makes in ``executor``.

    A piece is filled in memory that was given back by `reuse`, if there is any: new pages for each
    cost as much as the copy.
    """

    def __init__(
        self,
        chunks: AsyncIterator[Buffer],
        piece_bytes: int,
        digest: Digest,
        executor: ThreadPoolExecutor,
    ) -> None:
        self._chunks = chunks
        self._piece_bytes = piece_bytes
        self._digest = digest
        self._executor = executor
        self._rest = memoryview(b"")
        self._spare: list[mmap.mmap] = []
        self._ended = False

    @property
    def is_done(self) -> bool:
        """Whether nothing comes after the piece returned last; known as soon as it is returned."""
        return self._ended and not self._rest

    async def next_piece(self) -> Piece:
        """The next piece: full, unless it is the last; empty after that."""
        # Of nobody else, and pages that are not filled do not count.
        room = self._spare.pop() if self._spare else mmap.mmap(-1, self._piece_bytes)
        view = memoryview(room)
        filled = 0
        while not self._ended:
            step = min(len(self._rest), len(view) - filled)
            view[filled : filled + step] = self._rest[:step]
            filled += step
            self._rest = self._rest[step:]
            if self._rest:
                break
            # Also behind a full piece, to know whether it is the last one.
            await self._take_chunk()
        return await make_piece(view[:filled], self._digest, self._executor)

    def reuse(self, piece: Piece) -> None:
        """Takes a piece's memory back, which nobody reads any more."""
        if isinstance(piece.data, memoryview) and isinstance(piece.data.obj, mmap.mmap):
            self._spare.append(piece.data.obj)

    async def _take_chunk(self) -> None:
        self._rest = memoryview(b"")  # its owner may use the memory again
        try:
            self._rest = memoryview(await anext(self._chunks)).cast("B")
        except StopAsyncIteration:
            self._ended = True
