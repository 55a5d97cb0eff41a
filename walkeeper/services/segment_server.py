"""Serves segments: the complete one, cut where the path leaves its timeline, or what stands in.

Along the path of a recovery every ancestor ends at its fork, complete segments included:
PostgreSQL follows a parent past the fork when the child's segment is not there
(xlogrecovery.c, XLogFileReadAnyTLI never looks where a parent ends), and so brings back rows of a
dead branch.

What ends early is never handed out where PostgreSQL has a file of that name already: it would
replace it (xlogarchive.c, KeepFileRestoredFromArchive), and a longer one holds rows that it has
shown. "Absent" leaves it with its own file. A file that we served earlier is there too when the
end of recovery reads the last record again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

import structlog

from walkeeper.core.layout import wal_object
from walkeeper.core.timeline import TimelineHistory
from walkeeper.core.wal import WalSegment
from walkeeper.errors import NoSuchSegment, ObjectNotFound, StorageUnavailable, UsageError
from walkeeper.services.ahead import Ahead, Wishes, look_into
from walkeeper.services.fetch_file import FetchFile, download
from walkeeper.services.fetch_rules import (
    FetchRequest,
    Hole,
    leg_of,
    lies_on_path,
    next_on_path,
    part_on_path,
)
from walkeeper.services.fetch_settings import FetcherStatistics, FetchSettings
from walkeeper.services.patience import patient
from walkeeper.services.segment_question import Question, SegmentSources, Served, Vanished
from walkeeper.services.segment_stand_in import StandIn
from walkeeper.services.tablespace_guard import TablespaceLook

log = structlog.get_logger(__name__)


class SegmentServer:
    """Serves segments of one archive; several requests may run at once."""

    def __init__(
        self,
        sources: SegmentSources,
        settings: FetchSettings,
        statistics: FetcherStatistics,
        sleep: Callable[[float], Awaitable[None]],
    ) -> None:
        self._archive = sources.archive
        self._pool = sources.pool
        self._prefetcher = sources.prefetcher
        self._missing = sources.missing
        self._stand_ins = sources.stand_ins
        self._followed = sources.followed
        self._settings = settings
        self._statistics = statistics
        self._sleep = sleep
        self._size = sources.archive.segment_size

    async def serve(
        self, request: FetchRequest, segment: WalSegment, out: FetchFile
    ) -> Served | None:
        """Write the segment into an empty file, or say by None that it is absent for good.

        Raises NoSuchSegment for a hole and whatever keeps the archive from telling.
        """
        self._require_size(segment)
        patience_s = self._settings.standby_patience_s if request.standby else None
        if request.is_tool:
            # pg_rewind reads a server's own WAL back from where it ended to where it left the
            # other's history: behind the fork, what it is after is the WAL of the dead branch.
            size = await self._serve_tool(Question(request, segment, out, lambda: None))
            return None if size is None else Served(size)
        self._followed.note_asked(request, segment)
        async with patient(patience_s, str(segment)):
            path = await self._missing.find_path(request, segment, fresh=False)
        if self._is_withheld(request, segment, path):
            return None
        ahead = await self._take_ahead(request, segment, out)
        hit = ahead is not None
        async with patient(patience_s, str(segment)) as came:
            question = Question(request, segment, out, came)
            if hit or await self._fetch_complete(question):
                size = await self._cut(question, path)
            else:
                size = await self._resolve_miss(question)
        if size is None:
            return None
        if request.goes_on:
            self._advance(request, segment, path, out.home, hit=hit)
        return Served(size, await self._look(question, path, ahead))

    async def go_ahead(self, request: FetchRequest, segment: WalSegment, home: Path | None) -> None:
        """Begin to fetch a segment and what follows it, for a recovery that will ask for it."""
        self._require_size(segment)
        path = await self._missing.find_path(request, segment, fresh=False)
        await self._prefetcher.wait_running()
        self._advance(request, segment.previous(self._size), path, home, hit=False)

    async def _look(
        self, question: Question, path: TimelineHistory, ahead: Ahead | None
    ) -> TablespaceLook | None:
        """What the file as it was handed out tells of tablespaces, where the client asks that."""
        if not question.request.guard:
            return None
        cut = self._is_cut(question.segment, part_on_path(path, question.segment, self._size))
        if ahead is not None and ahead.look is not None and not cut:
            return ahead.look
        look = partial(look_into, question.out, self._size.bytes)
        return await asyncio.get_running_loop().run_in_executor(self._pool, look)

    async def _serve_tool(self, question: Question) -> int | None:
        """The complete segment as it is stored, wherever the path of a recovery would lead."""
        if await self._fetch_complete(question):
            return self._size.bytes
        return await self._resolve_miss(question)

    def _require_size(self, segment: WalSegment) -> None:
        if not segment.fits(self._size):
            raise UsageError(f"{segment} is no segment of {self._size.bytes} bytes")

    def _is_withheld(
        self, request: FetchRequest, segment: WalSegment, path: TimelineHistory
    ) -> bool:
        """Whether nothing of the segment may be handed out, complete or not."""
        part = part_on_path(path, segment, self._size)
        if not part or self._is_cut(segment, part):
            self._note_withheld(request, segment, path)
        return not part or (request.present and self._is_cut(segment, part))

    def _note_withheld(
        self, request: FetchRequest, segment: WalSegment, path: TimelineHistory
    ) -> None:
        if not self._followed.is_first(request, segment):
            return
        leg = leg_of(path, segment.timeline)
        log.info(
            "segment_withheld",
            segment=str(segment),
            follows=path.timeline,
            left_at=None if leg is None else str(leg.end),
            reason=self._followed.explain(request),
        )

    def _is_cut(self, segment: WalSegment, part: range) -> bool:
        return part.stop < (segment.number(self._size) + 1) * self._size.bytes

    async def _fetch_complete(self, question: Question) -> bool:
        """Fetch the complete segment; False when the archive answered that it is not there."""
        await asyncio.get_running_loop().run_in_executor(self._pool, question.out.empty)
        name, size_bytes = wal_object(question.segment), self._size.bytes
        try:
            await download(
                self._archive,
                name,
                question.out,
                self._pool,
                size_bytes=size_bytes,
                came=question.came,
            )
        except ObjectNotFound:
            question.came()
            return False
        return True

    async def _cut(self, question: Question, path: TimelineHistory) -> int | None:
        """End what was written where the path leaves its timeline; None when it is withheld."""
        segment, request = question.segment, question.request
        if request.is_tool:
            return self._size.bytes
        if self._is_withheld(request, segment, path):
            return None
        part = part_on_path(path, segment, self._size)
        if self._is_cut(segment, part):
            offset = part.stop - segment.begin(self._size).value
            loop = asyncio.get_running_loop()
            await loop.run_in_executor(self._pool, question.out.end_at, offset, self._size.bytes)
        return self._size.bytes

    async def _resolve_miss(self, question: Question) -> int | None:
        """What stands in, or None when the segment is absent for good; raises for a hole.

        Before any of them the segment is asked for once more: it may just have become durable.
        """
        request = question.request
        if request.path_timeline is not None and self._is_past_end(question):
            return None  # nothing but the answer that was just had counts there
        attempts = 1 if request.standby else self._settings.hole_attempts
        vanished: Vanished | None = None
        while True:
            attempts -= 1
            fresh = not request.standby
            path = await self._missing.find_path(request, question.segment, fresh=fresh)
            verdict = await self._judge(question, path) or vanished
            if isinstance(verdict, Vanished):
                vanished = verdict
            try:
                if await self._fetch_complete(question):
                    return await self._cut(question, path)
                if verdict is None:
                    return None
                if isinstance(verdict, StandIn):
                    return await self._hand_out(question, path, verdict)
            finally:
                if isinstance(verdict, StandIn):
                    self._pool.submit(verdict.file.close)
            if attempts <= 0:
                raise self._error(verdict)
            await self._sleep(self._settings.hole_pause_s)

    async def _judge(
        self, question: Question, path: TimelineHistory
    ) -> StandIn | Hole | Vanished | None:
        request, segment = question.request, question.segment
        hole = await self._missing.find_hole(request, segment, path)
        question.came()
        beside = partial(self._missing.find_hole_beside, request, segment, path)
        if hole is None:
            hole = await beside(whole=request.is_archive_recovery)
            question.came()
        if not request.is_archive_recovery or not part_on_path(path, segment, self._size):
            return hole
        if (hole is not None and hole.later is not None) or self._is_past_end(question):
            return hole
        try:
            stand_in = await self._stand_ins.choose(path, segment, request.path_end)
            return stand_in or hole or await beside(whole=False)
        except ObjectNotFound as error:
            return Vanished(error.message)

    def _is_past_end(self, question: Question) -> bool:
        end = question.request.path_end
        return end is not None and end <= question.segment.begin(self._size)

    def _error(self, verdict: Hole | Vanished) -> NoSuchSegment | StorageUnavailable:
        if isinstance(verdict, Vanished):
            return StorageUnavailable(
                f"{verdict.name}, and the complete segment is not there", hint="try again"
            )
        self._statistics.holes += 1
        return NoSuchSegment(
            str(verdict), hint="walkeeper status shows what can be recovered, and its gaps"
        )

    async def _hand_out(
        self, question: Question, path: TimelineHistory, stand_in: StandIn
    ) -> int | None:
        request, segment = question.request, question.segment
        if request.present:
            return None
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._pool, question.out.empty)
        await loop.run_in_executor(self._pool, stand_in.file.copy_to, question.out)
        self._statistics.stand_ins += 1
        log.info(
            "stand_in_served",
            segment=str(segment),
            source=stand_in.source,
            reach=str(stand_in.reach),
        )
        return await self._cut(question, path)

    async def _take_ahead(
        self, request: FetchRequest, segment: WalSegment, out: FetchFile
    ) -> Ahead | None:
        ahead = await self._prefetcher.take(request.client, request.path_timeline, segment)
        if ahead is None:
            return None
        try:
            loop = asyncio.get_running_loop()
            await loop.run_in_executor(self._pool, ahead.file.move_to, out)
        finally:
            self._pool.submit(ahead.file.close)
        self._statistics.from_prefetch += 1
        return ahead

    def _advance(
        self,
        request: FetchRequest,
        segment: WalSegment,
        path: TimelineHistory,
        home: Path | None,
        *,
        hit: bool,
    ) -> None:
        if not lies_on_path(path, segment, self._size):
            path = TimelineHistory(segment.timeline)
        following = next_on_path(path, segment, self._size, request.path_end)
        wishes = Wishes(home, request.guard, many=request.path_end is not None)
        self._prefetcher.advance(
            request.client, request.path_timeline, segment, following, wishes, hit=hit
        )
