"""Plans for recovery, compared with what PostgreSQL would do record by record."""

from __future__ import annotations

import re
import time
from dataclasses import replace
from datetime import datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fix_core_plan import (
    LAST,
    QUARTER,
    SIZE,
    World,
    at,
    full_backup,
    histories,
    lsn,
    simulate,
)
from walkeeper.core.archive_view import ArchiveView, Branch, branches, choose_timeline
from walkeeper.core.backup import BackupFacts
from walkeeper.core.backup_id import BackupId
from walkeeper.core.coverage import Path, WalHoldings, lies_on
from walkeeper.core.lsn import Lsn
from walkeeper.core.plan import (
    Candidate,
    RestorePlan,
    Scan,
    WalFinding,
    candidates,
    conclude,
    scan_for,
    settles,
)
from walkeeper.core.segment_set import SegmentRange, SegmentSet
from walkeeper.core.target import (
    AtLsn,
    AtName,
    AtTime,
    AtXid,
    Immediate,
    Latest,
    NamedTimeline,
    RecoveryRequest,
    RecoveryTarget,
    TargetAction,
)
from walkeeper.core.timeline import TimelineHistory, TimelineSwitch
from walkeeper.core.wal import WalSegment
from walkeeper.errors import NoSuchBackup, TargetUnreachable

# In this world one transaction ends in each quarter of a segment, on every timeline: its record
# fills the quarter, its id is 1000 + the quarter, and every fifth is a restore point as well.


def moment(quarter: int) -> datetime:
    return at(quarter / 4)


def matches(target: RecoveryTarget, quarter: int) -> bool:
    """Whether PostgreSQL stops at the record of this quarter."""
    match target:
        case AtTime():
            return target.stops_at(moment(quarter))
        case AtLsn(position):
            return Lsn(quarter * QUARTER) >= position
        case AtXid():
            return target.matches(1000 + quarter)
        case AtName(name):
            return quarter % 5 == 0 and name == f"point {quarter}"
        case _:
            return False


