"""When a scheduled job is due: cron expressions in a time zone.

The expression has cron's five fields as Debian's cron reads them. Over a change of the clocks a job
at a fixed time runs exactly once: what falls into the hour that is left out runs right behind it,
what falls into the hour that comes twice runs the first time. A job whose minute or hour begins
with ``*`` runs by the clock on the wall, so in such a night more or less often than in others.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Final, Self
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from cronsim import CronSim, CronSimError

_FIELDS: Final = 5
_PROBE: Final = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Schedule:
    """A cron expression and the zone whose clock it means."""

    expression: str
    zone: str

    @classmethod
    def parse(cls, expression: str, zone: str) -> Self:
        """Read both; raises ValueError, saying what is wrong."""
        _find_zone(zone)
        if len(expression.split()) != _FIELDS:
            raise ValueError(
                f'{expression!r} has not the five fields of cron, as in "30 2 * * *":'
                " minute, hour, day of the month, month, day of the week"
            )
        schedule = cls(" ".join(expression.split()), zone)
        try:
            schedule.next_after(_PROBE)
        # The last two: what the library makes of steps over "L" and "#".
        except (CronSimError, AssertionError, TypeError) as error:
            raise ValueError(f"{expression!r} is no cron expression: {error}") from error
        return schedule

    def next_after(self, instant: datetime) -> datetime:
        """The first moment after ``instant`` at which it is due, in UTC.

        Raises ValueError when there is none within fifty years.
        """
        walk = CronSim(self.expression, instant.astimezone(_find_zone(self.zone)))
        for found in walk:
            # Behind the hour that comes twice the walk begins with its first pass.
            if (due := found.astimezone(UTC)) > instant:
                return due
        raise ValueError(f"{self.expression!r} is never due")


def jitter(seed: str, due: datetime, most: timedelta) -> timedelta:
    """How much later than ``due`` to begin: from nothing to just under ``most``.

    The same for the same seed and moment, so that a restart does not change it.
    """
    digest = hashlib.sha256(f"{seed} {due.astimezone(UTC).isoformat()}".encode()).digest()
    return most * (int.from_bytes(digest[:6]) / (1 << 48))


def _find_zone(name: str) -> tzinfo:
    if name == "UTC":  # needs no time zone database
        return UTC
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise ValueError(f'{name!r} is no time zone such as "UTC" or "Europe/Berlin"') from error
