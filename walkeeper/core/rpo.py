"""The recovery point objective, measured: how old the oldest byte is that a disaster would cost."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Final

from walkeeper.core.lsn import Lsn

_MAX_SAMPLES: Final = 4096
"""Older pairs are merged beyond it: what is lost is precision, towards the pessimistic side."""


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
