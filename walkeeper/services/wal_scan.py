"""Reads WAL from the archive to answer what a recovery plan cannot know from names alone.

Where a transaction ended, where a restore point lies, when the last transaction ended. Segments
are read a few at a time and dropped again; their order is that in which recovery reads them.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import accumulate
from typing import Final

import msgspec

from walkeeper.core.layout import wal_object
from walkeeper.core.lsn import Lsn
from walkeeper.core.plan import Candidate, Scan, WalFinding, scan_for
from walkeeper.core.segment_set import SegmentRange
from walkeeper.core.target import AtLsn, AtName, AtTime, AtXid, RecoveryTarget
from walkeeper.core.wal import SegmentSize, WalSegment
from walkeeper.core.walfacts import Commit, Fact, RestorePoint
from walkeeper.core.walrecord import Carry, SegmentScan, scan_segment
from walkeeper.errors import IntegrityError, NoSuchSegment, ObjectNotFound, unwrapped
from walkeeper.repository.archive import Archive

_PARALLEL: Final = 4
_PARALLEL_BYTES: Final = 256 << 20
"""What segments that are read at once may take in memory, unless one alone takes more."""
_CLOCK_SLACK: Final = timedelta(minutes=5)
"""Transactions take their time before their place in the WAL, and clocks are set back."""
_MAX_PROBES: Final = 64
"""Segments that are read only to make the figures of a plan better."""


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


class WalScanner:
    """Answers questions about the WAL that one candidate's recovery would read."""

    def __init__(
        self,
        archive: Archive,
        pool: ThreadPoolExecutor,
        candidate: Candidate,
        progress: Callable[[ScanProgress], None],
    ) -> None:
        self._archive = archive
        self._pool = pool
        self._candidate = candidate
        self._size = archive.segment_size
        self._segments = _Segments(candidate.reach.read, self._size)
        self._ends = {leg.timeline: leg.end for leg in candidate.path}
        self._progress = progress
        self._count = 0
        self._width = max(1, min(_PARALLEL, _PARALLEL_BYTES // self._size.bytes))

    async def find(self, target: RecoveryTarget, until: Lsn | None = None) -> WalFinding | None:
        """What the WAL shows for a target; None when none of it needs to be read.

        ``until`` ends the search for a transaction or restore point early, where what follows has
        been searched. Raises IntegrityError where the WAL is broken, NoSuchSegment for a segment
        that went away after it was listed, and what the archive raises.
        """
        scan = scan_for(self._candidate, target)
        if scan is None:
            return None
        first, last = self._segments.within(scan.begin, scan.end)
        match target:
            case AtTime():
                return await self._find_time(target, scan, first, last)
            case AtLsn(lsn):
                return await self._find_lsn(lsn, first, last)
            case AtXid() | AtName():
                if until is not None and until < scan.end:
                    # One more, for a record that begins before it and ends behind it.
                    last = min(last, self._segments.within(scan.begin, until)[1] + 1)
                return await self._find_record(target, scan, first, last)
            case _:
                return WalFinding(last_commit_at=await self._last_commit(first, last, scan.end))

    async def _find_time(self, target: AtTime, scan: Scan, first: int, last: int) -> WalFinding:
        """A transaction that PostgreSQL stops before, and the end of the last one before that.

        First it is proven near the end of the WAL, where that is cheap.
        """
        newest: datetime | None = None
        async with aclosing(self._backwards(first, last)) as segments:
            async for place, facts in segments:
                commits = _commits(facts, scan.begin)
                if any(target.stops_at(commit.at) for commit in commits):
                    place, commits = await self._first_after(target, scan, first, place, commits)
                    return await self._before(target, scan, first, place, commits)
                for commit in commits:
                    newest = commit.at if newest is None else max(newest, commit.at)
                if newest is not None and newest < target.at - _CLOCK_SLACK:
                    break
        return WalFinding(last_commit_at=newest)

    async def _first_after(
        self, target: AtTime, scan: Scan, first: int, found: int, commits: list[Commit]
    ) -> tuple[int, list[Commit]]:
        """The first segment with a transaction after the target, by halving; and what is in it.

        Relies on times that ascend, which is nearly so; any transaction after the target proves
        it, the first one makes the figures right. Segments without transactions are passed by.
        """
        low, high = first - 1, found
        probes = 0
        while high - low > 1 and probes < _MAX_PROBES:
            middle = probe = (low + high) // 2
            ended: list[Commit] = []
            while probe < high and probes < _MAX_PROBES:
                facts = (await self._scan(probe, await self._read(probe), None)).facts
                ended = _commits(facts, scan.begin)
                probes += 1
                if ended:
                    break
                probe += 1
            if any(target.stops_at(commit.at) for commit in ended):
                found, commits, high = probe, ended, middle
            elif ended:
                low = probe
            else:
                high = middle
        return found, commits

    async def _before(
        self, target: AtTime, scan: Scan, first: int, place: int, commits: list[Commit]
    ) -> WalFinding:
        """The finding: the first of these after the target, and the last transaction before."""
        at = next(index for index, commit in enumerate(commits) if target.stops_at(commit.at))
        stop = commits[at]
        if at > 0:
            return WalFinding(stop.begin, stop.end, commits[at - 1].at)
        earlier = max(first, place - _MAX_PROBES)
        last = await self._last_commit(earlier, place, stop.begin, since=scan.begin)
        return WalFinding(stop.begin, stop.end, last)

    async def _find_lsn(self, lsn: Lsn, first: int, last: int) -> WalFinding:
        """The segment in which a whole record begins at or after an LSN."""
        async with aclosing(self._forwards(first, last)) as segments:
            async for place, scan in segments:
                if scan.last_record is not None and scan.last_record >= lsn:
                    stop = self._candidate.backup.stop
                    earlier = max(
                        self._segments.within(stop, scan.valid_end)[0], place - _MAX_PROBES
                    )
                    before = await self._last_commit(earlier, place, lsn + 1, since=stop)
                    return WalFinding(scan.last_record, scan.valid_end, before)
        return WalFinding()

    async def _find_record(
        self, target: AtXid | AtName, scan: Scan, first: int, last: int
    ) -> WalFinding:
        """The first record at which PostgreSQL stops, and the last transaction that it keeps."""
        ended: datetime | None = None
        async with aclosing(self._forwards(first, last)) as segments:
            async for _, scanned in segments:
                for fact in scanned.facts:
                    if fact.begin < scan.begin:
                        continue
                    if _meets(target, fact):
                        kept = isinstance(target, AtXid) and target.inclusive
                        return WalFinding(fact.begin, fact.end, _time(fact) if kept else ended)
                    if isinstance(fact, Commit):
                        ended = fact.at
        return WalFinding(last_commit_at=ended)

    async def _last_commit(
        self, first: int, last: int, end: Lsn, *, since: Lsn | None = None
    ) -> datetime | None:
        """When the last transaction ended whose record begins before ``end``."""
        since = self._candidate.backup.stop if since is None else since
        async with aclosing(self._backwards(first, last)) as segments:
            async for _, facts in segments:
                commits = [commit for commit in _commits(facts, since) if commit.begin < end]
                if commits:
                    return commits[-1].at
        return None

    async def _backwards(
        self, first: int, last: int
    ) -> AsyncGenerator[tuple[int, tuple[Fact, ...]], None]:
        """Places from the last one on, each with the facts whose records begin in it."""
        at, width = last, 1
        newer: bytes | None = None
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

    async def _forwards(
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

    async def _read_all(self, first: int, last: int) -> list[bytes]:
        places = range(first, last + 1)
        with unwrapped():
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(self._read(place)) for place in places]
        return [task.result() for task in tasks]

    async def _read(self, place: int) -> bytes:
        segment = self._segments.at(place)
        # What cannot be compressed is stored a little larger than it is.
        limit = self._size.bytes + self._size.bytes // 64 + (1 << 16)
        try:
            data = await self._archive.read(wal_object(segment), limit_bytes=limit)
        except ObjectNotFound as error:
            raise NoSuchSegment(
                f"{segment} was removed from the archive while it was looked at",
                hint="plan again; does expire run at the same time?",
            ) from error
        if len(data) != self._size.bytes:
            raise IntegrityError(f"{segment} has {len(data)} bytes, not {self._size.bytes}")
        self._count += 1
        self._progress(ScanProgress(str(segment), self._count))
        return data

    async def _scan(self, place: int, data: bytes, carry: Carry | None) -> SegmentScan:
        """Walk a segment's records, as far as they lie on the path."""
        segment = self._segments.at(place)
        end, begin = self._ends[segment.timeline], segment.begin(self._size)
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


def _commits(facts: tuple[Fact, ...], since: Lsn) -> list[Commit]:
    return [fact for fact in facts if isinstance(fact, Commit) and fact.begin >= since]


def _meets(target: AtXid | AtName, fact: Fact) -> bool:
    match target, fact:
        case AtXid(), Commit(xid=xid):
            return target.matches(xid)
        case AtName(name), RestorePoint(name=found):
            return name == found
        case _:
            return False


def _time(fact: Fact) -> datetime | None:
    return fact.at if isinstance(fact, Commit) else None
