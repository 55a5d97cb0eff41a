"""The plain JSON documents that make a folder an archive."""

from __future__ import annotations

from datetime import datetime
from typing import Final

import msgspec

from walkeeper.core.wal import SegmentSize

FORMAT_VERSION: Final = 1
"""The format this program writes, and the newest it understands."""

SOURCE_POSTGRESQL: Final = "postgresql"


class ArchiveRecord(msgspec.Struct, frozen=True):
    """``archive.json``: whose archive this is. Written once, copied unchanged, never changed.

    ``archive`` is random and binds every object to this archive; ``segment_size`` is in bytes.
    """

    name: str
    archive: str
    label: str
    source: str
    system_identifier: str
    segment_size: int
    format: int
    created: datetime

    @property
    def wal_segment_size(self) -> SegmentSize:
        """The segment size as a value; raises ValueError when it cannot be one."""
        return SegmentSize(self.segment_size)
