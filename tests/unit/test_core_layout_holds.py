"""Names of pins, leases, marks and drill records: each is read back as it was written."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from walkeeper.core.backup_id import BackupId
from walkeeper.core.layout_holds import (
    LeaseName,
    PinName,
    clock_object,
    expiring_mark,
    is_clock_object,
    lease_object,
    parse_drill_record,
    parse_expiring_mark,
    parse_lease_object,
    parse_pin_object,
    pin_object,
)

MOMENTS = st.datetimes(timezones=st.just(UTC)).map(lambda moment: moment.replace(microsecond=0))
BACKUPS = st.builds(BackupId.create, MOMENTS, st.binary(min_size=3, max_size=3))
HOLDERS = st.binary(min_size=8, max_size=8).map(bytes.hex)
ID = "20261120T101500Z-full-3fa9c1"


@given(st.builds(PinName, BACKUPS, MOMENTS, st.booleans()))
def test_every_pin_is_read_back(pin: PinName) -> None:
    assert parse_pin_object(pin_object(pin)) == pin


@given(st.builds(LeaseName, BACKUPS, MOMENTS, HOLDERS))
def test_every_lease_is_read_back(lease: LeaseName) -> None:
    assert parse_lease_object(lease_object(lease)) == lease


@given(BACKUPS, HOLDERS)
def test_marks_and_questions_are_told_apart(backup: BackupId, chance: str) -> None:
    assert parse_expiring_mark(expiring_mark(backup)) == backup
    assert parse_expiring_mark(clock_object(chance)) is None
    assert is_clock_object(clock_object(chance))
    assert not is_clock_object(expiring_mark(backup))


def test_the_names_are_those_of_the_format() -> None:
    backup, at = BackupId.parse(ID), datetime(2026, 11, 21, 4, tzinfo=UTC)
    assert pin_object(PinName(backup, at, True)) == f"pins/{ID}/20261121T040000Z-pin.json"
    assert pin_object(PinName(backup, at, False)) == f"pins/{ID}/20261121T040000Z-unpin.json"
    lease = LeaseName(backup, at, "00112233445566ff")
    assert lease_object(lease) == f"leases/{ID}/20261121T040000Z-00112233445566ff.json"
    assert expiring_mark(backup) == f"expiring/{ID}.json"
    assert parse_drill_record("drills/20261121T040000Z-3fa9c1.json") == at


@pytest.mark.parametrize(
    "name",
    [
        f"pins/{ID}/20261121T040000Z-keep.json",
        f"pins/{ID}/20261131T040000Z-pin.json",
        "pins/x/20261121T040000Z-pin.json",
        f"pins/{ID}/../20261121T040000Z-pin.json",
        f"leases/{ID}/20261121T040000Z-00112233445566FF.json",
        f"leases/{ID}/20261121T040000Z-0011.json",
        f"expiring/{ID}",
        "expiring/clock-1.json",
        "drills/20261121T040000Z-3fa9c1.json.zst.age",
        "drills/٢٠٢٦١١٢١T040000Z-3fa9c1.json",
        f"pins/{ID}/20261121T040000Z-pin.json\n",
    ],
)
def test_any_other_name_is_not_ours(name: str) -> None:
    assert parse_pin_object(name) is None
    assert parse_lease_object(name) is None
    assert parse_expiring_mark(name) is None
    assert parse_drill_record(name) is None
    assert not is_clock_object(name)
