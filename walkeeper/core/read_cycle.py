"""Which objects to read next, so that after some rounds all were read, oldest first.

Every name has a place on a ring, by a hash with a seed of its own for each host. A round reads an
arc of the ring and the next one begins where it ended: a share of all objects drawn by chance, of
which those come first that were read longest ago, and nothing is kept but where the arcs lie.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import msgspec

_RING: Final = 1 << 32
MAX_DAMAGED: Final = 1000
"""Names of damaged objects that are remembered, to be read in every round."""


class ReadArc(msgspec.Struct, frozen=True):
    """The places from ``begin`` to just before ``end``, read in a round that began at ``at``."""

    begin: int
    end: int
    at: datetime


@dataclass(frozen=True, slots=True)
class Sample:
    """What one round reads: places from ``begin`` on, ``width`` of them, and some names."""

    seed: str
    begin: int
    width: int
    also: frozenset[str] = frozenset()

    def __contains__(self, name: str) -> bool:
        if self.width >= _RING or name in self.also:
            return True
        digest = hashlib.sha256(f"{self.seed} {name}".encode()).digest()
        return (int.from_bytes(digest[:4]) - self.begin) % _RING < self.width


class ReadCycle(msgspec.Struct, frozen=True, kw_only=True):
    """What was read when. ``damaged`` were found so and are read again in each round."""

    seed: str
    position: int = 0
    arcs: tuple[ReadArc, ...] = ()
    damaged: tuple[str, ...] = ()

    def next_sample(self, share: float) -> Sample:
        """The next round: this share, over 0 and up to 1, of all objects.

        Raises ValueError for any other share.
        """
        if not 0 < share <= 1:
            raise ValueError(f"a share lies above 0 and goes up to 1: {share}")
        width = max(round(share * _RING), 1)
        return Sample(self.seed, self.position % _RING, width, frozenset(self.damaged))

    def after(self, sample: Sample, at: datetime, damaged: tuple[str, ...]) -> ReadCycle:
        """The cycle when a round that began at ``at`` has ended and found these damaged."""
        end = sample.begin + sample.width
        read = [ReadArc(sample.begin, min(end, _RING), at)]
        if end > _RING:
            read.append(ReadArc(0, min(end - _RING, sample.begin), at))
        arcs = [arc for arc in read if arc.begin < arc.end]
        for old in self.arcs:
            arcs += _without(old, read)
        arcs.sort(key=lambda arc: arc.begin)
        return ReadCycle(
            seed=self.seed,
            position=end % _RING,
            arcs=tuple(arcs),
            damaged=damaged[:MAX_DAMAGED],
        )

    def complete_since(self) -> datetime | None:
        """Everything stored before this moment has been read since; None before a full cycle."""
        position = 0
        for arc in self.arcs:
            if arc.begin > position:
                return None
            position = arc.end
        if position < _RING:
            return None
        return min(arc.at for arc in self.arcs)


def _without(old: ReadArc, read: list[ReadArc]) -> list[ReadArc]:
    """What of an arc was not read again."""
    left = [old]
    for new in read:
        left = [
            ReadArc(begin, end, arc.at)
            for arc in left
            for begin, end in (
                (arc.begin, min(arc.end, new.begin)),
                (max(arc.begin, new.end), arc.end),
            )
            if begin < end
        ]
    return left
