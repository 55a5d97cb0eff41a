"""What a repository lists of an archive, as the planner of a recovery wants it.

Two steps, so that a plan lists only from the chosen backup on: `ArchiveListing.survey` reads the
backups' summaries and the history files and sees which timelines there are; `ArchiveListing.wal`
then lists the WAL of one path from a position on. Of timelines beside the path it lists only the
last folder: enough to say where a branch ends.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from itertools import groupby
from operator import itemgetter
from pathlib import Path as FilePath
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
from walkeeper.core.segment_set import SegmentSet
from walkeeper.core.timeline import TimelineHistory
from walkeeper.core.wal import BackupHistoryFile, SegmentSize, TimelineHistoryFile, WalSegment
from walkeeper.errors import IntegrityError, ObjectNotFound, StorageUnavailable, unwrapped
from walkeeper.repository.archive import Archive
from walkeeper.repository.backups import BackupStore, ListedBackup
from walkeeper.services.folder_memory import FolderMemory
from walkeeper.services.fragments import Fragments
from walkeeper.services.history_files import parse_history
from walkeeper.services.wal_listing import TimelineListing, WalListing
from walkeeper.storage.base import ObjectInfo

_PARALLEL: Final = 8
_SHARES: Final = 4  # an answer of S3 has a thousand names, a folder mostly 256
_ATTEMPTS: Final = 3
_HISTORY_LIMIT_BYTES: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Survey:
    """Backups, history files, and on which timelines there is WAL.

    ``damaged`` says why a history file cannot be used; ``unreadable`` are backups whose summary
    cannot be believed. ``begun`` is when the store took each timeline's history file, which is
    soon after the promotion.
    """

    size: SegmentSize
    backups: tuple[BackupFacts, ...]
    unreadable: tuple[ListedBackup, ...]
    histories: Mapping[int, TimelineHistory]
    damaged: Mapping[int, IntegrityError]
    first: Mapping[int, WalSegment]
    begun: Mapping[int, datetime] = field(default_factory=dict)

    def view(self) -> ArchiveView:
        """All that is known before WAL is listed: of each timeline one segment."""
        complete = {
            timeline: SegmentSet((number,), (number + 1,))
            for timeline, segment in self.first.items()
            for number in (segment.number(self.size),)
        }
        return ArchiveView(WalHoldings(self.size, complete), self.backups, self.histories)


class ArchiveListing:
    """Lists one archive, several prefixes at a time.

    ``scratch_dir`` takes unnamed files while it is found out how far a tail goes. With a ``memory``
    folders that it believes to be full are not listed: that is for a look at the archive, never for
    a plan.
    """

    def __init__(
        self,
        archive: Archive,
        backups: BackupStore,
        pool: ThreadPoolExecutor,
        scratch_dir: FilePath,
        memory: FolderMemory | None = None,
    ) -> None:
        self._archive = archive
        self._backups = backups
        self._pool = pool
        self._fragments = Fragments(archive, pool, scratch_dir)
        self._memory = memory
        self._size = archive.segment_size
        self._gate = asyncio.Semaphore(_PARALLEL)

    async def survey(self, *, read_histories: bool = True) -> Survey:
        """Read every summary and history file. Raises what storage raises, and WrongKey.

        Without ``read_histories``, which need an identity, none is known.
        """
        listed = await self._backups.list_backups()
        begun, first = await self._find_timelines()
        histories = list(begun) if read_histories else []
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
            begun,
        )

    async def wal(self, survey: Survey, path: Path, start: Lsn) -> WalListing:
        """List the WAL from ``start`` on along a path, and see how far tails and cut-offs go.

        It may grow meanwhile: what was durable when this was called is in the listing.
        """
        for _ in range(_ATTEMPTS):
            # Tails come first: a segment that becomes whole behind them is then listed as one.
            tails = await self._fragments.tails()
            listed = await self._list_wal(survey, path, start)
            try:
                return await self._fragments.add(listed, path, start, tails)
            except ObjectNotFound:  # deleted while it was read
                continue
        raise StorageUnavailable(
            "the archive changes too fast to be listed", hint="try again in a moment"
        )

    async def _list_wal(self, survey: Survey, path: Path, start: Lsn) -> WalListing:
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

    async def _find_timelines(self) -> tuple[dict[int, datetime], dict[int, WalSegment]]:
        """Timelines with a history file and its age, and the first segment of each that has WAL.

        Two short LISTs for each timeline: behind everything of the one before, behind its history.
        """
        histories: dict[int, datetime] = {}
        first: dict[int, WalSegment] = {}
        after = ""
        while (behind := await self._first_behind(after)) is not None:
            found, stored_at = behind
            if isinstance(found, TimelineHistoryFile):
                histories[found.timeline] = stored_at
                after = wal_object(found)
            else:
                first[found.timeline] = found
                after = timeline_end(found.timeline)
        return histories, first

    async def _first_behind(
        self, after: str
    ) -> tuple[TimelineHistoryFile | WalSegment, datetime] | None:
        """The first history file, or segment in whatever form, behind a name; when it came."""
        objects = self._archive.list_objects(WAL_PREFIX, after=after)
        try:
            async for info in objects:
                match parse_wal_object(info.name):
                    case TimelineHistoryFile() as history:
                        return history, info.modified_at
                    case CutOffSegment(segment) | BackupHistoryFile(segment):
                        return segment, info.modified_at
                    case WalSegment() as segment:
                        return segment, info.modified_at
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

    async def _list_timeline(
        self, timeline: int, wanted: tuple[Lsn, Lsn | None] | None
    ) -> TimelineListing:
        """The folders that hold a range of positions, and the last folder with WAL in it."""
        async with self._gate:
            folders = await self._archive.folders(timeline_prefix(timeline))
        chosen = set() if wanted is None else self._between(timeline, wanted, folders)
        listed: dict[str, TimelineListing] = {}
        if self._memory is not None:
            listed = self._memory.recall(chosen, folders, self._size)
        shares = share_out(chosen.difference(listed), folders, _SHARES)
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(self._list_folders(prefix, names))
                for prefix, names in shares.items()
            ]
        while tasks:
            listed |= tasks.pop().result()
        for name in reversed(folders):
            if name not in listed:
                listed |= await self._list_folders(name, [name])
            if listed[name].numbers:
                break
        joined = TimelineListing()
        for name in sorted(listed):
            joined.add(listed.pop(name))
        return joined

    def _between(
        self, timeline: int, wanted: tuple[Lsn, Lsn | None], folders: list[str]
    ) -> set[str]:
        begin, end = wanted
        first = wal_prefix(WalSegment.at(timeline, begin, self._size))
        last = None if end is None else wal_prefix(WalSegment.before(timeline, end, self._size))
        return {name for name in folders if first <= name and (last is None or name <= last)}

    async def _list_folders(self, prefix: str, names: Sequence[str]) -> dict[str, TimelineListing]:
        """What is in each of these folders, which are those of a prefix."""
        listed = {name: TimelineListing() for name in names}
        names_only = self._memory is not None and not self._memory.has_sizes
        async with self._gate:
            async for page in self._archive.list_pages(prefix, names_only=names_only):
                for folder, part in page.by_folder():
                    if folder in listed:  # else it was begun a moment ago
                        listed[folder].take(part, self._size)
        if self._memory is not None:
            for name, found in listed.items():
                self._memory.note(name, full=found.is_full(self._size))
        return listed


def share_out(wanted: AbstractSet[str], there: Sequence[str], parts: int) -> dict[str, list[str]]:
    """Prefixes that hold the folders ``wanted`` and no other, each with those that it holds.

    ``there`` are all folders, in order. Few prefixes, for an answer of a store has room for the
    names of several folders, but enough for so many ``parts`` to be listed at once.
    """
    shares: dict[str, list[str]] = {}
    rest = there
    for digits in (3, 2, 1):  # of the eight that name a folder, and its slash
        left: list[str] = []
        for prefix, group in groupby(rest, itemgetter(slice(-digits - 1))):
            names = list(group)
            if len(names) * parts <= len(wanted) and wanted >= set(names):
                shares[prefix] = names
            else:
                left += names
        rest = left
    return shares | {name: [name] for name in rest if name in wanted}
