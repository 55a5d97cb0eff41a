"""Counting values by size: what is measured again and again, in a few numbers."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from itertools import accumulate

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 120.0)
"""Bounds for how long something takes."""
BYTES = tuple(float(4**power) for power in range(4, 17))
"""Bounds for sizes: 256 B, 1 KiB, 4 KiB, ... to 4 GiB."""


@dataclass(frozen=True, slots=True)
class HistogramCounts:
    """A snapshot; ``cumulative`` are the values up to each bound and, at the end, all of them."""

    bounds: tuple[float, ...]
    cumulative: tuple[int, ...]
    total: float


class Histogram:
    """Values counted by the first of ``bounds``, which ascend, that they do not exceed."""

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._total = 0.0

    def note(self, value: float) -> None:
        """Count a value."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self._total += value

    def counts(self) -> HistogramCounts:
        """What was counted so far; does not change any more."""
        return HistogramCounts(self._bounds, tuple(accumulate(self._counts)), self._total)
