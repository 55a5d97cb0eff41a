"""Reads WAL from the archive to answer what a recovery plan cannot know from names alone.

Where a transaction ended, where a restore point lies, when the last transaction ended.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from walkeeper.core.lsn import Lsn
from walkeeper.core.plan import Candidate, Scan, WalFinding, scan_for
from walkeeper.core.target import AtLsn, AtName, AtTime, AtXid, RecoveryTarget
from walkeeper.core.walfacts import Commit, Fact, RestorePoint
from walkeeper.repository.archive import Archive
from walkeeper.services.wal_reader import ScanProgress, WalReader

_CLOCK_SLACK: Final = timedelta(minutes=5)
"""Transactions take their time before their place in the WAL, and clocks are set back."""
_MAX_PROBES: Final = 64
"""Segments that are read only to make the figures of a plan better."""


class WalScanner:
    """Answers questions about the WAL that one candidate's recovery would read.

    ``scratch_dir`` takes an unnamed file while a tail is put together.
    """

    def __init__(
        self,
        archive: Archive,
        pool: ThreadPoolExecutor,
        candidate: Candidate,
        scratch_dir: Path,
        progress: Callable[[ScanProgress], None],
    ) -> None:
        self._candidate = candidate
        self._reader = WalReader(archive, pool, candidate, scratch_dir, progress)

    async def find(self, target: RecoveryTarget, until: Lsn | None = None) -> WalFinding | None:
        """What the WAL shows for a target; None when none of it needs to be read.

        ``until`` ends the search for a transaction or restore point early, where what follows has
        been searched. Raises IntegrityError where the WAL is broken, NoSuchSegment for a segment
        that went away after it was listed, and what the archive raises.
        """
        scan = scan_for(self._candidate, target)
        if scan is None:
            return None
        first, last = self._reader.within(scan.begin, scan.end)
        match target:
            case AtTime():
                return await self._find_time(target, scan, first, last)
            case AtLsn(lsn):
                return await self._find_lsn(lsn, first, last)
            case AtXid() | AtName():
                if until is not None and until < scan.end:
                    # One more, for a record that begins before it and ends behind it.
                    last = min(last, self._reader.within(scan.begin, until)[1] + 1)
                return await self._find_record(target, scan, first, last)
            case _:
                return WalFinding(last_commit_at=await self._last_commit(first, last, scan.end))

    async def _find_time(self, target: AtTime, scan: Scan, first: int, last: int) -> WalFinding:
        """A transaction that PostgreSQL stops before, and the end of the last one before that.

        First it is proven near the end of the WAL, where that is cheap.
        """
        newest: datetime | None = None
        async with aclosing(self._reader.backwards(first, last)) as segments:
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
                ended = _commits(await self._reader.facts_at(probe), scan.begin)
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
        async with aclosing(self._reader.forwards(first, last)) as segments:
            async for place, scan in segments:
                if scan.last_record is not None and scan.last_record >= lsn:
                    stop = self._candidate.backup.stop
                    earlier = max(self._reader.within(stop, scan.valid_end)[0], place - _MAX_PROBES)
                    before = await self._last_commit(earlier, place, lsn + 1, since=stop)
                    return WalFinding(scan.last_record, scan.valid_end, before)
        return WalFinding()

    async def _find_record(
        self, target: AtXid | AtName, scan: Scan, first: int, last: int
    ) -> WalFinding:
        """The first record at which PostgreSQL stops, and the last transaction that it keeps."""
        ended: datetime | None = None
        async with aclosing(self._reader.forwards(first, last)) as segments:
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
        async with aclosing(self._reader.backwards(first, last)) as segments:
            async for _, facts in segments:
                commits = [commit for commit in _commits(facts, since) if commit.begin < end]
                if commits:
                    return commits[-1].at
        return None


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
