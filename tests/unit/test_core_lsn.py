"""LSNs: PostgreSQL's text form, order and distances."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from walkeeper.core.lsn import Lsn

VALUES = st.integers(0, 2**64 - 1)


@given(VALUES)
def test_what_is_printed_reads_back_the_same(value):
    assert Lsn.parse(str(Lsn(value))) == Lsn(value)
    assert Lsn.parse(str(Lsn(value)).lower()) == Lsn(value)


@given(VALUES, VALUES)
def test_the_order_is_that_of_the_bytes(one, other):
    assert (Lsn(one) < Lsn(other)) == (one < other)
    assert (Lsn(one) == Lsn(other)) == (one == other)


@given(VALUES, VALUES)
def test_a_distance_leads_from_one_position_to_the_other(one, other):
    distance = Lsn(other) - Lsn(one)
    assert Lsn(one) + distance == Lsn(other)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0/0", 0),
        ("0/1500B30", 0x1500B30),
        ("0/01500B30", 0x1500B30),  # as PostgreSQL 19 prints it
        ("16/B374D848", 0x16B374D848),
        ("FFFFFFFF/FFFFFFFF", 2**64 - 1),
    ],
)
def test_postgresqls_forms_are_read(text, value):
    assert Lsn.parse(text).value == value


def test_it_is_printed_as_postgresql_prints_it():
    assert str(Lsn(0x16_0000_0028)) == "16/28"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "/",
        "0/",
        "/0",
        "0",
        "0/0/0",
        "0/123456789",
        "G/0",
        "0x1/0",
        "-1/0",
        " 0/0",
        "0/0\n",
        "0 / 0",
        "+1/0",
        "١/0",
    ],
)
def test_anything_else_is_refused(text):
    with pytest.raises(ValueError, match="not an LSN"):
        Lsn.parse(text)


@pytest.mark.parametrize("value", [-1, 2**64])
def test_positions_outside_the_log_do_not_exist(value):
    with pytest.raises(ValueError, match="between"):
        Lsn(value)
    with pytest.raises(ValueError, match="between"):
        Lsn(0) + value
