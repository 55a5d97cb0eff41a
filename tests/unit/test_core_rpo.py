"""The RPO is the age of the oldest byte that a disaster would cost."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from walkeeper.core.lsn import Lsn
from walkeeper.core.rpo import RpoHistory, RpoMeter


def test_an_idle_server_has_an_rpo_of_zero() -> None:
    meter = RpoMeter()
    meter.flush(Lsn(100), 0.0)
    meter.store(Lsn(100))
    meter.flush(Lsn(100), 1000.0)
    assert meter.rpo_s(2000.0) == 0


def test_bytes_are_as_old_as_the_last_moment_without_them() -> None:
    meter = RpoMeter()
    meter.store(Lsn(100))
    meter.flush(Lsn(100), 10.0)
    meter.flush(Lsn(150), 15.0)
    assert meter.rpo_s(20.0) == 10.0


def test_what_becomes_durable_makes_the_rpo_that_of_what_is_left() -> None:
    meter = RpoMeter()
    meter.flush(Lsn(100), 10.0)
    meter.flush(Lsn(200), 20.0)
    meter.flush(Lsn(300), 30.0)
    meter.store(Lsn(200))
    assert meter.rpo_s(40.0) == 20.0
    meter.store(Lsn(300))
    assert meter.rpo_s(50.0) == 0


def test_a_new_timeline_begins_anew() -> None:
    meter = RpoMeter()
    meter.flush(Lsn(500), 1.0)
    meter.restart(Lsn(200))
    assert meter.rpo_s(100.0) == 0
    meter.flush(Lsn(250), 100.0)
    assert meter.rpo_s(101.0) == 1.0


@given(
    st.lists(
        st.tuples(st.booleans(), st.integers(1, 50), st.floats(0, 10, allow_nan=False)),
        max_size=200,
    )
)
def test_it_never_promises_more_than_is_true(steps: list[tuple[bool, int, float]]) -> None:
    """Against a log of when each byte was first seen: the true age is never above the answer."""
    meter = RpoMeter()
    seen: list[float] = []  # when byte number i was first known to be flushed
    durable = 0
    now = 0.0
    for is_flush, size, pause in steps:
        now += pause
        if is_flush:
            seen.extend([now] * size)
            meter.flush(Lsn(len(seen)), now)
        else:
            durable = min(durable + size, len(seen))
            meter.store(Lsn(durable))
        true_age = now - seen[durable] if durable < len(seen) else 0.0
        assert meter.rpo_s(now) >= true_age
        assert (meter.rpo_s(now) == 0) or durable < len(seen)


def test_many_samples_are_bounded_and_stay_pessimistic() -> None:
    meter = RpoMeter()
    for number in range(1, 20_000):
        meter.flush(Lsn(number), float(number))
    meter.store(Lsn(10_000))
    assert 9_900 <= 20_000.0 - meter.rpo_s(20_000.0) <= 10_001


def test_the_history_knows_the_worst_and_the_usual_of_the_last_hour() -> None:
    history = RpoHistory(window_s=100)
    assert history.maximum_s() == history.quantile_s(0.99) == 0
    history.note(50.0, 0.0)
    for second in range(1, 101):
        history.note(1.0 if second % 50 else 3.0, float(second))
    assert history.maximum_s() == 50.0
    history.note(1.0, 101.0)
    assert history.maximum_s() == 3.0
    assert history.quantile_s(0.5) == 1.0
    assert history.quantile_s(1.0) == 3.0


@given(st.lists(st.floats(0, 100), min_size=1, max_size=100), st.floats(0.01, 1.0))
def test_a_quantile_is_a_sample_that_so_many_do_not_exceed(
    samples: list[float], part: float
) -> None:
    history = RpoHistory()
    for number, rpo_s in enumerate(samples):
        history.note(rpo_s, float(number))
    quantile = history.quantile_s(part)
    assert quantile in samples
    assert sum(rpo_s <= quantile for rpo_s in samples) >= part * len(samples) - 1e-6
