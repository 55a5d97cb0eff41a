"""What ``restore_command`` asks for: one WAL file from the archive, or a confirmed "absent".

PostgreSQL takes "absent" for the end of the archive and may promote, so it is said only when the
archive itself has answered and no WAL of the path lies behind; everything else is an error, which
stops the recovery. In standby mode PostgreSQL asks again, and an error would end the server:
there, errors are counted, logged, and answered as "absent", probes for history files excepted.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

import structlog

from walkeeper.core.layout import wal_object
from walkeeper.core.timeline import TimelineHistory
from walkeeper.core.wal import BackupHistoryFile, PartialSegment, TimelineHistoryFile, WalSegment
from walkeeper.errors import (
    IntegrityError,
    KeyringError,
    NoSuchSegment,
    ObjectNotFound,
    StorageError,
    StorageUnavailable,
    UsageError,
    WalkeeperError,
)
from walkeeper.repository.archive import Archive
from walkeeper.services.fetch_file import FetchFile, download
from walkeeper.services.fetch_rules import FetchRequest, lies_on_path, next_on_path
from walkeeper.services.history_store import HistoryStore
from walkeeper.services.missing_segment import MissingSegments
from walkeeper.services.prefetch import Prefetcher, PrefetchSettings

_SMALL_FILE_LIMIT: Final = 1 << 20
_ANSWER_WITHIN: Final = 0.9
"""The part of the client's patience after which it is told that there is no answer."""

