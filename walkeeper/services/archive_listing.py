"""What a repository lists of an archive, as the planner of a recovery wants it.

Two steps, so that a plan lists only from the chosen backup on: `ArchiveListing.survey` reads the
backups' summaries and the history files and sees which timelines there are; `ArchiveListing.wal`
then lists the WAL of one path from a position on. Of timelines beside the path it lists only the
last folder: enough to say where a branch ends.
"""

from __future__ import annotations

import asyncio
from array import array
from bisect import bisect_left
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field
from typing import Final

from walkeeper.core.archive_view import ArchiveView
from walkeeper.core.backup import BackupFacts
from walkeeper.core.coverage import Path, WalHoldings
from walkeeper.core.layout import (
    WAL_PREFIX,
    CutOffSegment,
    backup_data_prefix,
    parse_wal_object,
    timeline_end,
    timeline_prefix,
    wal_object,
    wal_prefix,
)
from walkeeper.core.lsn import Lsn
from walkeeper.core.segment_set import SegmentRange, SegmentSet
from walkeeper.core.timeline import TimelineHistory
from walkeeper.core.wal import BackupHistoryFile, SegmentSize, TimelineHistoryFile, WalSegment
from walkeeper.errors import IntegrityError, unwrapped
from walkeeper.repository.archive import Archive
from walkeeper.repository.backups import BackupStore, ListedBackup
from walkeeper.services.history_files import parse_history
from walkeeper.storage.base import ObjectInfo

_PARALLEL: Final = 8
_HISTORY_LIMIT_BYTES: Final = 1 << 20
COLD_CLASSES: Final = frozenset({"GLACIER", "DEEP_ARCHIVE"})
"""Storage classes that must be thawed before they can be read (Amazon S3 user guide, "Storage
classes"); GLACIER_IR is read at once."""


@dataclass(frozen=True, slots=True)
class Survey:
    """Backups, history files, and on which timelines there is WAL.

    ``damaged`` says why a history file cannot be used; ``unreadable`` are backups whose summary
    cannot be believed.
    """

    size: SegmentSize
    backups: tuple[BackupFacts, ...]
    unreadable: tuple[ListedBackup, ...]
    histories: Mapping[int, TimelineHistory]
    damaged: Mapping[int, IntegrityError]
    first: Mapping[int, WalSegment]

    def view(self) -> ArchiveView:
        """All that is known before WAL is listed: of each timeline one segment."""
        complete = {
            timeline: SegmentSet((number,), (number + 1,))
            for timeline, segment in self.first.items()
            for number in (segment.number(self.size),)
        }
        return ArchiveView(WalHoldings(self.size, complete), self.backups, self.histories)


@dataclass(slots=True)
class _Folder:
    """What was listed of one timeline: numbers ascending, with the stored size of each."""

    numbers: array[int] = field(default_factory=lambda: array("Q"))
    sizes: array[int] = field(default_factory=lambda: array("Q"))
    cold: dict[int, str] = field(default_factory=dict)
    cut_off: list[CutOffSegment] = field(default_factory=list)

    def add(self, other: _Folder) -> None:
        self.numbers.extend(other.numbers)
        self.sizes.extend(other.sizes)
        self.cold.update(other.cold)
        self.cut_off += other.cut_off


@dataclass(frozen=True, slots=True)
class WalListing:
    """The WAL of a path, and the ends of other branches. Sixteen bytes for each segment."""

    size: SegmentSize
    _timelines: Mapping[int, _Folder]

    def holdings(self) -> WalHoldings:
        """For the planner: complete segments only, which is what ``wal-fetch`` serves."""
        return WalHoldings(
            self.size,
            {
                timeline: SegmentSet.from_ordered(listed.numbers)
                for timeline, listed in self._timelines.items()
            },
        )

    def stored_bytes(self, parts: tuple[SegmentRange, ...]) -> int:
        """What these segments take in the repository."""
        total = 0
        for part in parts:
            listed = self._timelines[part.timeline]
            begin = bisect_left(listed.numbers, part.begin)
            total += sum(listed.sizes[begin : bisect_left(listed.numbers, part.end)])
        return total

    def cold(self, parts: tuple[SegmentRange, ...]) -> list[tuple[str, str]]:
        """Those of the segments that must be thawed first: name of the object and its class."""
        return [
            (wal_object(WalSegment.numbered(part.timeline, number, self.size)), listed.cold[number])
            for part in parts
            for listed in (self._timelines[part.timeline],)
            for number in sorted(listed.cold)
            if part.begin <= number < part.end
        ]

    def cut_off(self) -> tuple[WalSegment, ...]:
        """Segments of which there are only cut-off objects."""
        found = {
            stored.segment
            for timeline, listed in self._timelines.items()
            for stored in listed.cut_off
            if not _holds(listed.numbers, stored.segment.number(self.size))
            if stored.segment.timeline == timeline
        }
        return tuple(sorted(found))


