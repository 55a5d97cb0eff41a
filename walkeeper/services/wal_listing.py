"""The WAL of a path as it was listed: which segments there are, their sizes, what is cold."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import islice, repeat, takewhile
from typing import Final

from walkeeper.core.coverage import Path, WalHoldings
from walkeeper.core.layout import (
    CutOffSegment,
    first_of_folder,
    names_from,
    parse_wal_object,
    wal_object,
)
from walkeeper.core.lsn import Lsn
from walkeeper.core.segment_set import SegmentRange, SegmentSet
from walkeeper.core.wal import SegmentSize, WalSegment
from walkeeper.errors import IntegrityError
from walkeeper.storage.base import ObjectInfo, Page

COLD_CLASSES: Final = frozenset({"GLACIER", "DEEP_ARCHIVE"})
"""Storage classes that must be thawed before they can be read (Amazon S3 user guide, "Storage
classes"); GLACIER_IR is read at once."""


@dataclass(slots=True)
class TimelineListing:
    """What was listed of one timeline: segment numbers ascending, with what the store says of each.

    ``stored`` is when the store took it, in seconds since 1970. Sizes and times are 0 where only
    names were listed.
    """

    numbers: array[int] = field(default_factory=lambda: array("Q"))
    sizes: array[int] = field(default_factory=lambda: array("Q"))
    stored: array[float] = field(default_factory=lambda: array("d"))
    cold: dict[int, str] = field(default_factory=dict)
    cut_off: list[CutOffSegment] = field(default_factory=list)

    def take(self, page: Page, size: SegmentSize) -> None:
        """Take a page of a listing; what is no segment of this size is passed over."""
        names, at = page.names, 0
        while at < len(names):
            match parse_wal_object(names[at]):
                case WalSegment() as segment if segment.fits(size):
                    # Mostly a folder is full: then one name is parsed, the rest are as expected.
                    pairs = zip(islice(names, at, None), names_from(segment, size), strict=False)
                    run = sum(1 for _ in takewhile(_are_equal, pairs))
                    self._take_run(segment.number(size), page, slice(at, at + run))
                    at += run
                    continue
                case CutOffSegment(segment) as stored if segment.fits(size):
                    self.cut_off.append(stored)
            at += 1

    def _take_run(self, first: int, page: Page, part: slice) -> None:
        count = part.stop - part.start
        self.numbers.extend(range(first, first + count))
        self.sizes.extend(page.sizes[part] or repeat(0, count))
        self.stored.extend(page.modified_at[part] or repeat(0.0, count))
        for number, one in enumerate(page.storage_classes[part], first):
            if one in COLD_CLASSES:
                self.cold[number] = str(one)

    def insert(self, number: int, info: ObjectInfo) -> None:
        """Take one more segment, which came after its folder was listed."""
        at = bisect_left(self.numbers, number)
        self.numbers.insert(at, number)
        self.sizes.insert(at, info.size_bytes)
        self.stored.insert(at, info.modified_at.timestamp())
        if info.storage_class in COLD_CLASSES:
            self.cold[number] = str(info.storage_class)

    def bytes_between(self, begin: int, end: int) -> int:
        """What the segments from ``begin`` to just before ``end`` take in the repository."""
        first = bisect_left(self.numbers, begin)
        return sum(self.sizes[first : bisect_left(self.numbers, end)])

    @classmethod
    def full(cls, prefix: str, size: SegmentSize) -> TimelineListing:
        """A folder with every segment that it can hold; sizes and times, unknown, are 0."""
        first = first_of_folder(prefix).number(size)
        count = size.segments_per_log
        numbers = array("Q", range(first, first + count))
        return cls(numbers, array("Q", [0]) * count, array("d", [0.0]) * count)

    def full_folder(self, prefix: str, size: SegmentSize) -> TimelineListing | None:
        """What was listed of one folder, None unless every segment that it can hold was."""
        begin = first_of_folder(prefix).number(size)
        end = begin + size.segments_per_log
        at = bisect_left(self.numbers, begin)
        behind = bisect_left(self.numbers, end)
        if behind - at != size.segments_per_log:
            return None
        cold = {one: self.cold[one] for one in range(begin, end) if one in self.cold}
        part = slice(at, behind)
        return TimelineListing(self.numbers[part], self.sizes[part], self.stored[part], cold)

    def is_full(self, size: SegmentSize) -> bool:
        """Whether nothing can be added to a folder of which this was listed."""
        return len(self.numbers) == size.segments_per_log and not self.cut_off

    def add(self, other: TimelineListing) -> None:
        """Take what was listed behind it."""
        self.numbers.extend(other.numbers)
        self.sizes.extend(other.sizes)
        self.stored.extend(other.stored)
        self.cold.update(other.cold)
        self.cut_off += other.cut_off


@dataclass(frozen=True, slots=True)
class WalListing:
    """The WAL of a path, and the ends of other branches. 24 bytes for each segment."""

    size: SegmentSize
    timelines: Mapping[int, TimelineListing]
    fragments: Mapping[WalSegment, Lsn] = field(default_factory=dict)
    damaged: tuple[IntegrityError, ...] = ()
    """Why tails or cut-off objects on the path cannot be used."""

    def holdings(self) -> WalHoldings:
        """For the planner."""
        return WalHoldings(
            self.size,
            {
                timeline: SegmentSet.from_ordered(listed.numbers)
                for timeline, listed in self.timelines.items()
            },
            self.fragments,
        )

    def stored_bytes(self, parts: tuple[SegmentRange, ...]) -> int:
        """What these segments take in the repository."""
        listed = self.timelines
        return sum(listed[part.timeline].bytes_between(part.begin, part.end) for part in parts)

    def cold(self, parts: tuple[SegmentRange, ...]) -> list[tuple[str, str]]:
        """Those of the segments that must be thawed first: name of the object and its class."""
        return [
            (wal_object(WalSegment.numbered(part.timeline, number, self.size)), listed.cold[number])
            for part in parts
            for listed in (self.timelines[part.timeline],)
            for number in sorted(listed.cold)
            if part.begin <= number < part.end
        ]

    def incomplete(self, path: Path, start: Lsn, tails: Iterable[WalSegment]) -> list[WalSegment]:
        """Segments of a path of which there are only cut-off objects or one of these tails.

        Not those of which a newer timeline of the path holds a complete copy.
        """
        known = set(tails)
        for listed in self.timelines.values():
            known.update(stored.segment for stored in listed.cut_off)
        return sorted(segment for segment in known if self._is_open(segment, path, start))

    def _is_open(self, segment: WalSegment, path: Path, start: Lsn) -> bool:
        if not segment.fits(self.size):
            return False
        number = segment.number(self.size)
        begin, end = Lsn(number * self.size.bytes), (number + 1) * self.size.bytes
        legs = [leg for leg in path if leg.timeline >= segment.timeline]
        if not legs or legs[0].timeline != segment.timeline or end <= start.value:
            return False
        if end <= legs[0].begin.value or (legs[0].end is not None and legs[0].end <= begin):
            return False
        return not any(
            _holds(self.timelines[leg.timeline].numbers, number)
            for leg in legs
            if leg.begin.value < end
        )


def _are_equal(pair: tuple[str, str]) -> bool:
    return pair[0] == pair[1]


def _holds(numbers: array[int], number: int) -> bool:
    at = bisect_left(numbers, number)
    return at < len(numbers) and numbers[at] == number
