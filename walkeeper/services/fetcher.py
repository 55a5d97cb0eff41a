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
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import structlog

from walkeeper.core.layout import wal_object
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
from walkeeper.services.fetch_file import FetchFile
from walkeeper.services.fetch_rules import FetchRequest
from walkeeper.services.fetch_settings import FetcherStatistics, FetchSettings
from walkeeper.services.followed_timelines import FollowedTimelines
from walkeeper.services.history_store import HistoryStore
from walkeeper.services.missing_segment import MissingSegments
from walkeeper.services.prefetch import Prefetcher
from walkeeper.services.segment_question import SegmentSources, Served
from walkeeper.services.segment_server import SegmentServer
from walkeeper.services.segment_stand_in import StandIns
from walkeeper.services.tablespace_guard import TablespaceLook

_SMALL_FILE_LIMIT: Final = 1 << 20
_ANSWER_WITHIN: Final = 0.9
"""The part of the client's patience after which it is told that there is no answer."""

TOLERATED_IN_STANDBY_MODE: Final = (StorageError, IntegrityError, KeyringError, NoSuchSegment)
"""Outage, damage, wrong key, a hole: what may be gone when the standby asks again."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class FetchOutcome:
    """``size_bytes`` were written, all of the file; or None: the archive holds no such file.

    ``inode`` is that of the file which took the place of the client's; ``look`` what a segment
    tells of tablespaces, for a request that asks for it.
    """

    size_bytes: int | None
    inode: int | None = None
    look: TablespaceLook | None = None

    @property
    def absent(self) -> bool:
        """Whether the archive answered that there is no such file."""
        return self.size_bytes is None


class Fetcher:
    """Serves WAL files of one archive; several requests may run at once.

    ``history`` must have been loaded. ``cache_dir`` takes unnamed files: of segments that are
    fetched ahead, which needs `run`, and of what may stand in for a segment. Memory: a few MiB for
    each request and parallel download.
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
        self._prefetcher = Prefetcher(archive, pool, cache_dir, settings.prefetch, now=now)
        self._statistics = FetcherStatistics()
        self._followed = FollowedTimelines()
        sources = SegmentSources(
            archive,
            pool,
            self._prefetcher,
            MissingSegments(archive, history, self._followed),
            StandIns(archive, pool, cache_dir),
            self._followed,
        )
        self._segments = SegmentServer(sources, settings, self._statistics, sleep)

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

    def is_ahead(self, request: FetchRequest) -> bool:
        """Whether what is asked for is being, or has been, fetched ahead for this client."""
        match request.wal:
            case WalSegment() as segment:
                return self._prefetcher.is_ahead(request.client, segment)
            case _:
                return False

    async def go_ahead(self, request: FetchRequest, home: Path | None) -> None:
        """Begin to fetch a segment and those behind it; needs `run`.

        ``home`` is where a recovery will want them. Raises UsageError for what is no segment, and
        what keeps the archive from telling its path.
        """
        size = self._archive.segment_size
        match request.wal:
            case WalSegment() as segment if not request.is_tool and segment.number(size):
                await self._segments.go_ahead(request, segment, home)
            case _:
                raise UsageError(f"{request.wal}: no recovery will ask for it and what follows")

    async def fetch(
        self, request: FetchRequest, out_fd: int, name: Path | None = None
    ) -> FetchOutcome:
        """Write the file into ``out_fd``, which is taken over and closed, or say it is absent.

        ``name`` is where that file lies, if another one may take its place there.
        Raises what the client must take for "could not tell" or "not as it should be"; the file
        may hold a part then.
        """
        outcome = await self._fetch(request, FetchFile(out_fd, name=name))
        match request.wal:
            case TimelineHistoryFile(timeline) if outcome.absent and timeline > 1:
                self._followed.note_absent_history(request)
        return outcome

    async def _fetch(self, request: FetchRequest, out: FetchFile) -> FetchOutcome:
        try:
            async with asyncio.timeout(request.timeout_s * _ANSWER_WITHIN) as scope:
                served = await self._serve(request, out)
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
        if served is None:
            self._statistics.absent += 1
            return FetchOutcome(None)
        self._statistics.fetched += 1
        log.debug("wal_fetched", file=str(request.wal), size_bytes=served.size_bytes)
        return FetchOutcome(served.size_bytes, out.replaced_by, served.look)

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

    async def _serve(self, request: FetchRequest, out: FetchFile) -> Served | None:
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
                return await self._segments.serve(request, segment, out)

    async def _read_small(self, wal: BackupHistoryFile) -> bytes | None:
        try:
            return await self._archive.read(wal_object(wal), limit_bytes=_SMALL_FILE_LIMIT)
        except ObjectNotFound:
            return None

    async def _write(self, content: bytes | None, out: FetchFile) -> Served | None:
        if content is None:
            return None
        await asyncio.get_running_loop().run_in_executor(self._pool, out.write, content)
        return Served(len(content))
