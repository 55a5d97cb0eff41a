"""Timeline histories: the file's format and the path that it describes."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from walkeeper.core.lsn import Lsn
from walkeeper.core.timeline import Leg, TimelineHistory, TimelineSwitch

LSNS = st.integers(1, 2**64 - 1).map(Lsn)
LINES = st.text(st.characters(exclude_characters="\n", exclude_categories=["Cs"]))
REASONS = st.tuples(LINES, st.integers(0, 2)).map(lambda t: t[0] + "\n" * t[1])


@st.composite
def histories(draw, ordered: bool = False) -> TimelineHistory:
    timelines = sorted(draw(st.sets(st.integers(1, 2**32 - 1), min_size=1, max_size=6)))
    points = draw(st.lists(LSNS, min_size=len(timelines) - 1, max_size=len(timelines) - 1))
    if ordered:
        points.sort()
    switches = [
        TimelineSwitch(parent, at, draw(REASONS))
        for parent, at in zip(timelines, points, strict=False)
    ]
    return TimelineHistory(timelines[-1], tuple(switches))


def search_newest_first(history: TimelineHistory, lsn: Lsn) -> int:
    """PostgreSQL's own search, tliOfPointInHistory in timeline.c, as an oracle."""
    entries = []
    begin = 0
    for switch in history.switches:
        entries.insert(0, (switch.parent, begin, switch.at.value))
        begin = switch.at.value
    entries.insert(0, (history.timeline, begin, 0))
    for timeline, first, end in entries:
        if (first == 0 or first <= lsn.value) and (end == 0 or lsn.value < end):
            return timeline
    raise AssertionError("timeline history was not contiguous")


@given(histories())
def test_what_is_encoded_reads_back_the_same(history):
    assert TimelineHistory.parse(history.timeline, history.encode()) == history


@given(histories(), LSNS)
def test_a_position_lies_on_the_timeline_that_postgresql_finds(history, lsn):
    assert history.timeline_at(lsn) == search_newest_first(history, lsn)


@given(histories())
def test_legs_follow_each_other_without_gap_and_end_open(history):
    legs = history.legs
    assert legs[0].begin == Lsn(0)
    assert legs[-1] == Leg(history.timeline, legs[-1].begin, None)
    for leg, following in itertools.pairwise(legs):
        assert leg.end == following.begin
        assert leg.begin < following.begin
        assert leg.timeline < following.timeline


@given(histories())
def test_every_leg_ends_at_the_switch_point_of_its_timeline(history):
    for leg in history.legs:
        assert history.switch_point(leg.timeline) == leg.end


@given(histories(), st.data())
def test_a_derived_history_is_the_beginning_of_the_file(history, data):
    ancestor = data.draw(
        st.sampled_from([*(switch.parent for switch in history.switches), history.timeline])
    )
    derived = history.derive(ancestor)
    assert history.contains(ancestor)
    assert derived.timeline == ancestor
    assert history.encode().startswith(derived.encode())
    assert all(history.contains(switch.parent) for switch in derived.switches)


def test_postgresqls_own_files_are_written_byte_for_byte():
    text = '1\t0/3000128\tno recovery target specified\n\n2\t1/A5000000\tat restore point "x"\n'
    history = TimelineHistory.parse(3, text)
    assert history.encode() == text
    assert history.legs == (
        Leg(1, Lsn(0), Lsn(0x3000128)),
        Leg(2, Lsn(0x3000128), Lsn(0x1A5000000)),
        Leg(3, Lsn(0x1A5000000), None),
    )
    assert history.derive(2).encode() == "1\t0/3000128\tno recovery target specified\n"
    text = "1\t0/D00068\tafter LSN 0/D00028\n\n"
    assert TimelineHistory.parse(2, text).encode() == text
    text += "\n2\t0/E00068\tbefore LSN 0/E00028\n\n"
    assert TimelineHistory.parse(3, text).encode() == text
    assert history.derive(1).encode() == ""


def test_comments_empty_lines_and_other_white_space_are_accepted():
    text = "# made by hand\n\n   \n  1   0/5000000\n# 9 0/1\n2\t0/06000000\twhy not"
    assert TimelineHistory.parse(4, text).switches == (
        TimelineSwitch(1, Lsn(0x5000000), ""),
        TimelineSwitch(2, Lsn(0x6000000), "why not"),
    )


def test_a_timeline_that_was_left_before_it_began_has_no_leg():
    # recovery along timeline 2 that stopped before 2 had left 1
    history = TimelineHistory.parse(3, "1\t0/5000\tx\n\n2\t0/4000\ty\n")
    assert history.legs == (Leg(1, Lsn(0), Lsn(0x4000)), Leg(3, Lsn(0x4000), None))
    assert history.switch_point(1) == Lsn(0x4000)
    assert history.switch_point(2) == Lsn(0x4000)
    assert history.timeline_at(Lsn(0x4800)) == 3
    assert history.contains(2)


@pytest.mark.parametrize(
    "text",
    [
        "one\t0/5000\tx\n",
        "1\n",
        "1\t0/\tx\n",
        "1 5000 x\n",
        "1\t0/0\tx\n",
        "0\t0/5000\tx\n",
        "2\t0/5000\tx\n1\t0/6000\tx\n",
        "1\t0/5000\tx\n1\t0/6000\tx\n",
        "3\t0/5000\tx\n",
        "4\t0/5000\tx\n",
        "99999999999\t0/5000\tx\n",
        "\u0661\t0/5000\tx\n",
        "1\t0/123456789\tx\n",
    ],
)
def test_a_file_that_postgresql_would_not_read_is_refused(text):
    with pytest.raises(ValueError, match="histor"):
        TimelineHistory.parse(3, text)


def test_a_timeline_that_is_not_an_ancestor_has_no_switch_point_here():
    history = TimelineHistory.parse(3, "1\t0/5000\tx\n")
    assert not history.contains(2)
    for ask in (history.switch_point, history.derive):
        with pytest.raises(ValueError, match="timeline 2 is not in the history of 3"):
            ask(2)


@pytest.mark.parametrize("timeline", [0, -1, 2**32])
def test_only_numbers_that_postgresql_counts_are_timelines(timeline):
    with pytest.raises(ValueError, match="history"):
        TimelineHistory(timeline)


def test_the_first_timeline_is_one_leg_from_the_beginning():
    history = TimelineHistory(1)
    assert history.legs == (Leg(1, Lsn(0), None),)
    assert history.timeline_at(Lsn(0)) == 1
    assert history.switch_point(1) is None
    assert history.derive(1) is history
