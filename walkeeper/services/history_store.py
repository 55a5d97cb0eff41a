"""The timelines of an archive: what is known of them, and the answers to history probes.

PostgreSQL asks for ``<N>.history`` to learn which timelines exist, and takes the first number that
is absent for its own when it is promoted. So "absent" is said only of numbers above everything
that the archive holds: a number that was given out twice makes two histories of one name.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Final

import structlog

from walkeeper.core.layout import (
    wal_object,
)
from walkeeper.core.timeline import TimelineHistory
from walkeeper.core.wal import TimelineHistoryFile
from walkeeper.errors import (
    NoSuchSegment,
    ObjectNotFound,
    StorageError,
    StorageUnavailable,
    WalkeeperError,
    unwrapped,
)
from walkeeper.repository.archive import Archive
from walkeeper.services.history_files import HistoryFiles, parse_history
from walkeeper.services.timeline_listing import TimelineListing, timeline_of

HISTORY_LIMIT_BYTES: Final = 1 << 20
"""No history file comes near: a line for each ancestor."""

log = structlog.get_logger(__name__)


class HistoryStore:
    """Every history file of one archive, in memory and, with ``files``, on this host.

    History files never change, so one that is known is served without asking the archive.
    """

    def __init__(
        self, archive: Archive, pool: ThreadPoolExecutor, files: HistoryFiles | None
    ) -> None:
        self._archive = archive
        self._pool = pool
        self._files = files
        self._contents: dict[int, bytes] = {}
        self._seen: set[int] = set()
        self._reported: set[int] = set()
        self._listing = TimelineListing(archive)
        self._listed = False
        self._kept_listed: int | None = None
        self._lock = asyncio.Lock()

    @property
    def highest(self) -> int | None:
        """The highest timeline that the archive is known to hold anything of, 0 for none.

        None until the archive has been listed once, here or by an earlier process.
        """
        return self._highest if self._listed else None

    @property
    def timelines(self) -> list[int]:
        """Those that the archive is known to hold anything of, the highest first."""
        return sorted(self._seen, reverse=True)

    @property
    def _highest(self) -> int:
        return max(self._seen, default=0)

    async def load(self) -> None:
        """Read what an earlier process has kept; not being able to costs only the outage cover."""
        if self._files is None:
            return
        loop = asyncio.get_running_loop()
        try:
            kept = await loop.run_in_executor(self._pool, self._files.load)
        except OSError as error:
            log.warning("histories_not_loaded", reason=error.strerror)
            return
        self._contents.update(kept.contents)
        self._seen.update(kept.contents)
        if kept.listed is not None:
            self._seen.update({kept.listed} - {0})
            self._listed = True
            self._kept_listed = kept.listed

    async def refresh(self) -> None:
        """Learn of every timeline, and keep every history that can be read.

        Usually one short LIST. Raises StorageError when it fails; a history that cannot be read is
        left for those who ask for it.
        """
        without_content = (seen for seen in self._seen if seen not in self._contents)
        await self._list_from(min((seen for seen in without_content if seen > 1), default=None))

    async def answer(self, timeline: int, *, patience_s: float) -> bytes | None:
        """The history file for a probe, or None: nothing of this timeline or above exists.

        A file that is not stored is rebuilt from a higher timeline's, which names its ancestors.
        Raises StorageError when the archive does not tell in that time and nothing here does,
        NoSuchSegment for a timeline in use whose history is nowhere, IntegrityError, WrongKey.
        """
        if timeline == 1:
            # It has none (timeline.c, readTimeLineHistory), and yet a promotion asks for its
            # parent's, whichever that is (writeTimeLineHistory).
            return None
        if timeline in self._contents:
            return self._contents[timeline]
        try:
            await self._ask(timeline, patience_s)
        except StorageError:
            rebuilt = self._rebuilt(timeline)
            if rebuilt is None:
                raise
            return rebuilt
        if timeline > self._highest:
            return None
        content = self._contents.get(timeline) or self._rebuilt(timeline)
        if content is None:
            raise _nowhere(timeline)
        return content

    async def _ask(self, timeline: int, patience_s: float) -> None:
        scope = asyncio.timeout(patience_s)
        try:
            async with scope:
                await self._look_for(timeline)
        except TimeoutError as error:
            if not scope.expired():
                raise
            name = TimelineHistoryFile(timeline)
            raise StorageUnavailable(f"{name}: no answer within {patience_s:g} s") from error

    async def _look_for(self, timeline: int) -> None:
        """Ask for a history and for all from it on at once: most that are asked for do not exist.

        A list that fails counts only where there is no such history.
        """
        with unwrapped():
            async with asyncio.TaskGroup() as group:
                listing = group.create_task(self._try_list(timeline))
                if await self._fetch(timeline) is not None:
                    listing.cancel()
                elif (error := await listing) is not None:
                    raise error

    async def _try_list(self, timeline: int) -> WalkeeperError | None:
        try:
            await self._list_from(timeline)
        except WalkeeperError as error:
            return error
        return None

    def is_above_all_known(self, timeline: int) -> bool:
        """Whether this host knows the timelines of the archive and this one is above them all."""
        return self._listed and timeline > self._highest

    async def path(self, timeline: int) -> TimelineHistory:
        """The path that leads to a timeline.

        Raises NoSuchSegment when its history is neither stored nor named by a higher one, and what
        reading it raises.
        """
        if timeline == 1:
            return TimelineHistory(1)
        content = self._contents.get(timeline) or await self._fetch(timeline)
        if content is not None:
            return parse_history(timeline, content)
        await self.refresh()
        derived = self._derived(timeline)
        if derived is None:
            raise _nowhere(timeline)
        return derived

    def known_path(self, timeline: int | None) -> TimelineHistory | None:
        """The path to a timeline (None: the highest) as far as it is known, without asking."""
        wanted = self._highest if timeline is None else timeline
        if wanted <= 1:
            return TimelineHistory(1)
        content = self._contents.get(wanted)
        return self._derived(wanted) if content is None else parse_history(wanted, content)

    def _rebuilt(self, timeline: int) -> bytes | None:
        derived = self._derived(timeline)
        return None if derived is None else derived.encode().encode()

    def _derived(self, timeline: int) -> TimelineHistory | None:
        for higher in sorted(self._contents):
            if higher > timeline:
                history = parse_history(higher, self._contents[higher])
                if history.contains(timeline):
                    return history.derive(timeline)
        return None

    async def _list_from(self, timeline: int | None) -> None:
        async with self._lock:
            position = self._highest if timeline is None else min(timeline - 1, self._highest)
            stored = set()
            while (found := await self._listing.find_first(position, self._seen)) is not None:
                position = timeline_of(found)
                self._seen.add(position)
                if isinstance(found, TimelineHistoryFile):
                    stored.add(position)
            self._listed = True
            await self._keep_listed()
            if self._archive.opener.can_open:
                for wanted in sorted(stored.difference(self._contents)):
                    await self._fetch_for_later(wanted)

    async def _fetch_for_later(self, timeline: int) -> None:
        try:
            await self._fetch(timeline)
        except WalkeeperError as error:
            if timeline not in self._reported:
                self._reported.add(timeline)
                name = str(TimelineHistoryFile(timeline))
                log.warning("history_not_readable", file=name, reason=error.message)

    async def _fetch(self, timeline: int) -> bytes | None:
        name = wal_object(TimelineHistoryFile(timeline))
        try:
            content = await self._archive.read(name, limit_bytes=HISTORY_LIMIT_BYTES)
            parse_history(timeline, content)
        except ObjectNotFound:
            return None
        except StorageError:
            raise
        except WalkeeperError:
            if await self._listing.is_ours(name):
                self._seen.add(timeline)  # it cannot be read, but it is there
            raise
        self._contents[timeline] = content
        self._seen.add(timeline)
        if self._files is not None:
            await self._write(partial(self._files.keep, timeline, content))
        return content

    async def _keep_listed(self) -> None:
        if self._files is not None and self._kept_listed != self._highest:
            self._kept_listed = self._highest
            await self._write(partial(self._files.keep_listed, self._highest))

    async def _write(self, write: Callable[[], None]) -> None:
        loop = asyncio.get_running_loop()
        try:
            await loop.run_in_executor(self._pool, write)
        except StorageError as error:
            log.warning("history_not_kept", reason=error.message)


def _nowhere(timeline: int) -> NoSuchSegment:
    return NoSuchSegment(
        f"the archive holds WAL of timeline {timeline} or above, but no history of {timeline}",
        hint=f"put {TimelineHistoryFile(timeline)} into the archive with wal-push, from a server "
        "that has it in pg_wal",
    )
