"""Joins the stored tail of a growing segment into the bytes that the segment begins with.

Every piece carries the SHA-256 of the segment from its begin to the piece's end, so what was
joined is the segment as its writer saw it, and not merely pieces that are authentic one by one.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from walkeeper.errors import IntegrityError, unwrapped
from walkeeper.repository.archive import Archive
from walkeeper.services.fetch_file import FetchFile
from walkeeper.services.tail_chain import TailChain, TailPiece

_PARALLEL: Final = 8
_SMALL_BYTES: Final = 1 << 20
"""Pieces up to this size are read several at a time, into memory; larger ones one by one."""


async def join_tail(
    archive: Archive, chain: TailChain, file: FetchFile, pool: ThreadPoolExecutor
) -> int:
    """Write the bytes of a chain into an empty file; returns how many, which is the chain's end.

    Raises ObjectNotFound when a piece is gone (the complete segment became durable and its tail
    was deleted), IntegrityError naming the piece that is not what was written, WrongKey, and what
    storage raises; then the file may hold a part. Memory: 8 MiB and what a download takes.
    """
    if chain.end > archive.segment_size.bytes:
        raise IntegrityError(f"{chain.pieces[-1].name} ends behind the end of its segment")
    joined = _Joined(file, pool)
    for batch in _batches(chain.pieces):
        if len(batch) == 1:
            await _stream(archive, batch[0], joined)
            continue
        with unwrapped():
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(_read(archive, piece)) for piece in batch]
        for piece, task in zip(batch, tasks, strict=True):
            content, frames = task.result()
            await joined.add(content)
            joined.check(piece, frames)
    return joined.size_bytes


class _Joined:
    """What has been written so far, and its running digest."""

    def __init__(self, file: FetchFile, pool: ThreadPoolExecutor) -> None:
        self._file = file
        self._pool = pool
        self._digest = hashlib.sha256()
        self.size_bytes = 0

    async def add(self, data: bytes) -> None:
        await asyncio.get_running_loop().run_in_executor(self._pool, self._add, data)
        self.size_bytes += len(data)

    def _add(self, data: bytes) -> None:
        self._digest.update(data)
        self._file.write(data)

    def check(self, piece: TailPiece, frames: tuple[bytes, ...]) -> None:
        """What was written ends as the piece says, and is what its writer had before it too."""
        if self.size_bytes != piece.end:
            raise IntegrityError(f"{piece.name} ends at {self.size_bytes}, not at {piece.end}")
        if frames != (self._digest.digest(),):
            raise IntegrityError(
                f"{piece.name} does not go on from the pieces before it: their bytes are not "
                "those that its writer had",
                hint="two servers may have written one tail; the complete segment decides",
            )


async def _stream(archive: Archive, piece: TailPiece, joined: _Joined) -> None:
    async with archive.open(piece.name) as content:
        async for block in content:
            await joined.add(block)
    joined.check(piece, content.frames)


async def _read(archive: Archive, piece: TailPiece) -> tuple[bytes, tuple[bytes, ...]]:
    """Content and frames of a small piece; no more than its header declares is ever given out."""
    async with archive.open(piece.name) as content:
        blocks = [block async for block in content]
    return b"".join(blocks), content.frames


def _batches(pieces: Sequence[TailPiece]) -> Iterator[list[TailPiece]]:
    """The pieces in order: small neighbours together, others alone."""
    batch: list[TailPiece] = []
    for piece in pieces:
        small = piece.end - piece.begin <= _SMALL_BYTES
        if batch and (not small or len(batch) == _PARALLEL):
            yield batch
            batch = []
        if small:
            batch.append(piece)
        else:
            yield [piece]
    if batch:
        yield batch
