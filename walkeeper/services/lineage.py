"""Whether the server goes on where the archive ends, or is a copy with a history of its own.

A snapshot or a clone of the host has the same system identifier and the same timeline. What it
writes from then on must not be mixed with what the archive holds, so before anything is written
the newest that the archive holds of the timeline is compared with the server's own bytes. Bytes
below the flush position never change, not by a crash either, so whatever differs or lies ahead is
of another history.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import structlog

from walkeeper.codec.writer import SigningKey
from walkeeper.core import layout
from walkeeper.core.lsn import Lsn
from walkeeper.core.wal import SegmentSize, WalSegment
from walkeeper.errors import ForeignCluster, IntegrityError, PostgresError
from walkeeper.postgres.server import Server
from walkeeper.repository.archive import Archive
from walkeeper.services.ancestry import differs, find_missing_ancestors
from walkeeper.services.local_segment import LocalSegment, find_digest
from walkeeper.services.tail_chain import TailChain, TailPiece, find_chain, tail_folders

_RESTORE: Final = (
    "is this a copy? give it an archive of its own ([cluster] archive). Is it the true server, set "
    "back to an earlier moment? restore it instead: walkeeper restore --resume-archiving"
)

_MOST_UNREADABLE: Final = 16
"""Segments that nobody signed are passed over on the way to one that can be compared."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Position:
    """Where a primary's WAL ends, on disk."""

    timeline: int
    flushed: Lsn

    def segment(self, size: SegmentSize) -> WalSegment:
        """The segment that the next byte goes into."""
        return WalSegment.at(self.timeline, self.flushed, size)


@dataclass(frozen=True, slots=True)
class Lineage:
    """What a server's archive holds of it: ``tail`` is that of the segment being written.

    ``missing`` are older segments, of the timelines it came from, that only it holds.
    """

    tail: TailChain
    missing: tuple[WalSegment, ...] = ()


@dataclass(frozen=True, slots=True)
class _Newest:
    """The end of what the archive holds of a timeline: its last whole segment, its last tail."""

    segment: WalSegment | None
    content: bytes | None
    tail: TailChain | None


async def check_lineage(
    archive: Archive,
    where: Callable[[], Awaitable[Position]],
    pg_wal: Path,
    pool: ThreadPoolExecutor,
) -> Lineage:
    """Compare what the archive holds of a server's history with the server.

    ``where`` asks the server. Raises ForeignCluster when the archive is ahead of the server on its
    timeline, or holds other bytes; what PostgreSQL has removed since cannot be compared and need
    not. A damaged tail or segment is no reason to raise, for the archiving of whole segments must
    not end with it. Costs a few short listings.
    """
    timeline = (await where()).timeline
    missing = await find_missing_ancestors(archive, timeline, pg_wal, pool)
    newest = await _find_newest(archive, timeline)
    # Asked for after the listings, so the true server is never behind what they show.
    position = await where()
    if position.timeline != timeline:
        raise PostgresError("the server was promoted while it was being recognised")
    comparison = _Comparison(archive, pg_wal, position)
    loop = asyncio.get_running_loop()
    await loop.run_in_executor(pool, partial(comparison.check, newest))
    current = position.segment(archive.segment_size)
    if newest.tail is not None and newest.tail.segment == current:
        return Lineage(newest.tail, missing)
    return Lineage(TailChain(current, ()), missing)


async def check_server(
    archive: Archive, server: Server, data_dir: Path, pool: ThreadPoolExecutor
) -> None:
    """Make sure that what is in the archive is of a primary's own history; see `check_lineage`."""

    async def where() -> Position:
        position = await server.wal_position()
        if position is None:
            raise PostgresError("the server is a standby")
        return Position(*position)

    await check_lineage(archive, where, data_dir / "pg_wal", pool)


