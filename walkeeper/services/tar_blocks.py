"""A tar that comes in blocks: members by tarfile, their content without copies.

tarfile's own stream mode copies each byte several times, into fresh memory each time. Here it
reads the headers only; a member's content comes as views of the blocks.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterable, Iterator
from typing import IO, Final, Self, cast

_SUMMED: Final = (slice(0, 148), slice(156, tarfile.BLOCKSIZE))
"""Of a header, POSIX pax, "ustar Header Block": what its checksum is of, which counts as blanks."""
_MODE_AND_SIZE: Final = ((100, 108), (124, 136))


class _Member(tarfile.TarInfo):
    """A member whose header is read at once where it is as plain as most are."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        """As `tarfile.TarInfo.frombuf`; of a plain file only name, size and mode are taken."""
        # A regular file ("0") whose name has no prefix; a name that is not ASCII fails below.
        if len(buf) == tarfile.BLOCKSIZE and buf[156:157] == b"0" and buf[345:346] == b"\0":
            try:
                member = cls(_field(buf, 0, 100).decode("ascii"))
                member.mode, member.size = (int(_field(buf, *at), 8) for at in _MODE_AND_SIZE)
                total = int(_field(buf, 148, 156), 8)
            except ValueError:
                return super().frombuf(buf, encoding, errors)
            if total == 8 * ord(" ") + sum(sum(buf[part]) for part in _SUMMED):
                return member
        return super().frombuf(buf, encoding, errors)


def _field(header: bytes | bytearray, begin: int, end: int) -> bytes | bytearray:
    return header[begin:end].partition(b"\0")[0]


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
            tarinfo=_Member,
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
