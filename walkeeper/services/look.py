"""One look at an archive: what its listings and its drills show at a moment."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from walkeeper.repository.archive import Archive
from walkeeper.repository.backups import BackupStore
from walkeeper.repository.drills import DrillHistory, DrillStore
from walkeeper.services.folder_memory import FolderMemory
from walkeeper.services.status import ArchiveHealth, Inspection

_NO_DRILLS: Final = DrillHistory()
_RECENT_DRILLS: Final = 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What was seen at ``at``, which is None before the first look.

    A look that failed has no ``health`` and no drills, but says why: ``error``, one sentence, and
    maybe a ``hint``. Some of its listings may be older than ``at``: the oldest is of ``listed_at``.
    """

    at: datetime | None = None
    listed_at: datetime | None = None
    health: ArchiveHealth | None = None
    drills: DrillHistory = _NO_DRILLS
    error: str | None = None
    hint: str | None = None


async def look_at(
    archive: Archive,
    pool: ThreadPoolExecutor,
    now: datetime,
    kept: DrillStore | None = None,
    *,
    memory: FolderMemory | None = None,
) -> Look:
    """Look now, but not again at what a ``memory`` knows. Raises what storage raises, and WrongKey.

    Who looks again and again brings a ``kept`` store of drills, which reads each record but once:
    then the newest ones are in the look, and else no more of them than a status needs.
    """
    health = await Inspection(archive, BackupStore(archive, pool), memory).run()
    if kept is not None:
        drills = await kept.history(now, recent=_RECENT_DRILLS)
    else:
        drills = await DrillStore(archive, pool).history(now)
    listed_at = now if memory is None else memory.oldest
    return Look(at=now, listed_at=listed_at, health=health, drills=drills)
