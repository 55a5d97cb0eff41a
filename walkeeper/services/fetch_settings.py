"""How fetching behaves, and what it counts."""

from __future__ import annotations

from dataclasses import dataclass, field

from walkeeper.services.prefetch import PrefetchSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchSettings:
    """How fetching behaves.

    A hole is looked at ``hole_attempts`` times, ``hole_pause_s`` apart: uploads run in parallel,
    so the missing segment may be about to become durable. Histories are looked for every
    ``history_refresh_s``, so that an outage finds them on this host. In standby mode a probe for
    one waits for the archive at most ``probe_patience_s``, for a promotion asks several times, and
    a segment as long as nothing comes for ``standby_patience_s``: PostgreSQL asks again by itself,
    and neither streams nor is promoted while it waits.
    """

    prefetch: PrefetchSettings = field(default_factory=PrefetchSettings)
    hole_attempts: int = 3
    hole_pause_s: float = 1.0
    history_refresh_s: float = 60.0
    probe_patience_s: float = 10.0
    standby_patience_s: float = 10.0


@dataclass(slots=True)
class FetcherStatistics:
    """Counters since the start.

    ``fetched`` includes ``from_prefetch`` and ``stand_ins``, the tails and cut-off segments that
    were served for a segment that was never completed. ``absent`` was confirmed by the archive;
    ``errors`` is everything else, ``holes`` and what was answered as absent in standby mode
    included.
    """

    fetched: int = 0
    from_prefetch: int = 0
    stand_ins: int = 0
    absent: int = 0
    holes: int = 0
    errors: int = 0
    last_error: str | None = None
