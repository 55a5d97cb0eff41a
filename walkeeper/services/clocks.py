"""When the WAL of an archive's timelines was written, from its listings."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Final

from walkeeper.core.lsn import Lsn
from walkeeper.core.wal_clock import WalClock
from walkeeper.services.status import ArchiveHealth

_MOST_POINTS: Final = 5000

Clocks = Mapping[int, WalClock]
"""The clock of each timeline."""


def read_clocks(health: ArchiveHealth) -> Clocks:
    """When the WAL of each timeline was written.

    Of very many segments some are enough; where windows end is always known.
    """
    points: dict[int, list[tuple[Lsn, float]]] = {}
    for timeline, listed in health.wal.items():
        size, step = health.size.bytes, len(listed.numbers) // _MOST_POINTS + 1
        ends = (Lsn((number + 1) * size) for number in listed.numbers[::-step])
        points[timeline] = list(zip(ends, listed.stored[::-step], strict=True))
    for backup in health.backups:
        known = points.setdefault(backup.timeline, [])
        known.append((backup.start, backup.started_at.timestamp()))
        known.append((backup.stop, backup.stopped_at.timestamp()))
    for window in health.windows:
        if window.stored_at is not None:  # its end may be a tail, which is no segment of those
            known = points.setdefault(window.last.timeline, [])
            known.append((window.end, window.stored_at.timestamp()))
    for timeline, history in health.histories.items():
        if timeline in health.begun:
            fork = history.legs[-1].begin
            points.setdefault(timeline, []).append((fork, health.begun[timeline].timestamp()))
    return {timeline: WalClock.of(known) for timeline, known in points.items()}


def left_at(clock: WalClock, fork: Lsn, begun: datetime | None) -> datetime | None:
    """When a timeline was left, by its own clock; ``begun`` is when the next one was.

    Where no complete segment shows when the fork was written, the server failed about there: then
    it may have gone on until it was replaced.
    """
    return begun if begun is not None and not clock.covers(fork) else clock.find_time(fork)
