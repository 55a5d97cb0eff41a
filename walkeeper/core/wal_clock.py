"""When positions in the WAL of one timeline were written, as far as it can be told from outside.

What is known are points: a position and a moment at which it had certainly been written, such as
the end of a segment and when the store took it. Between two points time is taken to pass evenly.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime

from walkeeper.core.lsn import Lsn


@dataclass(frozen=True, slots=True)
class WalClock:
    """Positions and seconds since 1970, both ascending."""

    positions: tuple[int, ...] = ()
    seconds: tuple[float, ...] = ()

    @classmethod
    def of(cls, points: Iterable[tuple[Lsn, float]]) -> WalClock:
        """From points in any order, with seconds since 1970.

        What had been written up to a position had been written up to every one before it too, so a
        later moment that is known of an earlier position (an upload that was late) does not count.
        """
        ordered = sorted((lsn.value, at) for lsn, at in points)
        positions: list[int] = []
        seconds: list[float] = []
        earliest = float("inf")
        for position, at in reversed(ordered):
            earliest = min(earliest, at)
            if positions and positions[-1] == position:
                seconds[-1] = earliest
                continue
            positions.append(position)
            seconds.append(earliest)
        return cls(tuple(reversed(positions)), tuple(reversed(seconds)))

    @property
    def span(self) -> tuple[datetime, datetime] | None:
        """The first and the last moment that is known."""
        return (_moment(self.seconds[0]), _moment(self.seconds[-1])) if self.seconds else None

    def covers(self, lsn: Lsn) -> bool:
        """Whether anything is known of the position or of one behind it."""
        return bool(self.positions) and lsn.value <= self.positions[-1]

    def find_time(self, lsn: Lsn) -> datetime | None:
        """About when the position was written; outside of what is known the nearest moment."""
        if not self.positions:
            return None
        after = bisect_left(self.positions, lsn.value)
        if after == len(self.positions):
            return _moment(self.seconds[-1])
        if after == 0 or self.positions[after] == lsn.value:
            return _moment(self.seconds[after])
        begin, end = self.positions[after - 1], self.positions[after]
        early, late = self.seconds[after - 1], self.seconds[after]
        return _moment(early + (late - early) * (lsn.value - begin) / (end - begin))

    def find_position(self, at: datetime) -> Lsn | None:
        """The first known position up to which all that was written before ``at`` lies.

        None where no moment so late is known.
        """
        after = bisect_left(self.seconds, at.timestamp())
        return Lsn(self.positions[after]) if after < len(self.positions) else None


def _moment(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
