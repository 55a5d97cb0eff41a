"""The stored tail of a growing segment: a chain of byte ranges that begins at its first byte.

Found with two short listings and the headers of what is still needed; no identity is required.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from walkeeper.core import layout
from walkeeper.core.layout import MergedTail, ObjectName, TailLink
from walkeeper.core.wal import WalSegment
from walkeeper.errors import IntegrityError, ObjectNotFound, unwrapped
from walkeeper.repository.archive import Archive
from walkeeper.storage.base import ObjectInfo

MERGE_EVERY: Final = 64
"""After so many links everything so far is stored once more in one object."""
_PARALLEL: Final = 8


@dataclass(frozen=True, slots=True)
class TailPiece:
    """One object of a chain: the bytes from offset ``begin`` to just before ``end``.

    ``content`` is the code of these bytes, see `SigningKey.content_code`.
    """

    name: ObjectName
    begin: int
    end: int
    content: bytes


@dataclass(frozen=True, slots=True)
class TailChain:
    """What is stored of a segment from its begin on without a gap; ``end`` is an offset.

    ``stranded`` are links behind a gap: their predecessor never became durable. ``damaged`` says
    to a writer why nothing can be added; `find_chain` raises instead.
    """

    segment: WalSegment
    pieces: tuple[TailPiece, ...]
    stranded: tuple[ObjectName, ...] = ()
    damaged: str | None = None

    @property
    def end(self) -> int:
        """Offset just behind the last byte of the chain; 0 when nothing is stored."""
        return self.pieces[-1].end if self.pieces else 0

    @property
    def links(self) -> int:
        """Links in the chain, those that a merged object replaces not counted."""
        return sum(isinstance(layout.parse_tail_object(p.name), TailLink) for p in self.pieces)


async def find_chain(archive: Archive, segment: WalSegment) -> TailChain:
    """The chain that the archive holds of a segment; empty when there is none.

    Objects that vanish meanwhile (the complete segment became durable) end the chain before them.
    Raises IntegrityError for what was not written by a known writer, and what storage raises.
    """
    return _chain(segment, await _read_pieces(archive, await _list_chain(archive, segment)))


async def find_tail_time(archive: Archive, segment: WalSegment) -> datetime | None:
    """When the store took the newest piece of a segment's tail; None where there is no tail."""
    listed = await _list_chain(archive, segment)
    return max((info.modified_at for info in listed), default=None)


async def _list_chain(archive: Archive, segment: WalSegment) -> list[ObjectInfo]:
    """The last merged object, and the links behind it."""
    wanted: list[ObjectInfo] = []
    begin = 0
    async for info in archive.list_objects(layout.merged_tail_prefix(segment)):
        tail = layout.parse_tail_object(info.name)
        if isinstance(tail, MergedTail):  # in order of their ends: the last replaces the others
            wanted, begin = [info], tail.end
    after = layout.tail_links_after(segment, begin)
    async for info in archive.list_objects(layout.tail_prefix(segment), after=after):
        if isinstance(layout.parse_tail_object(info.name), TailLink):
            wanted.append(info)
    return wanted


async def _read_pieces(archive: Archive, wanted: list[ObjectInfo]) -> list[TailPiece | None]:
    gate = asyncio.Semaphore(_PARALLEL)

    async def read(info: ObjectInfo) -> TailPiece | None:
        async with gate:
            return await _read_piece(archive, info)

    with unwrapped():
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(read(info)) for info in wanted]
    return [task.result() for task in tasks]


async def _read_piece(archive: Archive, info: ObjectInfo) -> TailPiece | None:
    name = ObjectName(info.name)
    try:
        header = await archive.read_header(name)
    except ObjectNotFound:
        return None
    if info.size_bytes != header.implied_size():
        raise IntegrityError(
            f"{name} is damaged: {info.size_bytes} bytes are stored where its header implies "
            f"{header.implied_size()}"
        )
    size, content = header.facts.size, header.content
    if size is None or content is None:
        raise IntegrityError(f"{name} does not say what it holds")
    tail = layout.parse_tail_object(name)
    if isinstance(tail, TailLink):
        return TailPiece(name, tail.begin, tail.begin + size, content)
    if isinstance(tail, MergedTail) and tail.end == size:
        return TailPiece(name, 0, size, content)
    raise IntegrityError(f"{name} holds {size} bytes, which is not what its name says")


def _chain(segment: WalSegment, found: list[TailPiece | None]) -> TailChain:
    pieces: list[TailPiece] = []
    stranded: list[ObjectName] = []
    end = 0
    for piece in found:
        if piece is None:
            continue
        if piece.begin == end and piece.end > end:
            pieces.append(piece)
            end = piece.end
        else:
            stranded.append(piece.name)
    return TailChain(segment, tuple(pieces), tuple(stranded))


async def tail_folders(archive: Archive) -> AsyncIterator[WalSegment]:
    """The segments of which the archive holds a tail."""
    for folder in await archive.folders(layout.TAIL_PREFIX):
        segment = layout.parse_tail_folder(folder)
        if segment is not None:
            yield segment
