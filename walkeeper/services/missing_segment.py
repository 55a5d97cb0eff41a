"""What it means that a segment is not in the archive: the end of the path, or a hole in it."""

from __future__ import annotations

from collections.abc import AsyncGenerator

from walkeeper.core.layout import CutOffSegment, parse_wal_object, timeline_prefix, wal_object
from walkeeper.core.segment_set import SegmentRange
from walkeeper.core.timeline import TimelineHistory
from walkeeper.core.wal import WalSegment
from walkeeper.repository.archive import Archive
from walkeeper.services.fetch_rules import FetchRequest, Hole, later_on_path, lies_on_path
from walkeeper.services.history_store import HistoryStore


class MissingSegments:
    """Judges misses in one archive; remembers nothing but the histories."""

    def __init__(self, archive: Archive, history: HistoryStore) -> None:
        self._archive = archive
        self._history = history

    async def find_hole(self, request: FetchRequest, segment: WalSegment) -> Hole | None:
        """The hole that this segment leaves in the path of the request, None at the path's end.

        With an end, what lies on the path before it is needed; without one, what has later WAL
        behind it on the path. Raises what the archive raises when it cannot tell.
        """
        size = self._archive.segment_size
        path = await self._path(request, segment)
        end = request.path_end
        if not lies_on_path(path, segment, size, end):
            return None
        if end is not None:
            return Hole(segment, None, end)
        for part in later_on_path(path, segment, size):
            later = await self._first_stored(part)
            if later is not None:
                return Hole(segment, later)
        return None

    async def _path(self, request: FetchRequest, segment: WalSegment) -> TimelineHistory:
        """That of the request's timeline, else of the highest one, else the segment's own.

        A recovery that was told to follow another timeline than the highest, without a word to us,
        asks for segments that do not lie on the highest one's path.
        """
        if request.path_timeline is not None:
            return await self._history.path(request.path_timeline)
        if not request.standby or self._history.highest is None:
            await self._history.refresh()
        highest = self._history.highest or 1
        path = await self._history.path(highest)
        if path.contains(segment.timeline):
            return path
        if segment.timeline > highest:
            return TimelineHistory(segment.timeline)
        return await self._history.path(segment.timeline)

    async def _first_stored(self, part: SegmentRange) -> str | None:
        """The first segment stored in this part of a timeline, complete or cut off."""
        size = self._archive.segment_size
        after = ""
        if part.begin > 0:
            # The last name that the segment before it can have: its complete one.
            after = wal_object(WalSegment.numbered(part.timeline, part.begin - 1, size))
        objects = self._archive.list_objects(timeline_prefix(part.timeline), after=after)
        try:
            async for info in objects:
                match parse_wal_object(info.name):
                    case WalSegment() | CutOffSegment() as stored:
                        segment = stored.segment if isinstance(stored, CutOffSegment) else stored
                        within = segment.fits(size) and segment.number(size) < part.end
                        return str(segment) if within else None
        finally:
            if isinstance(objects, AsyncGenerator):
                await objects.aclose()
        return None
