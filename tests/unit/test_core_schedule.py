"""When jobs are due, against a walk over every minute with the rules written down once more."""

from __future__ import annotations

from calendar import monthrange
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from walkeeper.core.schedule import Schedule, jitter

BERLIN = ZoneInfo("Europe/Berlin")
MINUTE = timedelta(minutes=1)


def berlin(text: str, fold: int = 0) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=BERLIN, fold=fold).astimezone(UTC)


def due_times(expression: str, begin: datetime, count: int, zone: str = "Europe/Berlin"):
    schedule, found = Schedule.parse(expression, zone), []
    for _ in range(count):
        begin = schedule.next_after(begin)
        found.append(begin)
    return found


def test_a_nightly_job_runs_at_the_time_of_its_zone_in_summer_and_winter() -> None:
    assert due_times("30 4 * * *", berlin("2026-07-01T12:00"), 1) == [
        datetime(2026, 7, 2, 2, 30, tzinfo=UTC)
    ]
    assert due_times("30 4 * * *", berlin("2026-12-01T12:00"), 1) == [
        datetime(2026, 12, 2, 3, 30, tzinfo=UTC)
    ]


def test_a_time_that_the_spring_leaves_out_runs_once_right_behind_it() -> None:
    found = due_times("30 2 * * *", berlin("2026-03-28T12:00"), 2)
    assert found == [berlin("2026-03-29T03:00"), berlin("2026-03-30T02:30")]
    assert due_times("0,30 2 * * *", berlin("2026-03-28T12:00"), 2) == [
        berlin("2026-03-29T03:00"),
        berlin("2026-03-30T02:00"),
    ]


def test_a_time_that_comes_twice_in_autumn_runs_once() -> None:
    found = due_times("30 2 * * *", berlin("2026-10-24T12:00"), 2)
    assert found == [berlin("2026-10-25T02:30"), berlin("2026-10-26T02:30")]


def test_within_the_second_pass_of_the_hour_nothing_of_the_first_is_due() -> None:
    within = berlin("2026-10-25T02:30", fold=1)
    assert due_times("45 2 * * *", within, 1) == [berlin("2026-10-26T02:45")]


def test_an_hourly_job_runs_each_hour_of_a_day_of_25_and_of_23_hours() -> None:
    autumn = due_times("0 * * * *", berlin("2026-10-24T23:59"), 26)
    assert autumn[-1] == berlin("2026-10-26T00:00")
    spring = due_times("0 * * * *", berlin("2026-03-28T23:59"), 24)
    assert spring[-1] == berlin("2026-03-30T00:00")


@pytest.mark.parametrize(
    ("expression", "zone", "said"),
    [
        ("30 2 * *", "UTC", "five fields"),
        ("0 30 2 * * *", "UTC", "five fields"),
        ("@daily", "UTC", "five fields"),
        ("60 2 * * *", "UTC", "minute"),
        ("0 2 * * 5L/2", "UTC", "no cron expression"),
        ("0 0 31 2 *", "UTC", "day-of-month"),
        ("30 2 * * *", "Europe/Atlantis", "Europe/Atlantis"),
        ("30 2 * * *", "../etc/passwd", "no time zone"),
        ("30 2 * * *", "", "no time zone"),
    ],
)
def test_what_is_no_schedule_is_refused_with_a_reason(
    expression: str, zone: str, said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        Schedule.parse(expression, zone)


# The oracle: fields as sets, every minute of UTC looked at.

FIELDS = ((0, 59), (0, 23), (1, 31), (1, 12), (0, 6))


@st.composite
def field(draw: st.DrawFn, low: int, high: int) -> tuple[str, set[int]]:
    every = list(range(low, high + 1))
    match draw(st.sampled_from("*/-,n")):
        case "*":
            return "*", set(every)
        case "/":
            step = draw(st.integers(1, high))
            return f"*/{step}", set(every[::step])
        case "-":
            begin, end = sorted(draw(st.tuples(st.sampled_from(every), st.sampled_from(every))))
            return f"{begin}-{end}", set(range(begin, end + 1))
        case ",":
            chosen = draw(st.lists(st.sampled_from(every), min_size=1, max_size=4))
            return ",".join(map(str, chosen)), set(chosen)
        case _:
            one = draw(st.sampled_from(every))
            return str(one), {one}


expressions = st.tuples(*(field(low, high) for low, high in FIELDS))
near_changes = st.sampled_from([berlin("2026-03-28T20:00"), berlin("2026-10-24T20:00")])


def matches(fields: tuple[tuple[str, set[int]], ...], local: datetime) -> bool:
    minute, hour, day, month, weekday = fields
    on_day = local.day in day[1]
    on_weekday = local.isoweekday() % 7 in weekday[1]
    either = not day[0].startswith("*") and not weekday[0].startswith("*")
    return (
        local.minute in minute[1]
        and local.hour in hour[1]
        and local.month in month[1]
        and (on_day or on_weekday if either else on_day and on_weekday)
    )


def walk(fields: tuple[tuple[str, set[int]], ...], instant: datetime, days: int):
    """Every due minute after an instant."""
    fixed = not fields[0][0].startswith("*") and not fields[1][0].startswith("*")
    at = instant.replace(second=0, microsecond=0) + MINUTE
    before = (at - MINUTE).astimezone(BERLIN).replace(tzinfo=None)
    for _ in range(days * 1440):
        local = at.astimezone(BERLIN)
        wall = local.replace(tzinfo=None)
        skipped = [before + n * MINUTE for n in range(1, int((wall - before) / MINUTE))]
        if fixed:
            if (matches(fields, wall) and not local.fold) or any(
                matches(fields, one) for one in skipped
            ):
                yield at
        elif matches(fields, wall):
            yield at
        at, before = at + MINUTE, wall


@given(expressions, near_changes, st.integers(0, 12 * 60 * 60))
def test_the_next_moment_is_the_first_that_a_walk_over_all_minutes_finds(
    fields: tuple[tuple[str, set[int]], ...], begin: datetime, later: int
) -> None:
    instant = begin + timedelta(seconds=later)
    expression = " ".join(text for text, _ in fields)
    try:
        schedule = Schedule.parse(expression, "Europe/Berlin")
    except ValueError:
        longest = max(29 if month == 2 else monthrange(2026, month)[1] for month in fields[3][1])
        assert min(fields[2][1]) > longest
        return
    expected = next(walk(fields, instant, days=2), None)
    found = schedule.next_after(instant)
    if expected is None:
        assert found > instant + timedelta(days=2) - 2 * MINUTE
    else:
        assert found == expected


@given(st.text(max_size=5), st.datetimes(timezones=st.just(UTC)), st.integers(0, 100_000))
def test_jitter_is_bounded_and_the_same_each_time(seed: str, due: datetime, most: int) -> None:
    span = timedelta(seconds=most)
    found = jitter(seed, due, span)
    assert timedelta() <= found <= span
    assert found == jitter(seed, due, span)
