"""Whether the server goes on where the archive ends, or is a copy with a history of its own.

A snapshot or a clone of the host has the same system identifier and the same timeline. What it
writes from then on must not be mixed with what the archive holds, so before anything is written
the newest that the archive holds of the timeline is compared with the server's own bytes. Bytes
below the flush position never change, not by a crash either, so whatever differs or lies ahead is
of another history.

PostgreSQL removes a segment only when it was archived, so what follows the newest that the archive
holds is always there. Where it is not, nothing shows that the server goes on where the archive
ends: it may be a copy that has lived apart, or WAL was lost while archiving was off. A timeline of
which the archive holds nothing needs no such proof: nothing in it can be mixed up.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
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
from walkeeper.services.ancestry import MOST_UNREADABLE, differs, find_missing_ancestors
from walkeeper.services.local_segment import LocalSegment, find_digest, find_oldest
from walkeeper.services.tail_chain import TailChain, TailPiece, find_chain, tail_folders

_RESTORE: Final = (
    "is this a copy? give it an archive of its own ([cluster] archive). Is it the true server, set "
    "back to an earlier moment? restore it instead: walkeeper restore --resume-archiving"
)

_ACCEPT: Final = (
    "is this a copy? give it an archive of its own ([cluster] archive). Is it the true server, and "
    'the WAL between was lost, as with archive_mode off? set [cluster] accept_gap = "{}", '
    "restart the agent, then: walkeeper backup"
)

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
    """The end of what the archive holds of a timeline: its last whole segment, its last tail.

    ``unsigned`` are behind the segment: damaged, or never stored by a writer.
    """

    segment: WalSegment | None
    content: bytes | None
    unsigned: frozenset[WalSegment] = frozenset()
    tail: TailChain | None = None


@dataclass(frozen=True, slots=True)
class _Excuses:
    """Why a gap may be there: somebody has accepted it, or the archive has lost what it held."""

    accepted: WalSegment | None
    lost: WalSegment | None


async def check_lineage(
    archive: Archive,
    where: Callable[[], Awaitable[Position]],
    pg_wal: Path,
    pool: ThreadPoolExecutor,
    *,
    accept_gap: WalSegment | None = None,
    lost: WalSegment | None = None,
) -> Lineage:
    """Compare what the archive holds of a server's history with the server.

    ``where`` asks the server. Raises ForeignCluster when the archive is ahead of the server on its
    timeline, or holds other bytes, or when ``pg_wal`` does not go back to where the archive ends;
    ``accept_gap`` names the segment in which it ends there, where that is all right; and
    ``lost`` the last one that was acknowledged from here and is not in the archive any more: then
    the gap is the archive's, and all that is behind that segment has to be there. What
    PostgreSQL has removed since need not be compared. A damaged tail or segment is no reason to
    raise, for the archiving of whole segments must not end with it. Costs a few short listings.
    """
    loop = asyncio.get_running_loop()
    size = archive.segment_size
    before = await where()
    timeline = before.timeline
    # Looked at before the archive is: what is recycled from now on may be archived in time.
    system = int(archive.record.system_identifier)
    look = partial(find_oldest, pg_wal, before.segment(size), size, system)
    oldest = await loop.run_in_executor(pool, look)
    missing = await find_missing_ancestors(archive, timeline, pg_wal, pool)
    newest = await _find_newest(archive, timeline)
    # Asked for after the listings, so the true server is never behind what they show.
    position = await where()
    if position.timeline != timeline:
        raise PostgresError("the server was promoted while it was being recognised")
    comparison = _Comparison(archive, pg_wal, position, oldest, _Excuses(accept_gap, lost))
    await loop.run_in_executor(pool, partial(comparison.check, newest))
    current = position.segment(archive.segment_size)
    if newest.tail is not None and newest.tail.segment == current:
        return Lineage(newest.tail, missing)
    return Lineage(TailChain(current, ()), missing)


async def check_server(
    archive: Archive,
    server: Server,
    data_dir: Path,
    pool: ThreadPoolExecutor,
    *,
    accept_gap: WalSegment | None = None,
) -> None:
    """Make sure that what is in the archive is of a primary's own history; see `check_lineage`."""

    async def where() -> Position:
        position = await server.wal_position()
        if position is None:
            raise PostgresError("the server is a standby")
        return Position(*position)

    await check_lineage(archive, where, data_dir / "pg_wal", pool, accept_gap=accept_gap)


async def _find_newest(archive: Archive, timeline: int) -> _Newest:
    newest = await _newest_segment(archive, timeline)
    tails = [
        one
        async for one in tail_folders(archive)
        if one.timeline == timeline and one.fits(archive.segment_size)
    ]
    if not tails:
        return newest
    try:
        tail = await find_chain(archive, max(tails))
    except IntegrityError as error:
        log.warning("tail_damaged", reason=str(error), hint=error.hint)
        tail = TailChain(max(tails), (), damaged=str(error))
    return replace(newest, tail=tail)


