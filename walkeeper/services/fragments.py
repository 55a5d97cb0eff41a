"""How far the segments that are not whole go: their tails, and what was cut off."""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path as FilePath

from walkeeper.core.coverage import Path
from walkeeper.core.layout import wal_object
from walkeeper.core.lsn import Lsn
from walkeeper.core.wal import WalSegment
from walkeeper.errors import IntegrityError, ObjectNotFound
from walkeeper.repository.archive import Archive
from walkeeper.services.segment_stand_in import find_fragment
from walkeeper.services.tail_chain import tail_folders
from walkeeper.services.wal_listing import WalListing


class Fragments:
    """Looks for them in one archive; ``scratch_dir`` takes unnamed files meanwhile.

    Without an identity none is found: how far they go is encrypted.
    """

    def __init__(self, archive: Archive, pool: ThreadPoolExecutor, scratch_dir: FilePath) -> None:
        self._archive = archive
        self._pool = pool
        self._scratch_dir = scratch_dir
        self._size = archive.segment_size

    async def tails(self) -> frozenset[WalSegment]:
        """The segments that have a tail; to be asked before WAL is listed."""
        if not self._archive.opener.can_open:
            return frozenset()
        return frozenset([segment async for segment in tail_folders(self._archive)])

    async def add(
        self, listed: WalListing, path: Path, start: Lsn, tails: AbstractSet[WalSegment]
    ) -> WalListing:
        """The listing, with how far each goes that a recovery along the path could end in.

        One that has become whole since is put into the listing. Raises what storage raises, and
        ObjectNotFound where something was deleted that is read.
        """
        if not self._archive.opener.can_open:
            return listed
        ends: dict[WalSegment, Lsn] = {}
        damaged: list[IntegrityError] = []
        for segment in listed.incomplete(path, start, tails):
            try:
                end = await self._find(listed, segment, has_tail=segment in tails)
            except IntegrityError as error:
                damaged.append(error)
            else:
                if end is not None:
                    ends[segment] = end
        return replace(listed, fragments=ends, damaged=tuple(damaged))

    async def _find(self, listed: WalListing, segment: WalSegment, *, has_tail: bool) -> Lsn | None:
        """None as well where it has become whole and was added to the listing.

        Its tail is deleted then, in no order: how much of it was seen says nothing.
        """
        end: Lsn | None = None
        problem: IntegrityError | ObjectNotFound | None = None
        try:
            end = await find_fragment(self._archive, self._pool, segment, self._scratch_dir)
        except (IntegrityError, ObjectNotFound) as error:
            problem = error
        whole = await self._archive.find(wal_object(segment)) if has_tail else None
        if whole is not None:
            listed.timelines[segment.timeline].insert(segment.number(self._size), whole)
            return None
        if problem is not None:
            raise problem
        return end
