"""Reads the segments of a recovery's path and walks their records, in either direction.

Segments are read a few at a time, through unnamed files, and dropped again; their order is that in
which recovery reads them.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Final

import msgspec

from walkeeper.core.layout import wal_object
from walkeeper.core.lsn import Lsn
from walkeeper.core.plan import Candidate
from walkeeper.core.segment_set import SegmentRange
from walkeeper.core.wal import SegmentSize, WalSegment
from walkeeper.core.walfacts import Fact
from walkeeper.core.walpage import WalBytes
from walkeeper.core.walrecord import Carry, SegmentScan, scan_segment
from walkeeper.errors import IntegrityError, NoSuchSegment, ObjectNotFound, unwrapped
from walkeeper.repository.archive import Archive
from walkeeper.services.fetch_file import FetchFile, download
from walkeeper.services.segment_stand_in import StandIns

_PARALLEL: Final = 4
_PARALLEL_BYTES: Final = 256 << 20
"""What segments that are read at once may have, unless one alone has more."""


class ScanProgress(msgspec.Struct, frozen=True):
    """WAL is being read for the plan: ``segments`` so far, the last of them ``segment``."""

    segment: str
    segments: int


@dataclass(frozen=True, slots=True)
class _Segments:
    """The segments of a reach by their place in it; a fork's may be there on both timelines."""

    parts: tuple[SegmentRange, ...]
    size: SegmentSize

    def at(self, index: int) -> WalSegment:
        """The segment at a place, counted from 0."""
        for part in self.parts:
            if index < part.count:
                return WalSegment.numbered(part.timeline, part.begin + index, self.size)
            index -= part.count
        raise IndexError(index)

    def within(self, begin: Lsn, end: Lsn) -> tuple[int, int]:
        """First and last place with bytes from ``begin`` to just before ``end``; maybe none."""
        first, after = begin.value // self.size.bytes, -(-end.value // self.size.bytes)
        starts = accumulate((part.count for part in self.parts), initial=0)
        places = [
            place
            for start, part in zip(starts, self.parts, strict=False)
            for low, high in ((max(first, part.begin), min(after, part.end)),)
            if low < high
            for place in (start + low - part.begin, start + high - 1 - part.begin)
        ]
        return min(places, default=0), max(places, default=-1)


