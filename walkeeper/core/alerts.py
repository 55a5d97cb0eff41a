"""What is told to whom, and when: alerts that are held, deduplicated, repeated and cleared.

What is wrong now are `Condition` values. `advance` makes `Alert` values of them, which begin and
end only when the condition has held for a while. Each sink has a ledger of what it was told;
`reconcile` brings it up to date, `find_due` names what it must hear now, and `record` notes that it
has. A ledger holds one entry for each key, so that a sink that is away owes no more than that.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final, Literal


class Severity(StrEnum):
    """How bad it is. What is only "info" is told once and never repeated."""

    INFO = "info"
    WARNING = "warning"
    CRITICAL = "critical"


_RANK: Final = {one: rank for rank, one in enumerate(Severity)}


@dataclass(frozen=True, slots=True)
class Condition:
    """Something that is wrong now.

    ``key`` is the same for as long as the trouble is: "topic", or "topic:which" where one topic
    knows several. ``summary`` is one sentence and may change.
    """

    key: str
    severity: Severity
    summary: str
    hint: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Alert:
    """A condition over time. It counts from ``raised_at``; before that it is None.

    ``since`` is when the condition was first seen, ``clear_since`` from when on it was not there.
    """

    key: str
    severity: Severity
    summary: str
    hint: str | None
    since: datetime
    raised_at: datetime | None = None
    clear_since: datetime | None = None


Alerts = Mapping[str, Alert]
"""By key."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """What a sink must know of an alert: ``told_at`` is when it last heard of it, if it has."""

    alert: Alert
    told_at: datetime | None = None
    told_severity: Severity = Severity.INFO
    recovered_at: datetime | None = None


Ledger = Mapping[str, Entry]
"""Of one sink, by the key of the alert."""

Event = Literal["raised", "repeated", "recovered"]


@dataclass(frozen=True, slots=True)
class Notice:
    """Something that a sink must be told; ``at`` is when, or until when it lasted if it is over."""

    event: Event
    alert: Alert
    at: datetime

    @property
    def lasted(self) -> timedelta:
        """Since the condition was first seen; never below zero."""
        return max(self.at - self.alert.since, timedelta())


def topic(key: str) -> str:
    """The part of a key before the colon."""
    return key.partition(":")[0]


def advance(
    alerts: Alerts,
    conditions: Iterable[Condition],
    unknown: frozenset[str],
    now: datetime,
    hold: timedelta,
) -> dict[str, Alert]:
    """The alerts at ``now``; of conditions with the same key the first counts.

    An alert is raised when its condition has been there for ``hold``, and leaves when it has not
    been for as long. What belongs to an ``unknown`` topic stays as it is: nobody could look.
    """
    present: dict[str, Condition] = {}
    for condition in conditions:
        present.setdefault(condition.key, condition)
    found = {key: _seen(alerts.get(key), one, now, hold) for key, one in present.items()}
    for key, alert in alerts.items():
        if key in present:
            continue
        kept = alert if topic(key) in unknown else _unseen(alert, now, hold)
        if kept is not None:
            found[key] = kept
    return found


def _seen(alert: Alert | None, condition: Condition, now: datetime, hold: timedelta) -> Alert:
    since = now if alert is None else min(alert.since, now)  # the clock may have been set back
    raised_at = alert.raised_at if alert is not None else None
    return Alert(
        key=condition.key,
        severity=condition.severity,
        summary=condition.summary,
        hint=condition.hint,
        since=since,
        raised_at=now if raised_at is None and now - since >= hold else raised_at,
    )


def _unseen(alert: Alert, now: datetime, hold: timedelta) -> Alert | None:
    """The alert whose condition is not there; None when it is over."""
    if alert.raised_at is None:
        return None  # a blip
    clear_since = now if alert.clear_since is None else min(alert.clear_since, now)
    return None if now - clear_since >= hold else replace(alert, clear_since=clear_since)


def reconcile(ledger: Ledger, alerts: Alerts, now: datetime) -> dict[str, Entry]:
    """The ledger with what was raised and what has recovered since.

    An alert that came and went while its sink could not be reached is still owed: as recovered.
    """
    found: dict[str, Entry] = {}
    for key, entry in ledger.items():
        alert = alerts.get(key)
        if alert is not None and alert.raised_at == entry.alert.raised_at:
            found[key] = replace(entry, alert=alert)
        elif entry.recovered_at is None:
            over = entry.alert.clear_since or now
            found[key] = replace(entry, recovered_at=min(over, now))
        else:
            found[key] = entry
    for key, alert in alerts.items():
        known = found.get(key)
        if alert.raised_at is not None and (known is None or known.recovered_at is not None):
            found[key] = Entry(alert=alert)
    return found


def find_due(ledger: Ledger, now: datetime, repeat: timedelta) -> list[Notice]:
    """What the sink must be told now: the worst first, and what is over before what goes on."""
    due = [notice for entry in ledger.values() if (notice := _due(entry, now, repeat))]
    return sorted(
        due, key=lambda one: (one.event != "recovered", -_RANK[one.alert.severity], one.alert.since)
    )


def _due(entry: Entry, now: datetime, repeat: timedelta) -> Notice | None:
    alert = entry.alert
    if entry.recovered_at is not None:
        return Notice("recovered", alert, entry.recovered_at)
    if entry.told_at is None or _RANK[alert.severity] > _RANK[entry.told_severity]:
        return Notice("raised", alert, now)
    if alert.severity is Severity.INFO or alert.clear_since is not None:
        return None
    # A clock that was far ahead must not silence it until it is reached again.
    is_over = abs(now - entry.told_at) >= repeat
    return Notice("repeated", alert, now) if is_over else None


def record(ledger: Ledger, told: Notice, now: datetime) -> dict[str, Entry]:
    """The ledger when the sink has heard a notice that `find_due` has named."""
    key = told.alert.key
    found = dict(ledger)
    entry = found.get(key)
    if entry is None or entry.alert.raised_at != told.alert.raised_at:
        return found  # another one has taken its place meanwhile
    if told.event == "recovered":
        del found[key]
    else:
        found[key] = replace(entry, told_at=now, told_severity=told.alert.severity)
    return found
