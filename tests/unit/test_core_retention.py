"""What is kept: every moment of the window, tiers beyond it, nothing lost to damage or forgery."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fix_archive import ONE_MIB
from tests.fix_retention import BEGIN, DAY, HOUR, known_backup, lsn
from walkeeper.core.archive_view import ArchiveView
from walkeeper.core.candidate import candidates
from walkeeper.core.coverage import WalHoldings, lies_on, reach
from walkeeper.core.retention import decide
from walkeeper.core.retention_policy import (
    Catalog,
    Decision,
    KnownBackup,
    RetentionPolicy,
    Rule,
    lease_ends,
)
from walkeeper.core.segment_set import SegmentSet
from walkeeper.core.target import Immediate, RecoveryRequest
from walkeeper.core.timeline import TimelineHistory, TimelineSwitch
from walkeeper.core.wal import WalSegment
from walkeeper.core.wal_needs import WalNeeds, wal_needs
from walkeeper.errors import IntegrityError


def catalog_of(
    backups: Sequence[KnownBackup],
    now: datetime,
    *,
    wal: dict[int, SegmentSet] | None = None,
    histories: dict[int, TimelineHistory] | None = None,
    stored_at: dict[int, datetime] | None = None,
) -> Catalog:
    """All WAL is there and was written until now, unless said otherwise."""
    timelines = {1, *(backup.facts.timeline for backup in backups), *(histories or {})}
    everything = SegmentSet((0,), (100_000,))
    return Catalog(
        now=now,
        backups=tuple(backups),
        wal=WalHoldings(ONE_MIB, wal or dict.fromkeys(timelines, everything)),
        wal_stored_at=stored_at or dict.fromkeys(timelines, now),
        histories=histories or {},
    )


def daily(days: int, *, first: int = 0) -> list[KnownBackup]:
    return [known_backup(4 * day + 0.25, BEGIN + day * DAY) for day in range(first, days)]


def judge(policy: RetentionPolicy, catalog: Catalog) -> tuple[tuple[Decision, ...], WalNeeds]:
    """The decisions, and the WAL that must stay."""
    retention = decide(policy, catalog)
    return retention.decisions, wal_needs(policy, catalog, retention)


def kept(decisions: Sequence[Decision]) -> list[KnownBackup]:
    return [one.backup for one in decisions if one.kept]


def rules(decision: Decision) -> set[Rule]:
    return {hold.rule for hold in decision.holds}


def today(days: int) -> datetime:
    """Some hours after the backup of the last of these days."""
    return BEGIN + (days - 1) * DAY + 5 * HOUR


def history(timeline: int, *switches: tuple[int, float]) -> TimelineHistory:
    return TimelineHistory(timeline, tuple(TimelineSwitch(tli, lsn(at)) for tli, at in switches))


WEEK = RetentionPolicy(window=7 * DAY)


def test_all_of_the_window_stays_and_the_backup_with_which_it_begins() -> None:
    decisions, _needs = judge(WEEK, catalog_of(daily(30), today(30)))
    days = [(one.facts.stopped_at - BEGIN).days for one in kept(decisions)]
    assert days == [22, 23, 24, 25, 26, 27, 28, 29]
    assert rules(decisions[22]) == {Rule.BASE}
    assert rules(decisions[23]) == {Rule.WINDOW}
    assert decisions[21].reason == "older than the window and every tier"


def test_a_kept_backup_goes_when_the_next_one_can_begin_the_window() -> None:
    decisions, _needs = judge(WEEK, catalog_of(daily(30), today(30)))
    assert decisions[22].until == BEGIN + 23 * DAY + 7 * DAY
    assert decisions[29].until is None
    assert Rule.NEWEST in rules(decisions[29])


def test_each_tier_keeps_the_newest_of_its_period_for_its_span() -> None:
    policy = RetentionPolicy(window=DAY, daily=10 * DAY, weekly=30 * DAY, monthly=366 * DAY)
    decisions, _needs = judge(policy, catalog_of(daily(90), today(90)))
    # 2026-01-01 was a Thursday: Sundays are days 3, 10, ...
    sundays = [day for day in range(3, 90, 7) if day > 59]
    months = [30, 58, 89]
    days = [(one.facts.stopped_at - BEGIN).days for one in kept(decisions)]
    assert days == sorted({*months, *sundays, *range(80, 90)})
    assert decisions[75].until is None or decisions[75].kept is False
    assert decisions[73].until == BEGIN + 73 * DAY + 30 * DAY
    assert (
        decisions[76].reason == f"older than the window, and {decisions[89].backup.facts.id} "
        "stands for its month"
    )


def test_hourly_backups_are_thinned_only_beyond_the_window() -> None:
    backups = [known_backup(number, BEGIN + number * HOUR / 4) for number in range(48)]
    policy = RetentionPolicy(window=3 * HOUR, hourly=DAY)
    found = kept(judge(policy, catalog_of(backups, BEGIN + 12 * HOUR - HOUR / 4))[0])
    numbers = [int(one.facts.start.value / ONE_MIB.bytes) for one in found]
    assert numbers == [*range(3, 35, 4), *range(35, 48)]


def test_the_newest_backups_stay_however_old_they_are() -> None:
    catalog = catalog_of(daily(5), BEGIN + 1000 * DAY)
    assert len(kept(judge(WEEK, catalog)[0])) == 1
    three, _ = judge(replace(WEEK, minimum_backups=3), catalog)
    assert [one.kept for one in three] == [False, False, True, True, True]


def test_pinned_leased_and_proven_backups_stay() -> None:
    backups = daily(30)
    now = today(30)
    backups[3] = replace(backups[3], pinned="before the migration")
    backups[4] = replace(backups[4], leased_until=now + HOUR)
    backups[5] = replace(backups[5], leased_until=now)
    backups[6] = replace(backups[6], proven_at=now - 20 * DAY)
    backups[7] = replace(backups[7], proven_at=now - 10 * DAY)
    decisions, _needs = judge(WEEK, catalog_of(backups, now))
    assert [one.kept for one in decisions[3:8]] == [True, True, False, False, True]
    assert decisions[3].reason == "pinned: before the migration"
    assert decisions[4].until == now + HOUR
    assert decisions[7].until is None


def test_a_damaged_backup_begins_no_window_and_stands_for_no_day() -> None:
    backups = daily(30)
    backups[22] = replace(backups[22], problem="a part is missing")
    policy = RetentionPolicy(window=7 * DAY)
    decisions, _needs = judge(policy, catalog_of(backups, today(30)))
    assert decisions[21].kept
    assert decisions[22].kept  # it would be, were it whole
    assert not decisions[20].kept


def test_a_backup_whose_own_wal_has_a_hole_is_not_whole() -> None:
    holes = SegmentSet((0, 89), (88, 100_000))
    decisions, _needs = judge(WEEK, catalog_of(daily(30), today(30), wal={1: holes}))
    assert decisions[22].problem is not None
    assert "00000001000000000000" in decisions[22].problem
    assert decisions[21].kept


def test_a_backup_of_the_future_counts_for_nothing_and_is_left_alone() -> None:
    now = today(30)
    forged = known_backup(1000, now + 400 * DAY, stored_at=now - 20 * DAY)
    decisions, _needs = judge(WEEK, catalog_of([*daily(30), forged], now))
    assert rules(decisions[30]) == {Rule.FUTURE}
    assert Rule.NEWEST in rules(decisions[29])
    assert decisions[22].kept
    a_little = known_backup(130, now + timedelta(minutes=2))
    assert Rule.NEWEST in rules(judge(WEEK, catalog_of([*daily(30), a_little], now))[0][30])


def test_a_server_with_a_slow_clock_does_not_shorten_the_window() -> None:
    backups = daily(30)
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    late = known_backup(28 * 4 + 2.25, epoch, stored_at=BEGIN + 28 * DAY)
    decisions, _needs = judge(WEEK, catalog_of([*backups, late], today(30)))
    assert decisions[22].kept
    assert decisions[30].kept


def test_an_archive_that_was_copied_keeps_its_tiers() -> None:
    copied = [replace(one, stored_at=today(60)) for one in daily(60)]
    policy = RetentionPolicy(window=7 * DAY, weekly=90 * DAY)
    assert len(kept(judge(policy, catalog_of(copied, today(60)))[0])) == 60
    found = kept(judge(policy, catalog_of(copied, today(60) + 20 * DAY))[0])
    days = [(one.facts.stopped_at - BEGIN).days for one in found]
    assert days == sorted({*range(3, 60, 7), 59})


def test_the_branch_that_was_left_keeps_its_window_and_then_lapses() -> None:
    # Timeline 2 left 1 at 80.5, on day 20; 1 went on for two days and a backup.
    trunk = daily(20)
    dead = known_backup(84.25, BEGIN + 21 * DAY)
    live = [known_backup(4 * day + 0.25, BEGIN + day * DAY, timeline=2) for day in range(21, 60)]

    def at(days: int) -> tuple[tuple[Decision, ...], WalNeeds]:
        now = today(days)
        backups = [*trunk, dead, *(one for one in live if one.facts.stopped_at <= now)]
        catalog = catalog_of(
            backups,
            now,
            wal={1: SegmentSet((0,), (88,)), 2: SegmentSet((80,), (4 * days,))},
            histories={2: history(2, (1, 80.5))},
            stored_at={1: BEGIN + 22 * DAY, 2: now},
        )
        return judge(WEEK, catalog)

    decisions, needs = at(25)
    assert [one.kept for one in decisions[:21]] == [day >= 17 for day in range(21)]
    assert needs.keeps(1, 68)
    assert needs.keeps(1, 87)
    assert not needs.keeps(1, 67)
    decisions, needs = at(40)
    assert not any(one.kept for one in decisions[:21])
    assert not needs.keeps(1, 80)
    assert not needs.keeps(1, 87)
    assert not needs.keeps(2, 80)
    assert needs.keeps(2, 128)


def test_wal_of_an_older_timeline_stays_where_the_window_begins_on_it() -> None:
    # Names alone would say that all of timeline 1 is older than what timeline 2 needs.
    catalog = catalog_of(
        [*daily(20), known_backup(84.25, BEGIN + 21 * DAY, timeline=2)],
        today(23),
        wal={1: SegmentSet((0,), (80,)), 2: SegmentSet((80,), (92,))},
        histories={2: history(2, (1, 80.5))},
    )
    decisions, needs = judge(WEEK, catalog)
    assert [day for day, one in enumerate(decisions) if one.kept] == [15, 16, 17, 18, 19, 20]
    assert [number for number in range(81) if needs.keeps(1, number)] == list(range(60, 81))
    assert not needs.keeps(1, 81)
    assert all(needs.keeps(2, number) for number in range(80, 92))


def test_without_a_whole_backup_no_wal_goes_at_all() -> None:
    catalog = catalog_of([], today(30))
    assert judge(WEEK, catalog)[1].keeps(1, 0)
    broken = [replace(one, problem="damaged") for one in daily(2)]
    catalog = catalog_of(broken, BEGIN + 400 * DAY)
    assert judge(WEEK, catalog)[1].keeps(1, 0)


def test_a_lease_keeps_the_wal_behind_its_backup_and_a_pin_only_its_own() -> None:
    backups = daily(30)
    now = today(30)
    pinned = [replace(backups[0], pinned="why not"), *backups[1:]]
    leased = [replace(backups[0], leased_until=now + HOUR), *backups[1:]]
    for known, expected in ((pinned, False), (leased, True)):
        catalog = catalog_of(known, now)
        _, needs = judge(WEEK, catalog)
        assert needs.keeps(1, 0)
        assert needs.keeps(1, 20) is expected


def test_backups_whose_ancestry_is_not_known_stop_everything() -> None:
    catalog = catalog_of([*daily(3), known_backup(20, BEGIN, timeline=4)], today(30))
    with pytest.raises(IntegrityError, match="no history of it"):
        decide(WEEK, catalog)


def test_a_backup_that_its_timelines_history_leaves_out_is_left_alone() -> None:
    stray = known_backup(10, BEGIN, timeline=2)
    catalog = catalog_of([*daily(3), stray], today(30), histories={2: history(2, (1, 80.5))})
    assert rules(judge(WEEK, catalog)[0][3]) == {Rule.ASTRAY}


@pytest.mark.parametrize(
    ("says", "ends"),
    [(-500, 1), (2, 2), (24, 24), (100_000, 48)],
)
def test_a_lease_ends_by_the_clock_of_the_store(says: int, ends: int) -> None:
    assert lease_ends(BEGIN + says * HOUR, BEGIN) == BEGIN + ends * HOUR


# Any archive: a few timelines, backups at any time with clocks that are wrong, damage and pins.


@st.composite
def archives(draw: st.DrawFn) -> tuple[RetentionPolicy, Catalog]:
    spans = st.integers(0, 60).map(lambda days: days * DAY)
    policy = RetentionPolicy(
        window=draw(spans),
        hourly=draw(spans),
        daily=draw(spans),
        weekly=draw(spans),
        monthly=draw(spans),
        minimum_backups=draw(st.integers(1, 3)),
    )
    now = BEGIN + 60 * DAY
    forks = draw(st.lists(st.integers(1, 59), max_size=2))
    histories: dict[int, TimelineHistory] = {}
    for tli, fork in enumerate(forks, start=2):
        parent = draw(st.integers(1, tli - 1))
        before = histories[parent].switches if parent > 1 else ()
        histories[tli] = TimelineHistory(tli, (*before, TimelineSwitch(parent, lsn(fork))))
    backups = draw(
        st.lists(
            st.builds(_any_backup, st.integers(1, len(forks) + 1), st.integers(0, 59), st.data()),
            max_size=12,
            unique_by=lambda one: one.facts.id,
        )
    )
    wal = {
        timeline: SegmentSet.from_ordered(n for n in range(62) if draw(st.integers(0, 30)))
        for timeline in range(1, len(forks) + 2)
    }
    stored = {timeline: BEGIN + draw(st.integers(0, 60)) * DAY for timeline in wal}
    return policy, catalog_of(backups, now, wal=wal, histories=histories, stored_at=stored)


def _any_backup(timeline: int, day: int, data: st.DataObject) -> KnownBackup:
    at = BEGIN + day * DAY
    odd = data.draw(st.integers(0, 9))
    says = {0: at - 9 * DAY, 1: at + 9 * DAY, 2: at + 999 * DAY}.get(odd, at)
    one = known_backup(day + 0.25, says, timeline=timeline, stored_at=at)
    return replace(
        one,
        problem="damaged" if odd == 3 else None,
        pinned="pinned" if odd == 4 else None,
        proven_at=at if odd == 5 else None,
    )


def usable(catalog: Catalog, decisions: Sequence[Decision]) -> list[KnownBackup]:
    return [
        one.backup for one in decisions if one.problem is None and Rule.FUTURE not in rules(one)
    ]


def after(catalog: Catalog, decisions: Sequence[Decision], needs: WalNeeds) -> Catalog:
    """The catalog when all was deleted that may be."""
    wal = {
        timeline: SegmentSet.from_ordered(
            number
            for low, high in zip(held.begins, held.ends, strict=True)
            for number in range(low, high)
            if needs.keeps(timeline, number)
        )
        for timeline, held in catalog.wal.complete.items()
    }
    return replace(catalog, backups=tuple(kept(decisions)), wal=WalHoldings(ONE_MIB, wal))


@given(archives())
@settings(max_examples=100, deadline=None)
def test_what_could_be_recovered_in_the_window_still_can(
    world: tuple[RetentionPolicy, Catalog],
) -> None:
    policy, catalog = world
    decisions, needs = judge(policy, catalog)
    left = after(catalog, decisions, needs)
    still = {one.facts.id for one in left.backups}
    since = catalog.now - policy.window
    for lineage in decide(policy, catalog).lineages:
        if not lineage.live:
            continue
        on_path = [one for one in usable(catalog, decisions) if lies_on(lineage.path, one.facts)]
        for one in on_path:
            way = reach(catalog.wal, lineage.path, one.facts.start)
            # Another backup behind it, of before the window, makes it dispensable, or one that ends
            # where it does and stays; else it stays, and reaches as far as ever.
            better = any(
                max(other.facts.stopped_at, other.stored_at) <= since
                and (
                    other.facts.stop > one.facts.stop
                    or (
                        other.facts.stop == one.facts.stop
                        and other.facts.id in still - {one.facts.id}
                    )
                )
                for other in on_path
            )
            if not better:
                assert one.facts.id in still
                assert reach(left.wal, lineage.path, one.facts.start).end == way.end


@given(archives())
@settings(max_examples=100, deadline=None)
def test_every_kept_backup_keeps_the_wal_that_makes_it_consistent(
    world: tuple[RetentionPolicy, Catalog],
) -> None:
    policy, catalog = world
    decisions, needs = judge(policy, catalog)
    left = after(catalog, decisions, needs)
    for one in decisions:
        if one.kept and one.problem is None:
            first, last = one.backup.facts.required_wal
            for number in range(first.number(ONE_MIB), last.number(ONE_MIB) + 1):
                if catalog.wal.holds(first.timeline, number):
                    assert left.wal.holds(first.timeline, number)


@given(archives())
@settings(max_examples=100, deadline=None)
def test_expiring_twice_deletes_no_more_than_once(
    world: tuple[RetentionPolicy, Catalog],
) -> None:
    policy, catalog = world
    decisions, needs = judge(policy, catalog)
    left = after(catalog, decisions, needs)
    again, needs_again = judge(policy, left)
    assert all(one.kept for one in again)
    assert needs_again == needs


@given(archives(), st.lists(st.tuples(st.integers(0, 70), st.integers(-99, 999)), max_size=5))
@settings(max_examples=100, deadline=None)
def test_what_is_planted_never_pushes_out_what_is_real(
    world: tuple[RetentionPolicy, Catalog], planted: list[tuple[int, int]]
) -> None:
    """Signed long ago and put back broken, or dated in the future: nothing of it counts."""
    policy, catalog = world
    before = {
        one.backup.facts.id for one in judge(policy, catalog)[0] if one.kept and one.problem is None
    }
    forged = [
        known_backup(day + 0.5, BEGIN + day * DAY + ahead * HOUR, problem="a part is missing")
        for day, ahead in planted
    ]
    forged += [known_backup(day, catalog.now + (200 + day) * DAY) for day, _ in planted]
    unique = {one.facts.id: one for one in [*forged, *catalog.backups]}
    attacked = replace(catalog, backups=tuple(unique.values()))
    assert before <= {one.facts.id for one in kept(judge(policy, attacked)[0])}


@given(archives())
@settings(max_examples=100, deadline=None)
def test_as_long_as_any_backup_is_usable_one_that_is_usable_stays(
    world: tuple[RetentionPolicy, Catalog],
) -> None:
    policy, catalog = world
    decisions, _needs = judge(policy, catalog)
    on_a_path = [
        one
        for one in usable(catalog, decisions)
        if any(lies_on(lineage.path, one.facts) for lineage in decide(policy, catalog).lineages)
    ]
    proven = [one for one in on_a_path if one.proven_at is not None]
    staying = {one.facts.id for one in kept(decisions)}
    assert not on_a_path or any(one.facts.id in staying for one in on_a_path)
    assert not proven or any(one.facts.id in staying for one in proven)


def test_eight_years_leave_every_moment_and_every_kept_backup_recoverable() -> None:
    """A backup and an expiry each day, a failover every 400; checked by the planner's rules."""
    policy = RetentionPolicy(
        window=14 * DAY, daily=30 * DAY, weekly=180 * DAY, monthly=7 * 366 * DAY, minimum_backups=2
    )
    backups: list[KnownBackup] = []
    histories: dict[int, TimelineHistory] = {}
    numbers: dict[int, set[int]] = {1: set()}
    stored: dict[int, datetime] = {}
    timeline = 1
    for day in range(8 * 365):
        now = BEGIN + day * DAY + HOUR
        if day % 400 == 399:  # a promotion in the middle of a segment
            fork = TimelineSwitch(timeline, lsn(4 * day + 0.5))
            switches = histories[timeline].switches if timeline > 1 else ()
            numbers[timeline].add(4 * day)
            timeline += 1
            histories[timeline] = TimelineHistory(timeline, (*switches, fork))
            numbers[timeline] = set()
        backups.append(known_backup(4 * day + 1.25, BEGIN + day * DAY, timeline=timeline))
        numbers[timeline].update(range(4 * day, 4 * day + 4))
        stored[timeline] = now
        catalog = catalog_of(
            backups,
            now,
            wal={tli: SegmentSet.from_ordered(sorted(held)) for tli, held in numbers.items()},
            histories=histories,
            stored_at=stored,
        )
        decisions, needs = judge(policy, catalog)
        backups = kept(decisions)
        for tli, held in numbers.items():
            held.intersection_update([number for number in held if needs.keeps(tli, number)])
        wal = WalHoldings(
            ONE_MIB, {tli: SegmentSet.from_ordered(sorted(held)) for tli, held in numbers.items()}
        )
        view = ArchiveView(wal, tuple(one.facts for one in backups), histories)
        _require_window(view, backups, timeline, day, policy)
        if day % 61 == 0:
            _require_each_backup(view)
    months = {(one.facts.stopped_at.year, one.facts.stopped_at.month) for one in backups}
    assert len(months) == 7 * 12 + 1
    assert len(backups) < 30 + 26 + 12 * 7 + 15
    assert sum(map(len, numbers.values())) < 4 * 17 + len(backups) + 30


