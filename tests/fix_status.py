"""An agent and an archive that are well, and what they look like when they are not."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import msgspec

from tests.fix_core_plan import SIZE, full_backup, lsn
from walkeeper.core.segment_set import SegmentRange
from walkeeper.core.wal import WalSegment
from walkeeper.services.agent_status import (
    AgentStatus,
    ArchivingStatus,
    FetchStatus,
    SourceStatus,
    StoreStatus,
)
from walkeeper.services.status import ArchiveHealth, RecoverableWindow

ARCHIVING = ArchivingStatus(
    backlog=0,
    oldest_waiting=None,
    archived=5,
    failed=0,
    last_archived=None,
    last_archived_age_s=None,
    last_error=None,
    rpo_s=2.0,
)
AGENT = AgentStatus(
    version="1",
    pid=1,
    uptime_s=1,
    repository="file:///r",
    folder="f",
    archive="id",
    source=SourceStatus(verified=True),
    archiving=ARCHIVING,
    fetch=FetchStatus(fetched=0, from_prefetch=0, absent=0, holes=0, errors=0, last_error=None),
    store=StoreStatus(
        conditional_put=True,
        conditional_multipart=True,
        requests=1,
        errors=0,
        bytes_written=0,
        bytes_read=0,
    ),
)
FIRST, SECOND = full_backup(1, 2, 3), full_backup(1, 8, 9)
WINDOW = RecoverableWindow(
    timeline=1,
    begin=lsn(3),
    begin_at=datetime(2026, 11, 20, tzinfo=UTC),
    end=lsn(6),
    backups=(FIRST.id,),
    last=WalSegment.numbered(1, 5, SIZE),
    stored_at=None,
    missing=(),
    stranded=(),
)
GAP = replace(WINDOW, missing=(SegmentRange(1, 6, 7),), stranded=(SegmentRange(1, 7, 12),))
HEALTHY = ArchiveHealth(
    size=SIZE,
    backups=(FIRST,),
    unreadable=(),
    unusable=(),
    unfinished=(),
    windows=(WINDOW,),
    cut_off=(),
    problems=(),
    histories_read=True,
)


def agent(**archiving: object) -> AgentStatus:
    """An agent that is well but for this."""
    return msgspec.structs.replace(AGENT, archiving=msgspec.structs.replace(ARCHIVING, **archiving))
