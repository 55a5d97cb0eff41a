"""Which backups are kept, and why: policy and catalog to one decision for each backup.

A backup *counts* when it is whole, its own WAL included, and is not dated in the future. The rules
are applied twice: to those that count, and once more to these with the damaged ones. What either
keeps stays, so what is damaged, or was made to look so, never pushes out what is not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

from walkeeper.core.backup import BackupFacts
from walkeeper.core.coverage import Path, reach
from walkeeper.core.lineages import Lineage, find_lineages, find_paths
from walkeeper.core.retention_policy import (
    Catalog,
    Decision,
    Hold,
    KnownBackup,
    RetentionPolicy,
    Rule,
)

_Slot = tuple[int, ...]
_TIERS: Final[tuple[tuple[Rule, str, Callable[[datetime], _Slot]], ...]] = (
    (Rule.HOURLY, "hour", lambda at: (at.year, at.month, at.day, at.hour)),
    (Rule.DAILY, "day", lambda at: (at.year, at.month, at.day)),
    (Rule.WEEKLY, "week", lambda at: at.isocalendar()[:2]),
    (Rule.MONTHLY, "month", lambda at: (at.year, at.month)),
)


@dataclass(slots=True)
class _Ledger:
    """Holds as they are found; of one rule the longest is kept."""

    holds: dict[str, dict[Rule, Hold]] = field(default_factory=dict)
    passed_over: dict[str, str] = field(default_factory=dict)

    def hold(self, backup: KnownBackup, rule: Rule, text: str, until: datetime | None) -> None:
        found = self.holds.setdefault(backup.facts.id, {})
        known = found.get(rule)
        if known is None or (known.until is not None and (until is None or until > known.until)):
            found[rule] = Hold(rule, text, until)


@dataclass(frozen=True, slots=True)
class Retention:
    """One decision for each backup, in the catalog's order, and the lineages they rest on."""

    decisions: tuple[Decision, ...]
    lineages: tuple[Lineage, ...]

    @property
    def staying(self) -> tuple[Decision, ...]:
        """The decisions on the backups that stay."""
        return tuple(one for one in self.decisions if one.kept)


def decide(policy: RetentionPolicy, catalog: Catalog) -> Retention:
    """What becomes of each backup.

    Raises IntegrityError for backups of a timeline whose ancestry is not known.
    """
    paths = find_paths(catalog)
    problems = {
        backup.facts.id: backup.problem or _lacking(catalog, paths, backup.facts)
        for backup in catalog.backups
    }
    ordered = sorted(catalog.backups, key=lambda backup: backup.facts.stop)
    present = [backup for backup in ordered if not backup.is_future(catalog.now)]
    whole = [backup for backup in present if problems[backup.facts.id] is None]
    populations = [whole] if len(whole) == len(present) else [present, whole]
    lineages = find_lineages(policy, catalog, populations)
    ledger = _Ledger()
    for population in populations:
        _apply(ledger, policy, catalog, lineages, population)
    for backup in ordered:
        _hold_single(ledger, backup, catalog.now, lineages)
    return Retention(
        tuple(_decision(ledger, backup, problems[backup.facts.id]) for backup in catalog.backups),
        lineages,
    )


def base_of_window(
    policy: RetentionPolicy, now: datetime, on_path: Sequence[KnownBackup]
) -> KnownBackup | None:
    """The last backup, by position, that ended and was stored before the window begins.

    ``on_path`` is in the order of stop LSNs.
    """
    since = now - policy.window
    return next((one for one in reversed(on_path) if one.complete_at <= since), None)


def _apply(
    ledger: _Ledger,
    policy: RetentionPolicy,
    catalog: Catalog,
    lineages: tuple[Lineage, ...],
    population: list[KnownBackup],
) -> None:
    for lineage in lineages:
        on_path = [one for one in population if one.facts.id in lineage.backups]
        if lineage.live:
            _hold_window(ledger, policy, catalog, lineage, on_path)
        _hold_tiers(ledger, policy, catalog.now, on_path)
        if not lineage.main or not on_path:
            continue
        ledger.hold(on_path[-1], Rule.NEWEST, "the newest backup", None)
        for backup in on_path[-policy.minimum_backups :]:
            text = f"one of the newest {policy.minimum_backups}"
            ledger.hold(backup, Rule.MINIMUM, text, None)
    proven = [one for one in population if one.proven_at is not None]
    if proven:
        last = max(proven, key=lambda one: (one.proven_at or catalog.now, one.facts.stop))
        ledger.hold(last, Rule.PROVEN, "the last one that a drill has proven", None)


