"""Checks the stored tails of growing segments: every link, and that they join."""

from __future__ import annotations

import asyncio
import hashlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from walkeeper.core.layout import (
    TAIL_PREFIX,
    MergedTail,
    StoredTail,
    TailLink,
    parse_tail_object,
    tail_object,
    wal_object,
)
from walkeeper.core.wal import WalSegment
from walkeeper.services.verify_object import ObjectCheck, Trouble, Whole
from walkeeper.services.verify_report import Problem
from walkeeper.services.verify_wal import WalWalk
from walkeeper.storage.base import ObjectInfo


@dataclass(slots=True)
class _Chain:
    """What is stored of one segment: links as (begin, end), ascending; the furthest merged end.

    ``digest`` has taken in the links from the first on, as far as they follow each other. ``gone``
    says that one was deleted since it was listed.
    """

    segment: WalSegment
    links: list[tuple[int, int]] = field(default_factory=list)
    merged: int = 0
    damaged: bool = False
    gone: bool = False
    digested: int = 0
    digest: hashlib._Hash = field(default_factory=hashlib.sha256)


class TailWalk:
    """One walk over ``tail/``, object by object: a chain is judged in its order.

    Links are always read where that is possible: the last seconds hang on them, and they are few.
    """

    def __init__(self, objects: ObjectCheck, walk: WalWalk, pool: ThreadPoolExecutor) -> None:
        self._objects = objects
        self._walk = walk
        self._wal = walk.found
        self._pool = pool
        self._size = objects.archive.segment_size

    async def run(self) -> None:
        """Check everything; how far the chains go is added to the stored WAL."""
        chain: _Chain | None = None
        async for info in self._objects.archive.list_objects(TAIL_PREFIX):
            tail = parse_tail_object(info.name)
            if tail is None or not tail.segment.fits(self._size):
                self._objects.book.note(f"{info.name} is not a name of walkeeper's")
                continue
            if not self._walk.is_asked(tail.segment):
                continue
            if chain is None or chain.segment != tail.segment:
                await self._finish(chain)
                chain = _Chain(tail.segment)
            await self._piece(chain, info, tail)
        await self._finish(chain)

    async def _piece(self, chain: _Chain, info: ObjectInfo, tail: StoredTail) -> None:
        loop = asyncio.get_running_loop()
        joins = isinstance(tail, TailLink) and tail.begin == chain.digested
        digest = chain.digest if joins else hashlib.sha256()

        async def take(block: bytes) -> None:
            await loop.run_in_executor(self._pool, digest.update, block)

        reads = self._objects.sample is not None
        whole = await self._objects.check(info, chain.segment, read=reads, take=take)
        if not isinstance(whole, Whole):
            chain.damaged = chain.damaged or whole is Trouble.DAMAGED
            chain.gone = chain.gone or whole is Trouble.GONE
            return
        size = whole.header.facts.size or 0
        fault = _size_fault(tail, size, self._size.bytes)
        from_start = joins or isinstance(tail, MergedTail)
        if fault is None and whole.was_read and from_start and whole.frames != (digest.digest(),):
            fault = "the bytes before it are not those that were there when it was written"
        if fault is not None:
            self._objects.book.report(Problem(info.name, "damaged", fault, chain.segment))
            chain.damaged = True
        elif isinstance(tail, MergedTail):
            chain.merged = max(chain.merged, tail.end)
        else:
            chain.links.append((tail.begin, tail.begin + size))
            chain.digested += size if joins and whole.was_read else 0

    async def _finish(self, chain: _Chain | None) -> None:
        """Judge how the links join, as whoever puts them together would."""
        if chain is None:
            return
        segment, number = chain.segment, chain.segment.number(self._size)
        if self._wal.holds(segment, number):
            self._objects.book.note(f"the tail of {segment} is left over: it is stored whole")
            return
        end = chain.merged
        stranded = None
        for begin, link_end in chain.links:
            if begin == end:
                end = link_end
            elif begin > end and stranded is None:
                stranded = begin
        if stranded is not None and (await self._came_whole(segment, number) or chain.gone):
            self._objects.book.note(f"the tail of {segment} was deleted since it was listed")
            return
        if stranded is not None and not chain.damaged:
            self._objects.missing(
                tail_object(TailLink(segment, end)),
                f"the tail of {segment} does not join: "
                f"{tail_object(TailLink(segment, stranded))} and what follows cannot be reached",
                segment,
            )
        if stranded is not None or chain.damaged:
            self._wal.damaged.setdefault(segment.timeline, set()).add(number)
        if end:
            self._wal.reach(segment, segment.begin(self._size) + end)

    async def _came_whole(self, segment: WalSegment, number: int) -> bool:
        """Whether the segment was stored since the walk over ``wal/``: its tail goes, in no order.

        It is read in the next round.
        """
        came = await self._objects.archive.holds(wal_object(segment))
        if came:
            self._wal.add(segment.timeline, number)
        return came


def _size_fault(tail: StoredTail, size: int, most: int) -> str | None:
    begin = 0 if isinstance(tail, MergedTail) else tail.begin
    if isinstance(tail, MergedTail) and size != tail.end:
        return f"it holds {size} bytes, which is not what its name says"
    if size == 0 or begin + size > most:
        return f"it holds {size} bytes from {begin} on, a segment has {most}"
    return None