async def _find_newest(archive: Archive, timeline: int) -> _Newest:
    segment, content = await _newest_segment(archive, timeline)
    tails = [
        one
        async for one in tail_folders(archive)
        if one.timeline == timeline and one.fits(archive.segment_size)
    ]
    if not tails:
        return _Newest(segment, content, None)
    try:
        tail = await find_chain(archive, max(tails))
    except IntegrityError as error:
        log.warning("tail_damaged", reason=str(error), hint=error.hint)
        tail = TailChain(max(tails), (), damaged=str(error))
    return _Newest(segment, content, tail)


async def _newest_segment(
    archive: Archive, timeline: int
) -> tuple[WalSegment, bytes | None] | tuple[None, None]:
    """The newest segment that a known writer signed, and its content code."""
    unreadable = 0
    for folder in reversed(await archive.folders(layout.timeline_prefix(timeline))):
        for segment in reversed(await _last_segments(archive, folder)):
            try:
                return segment, (await archive.read_header(layout.wal_object(segment))).content
            except IntegrityError as error:
                log.warning("segment_damaged", reason=str(error), hint=error.hint)
                unreadable += 1
            if unreadable == _MOST_UNREADABLE:
                return None, None
    return None, None


async def _last_segments(archive: Archive, folder: str) -> deque[WalSegment]:
    segments: deque[WalSegment] = deque(maxlen=_MOST_UNREADABLE)
    async for info in archive.list_objects(folder):
        stored = layout.parse_wal_object(info.name)
        if isinstance(stored, WalSegment) and stored.fits(archive.segment_size):
            segments.append(stored)
    return segments


class _Comparison:
    """Compares what the archive holds with ``pg_wal``; blocks."""

    def __init__(self, archive: Archive, pg_wal: Path, position: Position) -> None:
        self._signing: SigningKey = archive.sealer.signing
        self._size = archive.segment_size
        self._system_identifier = int(archive.record.system_identifier)
        self._pg_wal = pg_wal
        self._position = position
        self._current = position.segment(self._size)

    def check(self, newest: _Newest) -> None:
        """Raise ForeignCluster for what this server did not write."""
        if newest.segment is not None and newest.content is not None:
            self._check_segment(newest.segment, newest.content)
        if newest.tail is not None:
            self._check_tail(newest.tail)

    def _check_segment(self, segment: WalSegment, content: bytes) -> None:
        # A segment may be whole, marked and archived a moment before the server calls its end
        # flushed (xlog.c, XLogWrite), so bytes decide before positions do.
        name = layout.wal_object(segment)
        digest = find_digest(self._pg_wal / str(segment))
        if digest is not None and self._signing.content_code(digest) == content:
            return
        if segment >= self._current:
            raise self._ahead(name)
        if digest is not None:
            raise differs(name, segment)

    def _check_tail(self, tail: TailChain) -> None:
        if tail.segment < self._current:
            self._compare(tail, self._size.bytes)
        elif tail.segment == self._current:
            self._compare(tail, self._position.flushed.value % self._size.bytes)
        elif tail.pieces or tail.stranded:
            raise self._ahead(layout.tail_prefix(tail.segment))

    def _compare(self, tail: TailChain, flushed: int) -> None:
        if not (self._pg_wal / str(tail.segment)).exists() and tail.segment < self._current:
            return
        local = LocalSegment(self._pg_wal, tail.segment, self._size, self._system_identifier)
        for piece in tail.pieces:
            if piece.end > flushed:
                raise self._ahead(piece.name)
            self._compare_piece(local, piece)

    def _compare_piece(self, local: LocalSegment, piece: TailPiece) -> None:
        if self._signing.content_code(local.skip(piece.end)) != piece.content:
            raise differs(piece.name, local.segment)

    def _ahead(self, name: str) -> ForeignCluster:
        return ForeignCluster(
            f"the archive is ahead of this server: it holds {name}, the server's WAL ends at "
            f"{self._position.flushed} on timeline {self._position.timeline}",
            hint=_RESTORE,
        )
