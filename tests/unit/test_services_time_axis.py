"""What an archive holds, on a time axis."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from tests.fix_core_plan import SIZE, at, lsn
from tests.fix_history import Past, backup_at, drill_record
from tests.unit.test_services_status_findings import AGENT
from walkeeper.core.wal import WalSegment
from walkeeper.services.chart import Chart
from walkeeper.services.clocks import read_clocks
from walkeeper.services.time_axis import TimeAxis, find_edge, lay_out

PLAIN = Past(wal={1: range(1, 50)}, now=50.5)
FIRST, SECOND = backup_at(PLAIN, 1, 2, 2.5), backup_at(PLAIN, 1, 20, 20.5)


def plain(*missing: int, **more: object) -> Past:
    """Timeline 1 with two backups, without some segments."""
    held = [number for number in range(1, 50) if number not in missing]
    return Past(wal={1: held}, backups=(FIRST, SECOND), now=50.5)


def forked() -> Past:
    """Timeline 2 left 1 in the state of minute 10.5, at minute 30; 1 had gone on to 25."""
    bare = Past(wal={}, forks={2: (1, 10.5, 30)})
    backups = (backup_at(bare, 1, 2, 2.5), backup_at(bare, 2, 14, 14.5))
    return Past(wal={1: range(1, 25), 2: range(10, 30)}, backups=backups, forks=bare.forks, now=52)


def test_a_window_ends_when_the_store_took_its_last_segment() -> None:
    (window,) = plain().axis().chart().windows
    assert (window.begin_at, window.end_at) == (at(2.5), at(50))
    assert not window.live


def test_the_window_of_the_server_that_is_archived_goes_up_to_its_edge() -> None:
    chart = plain().axis(live=1, rpo_s=6).chart()
    assert [(one.live, one.end_at) for one in chart.windows] == [(True, at(50.4))]
    assert [(row.live, row.end_at) for row in chart.timelines] == [(True, at(50.5))]


def test_a_gap_runs_from_the_last_stored_wal_to_the_next_backup() -> None:
    chart = plain(8, 9).axis(live=1).chart()
    (gap,) = chart.gaps
    missing = [str(WalSegment.numbered(1, number, SIZE)) for number in (8, 9)]
    assert gap.missing == (f"{missing[0]} to {missing[1]}",)
    assert (gap.begin_at, gap.missing_until, gap.end_at) == (at(8), at(10), at(20.5))
    assert [(one.begin_at, one.live) for one in chart.windows] == [
        (at(2.5), False),
        (at(20.5), True),
    ]


def test_a_gap_without_a_backup_behind_it_runs_to_the_present() -> None:
    axis = plain(30).axis(live=1)
    (gap,) = axis.chart().gaps
    assert (gap.begin_at, gap.end_at) == (at(30), at(50.5))
    assert not any(window.live for window in axis.chart().windows)


def test_a_timeline_begins_where_it_was_first_written_and_left_its_parent_long_before() -> None:
    one, two = forked().axis(live=2).chart().timelines
    assert (one.timeline, one.parent, one.begin_at, one.end_at) == (1, None, at(2), at(25))
    assert (two.parent, two.left_at, two.begin_at, two.live) == (1, at(10.5), at(30), True)


def test_a_window_across_a_fork_has_a_stretch_on_each_timeline() -> None:
    windows = forked().axis(live=2).chart().windows
    spans = {
        window.timeline: [(one.timeline, one.begin_at, one.end_at) for one in window.stretches]
        for window in windows
    }
    edge = at(52) - timedelta(seconds=0.5)
    assert spans == {
        1: [(1, at(2.5), at(25))],
        2: [(1, at(2.5), at(10.5)), (2, at(30), edge)],
    }


def test_a_server_that_failed_went_on_until_it_was_replaced() -> None:
    bare = Past(wal={}, forks={2: (1, 10.5, 15)})
    backups = (backup_at(bare, 1, 2, 2.5),)
    past = Past(wal={1: range(1, 10), 2: range(10, 30)}, backups=backups, forks=bare.forks, now=40)
    (window,) = past.axis().chart().windows
    assert [(one.timeline, one.begin_at) for one in window.stretches] == [(1, at(2.5)), (2, at(15))]
    assert window.stretches[0].end_at == at(15)
    assert past.axis().chart().timelines[1].left_at == at(15)


def test_a_drill_is_marked_where_its_moment_lies_and_not_where_it_was_made() -> None:
    drills = (drill_record(45, SECOND, 30), drill_record(40, FIRST, 21, proven=False))
    marks = plain().axis(drills=drills).chart().drills
    assert [(one.proven, one.timeline, one.point_at) for one in marks] == [
        (True, 1, at(30)),
        (False, 1, at(21)),
    ]


def test_a_drill_along_a_path_is_marked_on_the_timeline_of_its_moment() -> None:
    past = forked()
    record = drill_record(40, past.backups[1], 8)
    (mark,) = past.axis(drills=(record,)).chart().drills
    assert mark.timeline == 1


def test_of_a_hundred_thousand_segments_the_axis_takes_as_many_as_it_needs() -> None:
    past = Past(wal={1: range(1, 100_000)}, backups=(FIRST,), now=100_001)
    axis = past.axis()
    assert len(axis.clocks[1].positions) < 6000
    (window,) = axis.chart().windows
    assert (window.begin_at, window.end_at) == (at(2.5), at(100_000))
    assert axis.clocks[1].find_time(lsn(50_000)) == at(50_000)


def test_an_empty_archive_has_an_axis_too() -> None:
    chart = Past(wal={}).axis().chart()
    assert (chart.timelines, chart.windows, chart.edge) == ((), (), None)
    assert chart.begin_at < chart.at


def test_the_document_survives_being_written() -> None:
    chart = forked().axis(live=2).chart()
    assert msgspec.json.decode(msgspec.json.encode(chart), type=Chart) == chart


@st.composite
def pasts(draw: st.DrawFn) -> tuple[Past, int | None]:
    """One to three timelines, each from the one before, with holes, backups and a server."""
    count = draw(st.integers(1, 3))
    forks: dict[int, tuple[int, float, float]] = {}
    begun = 0.0
    for timeline in range(2, count + 1):
        parent = draw(st.integers(1, timeline - 1))
        fork = draw(st.integers(8, 120)) / 4
        begun = max(begun, fork) + draw(st.integers(1, 80)) / 4
        forks[timeline] = parent, fork, begun
    bare = Past(wal={}, forks=forks)
    wal, backups = {}, []
    for timeline in range(1, count + 1):
        begin = int(forks[timeline][1]) if timeline in forks else 1
        end = begin + draw(st.integers(1, 20))
        holes = draw(st.sets(st.integers(begin, end), max_size=2))
        wal[timeline] = [number for number in range(begin, end) if number not in holes]
        starts = draw(st.lists(st.integers(begin + 1, end), max_size=2, unique=True))
        backups += [backup_at(bare, timeline, start + 0.25, start + 0.5) for start in starts]
    last = max(bare.minute(timeline, 40) for timeline in wal)
    past = Past(wal=wal, backups=tuple(backups), forks=forks, now=last + 30)
    return past, draw(st.sampled_from([None, count]))


def axes() -> st.SearchStrategy[TimeAxis]:
    return pasts().map(lambda drawn: drawn[0].axis(live=drawn[1]))


@given(axis=axes())
def test_stretches_follow_each_other_and_nothing_lies_in_the_future(axis: TimeAxis) -> None:
    chart = axis.chart()
    for window in chart.windows:
        moments = [edge for one in window.stretches for edge in (one.begin_at, one.end_at)]
        assert moments == sorted(moments)
        assert (window.begin_at, window.end_at) == (moments[0], moments[-1])
        assert moments[-1] <= chart.at
        assert chart.begin_at <= moments[0]


@given(axis=axes())
def test_no_moment_of_a_gap_can_be_restored_on_its_timeline(axis: TimeAxis) -> None:
    chart = axis.chart()
    for gap in chart.gaps:
        assert gap.begin_at <= gap.missing_until <= gap.end_at
        for window in chart.windows:
            for one in window.stretches:
                if one.timeline == gap.timeline:
                    assert not max(gap.begin_at, one.begin_at) < min(gap.end_at, one.end_at)


@given(axis=axes())
def test_every_missing_segment_of_a_window_shows_as_a_gap_unless_another_window_has_it(
    axis: TimeAxis,
) -> None:
    chart = axis.chart()
    for track in axis.tracks:
        for part in track.window.missing[:1]:
            shown = any(gap.begin_at == track.end_at for gap in chart.gaps)
            covered = any(
                one.timeline == part.timeline and one.end_at > track.end_at
                for other in axis.tracks
                for one in other.stretches
            )
            rows = {row.timeline: row for row in chart.timelines}
            at_end = rows[part.timeline].end_at <= track.end_at
            assert shown or covered or at_end


def test_a_window_that_ends_in_a_tail_ends_when_the_store_took_that() -> None:
    health = plain().health()
    (window,) = health.windows
    window = replace(window, end=lsn(50.5), stored_at=at(50.4))
    health = replace(health, windows=(window,))
    axis = lay_out(health, read_clocks(health), (), None, looked_at=at(51), now=at(51))
    assert axis.chart().windows[0].end_at == at(50.4)


def test_a_server_that_cannot_be_asked_has_no_edge() -> None:
    source = msgspec.structs.replace(AGENT.source, timeline=1)
    agent = msgspec.structs.replace(AGENT, source=source)
    edge = find_edge(agent, at(1))
    assert edge is not None
    assert edge.at == at(1) - timedelta(seconds=2)
    away = msgspec.structs.replace(source, connected=False)
    assert find_edge(msgspec.structs.replace(agent, source=away), at(1)) is None