async def _newest_segment(archive: Archive, timeline: int) -> _Newest:
    """The newest segment that a known writer signed, and its content code."""
    unsigned: set[WalSegment] = set()
    for folder in reversed(await archive.folders(layout.timeline_prefix(timeline))):
        for segment in reversed(await _last_segments(archive, folder)):
            try:
                header = await archive.read_header(layout.wal_object(segment))
                return _Newest(segment, header.content, frozenset(unsigned))
            except IntegrityError as error:
                log.warning("segment_damaged", reason=str(error), hint=error.hint)
                unsigned.add(segment)
            if len(unsigned) == MOST_UNREADABLE:
                return _Newest(None, None)
    return _Newest(None, None)


async def _last_segments(archive: Archive, folder: str) -> deque[WalSegment]:
    segments: deque[WalSegment] = deque(maxlen=MOST_UNREADABLE)
    async for info in archive.list_objects(folder):
        stored = layout.parse_wal_object(info.name)
        if isinstance(stored, WalSegment) and stored.fits(archive.segment_size):
            segments.append(stored)
    return segments


class _Comparison:
    """Compares what the archive holds with ``pg_wal``; blocks.

    ``oldest`` is the segment from which on all was in ``pg_wal``, found before the archive's end.
    """

    def __init__(
        self,
        archive: Archive,
        pg_wal: Path,
        position: Position,
        oldest: WalSegment,
        excuses: _Excuses,
    ) -> None:
        self._signing: SigningKey = archive.sealer.signing
        self._size = archive.segment_size
        self._system_identifier = int(archive.record.system_identifier)
        self._pg_wal = pg_wal
        self._position = position
        self._current = position.segment(self._size)
        self._oldest = oldest
        self._excuses = excuses

    def check(self, newest: _Newest) -> None:
        """Raise ForeignCluster for what this server did not write."""
        segment, tail, follows = newest.segment, newest.tail, None
        if segment is not None and newest.content is not None:
            compared = self._check_segment(segment, newest.content)
            follows = segment.next(self._size)
            while follows in newest.unsigned:
                follows = follows.next(self._size)
        removed = tail is not None and not self._check_tail(tail)
        if tail is not None and tail.pieces and (follows is None or tail.segment >= follows):
            if removed:
                self._check_gap(tail.segment, f"the tail of {tail.segment}", tail.segment)
        elif segment is not None and follows is not None and not compared:
            self._check_gap(segment, layout.wal_object(segment), follows)

    def _check_gap(self, newest: WalSegment, what: str, follows: WalSegment) -> None:
        """Raise unless all is in ``pg_wal`` from that segment on."""
        if self._oldest <= follows:
            return
        if self._excuses.accepted == newest:
            log.warning("gap_accepted", newest_stored=what, oldest_local=str(self._oldest))
            return
        if self._goes_on_behind_lost(newest):
            log.warning("gap_of_lost_wal", newest_stored=what, lost=str(self._excuses.lost))
            return
        raise ForeignCluster(
            f"this server's WAL cannot be shown to go on where the archive ends: the archive holds "
            f"{what}, pg_wal begins with {self._oldest}",
            hint=_ACCEPT.format(newest),
        )

    def _goes_on_behind_lost(self, newest: WalSegment) -> bool:
        lost = self._excuses.lost
        if lost is None or lost.timeline != newest.timeline or lost < newest:
            return False
        return self._oldest <= lost.next(self._size)

    def _check_segment(self, segment: WalSegment, content: bytes) -> bool:
        """Whether it is the server's own; False where it has none of that name any more."""
        # A segment may be whole, marked and archived a moment before the server calls its end
        # flushed (xlog.c, XLogWrite), so bytes decide before positions do.
        name = layout.wal_object(segment)
        digest = find_digest(self._pg_wal / str(segment))
        if digest is not None and self._signing.content_code(digest) == content:
            return True
        if segment >= self._current:
            raise self._ahead(name)
        if digest is not None:
            raise differs(name, segment)
        return False

    def _check_tail(self, tail: TailChain) -> bool:
        """Whether it is the server's own; False where its segment was removed."""
        if tail.segment > self._current:
            if tail.pieces or tail.stranded:
                raise self._ahead(layout.tail_prefix(tail.segment))
            return True
        if tail.segment == self._current:
            self._compare(tail, self._position.flushed.value % self._size.bytes)
            return True
        if not (self._pg_wal / str(tail.segment)).exists():
            return False
        self._compare(tail, self._size.bytes)
        return True

    def _compare(self, tail: TailChain, flushed: int) -> None:
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