class WalReader:
    """Reads the WAL that a candidate's recovery would read; a place is a segment's, from 0 on.

    ``scratch_dir`` takes the unnamed files, up to five of a segment's size or 512 MiB.
    """

    def __init__(
        self,
        archive: Archive,
        pool: ThreadPoolExecutor,
        candidate: Candidate,
        scratch_dir: Path,
        progress: Callable[[ScanProgress], None],
    ) -> None:
        self._archive = archive
        self._stand_ins = StandIns(archive, pool, scratch_dir)
        self._scratch_dir = scratch_dir
        self._pool = pool
        self._candidate = candidate
        self._size = archive.segment_size
        self._segments = _Segments(candidate.reach.read, self._size)
        self._ends = {leg.timeline: leg.end for leg in candidate.path}
        self._progress = progress
        self._count = 0
        self._width = max(1, min(_PARALLEL, _PARALLEL_BYTES // self._size.bytes))

    def within(self, begin: Lsn, end: Lsn) -> tuple[int, int]:
        """First and last place with bytes from ``begin`` to just before ``end``.

        The last lies before the first when there are none.
        """
        return self._segments.within(begin, end)

    async def facts_at(self, place: int) -> tuple[Fact, ...]:
        """The facts whose records lie wholly in one segment."""
        return (await self._scan(place, await self._read(place), None)).facts

    async def backwards(
        self, first: int, last: int
    ) -> AsyncGenerator[tuple[int, tuple[Fact, ...]], None]:
        """Places from the last one on, each with the facts whose records begin in it."""
        at, width = last, 1
        newer: WalBytes | None = None
        while at >= first:
            low = max(first, at - width + 1)
            for place, data in reversed(list(enumerate(await self._read_all(low, at), low))):
                scan = await self._scan(place, data, None)
                facts = scan.facts
                if newer is not None and scan.carry is not None and self._follows(place + 1):
                    end = self._segments.at(place).end(self._size)
                    over = await self._scan(place + 1, newer, scan.carry)
                    facts += tuple(fact for fact in over.facts if fact.begin < end)
                yield place, facts
                newer = data
            at, width = low - 1, self._width

    async def forwards(
        self, first: int, last: int
    ) -> AsyncGenerator[tuple[int, SegmentScan], None]:
        """Places from the first one on, each with the records that end in it."""
        carry: Carry | None = None
        before: Carry | None = None
        for low in range(first, last + 1, self._width):
            high = min(low + self._width - 1, last)
            for place, data in enumerate(await self._read_all(low, high), low):
                # The child's copy of a fork's segment goes on from where its parent's did.
                before = carry if place == first or self._follows(place) else before
                scan = await self._scan(place, data, before)
                carry = scan.carry
                yield place, scan

    def _follows(self, place: int) -> bool:
        """Whether a segment begins where the one before it in the reach ends."""
        numbers = [self._segments.at(at).number(self._size) for at in (place - 1, place)]
        return numbers[1] == numbers[0] + 1

    async def _read_all(self, first: int, last: int) -> list[WalBytes]:
        places = range(first, last + 1)
        with unwrapped():
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(self._read(place)) for place in places]
        return [task.result() for task in tasks]

    async def _read(self, place: int) -> WalBytes:
        segment = self._segments.at(place)
        if segment == self._candidate.reach.fragment:
            data = await self._read_fragment(segment)
        else:
            data = await self._read_complete(segment)
        self._count += 1
        self._progress(ScanProgress(str(segment), self._count))
        return data

    async def _read_fragment(self, segment: WalSegment) -> WalBytes:
        try:
            found = await self._stand_ins.find(segment)
        except ObjectNotFound:  # it became complete meanwhile, and its tail was deleted
            found = None
        if found is None:
            return await self._read_complete(segment)
        return await self._mapped(found.file)

    async def _read_complete(self, segment: WalSegment) -> WalBytes:
        file = FetchFile.unnamed(self._scratch_dir)
        try:
            name, size = wal_object(segment), self._size.bytes
            await download(self._archive, name, file, self._pool, size_bytes=size)
        except ObjectNotFound as error:
            self._pool.submit(file.close)
            raise NoSuchSegment(
                f"{segment} was removed from the archive while it was looked at",
                hint="plan again; does expire run at the same time?",
            ) from error
        except BaseException:
            self._pool.submit(file.close)
            raise
        return await self._mapped(file)

    async def _mapped(self, file: FetchFile) -> WalBytes:
        """A segment's bytes out of an unnamed file, which is closed: pages that the kernel may
        drop, so that segments of a GiB do not take as much memory."""
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._pool, file.view, self._size.bytes)
        finally:
            self._pool.submit(file.close)

    async def _scan(self, place: int, data: WalBytes, carry: Carry | None) -> SegmentScan:
        """Walk a segment's records, as far as they lie on the path."""
        segment = self._segments.at(place)
        end, begin = self._ends[segment.timeline], segment.begin(self._size)
        if segment == self._candidate.reach.fragment:
            end = self._candidate.reach.end
        cut = end is not None and end - begin < self._size.bytes
        content = memoryview(data)[: end - begin] if cut and end is not None else data
        loop = asyncio.get_running_loop()
        try:
            scan = await loop.run_in_executor(
                self._pool, scan_segment, segment, self._size, content, carry
            )
        except ValueError as error:
            raise IntegrityError(f"{segment} is not WAL of this cluster: {error}") from error
        if scan.stopped is not None and not cut:
            raise IntegrityError(
                f"{segment} holds no valid WAL from {scan.valid_end} on: {scan.stopped}",
                hint=f"--target-lsn {scan.valid_end} or an earlier target can be reached",
            )
        return scan