def _hold_window(
    ledger: _Ledger,
    policy: RetentionPolicy,
    catalog: Catalog,
    lineage: Lineage,
    on_path: list[KnownBackup],
) -> None:
    """Everything from the base of the window on, by position: clocks only choose the base."""
    base = base_of_window(policy, catalog.now, on_path)
    begin = on_path.index(base) if base is not None else 0
    lapses = None
    if not lineage.main:
        lapses = catalog.wal_stored_at[lineage.timeline] + policy.window
    span = span_said(policy.window)
    for index, backup in enumerate(on_path[begin:], start=begin):
        following = on_path[index + 1 : index + 2]
        ends = [one.complete_at + policy.window for one in following]
        until = min([*ends, *([] if lapses is None else [lapses])], default=None)
        if backup is base:
            ledger.hold(backup, Rule.BASE, f"the window of {span} begins with it", until)
        else:
            ledger.hold(backup, Rule.WINDOW, f"in the window of {span}", until)


def _hold_tiers(
    ledger: _Ledger, policy: RetentionPolicy, now: datetime, on_path: list[KnownBackup]
) -> None:
    for rule, period, slot_of in _TIERS:
        span = _span_of(policy, rule)
        in_span = [one for one in on_path if one.taken_at > now - span]
        newest = {slot_of(one.taken_at): one for one in in_span}
        for backup in in_span:
            best = newest[slot_of(backup.taken_at)]
            if backup is best:
                text = f"the newest of its {period}, for {span_said(span)}"
                ledger.hold(backup, rule, text, backup.taken_at + span)
            else:
                said = f"{best.facts.id} stands for its {period}"
                ledger.passed_over[backup.facts.id] = said


def _hold_single(
    ledger: _Ledger, backup: KnownBackup, now: datetime, lineages: tuple[Lineage, ...]
) -> None:
    if backup.pinned is not None:
        ledger.hold(backup, Rule.PINNED, f"pinned: {backup.pinned}", None)
    if backup.leased_until is not None and backup.leased_until > now:
        ledger.hold(backup, Rule.LEASED, "in use by a restore or drill", backup.leased_until)
    if backup.is_future(now):
        ledger.hold(backup, Rule.FUTURE, "dated in the future, so it does not count", None)
    elif not any(backup.facts.id in lineage.backups for lineage in lineages):
        text = f"the history of timeline {backup.facts.timeline} leaves it out"
        ledger.hold(backup, Rule.ASTRAY, text, None)


def _decision(ledger: _Ledger, backup: KnownBackup, problem: str | None) -> Decision:
    found = ledger.holds.get(backup.facts.id, {})
    holds = tuple(found[rule] for rule in Rule if rule in found)
    if holds:
        return Decision(backup, holds, "; ".join(hold.text for hold in holds), problem)
    other = ledger.passed_over.get(backup.facts.id)
    reason = "older than the window and every tier"
    if other:
        reason = f"older than the window, and {other}"
    return Decision(backup, (), reason, problem)


def _lacking(catalog: Catalog, paths: dict[int, Path], facts: BackupFacts) -> str | None:
    """What of its own WAL is missing, as a sentence; None when all of it is there."""
    first, last = facts.required_wal
    size = facts.wal_segment_size
    held = catalog.wal.complete.get(facts.timeline)
    if held is not None and held.run_end(first.number(size)) > last.number(size):
        return None
    if facts.timeline not in paths:
        return None  # its ancestry is not known, which is another matter
    way = reach(catalog.wal, paths[facts.timeline], facts.start)
    if way.end >= facts.stop:
        return None
    missing = f"segment {way.gap}" if way.gap is not None else f"all from {way.end} on"
    return f"of its WAL, {first} to {last}, {missing} is missing"


def _span_of(policy: RetentionPolicy, rule: Rule) -> timedelta:
    match rule:
        case Rule.HOURLY:
            return policy.hourly
        case Rule.DAILY:
            return policy.daily
        case Rule.WEEKLY:
            return policy.weekly
        case _:
            return policy.monthly


def span_said(span: timedelta) -> str:
    """``14 d``, ``36 h``: for messages."""
    hours = span.total_seconds() / 3600
    return f"{hours / 24:g} d" if hours >= 48 else f"{hours:g} h"
