"""What it means that a segment is not in the archive: the end of the path, or a hole in it."""

from __future__ import annotations

from collections.abc import AsyncGenerator

from walkeeper.core.layout import (
    TAIL_PREFIX,
    CutOffSegment,
    parse_tail_object,
    parse_wal_object,
    tail_links_after,
    timeline_prefix,
    wal_object,
)
from walkeeper.core.segment_set import SegmentRange
from walkeeper.core.timeline import TimelineHistory
from walkeeper.core.wal import TimelineHistoryFile, WalSegment
from walkeeper.errors import NoSuchSegment
from walkeeper.repository.archive import Archive
from walkeeper.services.fetch_rules import (
    FetchRequest,
    Hole,
    later_on_path,
    lies_on_path,
    part_on_path,
)
from walkeeper.services.followed_timelines import FollowedTimelines
from walkeeper.services.history_store import HistoryStore


class MissingSegments:
    """Judges misses in one archive; remembers the histories and what each recovery follows."""

    def __init__(
        self, archive: Archive, history: HistoryStore, followed: FollowedTimelines
    ) -> None:
        self._archive = archive
        self._history = history
        self._followed = followed

    async def find_path(
        self, request: FetchRequest, segment: WalSegment, *, fresh: bool
    ) -> TimelineHistory:
        """The path of the request's timeline, else of the one that the recovery follows.

        That is the highest one where it is certain that it follows the latest; otherwise the
        newest one that it has asked for, for a recovery may have been told to stay on an older
        timeline: there, what lies behind a fork is its own. ``fresh`` asks the archive which
        timeline is the highest, which is needed before something is called missing.
        """
        if request.path_timeline is not None:
            return await self._history.path(request.path_timeline)
        if fresh or self._history.highest is None:
            await self._history.refresh()
        newest = self._followed.newest(request)
        if newest > (self._history.highest or 1) and self._followed.has_left(request, segment):
            await self._require_known(newest, segment)
        highest = self._history.highest or 1
        if self._followed.follows_latest(request):
            path = await self._history.path(highest)
            if path.contains(segment.timeline):
                return path
        for timeline in (newest, segment.timeline):
            if timeline > highest:
                path = TimelineHistory(timeline)
            else:
                path = await self._history.path(max(timeline, 1))
            if path.contains(segment.timeline):
                break
        return path

    async def _require_known(self, newest: int, segment: WalSegment) -> None:
        """PostgreSQL may have a history by streaming before it is stored: the fork is unknown."""
        await self._history.refresh()
        if newest > (self._history.highest or 1):
            raise NoSuchSegment(
                f"timeline {newest} is not known to the archive, so it cannot be told where it has "
                f"left timeline {segment.timeline}: {segment} may hold what came after",
                hint=f"is the server of timeline {newest} archived? {TimelineHistoryFile(newest)} "
                "is needed",
            )

    async def find_hole(
        self, request: FetchRequest, segment: WalSegment, path: TimelineHistory
    ) -> Hole | None:
        """The hole that this segment leaves in the path of the request, None at the path's end.

        With an end, what lies on the path before it is needed; without one, what has later WAL
        behind it on the path. Raises what the archive raises when it cannot tell.
        """
        end = request.path_end
        if not lies_on_path(path, segment, self._archive.segment_size, end):
            return None
        if end is not None:
            return Hole(segment, None, end)
        return await self._find_behind(segment, path)

    async def find_hole_beside(
        self, request: FetchRequest, segment: WalSegment, path: TimelineHistory, *, whole: bool
    ) -> Hole | None:
        """The hole that this segment leaves in another path that the recovery may follow.

        Nothing may be called the end of a timeline from which a newer one has gone on: either the
        recovery needs it for that one, or what it asks for has been there and is lost. Before its
        fork PostgreSQL asks for nothing of the newer one, and that need not be the highest: each
        one counts. ``whole``: only where all of the segment lies on such a path.
        """
        if request.path_timeline is not None or self._followed.follows_latest(request):
            return None
        size, newest = self._archive.segment_size, self._followed.newest(request)
        end = (segment.number(size) + 1) * size.bytes
        for timeline in self._history.timelines:
            if timeline <= segment.timeline or timeline == path.timeline:
                continue
            other = await self._history.path(timeline)
            part = part_on_path(other, segment, size)
            passes = newest in (0, segment.timeline) or other.contains(newest)
            if not part or not passes or (whole and part.stop < end):
                continue
            hole = await self._find_behind(segment, other)
            if hole is not None:
                return hole
        return None

    async def _find_behind(self, segment: WalSegment, path: TimelineHistory) -> Hole | None:
        size = self._archive.segment_size
        for part in later_on_path(path, segment, size):
            later = await self._first_stored(part, segment.number(size) + 1)
            if later is not None:
                return Hole(segment, later)
        return None

    async def _first_stored(self, part: SegmentRange, fragments_from: int) -> str | None:
        """The first segment of which anything is stored in this part of a timeline.

        Tails and cut-off objects count from the number ``fragments_from`` on: a descendant's at
        the position of the missing segment itself has been asked for before it, in vain.
        """
        size = self._archive.segment_size
        after = ""
        if part.begin > 0:
            # The last name that the segment before it can have: its complete one.
            after = wal_object(WalSegment.numbered(part.timeline, part.begin - 1, size))
        objects = self._archive.list_objects(timeline_prefix(part.timeline), after=after)
        try:
            async for info in objects:
                match parse_wal_object(info.name):
                    case WalSegment() as stored if stored.fits(size):
                        number = stored.number(size)
                    case CutOffSegment(stored) if stored.fits(size):
                        number = stored.number(size)
                        if number < fragments_from:
                            continue
                    case _:
                        continue
                if number < part.end:
                    return str(stored)
                break
        finally:
            if isinstance(objects, AsyncGenerator):
                await objects.aclose()
        begin = max(part.begin, fragments_from)
        return await self._first_tail(SegmentRange(part.timeline, begin, part.end))

    async def _first_tail(self, part: SegmentRange) -> str | None:
        """The first segment in this part of a timeline that has a tail."""
        if part.begin >= part.end:
            return None
        size = self._archive.segment_size
        after = tail_links_after(part.first(size), 0)
        objects = self._archive.list_objects(TAIL_PREFIX, after=after)
        try:
            async for info in objects:
                tail = parse_tail_object(info.name)
                if tail is not None and tail.segment.fits(size):
                    stored = tail.segment
                    within = stored.timeline == part.timeline and stored.number(size) < part.end
                    return str(stored) if within else None
        finally:
            if isinstance(objects, AsyncGenerator):
                await objects.aclose()
        return None
