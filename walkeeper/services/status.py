"""How an archive is doing: what can be recovered from it, from its listings alone.

Nothing is opened but summaries and timeline histories, and these only where an identity is at
hand: without one each timeline is looked at by itself, which may show less than is there.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path as FilePath

from walkeeper.core.archive_view import ArchiveView, branches
from walkeeper.core.backup import BackupFacts
from walkeeper.core.coverage import Path, Window, recoverable_windows
from walkeeper.core.layout import cut_off_prefix, wal_object
from walkeeper.core.lsn import Lsn
from walkeeper.core.segment_set import SegmentRange
from walkeeper.core.timeline import TimelineHistory
from walkeeper.core.wal import SegmentSize, WalSegment
from walkeeper.errors import ObjectNotFound, TargetUnreachable
from walkeeper.repository.archive import Archive
from walkeeper.repository.backups import BackupStore, ListedBackup
from walkeeper.services.archive_listing import ArchiveListing, Survey
from walkeeper.services.folder_memory import FolderMemory
from walkeeper.services.tail_chain import find_tail_time
from walkeeper.services.wal_listing import TimelineListing, WalListing


@dataclass(frozen=True, slots=True)
class RecoverableWindow:
    """Every moment from ``begin`` (a backup's end, reached at ``begin_at``) to ``end``.

    ``backups`` are those that lead to its end. ``missing`` are the segments behind it where there
    is later WAL, ``stranded`` that later WAL, which no recovery reaches from here.
    ``last`` is its last segment, ``stored_at`` when the store took what it has of that. ``path``
    leads there, and ``read`` lists the segments that a recovery from the earliest backup to the
    end reads.
    """

    timeline: int
    begin: Lsn
    begin_at: datetime
    end: Lsn
    backups: tuple[str, ...]
    last: WalSegment
    stored_at: datetime | None
    missing: tuple[SegmentRange, ...]
    stranded: tuple[SegmentRange, ...]
    path: Path = ()
    read: tuple[SegmentRange, ...] = ()


@dataclass(frozen=True, slots=True)
class ArchiveHealth:
    """What the listings of an archive say.

    ``backups`` are in the order of their stop LSN; ``unusable`` are those whose own WAL is not all
    there; ``problems`` are sentences about timelines; ``histories_read`` is False where they exist
    and this host has no identity to read them. ``wal`` has the complete segments of each timeline,
    24 bytes each, and nothing where not all of it was listed; ``begun`` when the store took a
    timeline's history file.
    """

    size: SegmentSize
    backups: tuple[BackupFacts, ...]
    unreadable: tuple[ListedBackup, ...]
    unusable: tuple[str, ...]
    unfinished: tuple[str, ...]
    windows: tuple[RecoverableWindow, ...]
    cut_off: tuple[WalSegment, ...]
    problems: tuple[str, ...]
    histories_read: bool
    histories: Mapping[int, TimelineHistory] = field(default_factory=dict)
    begun: Mapping[int, datetime] = field(default_factory=dict)
    wal: Mapping[int, TimelineListing] = field(default_factory=dict)


class Inspection:
    """Looks at one archive; with a ``memory``, only at what that does not know."""

    def __init__(
        self, archive: Archive, backups: BackupStore, memory: FolderMemory | None = None
    ) -> None:
        self._archive = archive
        self._memory = memory
        self._backups = backups
        scratch_dir = FilePath(tempfile.gettempdir())  # an unlinked file, for joining the tail
        self._listing = ArchiveListing(archive, backups, backups.pool, scratch_dir, memory)

    async def run(self) -> ArchiveHealth:
        """List and judge. Raises what storage raises, and WrongKey."""
        can_open = self._archive.opener.can_open
        survey = await self._listing.survey(read_histories=can_open)
        unread = not can_open and any(timeline > 1 for timeline in survey.first)
        if unread:
            survey = _each_by_itself(survey)
        problems = [f"{error.message}" for _, error in sorted(survey.damaged.items())]
        wal: dict[int, TimelineListing] = {}
        found, cut_off = await self._windows(survey, problems, wal)
        usable = {str(window.backup) for window in found if window.usable}
        unfinished = [str(one.backup) async for one in self._backups.unfinished()]
        return ArchiveHealth(
            size=survey.size,
            backups=survey.backups,
            unreadable=survey.unreadable,
            unusable=tuple(one.id for one in survey.backups if one.id not in usable),
            unfinished=tuple(unfinished),
            windows=tuple([await self._timed(one) for one in merge_windows(found, survey)]),
            cut_off=cut_off,
            problems=tuple(problems),
            histories_read=not unread,
            histories=survey.histories,
            begun=survey.begun,
            wal=wal if self._memory is None or self._memory.has_sizes else {},
        )

    async def _windows(
        self, survey: Survey, problems: list[str], wal: dict[int, TimelineListing]
    ) -> tuple[list[Window], tuple[WalSegment, ...]]:
        """The windows of every branch, and the segments that are only there cut off.

        What stands in the way of looking goes to ``problems``, what was listed to ``wal``.
        """
        start = min((backup.start for backup in survey.backups), default=None)
        if start is None or not survey.first:
            return [], ()
        view = survey.view()
        newest = _find_path(view, max(view.timelines), problems)
        listed = await self._listing.wal(survey, newest or (), start)
        cut_off = tuple(listed.fragments)
        _keep_longest(listed, wal)
        complete = ArchiveView(listed.holdings(), view.backups, view.histories)
        windows: list[Window] = []
        for branch in branches(complete):
            path = _find_path(view, branch.timeline, problems)
            if path is None:
                continue
            if path != newest:
                listed = await self._listing.wal(survey, path, start)
                _keep_longest(listed, wal)
            windows += recoverable_windows(listed.holdings(), survey.backups, [path])
        return windows, cut_off

    async def _timed(self, window: RecoverableWindow) -> RecoverableWindow:
        try:
            info = await self._archive.storage.head(self._archive.path(wal_object(window.last)))
        except ObjectNotFound:  # a tail or a cut-off object; or expired since it was listed
            return replace(window, stored_at=await self._fragment_time(window.last))
        return replace(window, stored_at=info.modified_at)

    async def _fragment_time(self, segment: WalSegment) -> datetime | None:
        cut_off = self._archive.list_objects(cut_off_prefix(segment))
        moments = [info.modified_at async for info in cut_off]
        tail_at = await find_tail_time(self._archive, segment)
        return max(moments if tail_at is None else [*moments, tail_at], default=None)


def _each_by_itself(survey: Survey) -> Survey:
    """The survey with every timeline as if it had no ancestors."""
    alone = {timeline: TimelineHistory(timeline) for timeline in survey.first if timeline > 1}
    return replace(survey, histories=alone)


def _keep_longest(listed: WalListing, wal: dict[int, TimelineListing]) -> None:
    """Of timelines beside its path a listing has only the last folder."""
    for timeline, found in listed.timelines.items():
        if timeline not in wal or len(wal[timeline].numbers) < len(found.numbers):
            wal[timeline] = found


def _find_path(view: ArchiveView, timeline: int, problems: list[str]) -> Path | None:
    try:
        return view.path_to(timeline)
    except TargetUnreachable as error:
        if error.message not in problems:
            problems.append(error.message)
        return None


def merge_windows(windows: Iterable[Window], survey: Survey) -> list[RecoverableWindow]:
    """Windows with one end are one: the earliest backup begins it."""
    facts = {backup.id: backup for backup in survey.backups}
    view = survey.view()
    groups: dict[tuple[int, Lsn], list[Window]] = {}
    for window in windows:
        if window.usable:
            groups.setdefault((window.timeline, window.end), []).append(window)
    merged = []
    for _, group in sorted(groups.items()):
        ordered = sorted(group, key=lambda window: window.begin)
        first = ordered[0]
        gap = first.reach.gap
        merged.append(
            RecoverableWindow(
                timeline=first.timeline,
                begin=first.begin,
                begin_at=facts[str(first.backup)].stopped_at,
                end=first.end,
                backups=tuple(str(window.backup) for window in ordered),
                last=first.reach.read[-1].last(survey.size),
                stored_at=None,
                missing=gap.missing if gap is not None else (),
                stranded=first.reach.stranded,
                path=view.path_to(first.timeline),
                read=first.reach.read,
            )
        )
    return merged
