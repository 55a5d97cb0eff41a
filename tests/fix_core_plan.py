"""A small world for coverage and plans: 1 MiB segments, a segment a minute, an hour at LSN 0/0."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from walkeeper.core.backup import BackupFacts
from walkeeper.core.backup_id import BackupId
from walkeeper.core.lsn import Lsn
from walkeeper.core.timeline import TimelineHistory, TimelineSwitch
from walkeeper.core.wal import SegmentSize, WalSegment

SIZE = SegmentSize(1 << 20)
EPOCH = datetime(2026, 11, 20, 10, tzinfo=UTC)


def lsn(segments: float) -> Lsn:
    """The position so many segments after 0/0."""
    return Lsn(int(segments * SIZE.bytes))


def at(segments: float) -> datetime:
    """When that position was written."""
    return EPOCH + timedelta(minutes=segments)


def histories(*known: tuple[int, Sequence[tuple[int, float]]]) -> dict[int, TimelineHistory]:
    """``(3, ((1, 4.5), (2, 6)))``: timeline 3 came from 1, left at 4.5, and 2, left at 6."""
    return {
        timeline: TimelineHistory(
            timeline, tuple(TimelineSwitch(parent, lsn(fork)) for parent, fork in switches)
        )
        for timeline, switches in known
    }


def full_backup(timeline: int, start: float, stop: float) -> BackupFacts:
    """A backup whose WAL runs from ``start`` to ``stop``; its clock agrees with the world's."""
    begin, end = lsn(start), lsn(stop)
    chance = bytes((timeline, int(start * 4) % 256, int(stop * 4) % 256))
    return BackupFacts(
        id=str(BackupId.create(at(start), chance)),
        system_identifier="7301234567890123456",
        timeline=timeline,
        start_lsn=str(begin),
        checkpoint_lsn=str(begin),
        stop_lsn=str(end),
        started_at=at(start),
        stopped_at=at(stop),
        server_version=150018,
        segment_size=SIZE.bytes,
        size_bytes=1000,
        stored_bytes=400,
        parts=1,
        files=10,
        data_checksums=True,
        wal_first=str(WalSegment.at(timeline, begin, SIZE)),
        wal_last=str(WalSegment.before(timeline, end, SIZE)),
    )
