"""Which objects are read next: after a full cycle all of them, and the oldest first."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from walkeeper.core.read_cycle import MAX_DAMAGED, ReadCycle

BEGIN = datetime(2026, 11, 20, tzinfo=UTC)
NAMES = [f"wal/{n}" for n in range(200)]
shares = st.lists(st.floats(0.001, 1.0), min_size=1, max_size=40)


def rounds(sizes: list[float]) -> tuple[ReadCycle, dict[str, int]]:
    """The cycle after rounds of these sizes, and in which round each name was read last."""
    cycle, read = ReadCycle(seed="host"), dict[str, int]()
    for number, share in enumerate(sizes):
        sample = cycle.next_sample(share)
        read.update((name, number) for name in NAMES if name in sample)
        cycle = cycle.after(sample, BEGIN + timedelta(days=number), ())
    return cycle, read


@given(shares)
def test_everything_is_read_once_the_shares_make_up_a_whole(sizes: list[float]) -> None:
    cycle, read = rounds(sizes)
    since = cycle.complete_since()
    if sum(sizes) >= 1.001:
        assert since is not None
    if since is not None:
        assert set(read) == set(NAMES)
        assert min(read.values()) >= (since - BEGIN).days


@given(shares, st.floats(0.001, 0.5))
def test_what_was_read_longest_ago_comes_first(sizes: list[float], share: float) -> None:
    cycle, read = rounds(sizes)
    sample = cycle.next_sample(share)
    chosen = [read.get(name, -1) for name in NAMES if name in sample]
    left = [read.get(name, -1) for name in NAMES if name not in sample]
    if chosen and left:
        assert max(chosen) <= min(left) + sum(1 for size in sizes if size >= 1) + 1


@given(shares)
def test_arcs_never_overlap_and_stay_on_the_ring(sizes: list[float]) -> None:
    cycle, _ = rounds(sizes)
    position = 0
    for arc in cycle.arcs:
        assert position <= arc.begin < arc.end <= 1 << 32
        position = arc.end


def test_a_share_of_all_objects_is_about_that_many() -> None:
    sample = ReadCycle(seed="host").next_sample(0.1)
    chosen = sum(f"wal/{n}" in sample for n in range(10_000))
    assert 850 < chosen < 1150


def test_damaged_objects_are_in_every_sample() -> None:
    cycle = ReadCycle(seed="host")
    many = tuple(f"d/{n}" for n in range(MAX_DAMAGED + 5))
    cycle = cycle.after(cycle.next_sample(0.01), BEGIN, many)
    sample = cycle.next_sample(0.001)
    assert all(name in sample for name in many[:MAX_DAMAGED])
    assert len(cycle.damaged) == MAX_DAMAGED


@pytest.mark.parametrize("share", [0.0, -0.1, 1.01])
def test_other_shares_are_refused(share: float) -> None:
    with pytest.raises(ValueError, match="a share lies above 0"):
        ReadCycle(seed="host").next_sample(share)
