"""What shall be kept: the policy, what is known of a backup, and why one stays."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import Final

from walkeeper.core.backup import BackupFacts
from walkeeper.core.coverage import WalHoldings
from walkeeper.core.timeline import TimelineHistory
from walkeeper.core.wal import WalSegment

LEASE_AT_LEAST: Final = timedelta(hours=1)
LEASE_AT_MOST: Final = timedelta(hours=48)
"""How long a lease holds by the store's clock, whatever the clock of its holder says."""

CLOCK_TOLERANCE: Final = timedelta(minutes=5)
"""How far the clock of a server may run ahead of the store's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RetentionPolicy:
    """Every moment of the last ``window`` is recoverable.

    Beyond it the newest backup of each hour, day, ISO week and month (UTC) is kept, each as long as
    its tier says (zero: no such tier), and always the newest ``minimum_backups``. Raises
    ValueError for what is negative.
    """

    window: timedelta
    hourly: timedelta = timedelta(0)
    daily: timedelta = timedelta(0)
    weekly: timedelta = timedelta(0)
    monthly: timedelta = timedelta(0)
    minimum_backups: int = 1

    def __post_init__(self) -> None:
        spans = (self.window, self.hourly, self.daily, self.weekly, self.monthly)
        if min(spans) < timedelta(0) or self.minimum_backups < 1:
            raise ValueError("spans are not negative, and at least one backup is kept")


class Rule(Enum):
    """Why a backup is kept."""

    WINDOW = "window"
    BASE = "base"
    HOURLY = "hourly"
    DAILY = "daily"
    WEEKLY = "weekly"
    MONTHLY = "monthly"
    MINIMUM = "minimum"
    NEWEST = "newest"
    PROVEN = "proven"
    PINNED = "pinned"
    LEASED = "leased"
    FUTURE = "future"
    ASTRAY = "astray"


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownBackup:
    """A backup whose summary is believed.

    ``stored_at`` is the store's time of its manifest. One with a ``problem`` is not whole: it never
    counts against another backup. ``pinned`` is the reason given.
    """

    facts: BackupFacts
    stored_at: datetime
    problem: str | None = None
    pinned: str | None = None
    leased_until: datetime | None = None
    proven_at: datetime | None = None

    @property
    def taken_at(self) -> datetime:
        """Whose hour, day, week and month it stands for: the earlier of two clocks.

        A copied archive has new times of the store, but what the server said was signed.
        """
        return min(self.facts.stopped_at, self.stored_at).astimezone(UTC)

    @property
    def complete_at(self) -> datetime:
        """No moment before this is claimed to be recoverable from it: the later of two clocks."""
        return max(self.facts.stopped_at, self.stored_at)

    def is_future(self, now: datetime) -> bool:
        """Whether any of its dates lies further ahead than clocks may differ."""
        return max(self.complete_at, self.facts.started_at) > now + CLOCK_TOLERANCE


@dataclass(frozen=True, slots=True, kw_only=True)
class Catalog:
    """What an archive holds; ``now`` is the store's clock.

    ``wal`` has the complete segments; ``fragments`` are segments of which there is a tail or
    cut-off object. ``wal_stored_at`` is the store's time of the newest WAL of each timeline, in
    whatever form.
    """

    now: datetime
    backups: tuple[KnownBackup, ...]
    wal: WalHoldings
    fragments: frozenset[WalSegment] = frozenset()
    wal_stored_at: Mapping[int, datetime] = field(default_factory=dict)
    histories: Mapping[int, TimelineHistory] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Hold:
    """One rule that keeps a backup; ``until`` None: for as long as things are as they are."""

    rule: Rule
    text: str
    until: datetime | None


@dataclass(frozen=True, slots=True)
class Decision:
    """What becomes of a backup: it is kept as long as something holds it.

    ``reason`` says it in a sentence. ``problem`` is set for a backup that does not count.
    """

    backup: KnownBackup
    holds: tuple[Hold, ...]
    reason: str
    problem: str | None = None

    @property
    def kept(self) -> bool:
        """Whether it stays."""
        return bool(self.holds)

    @property
    def until(self) -> datetime | None:
        """When it will go at the latest, if nothing holds it anew; None: that is not known."""
        ends = [hold.until for hold in self.holds]
        known = [end for end in ends if end is not None]
        return max(known) if known and len(known) == len(ends) else None


def lease_ends(expires_at: datetime, stored_at: datetime) -> datetime:
    """When a lease ends by the store's clock.

    A holder whose clock is wrong is neither cheated of its lease nor able to hold for ever: an
    unsigned lease counts too, for a host that only restores holds no writer key.
    """
    return min(max(expires_at, stored_at + LEASE_AT_LEAST), stored_at + LEASE_AT_MOST)
