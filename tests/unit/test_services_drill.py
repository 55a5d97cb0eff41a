"""What a drill decides without a server: points, judgements, settings, its scratch directory."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fix_postgres import Workspace
from walkeeper.core.layout_holds import DrillName, drill_details, drill_record, parse_drill_record
from walkeeper.core.lsn import Lsn
from walkeeper.core.target import AtLsn, Latest
from walkeeper.errors import Locked
from walkeeper.services.drill_point import Stretch, draw_point, last_point
from walkeeper.services.drill_scratch import open_scratch
from walkeeper.services.drill_server import session_settings
from walkeeper.services.drill_sql import SqlCheck

DRILL = DrillName(datetime(2026, 11, 20, 10, 15, tzinfo=UTC), "3fa9c1")
sizes = st.lists(st.tuples(st.integers(1, 3), st.integers(0, 1 << 40), st.integers(1, 1 << 30)), min_size=1, max_size=5)  # fmt: skip # noqa: E501


def test_the_record_of_a_drill_is_found_by_its_name_and_its_details_are_not_taken_for_one() -> None:
    assert drill_record(DRILL) == "drills/20261120T101500Z-3fa9c1.json"
    assert parse_drill_record(drill_record(DRILL)) == DRILL.at
    assert parse_drill_record(drill_details(DRILL)) is None


@given(sizes, st.data())
def test_a_point_by_chance_lies_in_what_can_be_recovered(
    found: list[tuple[int, int, int]], data: st.DataObject
) -> None:
    stretches = [Stretch(tli, Lsn(begin), Lsn(begin + size)) for tli, begin, size in found]
    request = draw_point(stretches, lambda most: data.draw(st.integers(0, most - 1)))
    assert isinstance(request.target, AtLsn)
    position = request.target.lsn
    assert any(
        one.begin <= position < one.end and one.timeline == request.timeline for one in stretches
    )


def test_every_end_of_every_stretch_can_be_drawn_and_nothing_behind_it() -> None:
    stretches = [Stretch(1, Lsn(100), Lsn(110)), Stretch(2, Lsn(500), Lsn(505))]
    drawn = [draw_point(stretches, lambda _, n=n: n) for n in range(15)]
    points = [
        (one.timeline, one.target.lsn.value) for one in drawn if isinstance(one.target, AtLsn)
    ]
    assert points == [*((1, n) for n in range(100, 110)), *((2, n) for n in range(500, 505))]
    assert (last_point(stretches).timeline, last_point(stretches).target) == (2, Latest())
    with pytest.raises(ValueError, match="not below"):
        draw_point(stretches, lambda most: most)


def check(**wanted: object) -> SqlCheck:
    return SqlCheck(sql="SELECT 1", database="postgres", **wanted)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("wanted", "values", "problem"),
    [
        ({"expect": "5"}, ["5"], None),
        ({"expect": "5"}, ["5.0"], "it returned '5.0', not '5'"),
        ({"expect": ""}, [None], "it returned NULL, not ''"),
        ({"expect": "5"}, [], "it returned no row"),
        ({"expect": "5"}, ["5", "5"], "it returned more than one row"),
        ({"least": 1}, ["1"], None),
        ({"least": 1}, ["0.9"], "it returned 0.9, less than 1"),
        ({"least": 1, "most": 2}, ["2.5"], "it returned 2.5, more than 2"),
        ({"most": 2}, ["NaN"], "it returned 'NaN', which is no number"),
        ({"least": 1}, ["Infinity"], None),
        ({"least": 1}, ["many"], "it returned 'many', which is no number"),
        ({"least": 1}, [None], "it returned NULL, which is no number"),
        ({"least": 0.1}, ["0.1"], None),
        ({"least": 9007199254740993}, ["9007199254740992"], "less than"),
    ],
)
def test_an_answer_is_judged_as_it_was_wanted(
    wanted: dict[str, object], values: list[str | None], problem: str | None
) -> None:
    found = check(**wanted).judge(values)
    assert (found is None) == (problem is None)
    assert problem is None or problem in (found or "")


def test_event_triggers_are_turned_off_where_they_can_run_at_login() -> None:
    assert "event_triggers" not in session_settings(16)
    assert session_settings(17)["event_triggers"] == "off"
    assert session_settings(13)["session_preload_libraries"] == ""


@pytest.fixture
def parent(workspace: Workspace) -> Path:
    """A place that whoever will own the files can reach, as root too."""
    return workspace.root / "drill"


def test_a_scratch_directory_is_one_drills_own_and_goes_with_it(parent: Path) -> None:
    other = DrillName(DRILL.at, "000000")
    with open_scratch(parent, DRILL, keep=False) as scratch:
        assert scratch.root.name == f"drill-{DRILL}"
        assert scratch.root.stat().st_mode & 0o777 == 0o700
        with pytest.raises(Locked), open_scratch(parent, other, keep=False):
            pass
    assert [path.name for path in parent.iterdir()] == ["drill.lock"]


def test_what_a_dead_drill_left_is_removed_and_what_was_to_be_kept_is_not(parent: Path) -> None:
    parent.mkdir()
    for name in ("drill-20261119T101500Z-000001", "drill-notes", "mine"):
        (parent / name / "data").mkdir(parents=True)
    # Its server's number is another process's by now.
    pid_file = parent / "drill-20261119T101500Z-000001" / "data" / "postmaster.pid"
    pid_file.write_text(f"{os.getpid()}\n/elsewhere\n1\n5432\n\n\n\nready\n")
    with open_scratch(parent, DRILL, keep=True) as scratch:
        names = {path.name for path in parent.iterdir()}
    assert names == {"drill.lock", "drill-notes", "mine", scratch.root.name}
    with open_scratch(parent, DrillName(DRILL.at, "000002"), keep=False):
        assert scratch.root.exists()
