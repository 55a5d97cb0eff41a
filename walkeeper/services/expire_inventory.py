"""Every WAL object and tail of an archive, listed once, and which of them may go."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

from walkeeper.core.layout import (
    TAIL_PREFIX,
    WAL_PREFIX,
    CutOffSegment,
    ObjectName,
    StoredWal,
    parse_tail_object,
    parse_wal_object,
    wal_object,
)
from walkeeper.core.segment_set import SegmentSet
from walkeeper.core.wal import BackupHistoryFile, SegmentSize, TimelineHistoryFile, WalSegment
from walkeeper.core.wal_needs import WalNeeds
from walkeeper.errors import IntegrityError, ObjectNotFound
from walkeeper.repository.archive import Archive
from walkeeper.storage.base import ObjectInfo

SAFE_AGE: Final = timedelta(hours=24)
"""By the store's clock: whoever still worked on a thing has long ended, or begun anew."""

_LAST_BYTE: Final = (1 << 64) - 1


@dataclass(frozen=True, slots=True)
class DoomedObject:
    """An object that may go, and its stored size."""

    name: ObjectName
    size_bytes: int


@dataclass(slots=True)
class _Timeline:
    """Complete segments by number, ascending, with sizes; and what lies beside them."""

    numbers: array[int] = field(default_factory=lambda: array("Q"))
    sizes: array[int] = field(default_factory=lambda: array("Q"))
    beside: list[tuple[CutOffSegment | BackupHistoryFile, int]] = field(default_factory=list)


@dataclass(slots=True)
class Inventory:
    """What was listed; sixteen bytes for each segment.

    ``histories`` are the timelines with a history file. ``stored_at`` is the store's time of the
    newest object of each timeline that has WAL.
    """

    size: SegmentSize
    histories: list[int] = field(default_factory=list)
    stored_at: dict[int, datetime] = field(default_factory=dict)
    tails: list[tuple[WalSegment, ObjectInfo]] = field(default_factory=list)
    _timelines: dict[int, _Timeline] = field(default_factory=dict)

    def complete(self) -> dict[int, SegmentSet]:
        """The complete segments of each timeline."""
        return {
            timeline: SegmentSet.from_ordered(listed.numbers)
            for timeline, listed in self._timelines.items()
        }

    def fragments(self) -> frozenset[WalSegment]:
        """Segments of which there is a tail or a cut-off object."""
        cut_off = (
            stored.segment
            for listed in self._timelines.values()
            for stored, _ in listed.beside
            if isinstance(stored, CutOffSegment)
        )
        return frozenset([*cut_off, *(segment for segment, _ in self.tails)])

    def samples(self, timeline: int) -> list[ObjectName]:
        """Names of one or two of its objects, to see who wrote them."""
        listed = self._timelines.get(timeline, _Timeline())
        numbers = [*listed.numbers[:1], *listed.numbers[-1:]]
        names = [wal_object(WalSegment.numbered(timeline, number, self.size)) for number in numbers]
        names += [wal_object(stored) for stored, _ in [*listed.beside[:1], *listed.beside[-1:]]]
        own = [info for segment, info in self.tails if segment.timeline == timeline]
        return names + [ObjectName(info.name) for info in [*own[:1], *own[-1:]]]

    def unneeded_wal(self, needs: WalNeeds) -> Iterator[DoomedObject]:
        """Segments, cut-off segments and backup history files that nothing needs.

        By timeline, the oldest first; history files of timelines are never among them.
        """
        for timeline, listed in sorted(self._timelines.items()):
            for number, size_bytes in zip(listed.numbers, listed.sizes, strict=True):
                if not needs.keeps(timeline, number):
                    segment = WalSegment.numbered(timeline, number, self.size)
                    yield DoomedObject(wal_object(segment), size_bytes)
            for stored, size_bytes in listed.beside:
                if not needs.keeps(timeline, stored.segment.number(self.size)):
                    yield DoomedObject(wal_object(stored), size_bytes)

    async def unneeded_tails(
        self, needs: WalNeeds, archive: Archive, now: datetime
    ) -> list[DoomedObject]:
        """Tails that nothing needs, and old ones whose complete segment is really there.

        "Really": its header is signed and it has the length that this implies. Somebody who may
        create could put anything under the name of a segment whose tail is all there is of it.
        """
        doomed = []
        complete: dict[WalSegment, bool] = {}
        for segment, info in self.tails:
            goes = not needs.keeps(segment.timeline, segment.number(self.size))
            if not goes and now - info.modified_at > SAFE_AGE:
                if segment not in complete:
                    complete[segment] = await _is_complete(archive, segment)
                goes = complete[segment]
            if goes:
                doomed.append(DoomedObject(ObjectName(info.name), info.size_bytes))
        return doomed

    def note_wal(self, stored: StoredWal, info: ObjectInfo) -> None:
        """Take a WAL object into the inventory."""
        if isinstance(stored, TimelineHistoryFile):
            self.histories.append(stored.timeline)
            return
        segment = stored if isinstance(stored, WalSegment) else stored.segment
        if not _exists(segment, self.size):
            return
        listed = self._timelines.setdefault(segment.timeline, _Timeline())
        if isinstance(stored, WalSegment):
            listed.numbers.append(segment.number(self.size))
            listed.sizes.append(info.size_bytes)
        else:
            listed.beside.append((stored, info.size_bytes))
        self._note_time(segment.timeline, info)

    def note_tail(self, segment: WalSegment, info: ObjectInfo) -> None:
        """Take a piece of a tail into the inventory."""
        if _exists(segment, self.size):
            self.tails.append((segment, info))
            self._note_time(segment.timeline, info)

    def _note_time(self, timeline: int, info: ObjectInfo) -> None:
        known = self.stored_at.get(timeline, info.modified_at)
        self.stored_at[timeline] = max(known, info.modified_at)


async def take_inventory(archive: Archive) -> Inventory:
    """List all WAL and all tails; what does not parse is not ours and left out."""
    inventory = Inventory(archive.segment_size)
    async for info in archive.list_objects(WAL_PREFIX):
        stored = parse_wal_object(info.name)
        if stored is not None:
            inventory.note_wal(stored, info)
    async for info in archive.list_objects(TAIL_PREFIX):
        tail = parse_tail_object(info.name)
        if tail is not None:
            inventory.note_tail(tail.segment, info)
    return inventory


def _exists(segment: WalSegment, size: SegmentSize) -> bool:
    """Whether such a segment can exist at all: its name fits and its end is a position."""
    return segment.fits(size) and (segment.number(size) + 1) * size.bytes <= _LAST_BYTE


async def _is_complete(archive: Archive, segment: WalSegment) -> bool:
    name = wal_object(segment)
    try:
        header = await archive.read_header(name)
        info = await archive.storage.head(archive.path(name))
    except (ObjectNotFound, IntegrityError):
        return False
    return header.implied_size() == info.size_bytes
