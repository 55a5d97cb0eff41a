"""What can be recovered, over time: the document behind the status page's axis.

Moments are those of the WAL as it was written. A window is cut into stretches, one for each
timeline that its recovery passes through.
"""

from __future__ import annotations

from datetime import datetime

import msgspec


class TimelineRow(msgspec.Struct, frozen=True, kw_only=True):
    """A timeline. It left ``parent`` in the state of ``left_at`` and was written from ``begin_at``.

    After a point-in-time recovery these are far apart. ``live``: the server writes it now.
    """

    timeline: int
    parent: int | None
    left_at: datetime | None
    begin_at: datetime
    end_at: datetime
    live: bool


class BackupMark(msgspec.Struct, frozen=True, kw_only=True):
    """A base backup; nothing before ``stopped_at`` can be recovered from it."""

    id: str
    timeline: int
    started_at: datetime
    stopped_at: datetime
    size_bytes: int
    stored_bytes: int
    usable: bool
    label: str


class Stretch(msgspec.Struct, frozen=True, kw_only=True):
    """The part of a window on one timeline: every moment in it can be restored."""

    timeline: int
    begin_at: datetime
    end_at: datetime
    begin_lsn: str
    end_lsn: str


class WindowSpan(msgspec.Struct, frozen=True, kw_only=True):
    """A window along the path to ``timeline``; ``backups`` lead to its end.

    ``live``: its end moves on with the server.
    """

    timeline: int
    begin_at: datetime
    end_at: datetime
    begin_lsn: str
    end_lsn: str
    live: bool
    backups: tuple[str, ...]
    stretches: tuple[Stretch, ...]


class GapSpan(msgspec.Struct, frozen=True, kw_only=True):
    """Moments on a timeline that cannot be restored, because WAL is missing.

    That was written until about ``missing_until``; what follows is stored, but out of reach until
    the next backup, at ``end_at``.
    """

    timeline: int
    begin_at: datetime
    missing_until: datetime
    end_at: datetime
    missing: tuple[str, ...]
    stranded: tuple[str, ...]


class DrillMark(msgspec.Struct, frozen=True, kw_only=True):
    """A drill made ``at``, and the moment ``point_at`` on ``timeline`` that it was about."""

    at: datetime
    proven: bool
    timeline: int
    point_at: datetime
    target: str
    backup: str
    reached_lsn: str | None
    rto_s: float
    size_bytes: int
    failed_phase: str | None


class Edge(msgspec.Struct, frozen=True, kw_only=True):
    """How far the archive is now: all that was written before ``at`` is durable."""

    timeline: int
    at: datetime
    rpo_s: float
    lsn: str | None


class Chart(msgspec.Struct, frozen=True, kw_only=True):
    """The document of ``/api/v1/timeline``.

    ``looked_at`` is when the repository was listed, ``edge`` is null where no server is archived.
    """

    at: datetime
    looked_at: datetime
    begin_at: datetime
    timelines: tuple[TimelineRow, ...]
    backups: tuple[BackupMark, ...]
    windows: tuple[WindowSpan, ...]
    gaps: tuple[GapSpan, ...]
    drills: tuple[DrillMark, ...]
    edge: Edge | None
