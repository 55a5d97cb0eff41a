"""A moment: which command restores it, and what it takes."""

from __future__ import annotations

import shlex
from datetime import timedelta
from pathlib import PurePosixPath

from hypothesis import given
from hypothesis import strategies as st

from tests.fix_core_plan import EPOCH, SIZE, at
from tests.fix_history import Past, drill_record
from tests.unit.test_services_time_axis import FIRST, SECOND, axes, forked, plain
from walkeeper.core.target import parse_request
from walkeeper.services.moment import CommandWords, Moment, plan_backup, plan_moment, said
from walkeeper.services.time_axis import TimeAxis

WORDS = CommandWords(("walkeeper",), PurePosixPath("/data/new"))


def options(found: Moment) -> dict[str, str]:
    """Those of the command."""
    assert found.command is not None
    words = shlex.split(found.command)
    assert words[:4] == ["walkeeper", "restore", "--target-dir", "/data/new"]
    return dict(zip(words[4::2], words[5::2], strict=True))


def test_a_moment_is_restored_from_the_newest_backup_before_it() -> None:
    found = plan_moment(plain().axis(live=1), at(30.25), WORDS)
    assert found.reachable
    assert found.backup == SECOND.id
    assert options(found) == {
        "--target-time": "2026-11-20 10:30:15Z",
        "--target-timeline": "1",
    }
    # Segments 20 to 30, each taken to be written until the store took it.
    assert (found.wal_segments, found.wal_bytes) == (11, 11 * SIZE.bytes)
    assert found.fetch_bytes == 400 + 11 * 1000


def test_a_moment_before_the_second_backup_is_restored_from_the_first() -> None:
    found = plan_moment(plain().axis(), at(20.25), WORDS)
    assert (found.backup, found.wal_segments) == (FIRST.id, 19)


def test_a_target_directory_is_quoted_for_the_shell() -> None:
    words = CommandWords(("walkeeper",), PurePosixPath("/data/new one; rm -rf"))
    found = plan_moment(plain().axis(), at(30), words)
    assert found.command is not None
    assert shlex.split(found.command)[3] == "/data/new one; rm -rf"


def test_a_moment_keeps_its_fraction_of_a_second() -> None:
    assert said(at(1) + timedelta(milliseconds=250)) == "2026-11-20 10:01:00.25Z"
    assert said(at(1)) == "2026-11-20 10:01:00Z"


def test_the_newest_moment_is_the_latest() -> None:
    axis = plain().axis(live=1)
    found = plan_moment(axis, axis.tracks[0].end_at, WORDS)
    assert options(found) == {"--target": "latest", "--target-timeline": "1"}


def test_behind_the_last_listed_segment_there_is_another_way_to_the_same_state() -> None:
    found = plan_moment(plain().axis(live=1), at(50.2), WORDS)
    assert "--target-time" in options(found)
    assert found.otherwise is not None
    assert "--target latest" in found.otherwise


def test_a_moment_in_a_gap_names_the_gap_and_the_nearest_moments() -> None:
    found = plan_moment(plain(8).axis(live=1), at(8.5), WORDS)
    assert not found.reachable
    assert found.command is None
    assert found.why is not None
    assert "000000010000000000000008 is missing" in found.why
    assert [one.at for one in found.nearest] == [at(8), at(20.5)]


def test_a_moment_behind_a_gap_says_that_there_is_no_backup_between() -> None:
    found = plan_moment(plain(8).axis(live=1), at(15), WORDS)
    assert found.why is not None
    assert "behind a gap" in found.why


def test_the_end_before_a_gap_is_restored_from_the_backup_before_it() -> None:
    axis = plain(8).axis(live=1)
    found = plan_moment(axis, at(8), WORDS)
    assert options(found) == {
        "--target": "latest",
        "--target-timeline": "1",
        "--backup": FIRST.id,
    }


