"""What an operator may ask a recovery to reach."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from walkeeper.core.lsn import Lsn
from walkeeper.core.target import (
    AtLsn,
    AtName,
    AtTime,
    AtXid,
    Immediate,
    Latest,
    NamedTimeline,
    RecoveryRequest,
    TargetAction,
    parse_request,
    parse_time,
    parse_timeline,
)
from walkeeper.errors import UsageError

MORNING = datetime(2026, 11, 20, 9, 15, tzinfo=UTC)


@pytest.mark.parametrize(
    "text",
    [
        "2026-11-20 10:15:00+01",
        "2026-11-20 10:15+0100",
        "2026-11-20T10:15:00.000000+01:00",
        "2026-11-20 05:15:00 -04",
        " 2026-11-20 14:45:00+05:30 ",
        "2026-11-20T09:15:00Z",
        "2026-11-20 09:15:00 UTC",
    ],
)
def test_a_time_with_its_zone_is_one_moment(text: str) -> None:
    assert parse_time(text) == AtTime(MORNING)


def test_a_time_without_a_zone_is_utc_and_said_to_be_assumed() -> None:
    assert parse_time("2026-11-20 09:15:00") == AtTime(MORNING, zone_assumed=True)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "now",
        "yesterday",
        "2026-11-20",
        "10:15",
        "2026-11-20 25:00:00Z",
        "2026-02-30 10:00:00Z",
        "2026-11-20 10:15:00.1234567Z",
        "2026-11-20 10:15:00 CET",
        "2026-11-20 10:15:00+25",
        "2026-11-20 10:15:00+01:75",
        "0001-01-01 00:00:00+14",
        "２026-11-20 10:15:00Z",
        "2026-11-20 10:15:00+01 or so",
    ],
)
def test_a_time_that_could_mean_two_moments_or_none_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="not a time"):
        parse_time(text)


@given(
    st.datetimes(
        min_value=datetime(1970, 1, 2),  # noqa: DTZ001
        max_value=datetime(2200, 1, 1),  # noqa: DTZ001
        timezones=st.integers(-14 * 4, 14 * 4).map(lambda q: timezone(timedelta(minutes=15 * q))),
    )
)
def test_every_moment_is_understood_as_python_writes_it(moment: datetime) -> None:
    for text in (moment.isoformat(), moment.isoformat(" ")):
        assert parse_time(text) == AtTime(moment.astimezone(UTC))


def test_a_time_target_stops_before_the_first_transaction_after_it() -> None:
    tick = timedelta(microseconds=1)
    assert [AtTime(MORNING).stops_at(MORNING + n * tick) for n in (-1, 0, 1)] == [0, 0, 1]
    exclusive = AtTime(MORNING, inclusive=False)
    assert [exclusive.stops_at(MORNING + n * tick) for n in (-1, 0, 1)] == [0, 1, 1]
    with pytest.raises(ValueError, match="zone"):
        AtTime(datetime(2026, 11, 20))  # noqa: DTZ001


def test_a_transaction_is_the_same_with_and_without_its_epoch() -> None:
    assert AtXid(750).matches(750)
    assert AtXid((5 << 32) + 750).matches(750)
    assert not AtXid(750).matches(751)


@pytest.mark.parametrize(
    ("options", "target"),
    [
        ({}, Latest()),
        ({"target": "latest"}, Latest()),
        ({"target": "immediate"}, Immediate()),
        ({"time": "2026-11-20 09:15Z"}, AtTime(MORNING)),
        ({"lsn": "0/3000060"}, AtLsn(Lsn(0x3000060))),
        ({"lsn": "0/3000060", "exclusive": True}, AtLsn(Lsn(0x3000060), inclusive=False)),
        ({"xid": "750", "exclusive": True}, AtXid(750, inclusive=False)),
        ({"time": "2026-11-20 09:15Z", "exclusive": True}, AtTime(MORNING, inclusive=False)),
        ({"name": "before the DROP"}, AtName("before the DROP")),
    ],
)
def test_options_name_one_target(options: dict[str, object], target: object) -> None:
    request = parse_request(**options)  # type: ignore[arg-type]
    assert request == RecoveryRequest(target)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"time": "2026-11-20 09:15Z", "lsn": "0/1"}, "--target-time and --target-lsn"),
        ({"target": "latest", "name": "x"}, "one target"),
        ({"target": "yesterday"}, "latest or immediate"),
        ({"exclusive": True}, "exclusive"),
        ({"target": "immediate", "exclusive": True}, "exclusive"),
        ({"name": "x", "exclusive": True}, "exclusive"),
        ({"lsn": "12345"}, "LSN"),
        ({"xid": "2"}, "transaction id"),
        ({"xid": "-5"}, "transaction id"),
        ({"xid": "1" * 25}, "transaction id"),
        ({"xid": str(1 << 64)}, "transaction id"),
        ({"xid": "７５"}, "transaction id"),
        ({"name": ""}, "1 to 63 bytes"),
        ({"name": "ä" * 32}, "1 to 63 bytes"),
        ({"name": "a\0b"}, "bytes"),
        ({"action": "pause"}, "promotes"),
        ({"target": "immediate", "action": "stop"}, "--target-action"),
        ({"timeline": "0"}, "timeline"),
        ({"timeline": "newest"}, "timeline"),
        ({"timeline": str(1 << 32)}, "timeline"),
    ],
)
def test_what_has_no_meaning_is_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_request(**options)  # type: ignore[arg-type]


def test_the_timeline_and_the_action_are_chosen_beside_the_target() -> None:
    request = parse_request(target="immediate", timeline="3", action="shutdown")
    assert request == RecoveryRequest(Immediate(), 3, TargetAction.SHUTDOWN)
    assert parse_timeline("current") is NamedTimeline.CURRENT
    assert parse_timeline("latest") is NamedTimeline.LATEST
    assert parse_timeline("4294967295") == 0xFFFF_FFFF


def test_targets_are_named_in_words_for_messages() -> None:
    assert [
        str(target)
        for target in (
            Latest(),
            Immediate(),
            AtTime(MORNING),
            AtLsn(Lsn(0x3000060)),
            AtXid(7),
            AtName("x"),
        )
    ] == [
        "latest",
        "immediate",
        "time 2026-11-20 09:15:00+00:00",
        "LSN 0/3000060",
        "transaction 7",
        "restore point 'x'",
    ]
