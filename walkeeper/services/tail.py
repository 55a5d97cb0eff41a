"""Ships the tail: the flushed bytes of the segment that PostgreSQL is still writing.

Every interval the bytes between the last shipped position and the flush position become one link,
conditionally created under the offset where it begins. Nothing is sent while nothing changes, and
nothing of a segment before everything older is durable, so the archive never has a hole.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Final, TypeVar

import structlog

from walkeeper.core.layout import MergedTail, ObjectName, TailLink, tail_object
from walkeeper.core.lsn import Lsn
from walkeeper.core.rpo import RpoMeter
from walkeeper.core.wal import WalSegment
from walkeeper.errors import (
    ForeignCluster,
    ObjectExists,
    StorageDenied,
    unwrapped,
)
from walkeeper.repository.archive import Archive
from walkeeper.services.lineage import Position
from walkeeper.services.local_segment import LocalSegment
from walkeeper.services.tail_chain import MERGE_EVERY, TailChain

T = TypeVar("T")

_LONGEST_LINK: Final = 16 << 20
"""Bytes of one link; a segment may have a GiB."""
_DELETE_AT_ONCE: Final = 16

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class TailStatistics:
    """Counters since the start, and what the tail does now.

    ``state`` is "shipping", "waiting" (older WAL is not durable yet), "off" or "stopped"; the
    last two have a reason.
    """

    state: str = "off"
    reason: str | None = "not started"
    shipped: Lsn | None = None
    links: int = 0
    merged: int = 0
    stored_bytes: int = 0
    requests: int = 0
    last_error: str | None = None


@dataclass(slots=True)
class _Current:
    """The segment whose tail is being shipped, and what is stored of it."""

    local: LocalSegment
    names: list[ObjectName] = field(default_factory=list)
    links: int = 0


class TailShipper:
    """Ships the tail of one cluster; `tick` is called once an interval, never twice at a time.

    ``settled(segment)`` tells whether all WAL and all histories before a segment are durable.
    Memory: one link, at most 16 MiB, and its ciphertext; a merged object goes through the same
    spool as a segment.
    """

    def __init__(
        self,
        archive: Archive,
        pg_wal: Path,
        pool: ThreadPoolExecutor,
        *,
        settled: Callable[[WalSegment], Awaitable[bool]],
        rpo: RpoMeter,
        spool: Callable[[], BinaryIO],
    ) -> None:
        self._archive = archive
        self._pg_wal = pg_wal
        self._pool = pool
        self._settled = settled
        self._rpo = rpo
        self._spool = spool
        self._current: _Current | None = None
        self._leaving: list[_Current] = []
        self._may_delete = True
        self._stopped_on: int | None = None
        self.statistics = TailStatistics()

    async def resume(self, chain: TailChain) -> None:
        """Go on behind what the archive holds, which `check_lineage` has compared."""
        local = self._open(chain.segment)
        await self._in_thread(lambda: _skip(local, chain.end))
        names = [piece.name for piece in chain.pieces] + list(chain.stranded)
        self._current = _Current(local, names, chain.links)
        self._stopped_on = None

    def switch_off(self, reason: str) -> None:
        """Say why nothing is shipped; what is stored stays."""
        self._current = None
        self.statistics.state, self.statistics.reason = "off", reason

    async def tick(self, position: Position) -> None:
        """Ship what was flushed up to a position.

        Raises what storage and the local file raise; the next tick tries again. Raises
        ForeignCluster, and ships nothing more on this timeline, when another writer is met.
        """
        if self._stopped_on == position.timeline:
            return
        size = self._archive.segment_size
        segment = WalSegment.at(position.timeline, position.flushed, size)
        if self._current is None or self._current.local.segment != segment:
            if not await self._settled(segment):
                self.statistics.state = "waiting"
                self.statistics.reason = f"WAL before {segment} is not durable yet"
                return
            if self._current is not None and self._may_delete:
                self._leaving.append(self._current)
            self._current = _Current(self._open(segment))
        self.statistics.state, self.statistics.reason = "shipping", None
        await self._ship(self._current, position.flushed)
        await self._remove_left()

    async def _ship(self, current: _Current, flushed: Lsn) -> None:
        local = current.local
        size = self._archive.segment_size
        target = flushed.value - local.segment.begin(size).value
        while local.position < target:
            end = min(target, local.position + _LONGEST_LINK)
            data = await self._in_thread(lambda end=end: local.read(end))  # type: ignore[misc]
            shipped = await self._store_link(current, data)
            await self._in_thread(lambda shipped=shipped: local.commit(shipped))  # type: ignore[misc]
            reached = local.segment.begin(size) + local.position
            self.statistics.shipped = reached
            self._rpo.store(reached)
            if current.links >= MERGE_EVERY:
                await self._merge(current)

    async def _store_link(self, current: _Current, data: bytes) -> bytes:
        """Store the next link; returns the bytes that the archive now holds in it."""
        local = current.local
        name = tail_object(TailLink(local.segment, local.position))
        digest = await self._in_thread(lambda: local.digest_with(data))
        sealed = await self._in_thread(
            lambda: self._archive.sealer.seal(name, [data], frames=[digest])
        )
        self.statistics.requests += 1
        with sealed:
            try:
                await self._archive.storage.put(self._archive.path(name), sealed.body())
            except ObjectExists:
                data = await self._adopt(name, data)
            else:
                self.statistics.stored_bytes += sealed.size_bytes
        current.names.append(name)
        current.links += 1
        self.statistics.links += 1
        return data

    async def _adopt(self, name: ObjectName, data: bytes) -> bytes:
        """A link that exists is ours when it holds our bytes: a PUT that timed out and arrived."""
        header = await self._archive.read_header(name)
        held = data[: header.facts.size or 0]
        code = self._archive.sealer.signing.content_code(hashlib.sha256(held).digest())
        if not held or header.facts.size != len(held) or header.content != code:
            self._stopped_on = self._require_current().local.segment.timeline
            self.statistics.state = "stopped"
            self.statistics.reason = f"another server writes this timeline: {name} is not ours"
            raise ForeignCluster(
                f"{name} exists and holds other bytes: another server writes this timeline",
                hint="stop the other one, or begin a new timeline here",
            )
        await self._archive.storage.sync(self._archive.path(name))
        return held

    async def _merge(self, current: _Current) -> None:
        """Store everything so far in one object, so that a join stays short."""
        local = current.local
        name = tail_object(MergedTail(local.segment, local.position))
        sealed = await self._in_thread(
            lambda: self._archive.sealer.seal(
                name,
                local.blocks(),
                frames=[local.digest_with(b"")],
                spool=self._spool,
                spool_over_bytes=_LONGEST_LINK,
            )
        )
        self.statistics.requests += 1
        with sealed:
            await self._archive.put(sealed)
            self.statistics.stored_bytes += sealed.size_bytes
        current.names.append(name)
        current.links = 0
        self.statistics.merged += 1

    async def _remove_left(self) -> None:
        """Delete some of the tails of segments that are durable whole.

        Few at a time, behind what had to be shipped; where it is denied they stay.
        """
        batch = [name for left in self._leaving for name in left.names][:_DELETE_AT_ONCE]
        if not batch:
            return
        try:
            with unwrapped():
                async with asyncio.TaskGroup() as group:
                    for name in batch:
                        group.create_task(self._archive.storage.delete(self._archive.path(name)))
        except StorageDenied as error:
            self._may_delete = False
            self._leaving.clear()
            log.warning("tail_stays", reason=str(error), hint="left to retention")
            return
        self.statistics.requests += len(batch)
        gone = set(batch)
        for left in self._leaving:
            left.names = [name for name in left.names if name not in gone]
        self._leaving = [left for left in self._leaving if left.names]

    def _open(self, segment: WalSegment) -> LocalSegment:
        system_identifier = int(self._archive.record.system_identifier)
        return LocalSegment(self._pg_wal, segment, self._archive.segment_size, system_identifier)

    def _require_current(self) -> _Current:
        assert self._current is not None  # only asked while shipping
        return self._current

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._pool, work)


def _skip(local: LocalSegment, end: int) -> None:
    while local.position < end:
        local.commit(local.read(min(end, local.position + _LONGEST_LINK)))
