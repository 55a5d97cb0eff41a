"""Sets of WAL segments, held as ranges: a million of them in a row cost one entry."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from walkeeper.core.wal import SegmentSize, WalSegment


@dataclass(frozen=True, slots=True, order=True)
class SegmentRange:
    """Segments of one timeline that follow each other, ``begin`` to just before ``end``."""

    timeline: int
    begin: int
    end: int

    @property
    def count(self) -> int:
        """How many they are."""
        return self.end - self.begin

    def first(self, size: SegmentSize) -> WalSegment:
        """The first of them."""
        return WalSegment.numbered(self.timeline, self.begin, size)

    def last(self, size: SegmentSize) -> WalSegment:
        """The last of them."""
        return WalSegment.numbered(self.timeline, self.end - 1, size)

    def named(self, size: SegmentSize) -> str:
        """Their names, for people."""
        first, last = self.first(size), self.last(size)
        return str(first) if first == last else f"{first} to {last}"


@dataclass(frozen=True, slots=True)
class SegmentSet:
    """Numbers of segments of one timeline, counted from LSN 0.

    ``begins[i]`` to just before ``ends[i]`` is in the set; ranges are ordered and do not touch.
    """

    begins: tuple[int, ...] = ()
    ends: tuple[int, ...] = ()

    @classmethod
    def from_ordered(cls, numbers: Iterable[int]) -> SegmentSet:
        """The set of numbers that never decrease; raises ValueError when they do."""
        begins: list[int] = []
        ends: list[int] = []
        expected = -1
        for number in numbers:
            if number == expected:
                expected += 1
                continue
            if number < expected - 1:
                raise ValueError(f"segment {number} is listed after segment {expected - 1}")
            if number > expected:
                if begins:
                    ends.append(expected)
                begins.append(number)
                expected = number + 1
        if begins:
            ends.append(expected)
        return cls(tuple(begins), tuple(ends))

    def __contains__(self, number: int) -> bool:
        return self.run_end(number) > number

    def __len__(self) -> int:
        return sum(self.ends) - sum(self.begins)

    def run_end(self, number: int) -> int:
        """Just after the last segment reached from ``number`` without a gap, or ``number``."""
        index = bisect_right(self.begins, number) - 1
        return max(self.ends[index], number) if index >= 0 else number

    def without(self, numbers: Iterable[int]) -> SegmentSet:
        """The set that lacks these numbers."""
        begins, ends = list(self.begins), list(self.ends)
        for number in sorted(set(numbers), reverse=True):
            index = bisect_right(begins, number) - 1
            if index < 0 or number >= ends[index]:
                continue
            begin, end = begins[index], ends[index]
            kept = [(low, high) for low, high in ((begin, number), (number + 1, end)) if low < high]
            begins[index : index + 1] = [low for low, _ in kept]
            ends[index : index + 1] = [high for _, high in kept]
        return SegmentSet(tuple(begins), tuple(ends))

    def with_one(self, number: int) -> SegmentSet:
        """The set that has this number too."""
        runs = SegmentRuns()
        for low, high in self.between(0, number):
            runs.extend(low, high)
        runs.add(number)
        for low, high in self.between(number + 1, None):
            runs.extend(low, high)
        return runs.finish()

    def between(self, begin: int, end: int | None) -> Iterator[tuple[int, int]]:
        """The ranges in it from ``begin`` to just before ``end``, cut to these; None: no end."""
        index = max(bisect_right(self.begins, begin) - 1, 0)
        for low, high in zip(self.begins[index:], self.ends[index:], strict=True):
            low = max(low, begin)
            high = high if end is None else min(high, end)
            if end is not None and low >= end:
                return
            if low < high:
                yield low, high


class SegmentRuns:
    """Builds a set from a listing of any length: a run of segments costs two numbers."""

    def __init__(self) -> None:
        self._begins: list[int] = []
        self._ends: list[int] = []

    def add(self, number: int) -> None:
        """Take the next number; raises ValueError when it is not above the ones before."""
        self.extend(number, number + 1)

    def extend(self, begin: int, end: int) -> None:
        """Take the numbers from ``begin`` to just before ``end``, likewise."""
        if self._ends and begin < self._ends[-1]:
            raise ValueError(f"segment {begin} is listed after segment {self._ends[-1] - 1}")
        if self._ends and begin == self._ends[-1]:
            self._ends[-1] = end
            return
        self._begins.append(begin)
        self._ends.append(end)

    def finish(self) -> SegmentSet:
        """The set of what was added."""
        return SegmentSet(tuple(self._begins), tuple(self._ends))


def collect(segments: Iterable[WalSegment], size: SegmentSize) -> dict[int, SegmentSet]:
    """The sets of each timeline in an ordered listing, of any length.

    Raises ValueError when the listing is not in the order of names, or holds a name that cannot
    exist with this segment size.
    """
    sets: dict[int, SegmentSet] = {}
    numbers: list[int] = []
    current = 0
    for segment in segments:
        if segment.timeline != current:
            if segment.timeline < current:
                raise ValueError(f"timeline {segment.timeline} is listed after {current}")
            if numbers:
                sets[current] = SegmentSet.from_ordered(numbers)
            current, numbers = segment.timeline, []
        numbers.append(segment.number(size))
    if numbers:
        sets[current] = SegmentSet.from_ordered(numbers)
    return sets
