"""What a promotion leaves to be looked after: the WAL of the timelines that a server came from.

A streaming standby marks what it received as archived, for that was its primary's duty. What the
primary did not get to is then nowhere but in the ``pg_wal`` of the one that was promoted.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import structlog

from walkeeper.core import layout
from walkeeper.core.timeline import TimelineHistory
from walkeeper.core.wal import SegmentSize, TimelineHistoryFile, WalSegment
from walkeeper.errors import ForeignCluster, IntegrityError, PostgresError
from walkeeper.repository.archive import Archive
from walkeeper.services.local_segment import find_digest

MOST_UNREADABLE: Final = 16
"""Segments that nobody signed are passed over on the way to one that can be compared."""

log = structlog.get_logger(__name__)

USE_OWN_ARCHIVE: Final = (
    "two servers have written one timeline; whichever is the copy needs an archive of its own "
    "([cluster] archive), and a backup in it"
)


async def find_missing_ancestors(
    archive: Archive, timeline: int, pg_wal: Path, pool: ThreadPoolExecutor
) -> tuple[WalSegment, ...]:
    """Whole segments of older timelines, on the path to this one, that only ``pg_wal`` holds.

    Raises ForeignCluster when the archive holds other bytes of that path than the server; the
    newest segment that both hold is compared, or an older one where that is damaged.
    """
    loop = asyncio.get_running_loop()
    size = archive.segment_size
    missing: list[WalSegment] = []
    for local in await loop.run_in_executor(pool, _local_ancestors, pg_wal, timeline, size):
        stored = await _stored_between(archive, local[0], local[-1])
        missing += [segment for segment in local if segment not in stored]
        common = sorted((segment for segment in local if segment in stored), reverse=True)
        for segment in common[:MOST_UNREADABLE]:
            name = layout.wal_object(segment)
            try:
                content = (await archive.read_header(name)).content
            except IntegrityError as error:
                log.warning("segment_damaged", reason=str(error), hint=error.hint)
                continue
            digest = await loop.run_in_executor(pool, find_digest, pg_wal / str(segment))
            if digest and archive.sealer.signing.content_code(digest) != content:
                raise differs(name, segment)
            break
    return tuple(missing)


def differs(name: str, segment: WalSegment) -> ForeignCluster:
    """The error of a server that has not written what the archive holds."""
    return ForeignCluster(
        f"this server's WAL differs from the archive's: {name} holds other bytes than "
        f"pg_wal/{segment}",
        hint=USE_OWN_ARCHIVE,
    )


def _local_ancestors(pg_wal: Path, timeline: int, size: SegmentSize) -> list[list[WalSegment]]:
    """What is in ``pg_wal`` of each older timeline wholly before the path leaves it, in order."""
    try:
        names = {path.name for path in pg_wal.iterdir()}
        name = str(TimelineHistoryFile(timeline))
        text = (pg_wal / name).read_text(errors="replace") if name in names else ""
    except OSError as error:
        raise PostgresError(f"cannot read {pg_wal}: {error.strerror}") from error
    try:
        legs = TimelineHistory.parse(timeline, text).legs[:-1]
    except ValueError as error:
        raise PostgresError(f"{pg_wal / name} is not understood: {error}") from error
    found = []
    for leg in legs:
        begin, end = leg.begin.value // size.bytes, (leg.end.value if leg.end else 0) // size.bytes
        numbers = range(begin, end)
        segments = (_parse(name) for name in names)
        mine = (one for one in segments if one and one.timeline == leg.timeline and one.fits(size))
        found.append(sorted(one for one in mine if one.number(size) in numbers))
    return [segments for segments in found if segments]


def _parse(name: str) -> WalSegment | None:
    try:
        return WalSegment.parse(name)
    except ValueError:
        return None


async def _stored_between(archive: Archive, first: WalSegment, last: WalSegment) -> set[WalSegment]:
    stored: set[WalSegment] = set()
    after = layout.wal_object(first)[:-1]
    async for info in archive.list_objects(layout.timeline_prefix(first.timeline), after=after):
        segment = layout.parse_wal_object(info.name)
        if isinstance(segment, WalSegment):
            if segment > last:
                break
            stored.add(segment)
    return stored
