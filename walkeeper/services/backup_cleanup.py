"""Removes what backups left behind that never came to an end."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final

import structlog

from walkeeper.errors import StorageError
from walkeeper.repository.backups import BackupStore

SAFE_AGE: Final = timedelta(hours=24)
"""A backup that stored nothing for so long is dead: its parts are far smaller than a day's work."""

log = structlog.get_logger(__name__)


async def clean_up(store: BackupStore, now: datetime, *, safe_age: timedelta = SAFE_AGE) -> None:
    """Remove folders without a manifest whose youngest object is older than ``safe_age``.

    ``now`` is the store's own clock, as the time of an object written just now: the clocks of
    hosts do not matter. What the store refuses or cannot do is a warning, for the next backup
    tries again.
    """
    try:
        async for unfinished in store.unfinished():
            if now - unfinished.youngest.modified_at > safe_age:
                await store.remove(unfinished)
                log.info(
                    "unfinished_backup_removed",
                    backup=str(unfinished.backup),
                    objects=len(unfinished.objects),
                )
    except StorageError as error:
        log.warning("unfinished_backups_left", reason=str(error), hint=error.hint)
