"""Which folders of WAL were listed lately and found full: what a look need not list again.

A full folder holds every segment that its name stands for, so that nothing can be added to it; WAL
is removed from it only by retention, from the ends of what is kept. So a folder with a neighbour on
either side is believed to be as it was, for a day at most; and each look lists again those that
were listed longest ago, so that with time every folder is seen anew. This serves looks at the
archive alone, of ``status`` and of the agent: what a restore rests on, or a deletion, is always
listed.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final

import msgspec

from walkeeper.core.layout import first_of_folder
from walkeeper.core.wal import SegmentSize
from walkeeper.services.wal_listing import TimelineListing

_BELIEVED: Final = timedelta(days=1)
LISTED_JUST_NOW: Final = timedelta(minutes=10)
AGAIN_NOW_AND_THEN: Final = 64
"""Folders that are listed again in each look of whoever asks for the status now and then."""
AGAIN_EACH_LOOK: Final = 16
"""The same for an agent, which looks every few minutes; they hold 64 GiB of WAL."""


class FullFolders(msgspec.Struct, frozen=True, kw_only=True):
    """The document: for each folder of an archive when it was listed, in seconds of Unix time."""

    archive: str
    listed_at: dict[str, int]


class FolderMemory:
    """What earlier looks at one archive remember, and what this one does.

    ``again`` folders of each timeline are listed anew however well they are remembered. ``before``
    is what the last look listed: then sizes and times are recalled as well, and only of its
    folders; without it a recalled folder has segments and nothing else.
    """

    def __init__(
        self,
        archive: str,
        known: FullFolders | None,
        now: datetime,
        *,
        again: int = AGAIN_NOW_AND_THEN,
        before: Mapping[int, TimelineListing] | None = None,
    ) -> None:
        self._archive = archive
        self._now = now
        self._again = again
        self._before = before
        mine = known is not None and known.archive == archive
        self._known = dict(known.listed_at) if known is not None and mine else {}
        self._oldest = now

    @property
    def oldest(self) -> datetime:
        """When the folder was listed that was believed for longest; now where none was."""
        return self._oldest

    @property
    def has_sizes(self) -> bool:
        """Whether sizes and times are recalled, too."""
        return self._before is not None

    def recall(
        self, wanted: Collection[str], there: Sequence[str], size: SegmentSize
    ) -> dict[str, TimelineListing]:
        """Those of the folders ``wanted`` that are believed to be full, and what is in them.

        ``there`` are all folders of the timeline, listed just now, in order.
        """
        listed = {name: self._find(name, size) for name in self._believed(wanted, there)}
        return {name: found for name, found in listed.items() if found is not None}

    def _find(self, name: str, size: SegmentSize) -> TimelineListing | None:
        if self._before is None:
            return TimelineListing.full(name, size)
        timeline = self._before.get(first_of_folder(name).timeline)
        return None if timeline is None else timeline.full_folder(name, size)

    def _believed(self, wanted: Collection[str], there: Sequence[str]) -> set[str]:
        inner = set(there[1:-1])
        aged = sorted(
            (at, name)
            for name in wanted
            if name in inner and (at := self._at(name)) is not None and self._is_believed(at)
        )
        again = {name for at, name in aged[: self._again] if self._now - at > LISTED_JUST_NOW}
        found = [(at, name) for at, name in aged if name not in again]
        if found:
            self._oldest = min(self._oldest, found[0][0])
        return {name for _, name in found}

    def note(self, folder: str, *, full: bool) -> None:
        """It was listed now."""
        if full:
            self._known[folder] = int(self._now.timestamp())
        else:
            self._known.pop(folder, None)

    def document(self) -> FullFolders:
        """What the next look may remember."""
        believed = {
            name: at
            for name, at in self._known.items()
            if self._is_believed(datetime.fromtimestamp(at, UTC))
        }
        return FullFolders(archive=self._archive, listed_at=believed)

    def _at(self, name: str) -> datetime | None:
        found = self._known.get(name)
        return None if found is None else datetime.fromtimestamp(found, UTC)

    def _is_believed(self, at: datetime) -> bool:
        return timedelta(0) <= self._now - at <= _BELIEVED
