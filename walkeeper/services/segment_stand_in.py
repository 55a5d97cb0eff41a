"""What may stand in for a segment that was never completed: its tail, or a cut-off object.

Whichever holds whole records further is taken, and only for the last segment that a recovery
reads. It is handed out as it is, for PostgreSQL decides better than we do what the last record is
when it has read the segments before.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from walkeeper.core import layout
from walkeeper.core.layout import CutOffSegment, ObjectName
from walkeeper.core.lsn import Lsn
from walkeeper.core.timeline import TimelineHistory
from walkeeper.core.wal import SegmentSize, WalSegment
from walkeeper.core.walpage import PAGE_SIZE, page_header_size, parse_long_header
from walkeeper.core.walrecord import scan_segment
from walkeeper.errors import IntegrityError, ObjectNotFound
from walkeeper.repository.archive import Archive
from walkeeper.services.fetch_file import FetchFile, download
from walkeeper.services.fetch_rules import part_on_path
from walkeeper.services.tail_chain import TailChain, find_chain
from walkeeper.services.tail_join import join_tail

_SHORT_HEADER: Final = page_header_size(0)
_LONG_HEADER: Final = page_header_size(2)


@dataclass(frozen=True, slots=True)
class StandIn:
    """A file of a whole segment's size: what is stored of it, then zeros. To be closed.

    ``reach`` is where the last record in it ends that is known to be whole.
    """

    file: FetchFile
    reach: Lsn
    source: str


Write = Callable[[FetchFile], Awaitable[int]]
"""Writes a candidate into an empty file and returns its length."""


class StandIns:
    """Finds and judges them in one archive; ``directory`` takes unnamed files meanwhile.

    Nothing is remembered. Disk: two segments for each call; memory: some MiB.
    """

    def __init__(self, archive: Archive, pool: ThreadPoolExecutor, directory: Path) -> None:
        self._archive = archive
        self._pool = pool
        self._directory = directory
        self._size = archive.segment_size

    async def choose(
        self, path: TimelineHistory, segment: WalSegment, end: Lsn | None
    ) -> StandIn | None:
        """What a recovery along the path may be given for a segment at the end of its WAL.

        With ``end`` only what holds the records up to there, as far as they lie in this segment.
        Nothing when an ancestor's segment at the same position leads as far: PostgreSQL asks for
        that one next. Raises what `find` raises.
        """
        part = part_on_path(path, segment, self._size)
        needed = None if end is None else min(end.value, part.stop)
        found = await self.find(segment, None if needed is None else Lsn(needed))
        if found is None:
            return None
        reach = min(found.reach.value, part.stop)
        try:
            useful = reach > segment.begin(self._size).value
            useful = useful and (needed is None or reach >= needed)
            wanted = reach if needed is None else min(reach, needed)
            if useful and wanted <= part.start:  # only its copy of ancestors' bytes matters
                useful = not await self._ancestor_reaches(path, segment, wanted)
        except BaseException:
            self._close(found)
            raise
        if not useful:
            self._close(found)
            return None
        return found

    async def find(self, segment: WalSegment, enough: Lsn | None = None) -> StandIn | None:
        """The tail or cut-off object that holds whole records furthest; None: nothing is stored.

        Raises ObjectNotFound when a tail is deleted meanwhile, for the complete segment became
        durable. One that is damaged may have held more than the others, and raises IntegrityError
        unless another one holds ``enough``.
        """
        best: StandIn | None = None
        damage: IntegrityError | None = None
        try:
            async for source, write in self._stored(segment):
                try:
                    read = await self._read(segment, source, write)
                except IntegrityError as error:
                    damage = error
                    continue
                best = self._better(best, read)
        except BaseException:
            if best is not None:
                self._close(best)
            raise
        if damage is None or (best is not None and enough is not None and best.reach >= enough):
            return best
        if best is not None:
            self._close(best)
        raise damage

    async def _stored(self, segment: WalSegment) -> AsyncIterator[tuple[str, Write]]:
        names = [
            ObjectName(info.name)
            async for info in self._archive.list_objects(layout.cut_off_prefix(segment))
            if isinstance(layout.parse_wal_object(info.name), CutOffSegment)
        ]
        for name in names:
            yield name, partial(self._write_cut_off, name)
        yield layout.tail_prefix(segment), partial(self._write_tail, segment)

    async def _write_cut_off(self, name: ObjectName, file: FetchFile) -> int:
        size = self._size.bytes  # as PostgreSQL offered it, whatever follows the cut
        await download(self._archive, name, file, self._pool, size_bytes=size)
        return size

    async def _write_tail(self, segment: WalSegment, file: FetchFile) -> int:
        chain: TailChain = await find_chain(self._archive, segment)
        return await join_tail(self._archive, chain, file, self._pool)

    async def _read(self, segment: WalSegment, source: str, write: Write) -> StandIn | None:
        file = FetchFile.unnamed(self._directory)
        loop = asyncio.get_running_loop()
        try:
            length = await write(file)
            if length:
                measure = partial(_measure, file, length, segment, self._size)
                return StandIn(file, await loop.run_in_executor(self._pool, measure), source)
        except ValueError as error:
            self._pool.submit(file.close)
            raise IntegrityError(f"{source} is not WAL of {segment}: {error}") from error
        except BaseException:
            self._pool.submit(file.close)
            raise
        self._pool.submit(file.close)
        return None

    async def _ancestor_reaches(
        self, path: TimelineHistory, segment: WalSegment, reach: int
    ) -> bool:
        """Whether an older timeline's segment at this position leads as far."""
        for leg in path.legs:
            older = segment.on(leg.timeline)
            part = part_on_path(path, older, self._size)
            if leg.timeline >= segment.timeline or not part or part.stop < reach:
                continue
            try:
                await self._archive.read_header(layout.wal_object(older))
            except ObjectNotFound:
                found = await self.find(older)
                if found is None:
                    continue
                self._close(found)
                if found.reach.value < reach:
                    continue
            return True
        return False

    def _better(self, one: StandIn | None, other: StandIn | None) -> StandIn | None:
        """The one that leads further; the other is closed."""
        if one is None or other is None:
            return one or other
        further, nearer = (one, other) if one.reach >= other.reach else (other, one)
        self._close(nearer)
        return further

    def _close(self, stand_in: StandIn) -> None:
        self._pool.submit(stand_in.file.close)