class ArchiveListing:
    """Lists one archive, several prefixes at a time."""

    def __init__(self, archive: Archive, backups: BackupStore) -> None:
        self._archive = archive
        self._backups = backups
        self._size = archive.segment_size
        self._gate = asyncio.Semaphore(_PARALLEL)

    async def survey(self, *, read_histories: bool = True) -> Survey:
        """Read every summary and history file. Raises what storage raises, and WrongKey.

        Without ``read_histories``, which need an identity, none is known.
        """
        listed = await self._backups.list_backups()
        stored, first = await self._find_timelines()
        histories = stored if read_histories else []
        known: dict[int, TimelineHistory] = {}
        damaged: dict[int, IntegrityError] = {}
        with unwrapped():
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(self._read_history(timeline)) for timeline in histories]
        for timeline, task in zip(histories, tasks, strict=True):
            match task.result():
                case TimelineHistory() as history:
                    known[timeline] = history
                case IntegrityError() as error:
                    damaged[timeline] = error
        return Survey(
            self._size,
            tuple(found.facts for found in listed if found.facts is not None),
            tuple(found for found in listed if found.facts is None),
            known,
            damaged,
            first,
        )

    async def wal(self, survey: Survey, path: Path, start: Lsn) -> WalListing:
        """List the WAL from ``start`` on along a path."""
        timelines = {*survey.first, *(leg.timeline for leg in path)}
        ranges = {
            leg.timeline: (max(start, leg.begin), leg.end)
            for leg in path
            if leg.end is None or start < leg.end
        }
        with unwrapped():
            async with asyncio.TaskGroup() as group:
                tasks = {
                    timeline: group.create_task(self._list_timeline(timeline, ranges.get(timeline)))
                    for timeline in sorted(timelines)
                }
        return WalListing(self._size, {timeline: task.result() for timeline, task in tasks.items()})

    async def parts(self, backup: BackupFacts) -> dict[str, ObjectInfo]:
        """The objects stored as data of a backup, by name."""
        prefix = backup_data_prefix(backup.backup)
        return {info.name: info async for info in self._archive.list_objects(prefix)}

    async def _find_timelines(self) -> tuple[list[int], dict[int, WalSegment]]:
        """Timelines with a history file, and the first segment of each that has WAL.

        Two short LISTs for each timeline: behind everything of the one before, behind its history.
        """
        histories: list[int] = []
        first: dict[int, WalSegment] = {}
        after = ""
        while (found := await self._first_behind(after)) is not None:
            if isinstance(found, TimelineHistoryFile):
                histories.append(found.timeline)
                after = wal_object(found)
            else:
                first[found.timeline] = found
                after = timeline_end(found.timeline)
        return histories, first

    async def _first_behind(self, after: str) -> TimelineHistoryFile | WalSegment | None:
        """The first history file, or segment in whatever form, behind a name."""
        objects = self._archive.list_objects(WAL_PREFIX, after=after)
        try:
            async for info in objects:
                match parse_wal_object(info.name):
                    case TimelineHistoryFile() as history:
                        return history
                    case CutOffSegment(segment) | BackupHistoryFile(segment):
                        return segment
                    case WalSegment() as segment:
                        return segment
        finally:
            if isinstance(objects, AsyncGenerator):
                await objects.aclose()
        return None

    async def _read_history(self, timeline: int) -> TimelineHistory | IntegrityError:
        name = wal_object(TimelineHistoryFile(timeline))
        async with self._gate:
            try:
                content = await self._archive.read(name, limit_bytes=_HISTORY_LIMIT_BYTES)
                return parse_history(timeline, content)
            except IntegrityError as error:
                return error

    async def _list_timeline(self, timeline: int, wanted: tuple[Lsn, Lsn | None] | None) -> _Folder:
        """The folders that hold a range of positions, and the last folder with WAL in it."""
        async with self._gate:
            folders = await self._archive.folders(timeline_prefix(timeline))
        chosen = set() if wanted is None else self._between(timeline, wanted, folders)
        listed: dict[str, _Folder] = {}
        async with asyncio.TaskGroup() as group:
            tasks = {name: group.create_task(self._list_folder(name)) for name in sorted(chosen)}
        listed.update((name, task.result()) for name, task in tasks.items())
        for name in reversed(folders):
            if name not in listed:
                listed[name] = await self._list_folder(name)
            if listed[name].numbers:
                break
        joined = _Folder()
        for name in sorted(listed):
            joined.add(listed[name])
        return joined

    def _between(
        self, timeline: int, wanted: tuple[Lsn, Lsn | None], folders: list[str]
    ) -> set[str]:
        begin, end = wanted
        first = wal_prefix(WalSegment.at(timeline, begin, self._size))
        last = None if end is None else wal_prefix(WalSegment.before(timeline, end, self._size))
        return {name for name in folders if first <= name and (last is None or name <= last)}

    async def _list_folder(self, prefix: str) -> _Folder:
        listed = _Folder()
        async with self._gate:
            async for info in self._archive.list_objects(prefix):
                self._note(listed, info)
        return listed

    def _note(self, listed: _Folder, info: ObjectInfo) -> None:
        match parse_wal_object(info.name):
            case WalSegment() as segment if segment.fits(self._size):
                number = segment.number(self._size)
                listed.numbers.append(number)
                listed.sizes.append(info.size_bytes)
                if info.storage_class in COLD_CLASSES:
                    listed.cold[number] = str(info.storage_class)
            case CutOffSegment(segment) as stored if segment.fits(self._size):
                listed.cut_off.append(stored)


def _holds(numbers: array[int], number: int) -> bool:
    at = bisect_left(numbers, number)
    return at < len(numbers) and numbers[at] == number
