"""A tar that comes in blocks: members by tarfile, their content without copies.

tarfile's own stream mode copies each byte several times, into fresh memory each time. Here it
reads the headers only; a member's content comes as views of the blocks.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterable, Iterator
from typing import IO, cast


class TarBlocks:
    """Reads one tar, forward only. Errors are `tarfile.TarError` and what the blocks raise."""

    def __init__(self, blocks: Iterable[bytes]) -> None:
        self._blocks = iter(blocks)
        self._rest = memoryview(b"")
        self._position = 0

    def members(self) -> Iterator[tarfile.TarInfo]:
        """Each member; its `content`, if it is wanted, is taken before the next is asked for."""
        with tarfile.open(
            fileobj=cast("IO[bytes]", self),
            mode="r:",
            encoding="utf-8",
            errors="surrogateescape",
        ) as tar:
            for member in tar:
                yield member
                tar.members.clear()  # type: ignore[attr-defined]  # or it keeps every member

    def content(self, member: tarfile.TarInfo) -> Iterator[memoryview]:
        """The content of the member that came last; a view holds until the next one is taken."""
        return self._take(member.size)

    def drain(self) -> None:
        """Take whatever follows the end of the tar: errors come at the very end of the blocks."""
        self._rest = memoryview(b"")
        for _ in self._blocks:
            pass

    def read(self, size: int) -> bytes:
        """For tarfile: fewer bytes than asked for only at the end."""
        return b"".join(bytes(piece) for piece in self._pieces(size))

    def tell(self) -> int:
        """For tarfile: how much was taken."""
        return self._position

    def seek(self, position: int) -> None:
        """For tarfile: pass over what is not wanted."""
        if position < self._position:
            raise tarfile.StreamError("seeking backwards")
        for _ in self._take(position - self._position):
            pass

    def _take(self, size: int) -> Iterator[memoryview]:
        end = self._position + size
        yield from self._pieces(size)
        if self._position != end:
            raise tarfile.ReadError("unexpected end of data")

    def _pieces(self, size: int) -> Iterator[memoryview]:
        while size > 0 and (self._rest or self._next()):
            piece, self._rest = self._rest[:size], self._rest[size:]
            size -= len(piece)
            self._position += len(piece)
            yield piece

    def _next(self) -> bool:
        self._rest = memoryview(b"")  # let go of the block before the next one is made
        self._rest = memoryview(next(self._blocks, b""))
        return bool(self._rest)
