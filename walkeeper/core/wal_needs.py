"""Which WAL is kept: the window's, and what makes each kept backup consistent.

Decided by ancestry: of each timeline what lies on a path that is needed. Never by the order of
names: a segment of an older timeline may be needed where a later one of a dead branch is not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from walkeeper.core.backup import BackupFacts
from walkeeper.core.coverage import Path
from walkeeper.core.lineages import Lineage, find_paths
from walkeeper.core.lsn import Lsn
from walkeeper.core.retention import Retention, base_of_window
from walkeeper.core.retention_policy import Catalog, Decision, RetentionPolicy
from walkeeper.core.wal import SegmentSize

_START = Lsn(0)


@dataclass(frozen=True, slots=True)
class WalNeeds:
    """Segments that must stay, as ranges of their numbers; an end of None is open.

    Of timelines that are not in ``ranges`` nothing is known, and everything stays.
    """

    ranges: Mapping[int, tuple[tuple[int, int | None], ...]]

    def keeps(self, timeline: int, number: int) -> bool:
        """Whether what is stored of a segment, in whatever form, must stay."""
        known = self.ranges.get(timeline)
        return known is None or any(
            begin <= number and (end is None or number < end) for begin, end in known
        )


@dataclass(slots=True)
class _Builder:
    size: SegmentSize
    ranges: dict[int, set[tuple[int, int | None]]] = field(default_factory=dict)

    def add_own(self, backup: BackupFacts) -> None:
        """Keep a backup's WAL on its own timeline, whatever the history says of it."""
        first, last = backup.required_wal
        own = first.number(self.size), last.number(self.size) + 1
        self.ranges.setdefault(backup.timeline, set()).add(own)

    def add(self, path: Path, start: Lsn, end: Lsn | None) -> None:
        """Keep what a recovery along the path may ask for between two positions.

        The segment in which a fork lies is kept on both of its timelines.
        """
        for leg in path:
            low = max(start, leg.begin)
            high = min((one for one in (end, leg.end) if one is not None), default=None)
            if high is None or low < high:
                after = None if high is None else -(-high.value // self.size.bytes)
                self.ranges.setdefault(leg.timeline, set()).add(
                    (low.value // self.size.bytes, after)
                )


def wal_needs(policy: RetentionPolicy, catalog: Catalog, retention: Retention) -> WalNeeds:
    """The WAL that must stay with the backups that do.

    A backup under a lease keeps all WAL behind it, for a recovery that goes on from it. Damaged
    backups keep theirs: what is damaged may be mended. As long as no whole backup stays, nothing
    of the WAL may go.
    """
    ordered = sorted(retention.staying, key=lambda one: one.backup.facts.stop)
    if all(one.problem is not None for one in ordered):
        return WalNeeds({})
    paths = find_paths(catalog)
    builder = _Builder(catalog.wal.size)
    for one in ordered:
        facts = one.backup.facts
        builder.add_own(facts)
        builder.add(paths[facts.timeline], facts.start, facts.stop)
    for lineage in retention.lineages:
        _add_lineage(builder, policy, catalog, lineage, ordered)
    # Of a timeline that is known and on which nothing is needed, nothing stays.
    return WalNeeds({timeline: _joined(builder.ranges.get(timeline, set())) for timeline in paths})


def _add_lineage(
    builder: _Builder,
    policy: RetentionPolicy,
    catalog: Catalog,
    lineage: Lineage,
    ordered: Sequence[Decision],
) -> None:
    on_path = [one for one in ordered if one.backup.facts.id in lineage.backups]
    for one in on_path:
        leased = one.backup.leased_until
        if leased is not None and leased > catalog.now:
            builder.add(lineage.path, one.backup.facts.start, None)
    if not lineage.live:
        return
    for counted in (on_path, [one for one in on_path if one.problem is None]):
        population = [one.backup for one in counted]
        base = base_of_window(policy, catalog.now, population)
        since = population if base is None else population[population.index(base) :]
        start = min((backup.facts.start for backup in since), default=_START)
        builder.add(lineage.path, start, None)


def _joined(ranges: set[tuple[int, int | None]]) -> tuple[tuple[int, int | None], ...]:
    """The ranges in order, those that touch made one."""
    joined: list[tuple[int, int | None]] = []
    for begin, end in sorted(ranges, key=lambda one: one[0]):
        if joined:
            last_begin, last_end = joined[-1]
            if last_end is None or begin <= last_end:
                further = None if last_end is None or end is None else max(last_end, end)
                joined[-1] = last_begin, further
                continue
        joined.append((begin, end))
    return tuple(joined)
