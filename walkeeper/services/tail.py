"""Ships the tail: the flushed bytes of the segment that PostgreSQL is still writing.

The bytes between the last shipped position and the flush position become one link, conditionally
created under the offset where it begins, so a second writer of a timeline is met at once.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO, Final, TypeVar

from walkeeper.core.layout import MergedTail, ObjectName, TailLink, tail_object
from walkeeper.core.lsn import Lsn
from walkeeper.core.rpo import RpoMeter
from walkeeper.core.wal import WalSegment
from walkeeper.errors import (
    DifferentContent,
    ForeignCluster,
    IntegrityError,
    ObjectExists,
    StorageUnavailable,
)
from walkeeper.repository.archive import Archive
from walkeeper.services.ancestry import USE_OWN_ARCHIVE
from walkeeper.services.lineage import Position
from walkeeper.services.local_segment import LocalSegment
from walkeeper.services.tail_chain import MERGE_EVERY, TailChain

T = TypeVar("T")

_LONGEST_LINK: Final = 16 << 20
"""Bytes of one link; a segment may have a GiB."""
_PATIENCE_S: Final = 10.0
_SLOWEST_BYTES_PER_S: Final = 256 * 1024
"""A link that is not stored in that time is made anew, with what was flushed meanwhile."""


@dataclass(slots=True)
class TailStatistics:
    """Counters since the start; ``shipped`` is the position up to which the tail is stored."""

    shipped: Lsn | None = None
    links: int = 0
    merged: int = 0
    stored_bytes: int = 0
    requests: int = 0


@dataclass(slots=True)
class _Current:
    """The segment whose tail is being shipped, and how many links a join has to read."""

    local: LocalSegment
    links: int = 0
    damaged: str | None = None


class TailShipper:
    """Ships the tail of one cluster; its methods must not overlap.

    ``leave`` is told each segment that was left behind for the next. Memory: one link, at most
    16 MiB, and its ciphertext; a merged object beyond that goes to a file that ``spool`` opens.
    """

    def __init__(
        self,
        archive: Archive,
        pg_wal: Path,
        pool: ThreadPoolExecutor,
        *,
        rpo: RpoMeter,
        spool: Callable[[], BinaryIO],
        leave: Callable[[WalSegment], None],
    ) -> None:
        self._archive = archive
        self._size = archive.segment_size
        self._pg_wal = pg_wal
        self._pool = pool
        self._rpo = rpo
        self._spool = spool
        self._leave = leave
        self._current: _Current | None = None
        self.statistics = TailStatistics()

    async def resume(self, chain: TailChain) -> None:
        """Go on behind what `check_lineage` has found of a segment."""
        local = self._open(chain.segment)
        await self._in_thread(partial(local.skip, chain.end))
        self._go_to(_Current(local, chain.links, chain.damaged))

    async def ship(self, position: Position) -> None:
        """Ship what was flushed up to a position; nothing is sent where nothing is new.

        All WAL and all histories before its segment must be durable. Whatever is raised, the next
        call goes on from what is stored. Raises ForeignCluster when another writer is met,
        IntegrityError for a segment whose tail is damaged in the archive, and what storage and the
        local file raise.
        """
        segment = position.segment(self._size)
        if self._current is None or self._current.local.segment != segment:
            self._go_to(_Current(self._open(segment)))
        assert self._current is not None
        current = self._current
        end = position.flushed - segment.begin(self._size)
        while current.local.position < end:
            if current.damaged is not None:
                raise IntegrityError(
                    f"the tail of {segment} cannot go on: {current.damaged}",
                    hint="the next segment has a tail again: SELECT pg_switch_wal()",
                )
            await self._ship_link(current, min(end, current.local.position + _LONGEST_LINK))

    def _go_to(self, current: _Current) -> None:
        left = None if self._current is None else self._current.local.segment
        if left is not None and left != current.local.segment:
            self._leave(left)
        self._current = current

    async def _ship_link(self, current: _Current, end: int) -> None:
        local = current.local
        data = await self._in_thread(partial(local.read, end))
        try:
            stored = await self._store_link(local, data)
        except IntegrityError as error:
            current.damaged = str(error)
            raise
        await self._in_thread(partial(local.commit, data[:stored]))
        current.links += 1
        self.statistics.links += 1
        self.statistics.shipped = local.segment.begin(self._size) + local.position
        self._rpo.store(self.statistics.shipped)
        if current.links >= MERGE_EVERY:
            await self._merge(current)

    async def _store_link(self, local: LocalSegment, data: memoryview) -> int:
        """Store the next link; returns how many bytes the archive now holds in it."""
        name = tail_object(TailLink(local.segment, local.position))
        digest = await self._in_thread(partial(local.digest_with, data))
        seal = partial(self._archive.sealer.seal, name, [data], frames=[digest])
        with await self._in_thread(seal) as sealed:
            async with self._deadline(name, sealed.size_bytes):
                try:
                    await self._archive.storage.put(self._archive.path(name), sealed.body())
                except ObjectExists:
                    return await self._adopt(name, data)
            self.statistics.stored_bytes += sealed.size_bytes
        return len(data)

    async def _adopt(self, name: ObjectName, data: memoryview) -> int:
        """A link that exists is ours when it holds our bytes: a PUT that timed out and arrived.

        It may hold fewer, for more was flushed since.
        """
        self.statistics.requests += 2
        header = await self._archive.read_header(name)
        size = header.facts.size or 0
        code = self._archive.sealer.signing.content_code(hashlib.sha256(data[:size]).digest())
        if not 0 < size <= len(data) or header.content != code:
            raise ForeignCluster(
                f"{name} exists and holds other bytes: another server writes this timeline",
                hint=USE_OWN_ARCHIVE,
            )
        info = await self._archive.storage.head(self._archive.path(name))
        if info.size_bytes != header.implied_size():
            raise IntegrityError(f"{name} is damaged: it has not the length that its header says")
        await self._archive.storage.sync(self._archive.path(name))
        return size

    async def _merge(self, current: _Current) -> None:
        """Store everything so far in one object, so that a join stays short."""
        local = current.local
        name = tail_object(MergedTail(local.segment, local.position))
        seal = partial(
            self._archive.sealer.seal,
            name,
            local.blocks(),
            frames=[local.digest_with(b"")],
            spool=self._spool,
            spool_over_bytes=_LONGEST_LINK,
        )
        with await self._in_thread(seal) as sealed:
            async with self._deadline(name, sealed.size_bytes):
                try:
                    await self._archive.put(sealed)
                except DifferentContent as error:
                    raise ForeignCluster(str(error), hint=USE_OWN_ARCHIVE) from error
            self.statistics.stored_bytes += sealed.size_bytes
        current.links = 0
        self.statistics.merged += 1

    @asynccontextmanager
    async def _deadline(self, name: ObjectName, size_bytes: int) -> AsyncIterator[None]:
        self.statistics.requests += 1
        limit_s = _PATIENCE_S + size_bytes / _SLOWEST_BYTES_PER_S
        scope = asyncio.timeout(limit_s)
        try:
            async with scope:
                yield
        except TimeoutError as error:
            if not scope.expired():
                raise
            raise StorageUnavailable(f"{name} could not be stored in {limit_s:.0f} s") from error

    def _open(self, segment: WalSegment) -> LocalSegment:
        system_identifier = int(self._archive.record.system_identifier)
        return LocalSegment(self._pg_wal, segment, self._size, system_identifier)

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._pool, work)
