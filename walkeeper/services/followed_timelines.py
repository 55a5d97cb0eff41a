"""Which timeline each recovery follows, as its own requests show.

A restore_command does not say what the recovery's target is. But PostgreSQL reads its target's
history first, and then asks for every segment on the newest of these timelines that had begun by
then before it asks for it on an older one (xlogrecovery.c, XLogFileReadAnyTLI): what it has asked
for belongs to its target's path. And it looks for newer timelines, until the archive has answered
that one is absent, only where its target is the latest one (timeline.c, findNewestTimeLine); any
other target's history is there. The very last thing that a recovery does is to look for a number.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Final

from walkeeper.core.wal import WalSegment
from walkeeper.services.fetch_rules import ClientIdentity, FetchRequest

_MOST_RUNS: Final = 64
_MOST_NOTED: Final = 256

Run = tuple[ClientIdentity, str]
"""A data directory and the run of its server: while it runs, its target does not change."""


@dataclass(slots=True)
class _Follower:
    first: WalSegment | None = None
    """The earliest segment asked for of the newest timeline of which any was."""
    latest: bool = False
    noted: set[WalSegment] = field(default_factory=set)


class FollowedTimelines:
    """Remembers some runs of servers in recovery: those that asked last."""

    def __init__(self) -> None:
        self._runs: OrderedDict[Run, _Follower] = OrderedDict()

    def note_asked(self, request: FetchRequest, segment: WalSegment) -> None:
        """A recovery asks for a segment."""
        if not request.is_tool:
            follower = self._of(request)
            first = follower.first
            if (
                first is None
                or segment.timeline > first.timeline
                or (segment.timeline == first.timeline and segment < first)
            ):
                follower.first = segment

    def note_absent_history(self, request: FetchRequest) -> None:
        """A recovery was told that there is no such timeline: it looks for the latest one."""
        if not request.is_tool:
            self._of(request).latest = True

    def follows_latest(self, request: FetchRequest) -> bool:
        """Whether it is certain that the recovery's target is the latest timeline."""
        return self._of(request).latest

    def explain(self, request: FetchRequest) -> str:
        """Why a recovery is taken to follow its path."""
        if request.path_timeline is not None:
            return "the recovery was prepared for this timeline"
        if self.follows_latest(request):
            return "the recovery has looked for the latest timeline"
        return "the recovery has asked for segments of this timeline"

    def newest(self, request: FetchRequest) -> int:
        """The newest timeline of which it has asked for a segment, 0 for none."""
        first = self._of(request).first
        return 0 if first is None else first.timeline

    def has_left(self, request: FetchRequest, segment: WalSegment) -> bool:
        """Whether the newest timeline had begun by the end of this segment of an older one."""
        first = self._of(request).first
        if first is None or segment.timeline >= first.timeline:
            return False
        return segment.on(first.timeline) >= first

    def is_first(self, request: FetchRequest, segment: WalSegment) -> bool:
        """Whether this segment of this run is spoken of for the first time."""
        noted = self._of(request).noted
        if segment in noted or len(noted) >= _MOST_NOTED:
            return False
        noted.add(segment)
        return True

    def _of(self, request: FetchRequest) -> _Follower:
        run = (request.client, request.run)
        follower = self._runs.setdefault(run, _Follower())
        self._runs.move_to_end(run)
        if len(self._runs) > _MOST_RUNS:
            self._runs.popitem(last=False)
        return follower
