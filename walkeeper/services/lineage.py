"""Whether the server goes on where the archive ends, or is a copy with a history of its own.

A snapshot or a clone of the host has the same system identifier and the same timeline. What it
writes from then on must not be mixed with what the archive holds, so before anything is written
the archive's newest position is compared with the server's.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from walkeeper.codec.writer import SigningKey
from walkeeper.core import layout
from walkeeper.core.lsn import Lsn
from walkeeper.core.wal import WalSegment
from walkeeper.errors import ForeignCluster
from walkeeper.repository.archive import Archive
from walkeeper.services.local_segment import LocalSegment
from walkeeper.services.tail_chain import TailChain, find_chain, tail_folders

_ATTEMPTS: Final = 3
_HOW_TO_GO_ON: Final = (
    "is this a copy? give it an archive of its own ([cluster] archive); if it is the true server, "
    "begin a new timeline: stop it, create recovery.signal with a restore_command, start, promote"
)


@dataclass(frozen=True, slots=True)
class Position:
    """Where a primary's WAL ends, on disk."""

    timeline: int
    flushed: Lsn


async def check_lineage(
    archive: Archive,
    where: Callable[[], Awaitable[Position]],
    pg_wal: Path,
    pool: ThreadPoolExecutor,
) -> TailChain:
    """The stored tail of the current segment, all of which the server has too.

    ``where`` asks the server. Raises ForeignCluster when the archive is ahead of the server on its
    timeline, or holds other bytes. Costs two or three short listings.
    """
    for attempt in range(_ATTEMPTS):
        position = await where()
        try:
            chain = await _find_own_chain(archive, position)
            break
        except ForeignCluster:
            # Another process of ours may have shipped between the question and the listing.
            if attempt == _ATTEMPTS - 1 or await where() == position:
                raise
    loop = asyncio.get_running_loop()
    signing = archive.sealer.signing
    await loop.run_in_executor(pool, _compare, chain, pg_wal, archive, signing)
    return chain


async def _find_own_chain(archive: Archive, position: Position) -> TailChain:
    size = archive.segment_size
    current = WalSegment.at(position.timeline, position.flushed, size)
    await _refuse_ahead(archive, current, position)
    chain = await find_chain(archive, current)
    if chain.end > position.flushed.value % size.bytes:
        raise _ahead(chain.pieces[-1].name, position)
    return chain


async def _refuse_ahead(archive: Archive, current: WalSegment, position: Position) -> None:
    """Complete segments from the current one on, or tails of later ones, cannot be ours."""
    size = archive.segment_size
    number = current.number(size)
    after = ""
    if number > 0:
        after = layout.wal_object(WalSegment.numbered(current.timeline, number - 1, size))
    prefix = layout.timeline_prefix(current.timeline)
    async for info in archive.list_objects(prefix, after=after):
        stored = layout.parse_wal_object(info.name)
        if isinstance(stored, WalSegment) and stored.fits(size) and stored.number(size) >= number:
            raise _ahead(info.name, position)
    async for segment in tail_folders(archive):
        later = segment.timeline == current.timeline and segment.fits(size)
        if later and segment.number(size) > number:
            raise _ahead(layout.tail_prefix(segment), position)


def _ahead(name: str, position: Position) -> ForeignCluster:
    return ForeignCluster(
        f"the archive is ahead of this server: it holds {name}, the server's WAL ends at "
        f"{position.flushed} on timeline {position.timeline}",
        hint=_HOW_TO_GO_ON,
    )


def _compare(chain: TailChain, pg_wal: Path, archive: Archive, signing: SigningKey) -> None:
    size = archive.segment_size
    system_identifier = int(archive.record.system_identifier)
    local = LocalSegment(pg_wal, chain.segment, size, system_identifier)
    for piece in chain.pieces:
        data = local.read(piece.end)
        if signing.content_code(hashlib.sha256(data).digest()) != piece.content:
            raise ForeignCluster(
                f"this server's WAL differs from the archive's: {piece.name} holds other bytes "
                f"than {chain.segment} has there",
                hint=_HOW_TO_GO_ON,
            )
        local.commit(data)
