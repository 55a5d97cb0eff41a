"""Histograms against counting by hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from walkeeper.core.histogram import BYTES, SECONDS, Histogram


@given(st.lists(st.floats(min_value=0, max_value=1e12)), st.sampled_from([SECONDS, BYTES]))
def test_each_bound_counts_the_values_up_to_it(
    values: list[float], bounds: tuple[float, ...]
) -> None:
    histogram = Histogram(bounds)
    for value in values:
        histogram.note(value)
    found = histogram.counts()
    limits = (*bounds, float("inf"))
    assert found.cumulative == tuple(sum(one <= limit for one in values) for limit in limits)
    assert found.total == pytest.approx(sum(values))


def test_a_snapshot_does_not_change() -> None:
    histogram = Histogram(SECONDS)
    before = histogram.counts()
    histogram.note(1.0)
    assert before.cumulative[-1] == 0
