"""What a segment server works with: a question, what may answer it, and the answer."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from walkeeper.core.wal import WalSegment
from walkeeper.repository.archive import Archive
from walkeeper.services.fetch_file import FetchFile
from walkeeper.services.fetch_rules import FetchRequest
from walkeeper.services.followed_timelines import FollowedTimelines
from walkeeper.services.missing_segment import MissingSegments
from walkeeper.services.prefetch import Prefetcher
from walkeeper.services.segment_stand_in import StandIns
from walkeeper.services.tablespace_guard import TablespaceLook


@dataclass(frozen=True, slots=True)
class SegmentSources:
    """Where segments come from, and who judges what is not there: all of one archive."""

    archive: Archive
    pool: ThreadPoolExecutor
    prefetcher: Prefetcher
    missing: MissingSegments
    stand_ins: StandIns
    followed: FollowedTimelines


@dataclass(frozen=True, slots=True)
class Question:
    """A request for a segment; ``came`` is told of everything that the archive answers."""

    request: FetchRequest
    segment: WalSegment
    out: FetchFile
    came: Callable[[], None]


@dataclass(frozen=True, slots=True)
class Served:
    """What was handed out; ``look`` is what it tells of tablespaces, if that was asked."""

    size_bytes: int
    look: TablespaceLook | None = None


@dataclass(frozen=True, slots=True)
class Vanished:
    """A tail was deleted while it was read: the complete segment must have become durable."""

    name: str
