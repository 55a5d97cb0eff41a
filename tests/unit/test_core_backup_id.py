"""The names of base backups."""

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from walkeeper.core.backup_id import BackupId

ZONES = st.integers(-1439, 1439).map(lambda m: timezone(timedelta(minutes=m)))
# Hypothesis wants the bounds without a zone.
EARLIEST, LATEST = datetime(1, 1, 3), datetime(9999, 12, 29)  # noqa: DTZ001
TIMES = st.datetimes(min_value=EARLIEST, max_value=LATEST, timezones=ZONES)
CHANCE = st.binary(min_size=3, max_size=3)


@given(TIMES, CHANCE)
def test_what_is_printed_reads_back_the_same(started_at, chance):
    backup = BackupId.create(started_at, chance)
    assert BackupId.parse(str(backup)) == backup


@given(TIMES, TIMES, CHANCE)
def test_the_order_is_that_of_the_clock_and_of_the_text(one, other, chance):
    first, second = BackupId.create(one, chance), BackupId.create(other, chance)
    assert (first < second) == (first.started_at < second.started_at)
    assert (first < second) == (str(first) < str(second))


def test_it_names_utc_to_the_second():
    eastern = timezone(timedelta(hours=-5))
    started_at = datetime(2026, 11, 20, 5, 15, 0, 999_999, tzinfo=eastern)
    backup = BackupId.create(started_at, b"\x3f\xa9\xc1")
    assert str(backup) == "20261120T101500Z-full-3fa9c1"
    assert backup.started_at == datetime(2026, 11, 20, 10, 15, tzinfo=UTC)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "20261120T101500Z-full-3fa9c",
        "20261120T101500Z-full-3fa9c12",
        "20261120T101500Z-full-3FA9C1",
        "20261120T101500Z-incr-3fa9c1",
        "20261320T101500Z-full-3fa9c1",
        "20261120T101560Z-full-3fa9c1",
        "00001120T101500Z-full-3fa9c1",
        "20261120T101500-full-3fa9c1",
        "20261120T101500Z-full-3fa9c1\n",
        " 20261120T101500Z-full-3fa9c1",
        "\u0662\u0660261120T101500Z-full-3fa9c1",
    ],
)
def test_anything_else_is_refused(text):
    with pytest.raises(ValueError, match="not a backup id"):
        BackupId.parse(text)


def test_an_id_cannot_be_made_of_a_local_time_or_of_less_chance():
    with pytest.raises(ValueError, match="zone"):
        BackupId.create(datetime(2026, 11, 20), b"abc")  # noqa: DTZ001
    with pytest.raises(ValueError, match="three bytes"):
        BackupId.create(datetime(2026, 11, 20, tzinfo=UTC), b"ab")
