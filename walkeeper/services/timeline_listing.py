"""Which timelines an archive holds anything of, as its listing tells."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Collection
from typing import Final

import structlog

from walkeeper.core.layout import (
    WAL_PREFIX,
    CutOffSegment,
    ObjectName,
    StoredWal,
    parse_wal_object,
    timeline_end,
)
from walkeeper.core.wal import BackupHistoryFile, TimelineHistoryFile, WalSegment
from walkeeper.errors import IntegrityError, ObjectFrozen, ObjectNotFound, StorageError
from walkeeper.repository.archive import Archive

_MOST_UNSIGNED: Final = 16
"""Objects in a row that no writer signed; behind that many nothing is said of the timelines."""

log = structlog.get_logger(__name__)


class TimelineListing:
    """Looks for timelines in one archive."""

    def __init__(self, archive: Archive) -> None:
        self._archive = archive
        self._unsigned: set[str] = set()

    async def find_first(self, timeline: int, known: Collection[int]) -> StoredWal | None:
        """The first stored name above a timeline: its history file, where it has one.

        A timeline that is not ``known`` is believed only for an object that a writer signed: else
        one misplaced file would keep every number below it from being called absent.
        """
        objects = self._archive.list_objects(WAL_PREFIX, after=timeline_end(timeline))
        unsigned = 0
        try:
            async for info in objects:
                found = parse_wal_object(info.name)
                if found is None:
                    continue
                name = ObjectName(info.name)
                if timeline_of(found) in known or await self.is_ours(name):
                    return found
                unsigned += 1
                if unsigned == _MOST_UNSIGNED:
                    raise StorageError(
                        f"which timelines the archive holds cannot be told: {unsigned} objects up "
                        f"to {name} are not what a known writer stored there",
                        hint="find out where they come from, and delete what is not yours",
                    )
        finally:
            if isinstance(objects, AsyncGenerator):
                await objects.aclose()
        return None

    async def is_ours(self, name: ObjectName) -> bool:
        """Whether a known writer stored an object; one in cold storage is believed."""
        try:
            await self._archive.read_header(name)
        except ObjectNotFound:
            return False
        except IntegrityError as error:
            if name not in self._unsigned:
                self._unsigned.add(name)
                log.warning("wal_object_not_ours", name=name, reason=error.message)
            return False
        except ObjectFrozen:
            pass
        return True


def timeline_of(stored: StoredWal) -> int:
    """The timeline that a stored name belongs to."""
    match stored:
        case TimelineHistoryFile(timeline) | WalSegment(timeline):
            return timeline
        case CutOffSegment(segment) | BackupHistoryFile(segment):
            return segment.timeline
