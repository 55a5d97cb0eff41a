"""Deletes the stored tails of segments that are in the archive whole: behind the shipping."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final

import structlog

from walkeeper.core import layout
from walkeeper.core.layout import ObjectName
from walkeeper.core.wal import WalSegment
from walkeeper.errors import (
    IntegrityError,
    ObjectNotFound,
    StorageDenied,
    WalkeeperError,
)
from walkeeper.repository.archive import Archive
from walkeeper.services.tail_chain import tail_folders

_AT_ONCE: Final = 16
_RETRY_S: Final = 30.0
_DENIED_RETRY_S: Final = 3600.0
"""Permissions seldom change, but credentials are renewed and clocks set right."""

log = structlog.get_logger(__name__)


class TailCleaner:
    """Removes tails that nobody needs any more; one for each archive.

    A tail goes only when the complete segment is there: the end of a timeline that was left has
    no complete segment, and its tail is the only copy of the last bytes. Where deleting is denied
    everything stays, which is said once, and is tried again every hour.
    """

    def __init__(
        self, archive: Archive, *, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    ) -> None:
        self._archive = archive
        self._sleep = sleep
        self._left: dict[WalSegment, None] = {}
        self._search = True
        self._wake = asyncio.Event()
        self._wake.set()
        self.requests = 0
        """Without the deletes themselves, which no store charges for."""
        self.denied = False

    def leave(self, segment: WalSegment) -> None:
        """The next segment is being written: this one's tail goes once it is there whole."""
        self._left[segment] = None
        self._wake.set()

    async def run(self) -> None:
        """Delete what earlier processes have left, then what is left, until cancelled."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            try:
                await self._clean()
                self.denied = False
            except StorageDenied as error:
                if not self.denied:
                    log.warning("tails_stay", reason=str(error), hint="retention may delete them")
                self.denied = True
                self._wake.set()
                await self._sleep(_DENIED_RETRY_S)
            except WalkeeperError as error:
                log.info("tails_not_deleted_yet", reason=str(error), hint=error.hint)
                self._wake.set()
                await self._sleep(_RETRY_S)

    async def _clean(self) -> None:
        if self._search:
            self.requests += 1
            self._left |= {segment: None async for segment in tail_folders(self._archive)}
            self._search = False
        newest = max((segment.timeline for segment in self._left), default=0)
        for segment in list(self._left):
            is_whole = await self._is_whole(segment)
            if is_whole:
                await self._delete(segment)
            if is_whole or segment.timeline < newest:  # the others may become whole later
                self._left.pop(segment)

    async def _is_whole(self, segment: WalSegment) -> bool:
        self.requests += 1
        try:
            await self._archive.read_header(layout.wal_object(segment))
        except (ObjectNotFound, IntegrityError):  # nothing there, or nothing that a writer signed
            return False
        return True

    async def _delete(self, segment: WalSegment) -> None:
        async for batch in self._batches(segment):
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(self._try_delete(name)) for name in batch]
            for task in tasks:
                if (error := task.result()) is not None:
                    raise error

    async def _try_delete(self, name: ObjectName) -> WalkeeperError | None:
        """Why it could not be deleted.

        Not raised: a group that fails in the moment in which its task is cancelled forgets the
        cancellation (python/cpython#116720), and then `run` would go on for ever.
        """
        try:
            await self._archive.storage.delete(self._archive.path(name))
        except WalkeeperError as error:
            return error
        return None

    async def _batches(self, segment: WalSegment) -> AsyncIterator[list[ObjectName]]:
        self.requests += 1
        batch: list[ObjectName] = []
        async for info in self._archive.list_objects(layout.tail_prefix(segment)):
            if layout.parse_tail_object(info.name) is not None:
                batch.append(ObjectName(info.name))
            if len(batch) == _AT_ONCE:
                yield batch
                batch = []
        if batch:
            yield batch