TOLERATED_IN_STANDBY_MODE: Final = (StorageError, IntegrityError, KeyringError, NoSuchSegment)
"""Outage, damage, wrong key, a hole: what may be gone when the standby asks again."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchSettings:
    """How fetching behaves.

    A hole is looked at ``hole_attempts`` times, ``hole_pause_s`` apart: uploads run in parallel,
    so the missing segment may be about to become durable. Histories are looked for every
    ``history_refresh_s``, so that an outage finds them on this host, and a standby's probe waits
    for the archive at most ``probe_patience_s``: a promotion asks several times.
    """

    prefetch: PrefetchSettings = field(default_factory=PrefetchSettings)
    hole_attempts: int = 3
    hole_pause_s: float = 1.0
    history_refresh_s: float = 60.0
    probe_patience_s: float = 10.0


@dataclass(frozen=True, slots=True)
class FetchOutcome:
    """``size_bytes`` were written, all of the file; or None: the archive holds no such file."""

    size_bytes: int | None

    @property
    def absent(self) -> bool:
        """Whether the archive answered that there is no such file."""
        return self.size_bytes is None


@dataclass(slots=True)
class FetcherStatistics:
    """Counters since the start.

    ``fetched`` includes ``from_prefetch``. ``absent`` was confirmed by the archive; ``errors`` is
    everything else, ``holes`` and what was answered as absent in standby mode included.
    """

    fetched: int = 0
    from_prefetch: int = 0
    absent: int = 0
    holes: int = 0
    errors: int = 0
    last_error: str | None = None


class Fetcher:
    """Serves WAL files of one archive; several requests may run at once.

    ``history`` must have been loaded. ``cache_dir`` takes the unnamed files of segments that are
    fetched ahead, which needs `run`. Memory: a few MiB for each request and parallel download.
    """

    def __init__(
        self,
        archive: Archive,
        pool: ThreadPoolExecutor,
        history: HistoryStore,
        cache_dir: Path,
        settings: FetchSettings,
        *,
        now: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._archive = archive
        self._pool = pool
        self._history = history
        self._settings = settings
        self._sleep = sleep
        self._missing = MissingSegments(archive, history)
        self._prefetcher = Prefetcher(archive, pool, cache_dir, settings.prefetch, now=now)
        self._statistics = FetcherStatistics()

    @property
    def statistics(self) -> FetcherStatistics:
        """A snapshot."""
        return replace(self._statistics)

    async def run(self) -> None:
        """Fetch ahead and keep the histories up to date, until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._prefetcher.run())
            while True:
                try:
                    await self._history.refresh()
                except WalkeeperError as error:
                    log.warning("histories_not_refreshed", reason=error.message)
                await self._sleep(self._settings.history_refresh_s)

    async def fetch(self, request: FetchRequest, out_fd: int) -> FetchOutcome:
        """Write the file into ``out_fd``, which is taken over and closed, or say it is absent.

        Raises what the client must take for "could not tell" or "not as it should be"; the file
        may hold a part then.
        """
        out = FetchFile(out_fd)
        try:
            async with asyncio.timeout(request.timeout_s * _ANSWER_WITHIN) as scope:
                size = await self._serve(request, out)
        except TimeoutError:
            if not scope.expired():
                raise
            self._tolerate(request, StorageUnavailable(f"{request.wal}: no answer in time"))
            return FetchOutcome(None)
        except WalkeeperError as error:
            self._tolerate(request, error)
            return FetchOutcome(None)
        finally:
            # In the pool: a thread of a cancelled request may still be writing.
            self._pool.submit(out.close)
        if size is None:
            self._statistics.absent += 1
        else:
            self._statistics.fetched += 1
        log.debug("wal_fetched", file=str(request.wal), size_bytes=size)
        return FetchOutcome(size)

    def _tolerate(self, request: FetchRequest, error: WalkeeperError) -> None:
        """Count an error, and raise it again unless a standby may ask once more."""
        self._statistics.errors += 1
        self._statistics.last_error = f"{request.wal}: {error.message}"
        tolerated = request.standby and isinstance(error, TOLERATED_IN_STANDBY_MODE)
        if tolerated and isinstance(request.wal, TimelineHistoryFile):
            # A promotion may follow: only what this host knows of the archive can answer.
            known = self._history.is_above_all_known(request.wal.timeline)
            tolerated = known and isinstance(error, StorageError)
        if not tolerated:
            raise error
        log.warning("fetch_failed_in_standby_mode", file=str(request.wal), reason=error.message)

    async def _serve(self, request: FetchRequest, out: FetchFile) -> int | None:
        match request.wal:
            case TimelineHistoryFile(timeline):
                patience_s = request.timeout_s / 2  # then what is known here may still answer
                if request.standby:
                    patience_s = min(patience_s, self._settings.probe_patience_s)
                content = await self._history.answer(timeline, patience_s=patience_s)
                return await self._write(content, out)
            case BackupHistoryFile() as wal:
                return await self._write(await self._read_small(wal), out)
            case PartialSegment() as wal:
                raise UsageError(f"{wal}: PostgreSQL asks for no cut-off segments by name")
            case WalSegment() as segment:
                return await self._serve_segment(request, segment, out)

    async def _read_small(self, wal: BackupHistoryFile) -> bytes | None:
        try:
            return await self._archive.read(wal_object(wal), limit_bytes=_SMALL_FILE_LIMIT)
        except ObjectNotFound:
            return None

    async def _write(self, content: bytes | None, out: FetchFile) -> int | None:
        if content is None:
            return None
        await asyncio.get_running_loop().run_in_executor(self._pool, out.write, content)
        return len(content)

    async def _serve_segment(
        self, request: FetchRequest, segment: WalSegment, out: FetchFile
    ) -> int | None:
        """The complete segment, else what a miss means.

        Ancestors are served past their forks as they are stored; whatever else is to stand in for
        a complete segment belongs before the judgement in `_judge_miss`.
        """
        if not segment.fits(self._archive.segment_size):
            raise UsageError(f"{segment} is no segment of {self._archive.segment_size.bytes} bytes")
        if not (request.standby or request.recovery):  # a tool, which may jump at will
            size = await self._fetch_complete(segment, out)
            return size if size is not None else await self._judge_miss(request, segment, out)
        size = await self._take_ahead(request, segment, out)
        hit = size is not None
        if size is None:
            size = await self._fetch_complete(segment, out)
        if size is None:
            size = await self._judge_miss(request, segment, out)
        if size is not None:
            self._go_ahead(request, segment, hit=hit)
        return size

    async def _fetch_complete(self, segment: WalSegment, out: FetchFile) -> int | None:
        """Fetch the complete segment; None when the archive answered that it is not there."""
        size_bytes = self._archive.segment_size.bytes
        await asyncio.get_running_loop().run_in_executor(self._pool, out.empty)
        try:
            await download(
                self._archive, wal_object(segment), out, self._pool, size_bytes=size_bytes
            )
        except ObjectNotFound:
            return None
        return size_bytes

    async def _judge_miss(
        self, request: FetchRequest, segment: WalSegment, out: FetchFile
    ) -> int | None:
        """None when the segment is absent for good; raises NoSuchSegment for a hole.

        Before either the segment is asked for once more: it may just have become durable.
        """
        attempts = 1 if request.standby else self._settings.hole_attempts
        while True:
            attempts -= 1
            hole = await self._missing.find_hole(request, segment)
            size = await self._fetch_complete(segment, out)
            if hole is None or size is not None:
                return size
            if attempts <= 0:
                self._statistics.holes += 1
                raise NoSuchSegment(
                    str(hole), hint="walkeeper verify lists what is missing from the archive"
                )
            await self._sleep(self._settings.hole_pause_s)

    async def _take_ahead(
        self, request: FetchRequest, segment: WalSegment, out: FetchFile
    ) -> int | None:
        file = await self._prefetcher.take(request.client, request.path_timeline, segment)
        if file is None:
            return None
        try:
            loop = asyncio.get_running_loop()
            size = await loop.run_in_executor(self._pool, file.copy_to, out)
        finally:
            self._pool.submit(file.close)
        self._statistics.from_prefetch += 1
        return size

    def _go_ahead(self, request: FetchRequest, segment: WalSegment, *, hit: bool) -> None:
        size = self._archive.segment_size
        path = self._history.known_path(request.path_timeline)
        if path is None or not lies_on_path(path, segment, size):
            path = TimelineHistory(segment.timeline)
        following = next_on_path(path, segment, size, request.path_end)
        self._prefetcher.advance(request.client, request.path_timeline, segment, following, hit=hit)