async def find_fragment(
    archive: Archive, pool: ThreadPoolExecutor, segment: WalSegment, directory: Path
) -> Lsn | None:
    """How far the tail or cut-off objects of a segment hold whole records, for the planner.

    None when nothing of use is stored. ``directory`` takes an unnamed file meanwhile. Raises what
    `StandIns.find` raises.
    """
    found = await StandIns(archive, pool, directory).find(segment)
    if found is None:
        return None
    pool.submit(found.file.close)
    return found.reach if found.reach > segment.begin(archive.segment_size) else None


def _measure(file: FetchFile, length: int, segment: WalSegment, size: SegmentSize) -> Lsn:
    """Fill the file up, and say where the last whole record in it ends; ValueError: no such WAL.

    ``length`` bytes were shipped, or a whole segment's that were cut off somewhere before.
    """
    file.end_at(length, size.bytes)
    begin = segment.begin(size)
    if length < _LONG_HEADER:
        return begin
    view = file.view(-(-length // PAGE_SIZE) * PAGE_SIZE)
    end = scan_segment(segment, size, view).valid_end
    if end > begin or length == size.bytes:
        return max(end, begin)
    # Nothing follows the end of a record that began in the segment before. It is whole if all of
    # its bytes are here: what is shipped has been flushed.
    offset = _LONG_HEADER
    remaining = parse_long_header(view).remaining
    while remaining > 0:
        taken = min(remaining, PAGE_SIZE - offset % PAGE_SIZE)
        remaining -= taken
        offset += taken + (_SHORT_HEADER if remaining else 0)
    offset = -(-offset // 8) * 8
    return begin + offset if _LONG_HEADER < offset <= length else begin