def test_what_is_not_shipped_yet_is_not_promised() -> None:
    found = plan_moment(plain().axis(live=1, rpo_s=30), at(50.25), WORDS)
    assert found.why == "WAL of the last 30.0 s is not in the archive yet."
    assert found.nearest[0].at == at(50)


def test_a_moment_to_come_and_one_before_all_backups_are_refused() -> None:
    axis = plain().axis(live=1)
    later, earlier = (plan_moment(axis, moment, WORDS) for moment in (at(99), at(1)))
    assert (later.why, later.reachable) == ("This moment has not come yet.", False)
    assert (earlier.why, earlier.nearest[0].at) == (
        "This moment lies before the first backup had ended.",
        at(2.5),
    )


def test_a_moment_on_two_timelines_is_restored_from_the_one_written_then() -> None:
    axis = forked().axis(live=2)
    assert plan_moment(axis, at(20), WORDS).target_timeline == 1
    assert plan_moment(axis, at(8), WORDS).target_timeline == 2
    assert plan_moment(axis, at(8), WORDS, 1).target_timeline == 1
    assert plan_moment(axis, at(40), WORDS).target_timeline == 2


def test_a_moment_between_two_timelines_says_of_which_moment_the_state_is() -> None:
    past = forked()
    cut = Past(
        wal={1: range(1, 11), 2: past.wal[2]}, backups=past.backups, forks=past.forks, now=past.now
    )
    found = plan_moment(cut.axis(live=2), at(20), WORDS)
    assert found.reachable
    assert found.note is not None
    assert "Nothing is known to have been written" in found.note


def test_the_end_of_a_backup_is_reached_at_once() -> None:
    found = plan_backup(plain().axis(), SECOND, WORDS)
    assert found is not None
    assert options(found) == {"--backup": SECOND.id, "--target": "immediate"}
    assert found.wal_segments == 1


def test_a_backup_without_its_wal_has_no_command() -> None:
    assert plan_backup(plain(20).axis(), SECOND, WORDS) is None


def test_without_a_proof_no_time_is_named() -> None:
    failed = (drill_record(40, FIRST, 21, proven=False),)
    assert plan_moment(plain().axis(), at(30), WORDS).estimate is None
    assert plan_moment(plain().axis(drills=failed), at(30), WORDS).estimate is None


def test_the_expected_time_grows_with_the_bytes_that_a_drill_fetched_and_replayed() -> None:
    drills = (drill_record(45, FIRST, 12),)  # 10 segments in 5 s, and the backup in 10 s
    axis = plain().axis(drills=drills)
    found = plan_moment(axis, at(40), WORDS).estimate
    assert found is not None
    # From the second backup at 20 to the end of segment 39.
    assert found.phases == {"prepare": 1.0, "fetch": 10.0, "recover": 10.0}
    assert (found.seconds, found.drills, found.recover_known) == (21.0, 1, True)


@given(axis=axes(), minutes=st.floats(-10, 200), timeline=st.sampled_from([None, 1, 2, 3]))
def test_a_moment_is_reachable_exactly_where_the_axis_shows_a_window(
    axis: TimeAxis, minutes: float, timeline: int | None
) -> None:
    moment = EPOCH + timedelta(minutes=minutes)
    found = plan_moment(axis, moment, WORDS, timeline)
    shown = any(
        one.begin_at <= moment <= one.end_at and timeline in (None, one.timeline)
        for window in axis.chart().windows
        for one in window.stretches
    )
    between = found.note is not None and found.note.startswith("Nothing is known")
    assert found.reachable == (shown or between)
    if found.reachable:
        given_options = options(found)
        parse_request(
            target=given_options.get("--target"),
            time=given_options.get("--target-time"),
            timeline=given_options["--target-timeline"],
        )
        assert found.backup_at is not None
        assert found.backup_at <= moment
        assert found.wal_segments >= 1
    else:
        assert found.why
        assert all(
            plan_moment(axis, one.at, WORDS, one.timeline).reachable for one in found.nearest
        )