def answer(candidate: Candidate, target: RecoveryTarget, scan: Scan) -> WalFinding:
    """What reading the WAL would show."""
    quarters = [
        quarter
        for quarter in range(-(-scan.begin.value // QUARTER), LAST * 4 + 4)
        if Lsn((quarter + 1) * QUARTER) <= scan.end
    ]
    found = next((quarter for quarter in quarters if matches(target, quarter)), None)
    before = [quarter for quarter in quarters if found is None or quarter < found]
    return WalFinding(
        found_at=None if found is None else Lsn(found * QUARTER),
        found_end=None if found is None else Lsn((found + 1) * QUARTER),
        last_commit_at=moment(before[-1]) if before else None,
    )


def drive(
    view: ArchiveView,
    request: RecoveryRequest,
    backup: BackupId | None = None,
    not_before: datetime | None = None,
) -> RestorePlan:
    """Plan as the restore service does."""
    for candidate in candidates(view, request, backup):
        scan = scan_for(candidate, request.target)
        finding = WalFinding() if scan is None else answer(candidate, request.target, scan)
        if settles(candidate, request.target, finding):
            break
    return conclude(candidate, request, finding, not_before=not_before)


TARGETS: st.SearchStrategy[RecoveryTarget] = st.one_of(
    st.just(Latest()),
    st.just(Immediate()),
    st.builds(
        AtTime,
        st.integers(0, LAST * 8 + 8).map(lambda half: at(half / 8)),
        st.booleans(),
    ),
    st.builds(AtLsn, st.integers(0, LAST * 8 + 8).map(lambda half: lsn(half / 8)), st.booleans()),
    st.builds(AtXid, st.integers(1000, 1000 + LAST * 4), st.booleans()),
    st.builds(AtName, st.integers(0, LAST).map(lambda n: f"point {n * 5}")),
)


@st.composite
def views(draw: st.DrawFn) -> ArchiveView:
    known = {1: TimelineHistory(1)}
    for timeline in range(2, draw(st.integers(2, 4))):
        parent = known[draw(st.integers(1, timeline - 1))]
        fork = Lsn(draw(st.integers(1, LAST * 4)) * QUARTER)
        switches = (*parent.switches, TimelineSwitch(parent.timeline, fork))
        known[timeline] = TimelineHistory(timeline, switches)
    odds = draw(st.sampled_from([0, 1, 4]))
    complete = {
        timeline: SegmentSet.from_ordered(
            number for number in range(LAST) if draw(st.integers(0, 9)) >= odds
        )
        for timeline in known
    }
    tails = draw(st.dictionaries(st.sampled_from(sorted(known)), st.integers(1, 3), max_size=2))
    fragments = {
        WalSegment.numbered(timeline, LAST, SIZE): lsn(LAST + part / 4)
        for timeline, part in tails.items()
    }
    backups = draw(
        st.lists(
            st.tuples(
                st.sampled_from(sorted(known)), st.integers(0, LAST * 4 - 1), st.integers(1, 6)
            ),
            max_size=4,
            unique_by=lambda backup: backup[1] + backup[2],
        )
    )
    return ArchiveView(
        WalHoldings(SIZE, complete, fragments),
        tuple(full_backup(tl, begin / 4, (begin + size) / 4) for tl, begin, size in backups),
        {timeline: history for timeline, history in known.items() if timeline > 1},
    )


def stop_of(
    view: ArchiveView, path: Path, backup: BackupFacts, target: RecoveryTarget
) -> Lsn | None:
    """Where PostgreSQL would end from this backup, or None where it fails."""
    if not lies_on(path, backup):
        return None
    end, _ = simulate(World(path, view.wal, backup.start))
    if end < backup.stop:
        return None
    if isinstance(target, Latest):
        return end
    if isinstance(target, Immediate):
        return backup.stop
    quarter = backup.start.value // QUARTER
    while Lsn((quarter + 1) * QUARTER) <= end:
        if matches(target, quarter):
            stop = Lsn(quarter * QUARTER)
            return stop if stop >= backup.stop else None
        quarter += 1
    return None


def ends_before(backup: BackupFacts, target: RecoveryTarget) -> bool:
    if isinstance(target, AtTime):
        return backup.stopped_at <= target.at
    return not isinstance(target, AtLsn) or backup.stop <= target.lsn


@settings(max_examples=200, deadline=None)
@given(views(), TARGETS, st.integers(1, 3))
def test_a_plan_exists_exactly_when_postgresql_would_reach_the_target(
    view: ArchiveView, target: RecoveryTarget, timeline: int
) -> None:
    request = RecoveryRequest(target, timeline)
    try:
        path = view.path_to(timeline)
    except TargetUnreachable:
        with pytest.raises(TargetUnreachable):
            drive(view, request)
        return
    serving = [
        backup
        for backup in view.backups
        if ends_before(backup, target) and stop_of(view, path, backup, target) is not None
    ]
    if not serving:
        with pytest.raises(TargetUnreachable) as refused:
            drive(view, request)
        for name in re.findall(r"[0-9A-F]{24}", refused.value.message):
            segment = WalSegment.parse(name)
            assert not view.wal.holds(segment.timeline, segment.number(SIZE))
        return
    plan = drive(view, request)
    assert plan.path == path
    assert plan.backup == max(serving, key=lambda backup: backup.stop)
    end, stranded = simulate(World(path, view.wal, plan.backup.start))
    assert plan.end == (plan.backup.stop if isinstance(target, Immediate) else end)
    assert {(p.timeline, n) for p in plan.stranded for n in range(p.begin, p.end)} == stranded
    needed = stop_of(view, path, plan.backup, target)
    assert needed is not None
    read = {n for part in plan.wal for n in range(part.begin, part.end)}
    assert read >= {
        n for n in range(LAST + 1) if plan.backup.start < lsn(n + 1) and lsn(n) < needed
    }
    for part in plan.wal:
        for n in range(part.begin, part.end):
            assert view.wal.holds(part.timeline, n) or (plan.fragment and n == max(read))


@settings(deadline=None)
@given(views(), TARGETS)
def test_a_refusal_behind_a_gap_names_the_gap(view: ArchiveView, target: RecoveryTarget) -> None:
    request = RecoveryRequest(target, 1)
    try:
        first = candidates(view, request)[0]
    except TargetUnreachable:
        return
    try:
        drive(view, request)
    except TargetUnreachable as error:
        message = error.message
    else:
        return
    if first.reach.gap is not None and "before backup" not in message:
        assert re.search(r"[0-9A-F]{24}.* is missing", message)


def view_of(
    *backups: BackupFacts,
    known: dict[int, TimelineHistory] | None = None,
    fragments: dict[WalSegment, Lsn] | None = None,
    **sets: range | list[int],
) -> ArchiveView:
    complete = {int(name[1:]): SegmentSet.from_ordered(numbers) for name, numbers in sets.items()}
    return ArchiveView(WalHoldings(SIZE, complete, fragments or {}), backups, known or {})


OLD = full_backup(1, 2, 2.5)
NEW = full_backup(1, 6, 6.5)


def latest(target: RecoveryTarget | None = None) -> RecoveryRequest:
    return RecoveryRequest(target or Latest())


def test_latest_is_the_last_byte_without_a_gap_from_the_newest_backup() -> None:
    tail = WalSegment.numbered(1, 9, SIZE)
    plan = drive(view_of(OLD, NEW, fragments={tail: lsn(9.5)}, t1=range(1, 9)), latest())
    assert plan.backup == NEW
    assert (plan.end, plan.timeline, plan.fragment) == (lsn(9.5), 1, True)
    assert plan.wal == (SegmentRange(1, 6, 10),)
    assert (plan.wal_count, plan.wal_bytes) == (4, 4 * SIZE.bytes)
    assert plan.reaches_at == at(9.25)
    assert (plan.gap, plan.stranded, plan.notes) == (None, (), ())


def test_a_backup_without_its_own_wal_is_passed_over_and_said_so() -> None:
    plan = drive(view_of(OLD, NEW, t1=[2, 3, 4, 7]), latest())
    assert plan.backup == OLD
    assert plan.end == lsn(5)
    missing = [WalSegment.numbered(1, number, SIZE) for number in (5, 6)]
    assert plan.stranded == (SegmentRange(1, 7, 8),)
    assert f"backup {NEW.id} is passed over" in plan.notes[0]
    assert str(missing[1]) in plan.notes[0]
    assert f"{missing[0]} to {missing[1]} is missing" in plan.notes[1]


def test_when_no_backup_has_its_own_wal_the_missing_segment_is_named() -> None:
    with pytest.raises(TargetUnreachable, match=str(WalSegment.numbered(1, 2, SIZE))):
        drive(view_of(OLD, t1=[3, 4]), latest())
    with pytest.raises(TargetUnreachable, match="all from 0/200000 on"):
        drive(view_of(OLD), latest())


def test_a_time_needs_a_backup_that_ended_before_it() -> None:
    view = view_of(OLD, NEW, t1=range(1, 9))
    assert drive(view, latest(AtTime(at(6.4)))).backup == OLD
    plan = drive(view, latest(AtTime(at(6.5))))
    assert plan.backup == NEW
    assert plan.reaches_at == at(6.5)
    assert plan.end == lsn(8 + 1)
    assert plan.wal == (SegmentRange(1, 6, 7),)
    with pytest.raises(TargetUnreachable, match="no usable backup ends before") as refused:
        drive(view, latest(AtTime(at(2.4))))
    assert f"the earliest moment is {lsn(2.5)}" in str(refused.value.hint)


def test_a_time_after_the_last_transaction_is_refused_with_the_moment_that_can_be_had() -> None:
    view = view_of(OLD, NEW, t1=range(1, 9))
    with pytest.raises(TargetUnreachable, match="no transaction ended after") as refused:
        drive(view, latest(AtTime(at(9))))
    assert refused.value.exit_code == 14
    assert "ended at 2026-11-20 10:08:45+00:00: --target latest" in str(refused.value.hint)


def test_inclusive_and_exclusive_times_differ_by_the_transaction_at_that_moment() -> None:
    view = view_of(OLD, t1=range(1, 9))
    last = at(8.75)
    assert drive(view, latest(AtTime(last, inclusive=False))).reaches_at == last
    with pytest.raises(TargetUnreachable):
        drive(view, latest(AtTime(last)))


def test_a_time_in_a_gap_names_the_gap_and_what_lies_behind_it() -> None:
    view = view_of(OLD, NEW, t1=[1, 2, 3, 6, 7, 8])
    gap = f"{WalSegment.numbered(1, 4, SIZE)} to {WalSegment.numbered(1, 5, SIZE)}"
    with pytest.raises(TargetUnreachable, match=f"segment {gap} is missing") as refused:
        drive(view, latest(AtTime(at(5))))
    assert "10:03:45" in str(refused.value.hint)
    assert f"behind the gap recovery begins at {lsn(6.5)}" in str(refused.value.hint)


def test_a_time_whose_zone_was_assumed_is_noted() -> None:
    plan = drive(view_of(OLD, t1=range(1, 9)), latest(AtTime(at(5), zone_assumed=True)))
    assert plan.notes == ("the time has no zone, UTC is assumed: 2026-11-20 10:05:00+00:00",)


def test_a_clock_that_jumped_over_the_backup_is_noticed_before_postgresql_fails() -> None:
    request = latest(AtTime(at(6.5)))
    newest, older = candidates(view_of(OLD, NEW, t1=range(1, 9)), request)
    jumped = WalFinding(found_at=lsn(6.25), found_end=lsn(6.5))
    assert not settles(newest, request.target, jumped)
    assert settles(older, request.target, jumped)
    with pytest.raises(TargetUnreachable, match="before backup"):
        conclude(newest, request, jumped)


def test_an_lsn_lies_between_the_backup_and_the_end_of_the_wal() -> None:
    view = view_of(OLD, NEW, t1=range(1, 9))
    assert drive(view, latest(AtLsn(lsn(6.4)))).backup == OLD
    assert drive(view, latest(AtLsn(lsn(6.5)))).backup == NEW
    with pytest.raises(TargetUnreachable, match="no usable backup ends before LSN"):
        drive(view, latest(AtLsn(lsn(2.25))))
    # PostgreSQL needs a record that begins there: the very end is not enough.
    assert scan_for(candidates(view, latest())[0], AtLsn(lsn(9))) is None
    with pytest.raises(TargetUnreachable, match="no whole record begins at or after 0/900000"):
        drive(view, latest(AtLsn(lsn(9))))


def test_a_record_that_the_end_of_the_wal_cuts_proves_nothing() -> None:
    request = latest(AtLsn(lsn(8.9)))
    (candidate,) = candidates(view_of(OLD, t1=range(1, 9)), request)
    with pytest.raises(TargetUnreachable, match="whole record"):
        conclude(candidate, request, WalFinding(found_at=lsn(8.95), found_end=lsn(9.05)))


def test_a_transaction_or_restore_point_is_found_from_the_newest_backup_before_it() -> None:
    view = view_of(OLD, NEW, t1=range(1, 9))
    for target in (AtXid(1000 + 30), AtName("point 30"), AtXid((7 << 32) + 1030)):
        plan = drive(view, latest(target))
        assert (plan.backup, plan.reaches_at) == (NEW, at(7.25))
        assert plan.wal == (SegmentRange(1, 6, 8),)
    for target in (AtXid(1000 + 25), AtName("point 20")):
        assert drive(view, latest(target)).backup == OLD
    with pytest.raises(TargetUnreachable, match="restore point 'nowhere' is not in the WAL"):
        drive(view, latest(AtName("nowhere")))


def test_immediate_reads_only_the_backups_own_wal() -> None:
    plan = drive(view_of(OLD, NEW, t1=range(1, 9)), latest(Immediate()))
    assert (plan.end, plan.wal) == (lsn(6.5), (SegmentRange(1, 6, 7),))
    assert plan.reaches_at == NEW.stopped_at


def test_a_named_backup_is_used_or_refused_but_never_replaced() -> None:
    view = view_of(OLD, NEW, t1=range(1, 9))
    assert drive(view, latest(), OLD.backup).backup == OLD
    with pytest.raises(TargetUnreachable, match="no usable backup ends before"):
        drive(view, latest(AtTime(at(4))), NEW.backup)
    with pytest.raises(TargetUnreachable, match="is not usable"):
        drive(view_of(OLD, NEW, t1=range(1, 6)), latest(), NEW.backup)
    with pytest.raises(NoSuchBackup):
        drive(view, latest(), full_backup(1, 3, 3.5).backup)


def test_not_before_refuses_to_lose_the_last_hour_unseen() -> None:
    view = view_of(OLD, t1=range(1, 9))
    assert drive(view, latest(), not_before=at(8.75)).reaches_at == at(8.75)
    with pytest.raises(TargetUnreachable, match="would end at 2026-11-20 10:08:45"):
        drive(view, latest(), not_before=at(8.76))
    with pytest.raises(TargetUnreachable, match="would end at"):
        drive(view, latest(AtTime(at(5))), not_before=at(6))
    with pytest.raises(TargetUnreachable, match="would end at"):
        drive(view, latest(Immediate()), not_before=at(6))


def test_an_idle_server_reaches_the_moment_of_its_backup() -> None:
    (candidate,) = candidates(view_of(OLD, t1=range(1, 4)), latest())
    plan = conclude(candidate, latest(), WalFinding(), not_before=OLD.stopped_at)
    assert plan.reaches_at == OLD.stopped_at


FAILOVER = histories((2, ((1, 4.5),)))


def test_after_a_failover_latest_crosses_the_fork_and_the_parent_is_no_branch() -> None:
    view = view_of(OLD, known=FAILOVER, t1=range(1, 4), t2=range(4, 8))
    plan = drive(view, latest())
    assert (plan.timeline, plan.end) == (2, lsn(8))
    assert plan.wal == (SegmentRange(1, 2, 4), SegmentRange(2, 4, 8))
    assert plan.other_branches == ()
    assert branches(view) == (Branch(2, lsn(4.5), lsn(8)),)


def test_a_backup_of_the_parent_from_behind_the_fork_is_not_on_the_childs_path() -> None:
    view = view_of(OLD, NEW, known=FAILOVER, t1=range(1, 9), t2=range(4, 8))
    assert drive(view, latest()).backup == OLD
    assert drive(view, RecoveryRequest(timeline=1)).backup == NEW
    assert drive(view, latest(), NEW.backup).timeline == 1
    assert drive(view, RecoveryRequest(timeline=NamedTimeline.CURRENT), OLD.backup).timeline == 1
    with pytest.raises(TargetUnreachable, match="does not lie on the path to timeline 2"):
        drive(view, RecoveryRequest(timeline=2), NEW.backup)


def test_live_branches_are_listed_for_choice() -> None:
    view = view_of(OLD, known=FAILOVER, t1=range(1, 9), t2=range(4, 8))
    plan = drive(view, latest())
    assert plan.other_branches == (Branch(1, Lsn(0), lsn(9)),)
    assert plan.notes == ("another branch: timeline 1 from 0/0 to 0/900000 (--target-timeline 1)",)
    with pytest.raises(TargetUnreachable, match="no backup lies") as refused:
        drive(replace(view, backups=(NEW,)), latest())
    assert "timeline 1 from 0/0 to 0/900000" in str(refused.value.hint)


def test_siblings_are_branches_and_a_history_alone_is_none() -> None:
    known = histories((2, ((1, 4),)), (3, ((1, 5),)), (4, ((1, 5), (3, 6))))
    view = view_of(OLD, known=known, t1=range(1, 5), t2=range(4, 6), t3=range(5, 6))
    assert [branch.timeline for branch in branches(view)] == [2, 3]
    plan = drive(view, latest())
    assert (plan.timeline, plan.end) == (4, lsn(6))
    assert [branch.timeline for branch in plan.other_branches] == [2]
    chosen = drive(view, RecoveryRequest(timeline=2))
    assert [branch.timeline for branch in chosen.other_branches] == [3]


def test_a_timeline_without_its_history_is_refused_unless_a_descendant_tells_it() -> None:
    known = histories((3, ((1, 4), (2, 6))))
    view = view_of(OLD, known=known, t1=range(1, 4), t2=range(4, 8))
    assert drive(view, RecoveryRequest(timeline=2)).end == lsn(8)
    assert view.path_to(2) == TimelineHistory(2, (TimelineSwitch(1, lsn(4)),)).legs
    with pytest.raises(TargetUnreachable, match="not its history file"):
        drive(view_of(OLD, t1=range(1, 4), t2=range(4, 8)), latest())
    with pytest.raises(TargetUnreachable, match="knows nothing of timeline 9"):
        drive(view, RecoveryRequest(timeline=9))


def test_the_current_timeline_is_that_of_the_newest_backup() -> None:
    child = full_backup(2, 5, 5.5)
    view = view_of(OLD, child, known=FAILOVER, t1=range(1, 9), t2=range(4, 8))
    assert choose_timeline(view, NamedTimeline.CURRENT) == 2
    assert choose_timeline(view, NamedTimeline.CURRENT, OLD) == 1


def test_an_empty_archive_has_no_plan() -> None:
    for choice in NamedTimeline:
        with pytest.raises(TargetUnreachable, match="archive"):
            drive(view_of(), RecoveryRequest(timeline=choice))


def test_the_plan_keeps_what_to_do_at_the_target() -> None:
    request = RecoveryRequest(Immediate(), action=TargetAction.SHUTDOWN)
    assert drive(view_of(OLD, t1=range(1, 4)), request).request == request


def test_a_million_segments_plan_within_a_second() -> None:
    backups = [full_backup(1, n * 10_000, n * 10_000 + 1) for n in range(100)]
    held = WalHoldings(
        SIZE,
        {1: SegmentSet.from_ordered(n for n in range(1_000_000) if n % 1000)},
    )
    view = ArchiveView(held, tuple(backups))
    with pytest.raises(TargetUnreachable):
        candidates(view, latest())
    view = replace(
        view, backups=tuple(full_backup(1, n * 10_000 + 1, n * 10_000 + 2) for n in range(100))
    )
    began = time.process_time()
    plan = conclude(candidates(view, latest())[0], latest())
    assert time.process_time() - began < 1
    assert plan.end == lsn(991_000)
    assert plan.reaches_at == at(990_002)
