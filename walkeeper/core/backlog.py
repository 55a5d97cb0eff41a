"""Where the backlog is going: whether WAL arrives faster than it is archived, and until when."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

MIN_SPAN_S: Final = 120.0
"""A trend is one when it is seen over so long."""
_MIN_SAMPLES: Final = 4
_MIN_GROWTH: Final = 4
"""Segments: what a checkpoint or a bulk load makes of itself is no trend yet."""


@dataclass(frozen=True, slots=True)
class BacklogSample:
    """Bytes that wait to be archived, and bytes free on the disk of ``pg_wal``."""

    at_s: float
    backlog_bytes: int
    free_bytes: int


@dataclass(frozen=True, slots=True)
class Growth:
    """A backlog that grows; ``full_in_s`` is when the disk is full if it goes on like that."""

    backlog_bytes: int
    bytes_per_s: float
    free_bytes: int
    full_in_s: float


def find_growth(samples: Sequence[BacklogSample], segment_bytes: int) -> Growth | None:
    """How the backlog grows, by a straight line through the samples; None when it does not.

    ``samples`` are in the order of time, seconds of one clock. None also where they are too few or
    too close to each other to tell.
    """
    if len(samples) < _MIN_SAMPLES or samples[-1].at_s - samples[0].at_s < MIN_SPAN_S:
        return None
    last = samples[-1]
    least = _MIN_GROWTH * segment_bytes
    if last.backlog_bytes - samples[0].backlog_bytes < least:
        return None
    growth = _slope([(one.at_s, one.backlog_bytes) for one in samples])
    recent = _slope([(one.at_s, one.backlog_bytes) for one in samples[len(samples) // 2 :]])
    if growth <= 0 or recent <= 0:
        return None  # what is left of a bulk load is being worked off
    # Segments that are recycled hide the loss for a while, and others may write to the disk too.
    rate = max(growth, -_slope([(one.at_s, one.free_bytes) for one in samples]))
    return Growth(last.backlog_bytes, growth, last.free_bytes, last.free_bytes / rate)


def _slope(points: Sequence[tuple[float, int]]) -> float:
    """Of the least-squares line, per second; 0 for points at one time."""
    middle = sum(time for time, _ in points) / len(points)
    level = sum(value for _, value in points) / len(points)
    spread = sum((time - middle) ** 2 for time, _ in points)
    product = sum((time - middle) * (value - level) for time, value in points)
    return product / spread if spread else 0.0
