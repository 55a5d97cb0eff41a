"""Timeline history files: where a timeline left its parent, and that its own, up to the first.

Format: src/backend/access/transam/timeline.c, readTimeLineHistory and writeTimeLineHistory.
"""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass
from typing import Final

from walkeeper.core.lsn import Lsn

_LINE: Final = re.compile(
    r"\s*([0-9]{1,10})\s+([0-9A-Fa-f]{1,8}/[0-9A-Fa-f]{1,8})(?:\s(.*))?", re.ASCII
)
_MAX_TIMELINE: Final = 0xFFFF_FFFF


@dataclass(frozen=True, slots=True)
class TimelineSwitch:
    """One line of a history file: ``parent`` was left at ``at`` because of ``reason``.

    The reason stands as in the file; some of PostgreSQL's end with a newline of their own.
    """

    parent: int
    at: Lsn
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Leg:
    """The part ``[begin, end)`` of the path that lies on one timeline; the last has no end."""

    timeline: int
    begin: Lsn
    end: Lsn | None


@dataclass(frozen=True, slots=True)
class TimelineHistory:
    """The path that leads to a timeline: its ancestors, oldest first, with the switch points.

    Switch points may go back: who recovers along timeline 2 but stops before 2 left 1 gets a
    timeline 3 whose file says that 1 ended later than 2. Such an ancestor has no leg.
    """

    timeline: int
    switches: tuple[TimelineSwitch, ...] = ()

    def __post_init__(self) -> None:
        timelines = [0, *(switch.parent for switch in self.switches), self.timeline]
        for older, newer in itertools.pairwise(timelines):
            if not older < newer <= _MAX_TIMELINE:
                raise ValueError(
                    f"the history of timeline {self.timeline} has {newer} after {older}"
                )

    @classmethod
    def parse(cls, timeline: int, text: str) -> TimelineHistory:
        """Read the content of ``<timeline>.history``; raises ValueError where PostgreSQL would.

        Empty lines and those that begin with ``#`` are skipped, what follows the switch point is
        the reason. A switch point at 0/0 is refused too: to PostgreSQL it means "none".
        """
        switches: list[TimelineSwitch] = []
        blank_lines = 0
        # Only a newline ends a line: a reason may hold whatever the name of a restore point may.
        for line in text.split("\n"):
            if not line.strip() or line.lstrip().startswith("#"):
                blank_lines += 1
                continue
            _end_reason(switches, blank_lines)
            blank_lines = 0
            match = _LINE.fullmatch(line)
            if match is None:
                raise ValueError(f"not a line of a timeline history: {line!r}")
            at = Lsn.parse(match[2])
            if at.value == 0:
                raise ValueError(f"a timeline history with a switch at 0/0: {line!r}")
            switches.append(TimelineSwitch(int(match[1]), at, match[3] or ""))
        _end_reason(switches, blank_lines)
        return cls(timeline, tuple(switches))

    def encode(self) -> str:
        """The content of the history file, byte for byte as PostgreSQL writes it; "" for none."""
        lines = (f"{switch.parent}\t{switch.at}\t{switch.reason}\n" for switch in self.switches)
        return "\n".join(lines)

    @property
    def legs(self) -> tuple[Leg, ...]:
        """What of each timeline belongs to the path, oldest first, from 0/0 without a gap.

        A position belongs to the newest timeline that began at or before it, as
        tliOfPointInHistory has it; a timeline of which nothing belongs has no leg.
        """
        legs = []
        end: Lsn | None = None
        begins = [Lsn(0), *(switch.at for switch in self.switches)]
        timelines = [*(switch.parent for switch in self.switches), self.timeline]
        for timeline, begin in zip(reversed(timelines), reversed(begins), strict=True):
            if end is None or begin < end:
                legs.append(Leg(timeline, begin, end))
                end = begin
        return tuple(reversed(legs))

    def contains(self, timeline: int) -> bool:
        """Whether it is this timeline or one of its ancestors, if only by name."""
        return timeline == self.timeline or any(s.parent == timeline for s in self.switches)

    def timeline_at(self, lsn: Lsn) -> int:
        """The timeline that holds the byte at ``lsn`` on this path."""
        return next(leg.timeline for leg in reversed(self.legs) if leg.begin <= lsn)

    def switch_point(self, timeline: int) -> Lsn | None:
        """Where the path leaves a timeline: nothing of it at or behind that position belongs here.

        None for the timeline itself, which has no end. Raises ValueError for one that is not
        part of the history.
        """
        if timeline == self.timeline:
            return None
        return min(switch.at for switch in self.switches[self._index(timeline) :])

    def derive(self, ancestor: int) -> TimelineHistory:
        """The history of an ancestor, as its own file has it, or had it.

        Raises ValueError for a timeline that is not part of the history.
        """
        if ancestor == self.timeline:
            return self
        return TimelineHistory(ancestor, self.switches[: self._index(ancestor)])

    def _index(self, timeline: int) -> int:
        for index, switch in enumerate(self.switches):
            if switch.parent == timeline:
                return index
        raise ValueError(f"timeline {timeline} is not in the history of {self.timeline}")


def _end_reason(switches: list[TimelineSwitch], blank_lines: int) -> None:
    """Give the last reason the empty lines behind it, but for the one that is always there."""
    if switches and blank_lines > 1:
        last = switches[-1]
        reason = last.reason + "\n" * (blank_lines - 1)
        switches[-1] = TimelineSwitch(last.parent, last.at, reason)
