"""A backlog that grows: seen as a trend, with the time when the disk is full."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from walkeeper.core.backlog import MIN_SPAN_S, BacklogSample, find_growth

MIB = 1 << 20
SEGMENT = 16 * MIB


def line(count: int, step_s: float, growth: int, free: int, loss: int) -> list[BacklogSample]:
    return [
        BacklogSample(n * step_s, int(n * step_s * growth), int(free - n * step_s * loss))
        for n in range(count)
    ]


def test_a_disk_is_full_when_the_line_says_so() -> None:
    found = find_growth(line(31, 10, MIB, 1000 * MIB, MIB), SEGMENT)
    assert found is not None
    assert found.bytes_per_s == pytest.approx(MIB)
    assert found.free_bytes == 700 * MIB
    assert found.full_in_s == pytest.approx(700)


def test_recycled_segments_do_not_hide_the_loss() -> None:
    found = find_growth(line(31, 10, MIB, 1000 * MIB, 0), SEGMENT)
    assert found is not None
    assert found.full_in_s == pytest.approx(1000)


def test_somebody_else_who_writes_to_the_disk_counts() -> None:
    found = find_growth(line(31, 10, MIB, 1000 * MIB, 2 * MIB), SEGMENT)
    assert found is not None
    assert found.full_in_s == pytest.approx(200)


@pytest.mark.parametrize(
    "samples",
    [
        [],
        line(3, 100, MIB, 1000 * MIB, MIB),
        line(10, 10, MIB, 1000 * MIB, MIB),
        line(31, 10, 0, 1000 * MIB, MIB),
        line(31, 10, MIB // 8, 1000 * MIB, MIB),  # under four segments
        line(31, 10, -MIB, 1000 * MIB, MIB),
    ],
    ids=["none", "few", "short", "level", "little", "drains"],
)
def test_what_is_no_trend_is_none(samples: list[BacklogSample]) -> None:
    assert find_growth(samples, SEGMENT) is None


def test_a_bulk_load_that_is_being_worked_off_is_no_growth() -> None:
    backlog = [0, 90, 80, 70, 66]
    samples = [BacklogSample(n * 60, size * SEGMENT, 1000 * MIB) for n, size in enumerate(backlog)]
    assert find_growth(samples, SEGMENT) is None


@given(
    st.lists(
        st.tuples(st.floats(0.1, 100), st.integers(0, 1 << 40), st.integers(0, 1 << 50)),
        max_size=50,
    )
)
def test_an_answer_is_always_a_time_to_come(steps: list[tuple[float, int, int]]) -> None:
    at, samples = 0.0, []
    for pause, backlog, free in steps:
        at += pause
        samples.append(BacklogSample(at, backlog, free))
    found = find_growth(samples, SEGMENT)
    if found is not None:
        assert samples[-1].at_s - samples[0].at_s >= MIN_SPAN_S
        assert found.backlog_bytes >= 4 * SEGMENT
        assert found.bytes_per_s > 0
        assert found.full_in_s >= 0
