"""Walks the WAL of an archive in the order of its names: segments, cut-off ones, histories.

Memory: two numbers for each run of segments, one for each damaged one, and a few MiB for each
object that is being read.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Final

from walkeeper.core.backup import BackupFacts
from walkeeper.core.layout import (
    CONTENT_DIGITS,
    WAL_PREFIX,
    CutOffSegment,
    ObjectName,
    parse_wal_object,
)
from walkeeper.core.lsn import Lsn
from walkeeper.core.segment_set import SegmentRuns, SegmentSet
from walkeeper.core.timeline import TimelineHistory
from walkeeper.core.wal import BackupHistoryFile, TimelineHistoryFile, WalSegment
from walkeeper.core.walcheck import CutOff, Refused, SegmentCheck, Verdict
from walkeeper.core.walpage import PAGE_SIZE
from walkeeper.errors import IntegrityError
from walkeeper.services.history_files import parse_history
from walkeeper.services.verify_object import Crew, ObjectCheck, Trouble, Whole
from walkeeper.services.verify_report import Problem
from walkeeper.storage.base import ObjectInfo

_HISTORY_LIMIT_BYTES: Final = 1 << 20


@dataclass(slots=True)
class StoredWal:
    """What was found: all complete segments by their names, and which of them are of no use.

    Those that are ``gone`` were deleted since they were listed. ``fragments`` says how far tails
    and cut-off segments go; ``history_files`` are the timelines whose history is stored,
    ``histories`` those that could be read.
    """

    complete: dict[int, SegmentSet] = field(default_factory=dict)
    damaged: dict[int, set[int]] = field(default_factory=dict)
    gone: dict[int, set[int]] = field(default_factory=dict)
    fragments: dict[WalSegment, Lsn] = field(default_factory=dict)
    history_files: set[int] = field(default_factory=set)
    histories: dict[int, TimelineHistory] = field(default_factory=dict)

    def holds(self, segment: WalSegment, number: int) -> bool:
        """Whether there is a complete segment of that name, damaged or not."""
        return number in self.complete.get(segment.timeline, SegmentSet())

    def add(self, timeline: int, number: int) -> None:
        """Note that one more complete segment is stored."""
        known = self.complete.get(timeline, SegmentSet())
        self.complete[timeline] = known.with_one(number)

    def reach(self, segment: WalSegment, end: Lsn) -> None:
        """Note that a tail or cut-off object holds valid WAL up to ``end``."""
        self.fragments[segment] = max(end, self.fragments.get(segment, Lsn(0)))


class WalWalk:
    """One walk over ``wal/``."""

    def __init__(
        self, objects: ObjectCheck, pool: ThreadPoolExecutor, only: BackupFacts | None = None
    ) -> None:
        """With ``only`` what a recovery from that backup cannot need is passed over."""
        self._objects = objects
        self._pool = pool
        self._size = objects.archive.segment_size
        self._first = None if only is None else only.required_wal[0]
        self.found = StoredWal()

    async def run(self, crew: Crew) -> None:
        """Start the check of every object; ``found`` is complete when the crew has ended."""
        runs: dict[int, SegmentRuns] = {}
        async for info in self._objects.archive.list_objects(WAL_PREFIX):
            match parse_wal_object(info.name):
                case WalSegment() | CutOffSegment() | BackupHistoryFile() as wal if not (
                    self.is_asked(wal)
                ):
                    continue
                case TimelineHistoryFile(timeline):
                    self.found.history_files.add(timeline)
                    await crew.start(self._history, info, timeline)
                case WalSegment() as segment if segment.fits(self._size):
                    runs.setdefault(segment.timeline, SegmentRuns()).add(segment.number(self._size))
                    await crew.start(self.check_segment, info, segment)
                case CutOffSegment(segment) as cut_off if segment.fits(self._size):
                    await crew.start(self._cut_off, info, cut_off)
                case BackupHistoryFile():
                    await crew.start(self._small, info)
                case _:
                    self._objects.book.note(f"{info.name} is not a name of walkeeper's")
        self.found.complete = {timeline: one.finish() for timeline, one in runs.items()}

    def is_asked(self, wal: WalSegment | CutOffSegment | BackupHistoryFile) -> bool:
        """Whether it lies where the walk looks."""
        segment = wal if isinstance(wal, WalSegment) else wal.segment
        first = self._first
        return first is None or (
            segment.timeline >= first.timeline and segment.on(first.timeline) >= first
        )

    async def check_segment(self, info: ObjectInfo, segment: WalSegment) -> None:
        """Check one complete segment; one that is of no use is noted as such."""
        outcome, verdict = await self._segment(info, segment)
        number = segment.number(self._size)
        if outcome is Trouble.GONE:
            self.found.gone.setdefault(segment.timeline, set()).add(number)
            return
        fault = self._judge(outcome, verdict) if isinstance(outcome, Whole) else None
        if fault is not None:
            self._objects.book.report(Problem(info.name, "damaged", fault, segment))
        if fault is not None or outcome is Trouble.DAMAGED:
            self.found.damaged.setdefault(segment.timeline, set()).add(number)

    async def _cut_off(self, info: ObjectInfo, cut_off: CutOffSegment) -> None:
        whole, verdict = await self._segment(info, cut_off.segment, is_cut_off=True)
        if not isinstance(whole, Whole):
            return
        content = whole.header.content or b""
        fault = self._judge(whole, None if isinstance(verdict, CutOff) else verdict)
        if fault is None and content.hex()[:CONTENT_DIGITS] != cut_off.content:
            fault = "it holds other content than its name says"
        if fault is not None:
            self._objects.book.report(Problem(info.name, "damaged", fault))
        elif isinstance(verdict, CutOff):
            self.found.reach(cut_off.segment, verdict.valid_up_to)

    def _judge(self, whole: Whole, verdict: Verdict | None) -> str | None:
        """What is wrong with an object that is whole as such."""
        size = whole.header.facts.size
        if size != self._size.bytes:
            return f"its header tells of {size} bytes, a segment has {self._size.bytes}"
        match verdict:
            case CutOff(reason):
                return f"it is not a complete segment: {reason}"
            case Refused(reason):
                return f"it is not this segment: {reason}"
            case _:
                return None

    async def _segment(
        self, info: ObjectInfo, segment: WalSegment, *, is_cut_off: bool = False
    ) -> tuple[Whole | Trouble, Verdict | None]:
        """The object itself, and the verdict on the WAL in it where that was read."""
        subject = None if is_cut_off else segment
        if not self._objects.reads(info.name):
            return await self._objects.check(info, subject, read=False), None
        record = self._objects.archive.record
        pages = _Pages(SegmentCheck(segment, self._size, int(record.system_identifier)), self._pool)
        whole = await self._objects.check(info, subject, read=True, take=pages.take)
        return whole, await pages.finish() if isinstance(whole, Whole) else None

    async def _small(self, info: ObjectInfo) -> None:
        await self._objects.check(info, read=self._objects.reads(info.name))

    async def _history(self, info: ObjectInfo, timeline: int) -> None:
        """Always read where that is possible: without it no path is known."""
        content = bytearray()

        async def take(block: bytes) -> None:
            content.extend(block)
            if len(content) > _HISTORY_LIMIT_BYTES:
                raise IntegrityError("it is too large for a timeline history")

        can_read = self._objects.archive.opener.can_open
        whole = await self._objects.check(info, timeline, read=can_read, take=take)
        if not isinstance(whole, Whole) or not can_read:
            return
        try:
            self.found.histories[timeline] = parse_history(timeline, bytes(content))
        except IntegrityError as error:
            self._objects.book.report_error(ObjectName(info.name), error, timeline)


class _Pages:
    """Hands the blocks of a segment to its check in whole pages, in the pool."""

    def __init__(self, check: SegmentCheck, pool: ThreadPoolExecutor) -> None:
        self._check = check
        self._pool = pool
        self._rest = b""

    async def take(self, block: bytes) -> None:
        await asyncio.get_running_loop().run_in_executor(self._pool, self._feed, block)

    async def finish(self) -> Verdict:
        return await asyncio.get_running_loop().run_in_executor(self._pool, self._end)

    def _feed(self, block: bytes) -> None:
        data = self._rest + block
        cut = len(data) - len(data) % PAGE_SIZE
        self._rest = data[cut:]
        if cut:
            self._check.feed(memoryview(data)[:cut])

    def _end(self) -> Verdict:
        if self._rest:
            self._check.feed(self._rest)
        return self._check.finish()
