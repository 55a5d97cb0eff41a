"""The recovery point objective, measured: how old the oldest byte is that a disaster would cost."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from typing import Final

from walkeeper.core.lsn import Lsn

_MAX_SAMPLES: Final = 4096
"""Older pairs are merged beyond it: what is lost is precision, towards the pessimistic side."""
_MAX_HISTORY: Final = 7200


@dataclass(frozen=True, slots=True)
class _Sample:
    lsn: Lsn
    at_s: float
    previous_at_s: float


class RpoMeter:
    """Age of the oldest flushed WAL byte that is not yet durable in the archive; 0 when idle.

    Fed with what the server has flushed and what the archive holds, in seconds of one monotonic
    clock. A byte is taken to be as old as the last moment at which it was known not to be there,
    so that the answer errs on the pessimistic side by at most one interval between samples.
    """

    def __init__(self) -> None:
        self._samples: deque[_Sample] = deque()
        self._durable = Lsn(0)
        self._flushed = Lsn(0)
        self._last_at_s: float | None = None

    @property
    def flushed(self) -> Lsn:
        """The highest position that the server is known to have flushed."""
        return self._flushed

    @property
    def durable(self) -> Lsn:
        """The position up to which everything is durable."""
        return self._durable

    def flush(self, lsn: Lsn, at_s: float) -> None:
        """The server said at ``at_s`` that it has flushed up to ``lsn``."""
        previous_at_s = self._last_at_s if self._last_at_s is not None else at_s
        self._last_at_s = at_s
        if lsn <= self._flushed:
            return
        self._flushed = lsn
        if lsn > self._durable:
            self._samples.append(_Sample(lsn, at_s, previous_at_s))
        if len(self._samples) > _MAX_SAMPLES:
            self._merge()

    def store(self, lsn: Lsn) -> None:
        """Everything up to ``lsn`` is durable."""
        self._durable = max(self._durable, lsn)
        while self._samples and self._samples[0].lsn <= self._durable:
            self._samples.popleft()

    def restart(self, durable: Lsn) -> None:
        """Begin anew, on another timeline or server: what was flushed before means nothing."""
        self._samples.clear()
        self._flushed = Lsn(0)
        self._durable = durable
        self._last_at_s = None

    def rpo_s(self, now_s: float) -> float:
        """The age in seconds at ``now_s``."""
        if not self._samples:
            return 0.0
        return max(0.0, now_s - self._samples[0].previous_at_s)

    def _merge(self) -> None:
        pairs = list(self._samples)
        self._samples = deque(
            _Sample(second.lsn, first.at_s, first.previous_at_s)
            for first, second in zip(pairs[::2], pairs[1::2], strict=False)
        )
        if len(pairs) % 2:
            self._samples.append(pairs[-1])


class RpoHistory:
    """The RPO of the last hour, noted about once a second; at most 7200 samples are kept."""

    def __init__(self, window_s: float = 3600.0) -> None:
        self._window_s = window_s
        self._samples: deque[tuple[float, float]] = deque(maxlen=_MAX_HISTORY)

    def note(self, rpo_s: float, at_s: float) -> None:
        """The RPO was ``rpo_s`` at ``at_s``, on a monotonic clock."""
        self._samples.append((at_s, rpo_s))
        while self._samples[0][0] < at_s - self._window_s:
            self._samples.popleft()

    def maximum_s(self) -> float:
        """The worst of the window; 0 when nothing was noted."""
        return max((rpo_s for _, rpo_s in self._samples), default=0.0)

    def quantile_s(self, part: float) -> float:
        """The value that ``part`` (0 to 1) of the samples do not exceed; 0 without samples."""
        ordered = sorted(rpo_s for _, rpo_s in self._samples)
        if not ordered:
            return 0.0
        return ordered[min(len(ordered) - 1, math.ceil(part * len(ordered)) - 1)]