def _require_window(
    view: ArchiveView,
    backups: Sequence[KnownBackup],
    timeline: int,
    day: int,
    policy: RetentionPolicy,
) -> None:
    """From a backup that ended before the window began there is WAL to the very end."""
    since = BEGIN + day * DAY + HOUR - policy.window
    path = view.path_to(timeline)
    begins = [one for one in backups if one.facts.stopped_at <= since and lies_on(path, one.facts)]
    first = begins[-1] if day > policy.window // DAY else backups[0]
    assert reach(view.wal, path, first.facts.start).end == lsn(4 * day + 4)


def _require_each_backup(view: ArchiveView) -> None:
    """The planner finds every backup consistent, on the path of its own timeline."""
    for timeline in view.timelines:
        on_it = [one for one in view.backups if one.timeline == timeline]
        if on_it:
            request = RecoveryRequest(Immediate(), timeline)
            found = {one.backup.id: one for one in candidates(view, request)}
            assert all(found[one.id].reach.end >= one.stop for one in on_it)


def test_a_segment_in_which_a_fork_lies_stays_on_both_timelines() -> None:
    catalog = catalog_of(
        daily(3),
        today(4),
        wal={1: SegmentSet((0,), (11,)), 2: SegmentSet((10,), (14,))},
        histories={2: history(2, (1, 10.5))},
    )
    _, needs = judge(WEEK, catalog)
    assert needs.keeps(1, 10)
    assert needs.keeps(2, 10)
    assert WalSegment.numbered(2, 10, ONE_MIB).timeline == 2
