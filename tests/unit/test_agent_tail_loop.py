"""Which servers have a tail."""

from __future__ import annotations

import pytest

from walkeeper.agent.tail_loop import is_too_old


@pytest.mark.parametrize(
    ("version_num", "too_old"),
    [
        (130_004, True),
        (130_005, False),
        (140_000, True),
        (140_001, False),
        (150_000, False),
        (180_000, False),
    ],
)
def test_servers_that_overwrite_flushed_bytes_after_a_crash_have_none(
    version_num: int, too_old: bool
) -> None:
    assert is_too_old(version_num) == too_old
