"""Bech32, against BIP 173's own examples."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from walkeeper.core import bech32

# BIP 173, "Test vectors": valid strings; the prefixes that hold no data are of interest to us too.
VALID = [
    "A12UEL5L",
    "a12uel5l",
    "an83characterlonghumanreadablepartthatcontainsthenumber1andtheexcludedcharactersbio1tt5tgs",
    "abcdef1qpzry9x8gf2tvdw0s3jn54khce6mua7lmqqqxw",
    "11qqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqc8247j",
    "split1checkupstagehandshakeupstreamerranterredcaperred2y9e3w",
    "?1ezyfcl",
]
INVALID = [
    "\x201nwldj5",
    "\x7f1axkwrx",
    "\x801eym55h",
    "pzry9x0s0muk",
    "1pzry9x0s0muk",
    "x1b4n0q5v",
    "li1dgmt3",
    "de1lg7wt\xff",
    "A1G7SGD8",
    "10a06t8",
    "1qzzfhee",
    "",
    "a12UEL5L",
]


@pytest.mark.parametrize("text", VALID)
def test_the_checksums_of_the_specification_hold(text):
    lower = text.lower()
    values = [bech32._VALUE[char] for char in lower.rpartition("1")[2]]
    assert bech32._polymod([*bech32._expand(lower.rpartition("1")[0]), *values]) == 1


@pytest.mark.parametrize("text", INVALID)
def test_what_the_specification_refuses_is_refused(text):
    with pytest.raises(ValueError):
        bech32.decode(text)


def _with_checksum(prefix: str, values: list[int]) -> str:
    check = bech32._polymod([*bech32._expand(prefix), *values, *[0] * 6]) ^ 1
    values = values + [check >> 5 * (5 - place) & 31 for place in range(6)]
    return f"{prefix}1{''.join(bech32._CHARSET[value] for value in values)}"


@given(st.lists(st.integers(0, 31), max_size=12))
def test_bytes_have_only_one_spelling(values):
    text = _with_checksum("age", values)
    spare = len(values) * 5 % 8
    if spare < 5 and (not values or values[-1] & ((1 << spare) - 1) == 0):
        assert bech32.encode(*bech32.decode(text)) == text
    else:
        with pytest.raises(ValueError, match="padding"):
            bech32.decode(text)


def test_a_whole_spare_group_is_refused():
    with pytest.raises(ValueError, match="padding"):
        bech32.decode(_with_checksum("age", [0]))
    with pytest.raises(ValueError, match="padding"):
        bech32.decode(_with_checksum("age", [0, 1]))


@given(st.binary(max_size=200), st.sampled_from(["age", "AGE-SECRET-KEY-", "a1b"]))
def test_what_is_encoded_is_decoded_again(data, prefix):
    assert bech32.decode(bech32.encode(prefix, data)) == (prefix, data)


@given(st.binary(min_size=1, max_size=60), st.data())
def test_one_changed_character_is_always_noticed(data, draw):
    text = bech32.encode("age", data)
    place = draw.draw(st.integers(4, len(text) - 1))
    other = draw.draw(st.sampled_from(bech32._CHARSET).filter(lambda char: char != text[place]))
    with pytest.raises(ValueError):
        bech32.decode(text[:place] + other + text[place + 1 :])


@pytest.mark.parametrize("prefix", ["", "Age", "a e", "\xe4ge"])
def test_a_prefix_that_cannot_be_written_is_refused(prefix):
    with pytest.raises(ValueError):
        bech32.encode(prefix, b"x")
