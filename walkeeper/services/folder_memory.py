"""Which folders of WAL were listed lately and found full: what a look need not list again.

A full folder holds every segment that its name stands for, so that nothing can be added to it; WAL
is removed from it only by retention, from the ends of what is kept. So a folder with a neighbour on
either side is believed to be as it was, for a day at most; and each look lists again those that
were listed longest ago, so that with time every folder is seen anew. This serves ``status`` alone:
what a restore rests on, or a deletion, is always listed.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final

import msgspec

_BELIEVED: Final = timedelta(days=1)
_LISTED_JUST_NOW: Final = timedelta(minutes=10)
_LISTED_AGAIN: Final = 64


class FullFolders(msgspec.Struct, frozen=True, kw_only=True):
    """The document: for each folder of an archive when it was listed, in seconds of Unix time."""

    archive: str
    listed_at: dict[str, int]


class FolderMemory:
    """What earlier looks at one archive remember, and what this one does."""

    def __init__(self, archive: str, known: FullFolders | None, now: datetime) -> None:
        self._archive = archive
        self._now = now
        mine = known is not None and known.archive == archive
        self._known = dict(known.listed_at) if known is not None and mine else {}
        self._oldest = now

    @property
    def oldest(self) -> datetime:
        """When the folder was listed that was believed for longest; now where none was."""
        return self._oldest

    def recall(self, wanted: Collection[str], there: Sequence[str]) -> set[str]:
        """Those of the folders ``wanted`` that are believed to be full.

        ``there`` are all folders of the timeline, listed just now, in order.
        """
        inner = set(there[1:-1])
        aged = sorted(
            (at, name)
            for name in wanted
            if name in inner and (at := self._at(name)) is not None and self._is_believed(at)
        )
        again = {name for at, name in aged[:_LISTED_AGAIN] if self._now - at > _LISTED_JUST_NOW}
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
