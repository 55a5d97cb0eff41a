"""Waiting until WAL is durable in the archive."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from walkeeper.core import layout
from walkeeper.core.wal import WalSegment
from walkeeper.errors import BackupError
from walkeeper.repository.archive import Archive

_FIRST_PAUSE_S: Final = 0.2
_LONGEST_PAUSE_S: Final = 2.0


async def wait_for_wal(
    archive: Archive,
    needed: Sequence[WalSegment],
    *,
    patience_s: float,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    now: Callable[[], float] | None = None,
) -> None:
    """Return once every segment is in the archive; ``needed`` is in order, on one timeline.

    Gives up with BackupError, naming the first that is missing, when for ``patience_s`` nothing
    of it arrived. Asks by listing from the first missing one on, so a long backup costs little.
    """
    clock = now or asyncio.get_running_loop().time
    missing = list(needed)
    pause_s = _FIRST_PAUSE_S
    moved_at = clock()
    while True:
        before = len(missing)
        missing = await _find_missing(archive, missing)
        if not missing:
            return
        if len(missing) < before:
            moved_at = clock()
            pause_s = _FIRST_PAUSE_S
        if clock() - moved_at > patience_s:
            raise BackupError(
                f"{missing[0]} and {len(missing) - 1} more segments did not arrive in the archive "
                f"for {patience_s:.0f} s",
                hint="is the agent running and archive_command set? see: walkeeper status",
            )
        await sleep(pause_s)
        pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)


async def _find_missing(archive: Archive, wanted: list[WalSegment]) -> list[WalSegment]:
    names = {layout.wal_object(segment): segment for segment in wanted}
    prefixes = dict.fromkeys(layout.wal_prefix(segment) for segment in wanted)
    first = layout.wal_object(wanted[0])
    for prefix in prefixes:
        after = first[: -len(".zst.age")] if first.startswith(prefix) else ""
        async for info in archive.list_objects(prefix, after=after):
            names.pop(layout.ObjectName(info.name), None)
            if not names:
                return []
    return list(names.values())
