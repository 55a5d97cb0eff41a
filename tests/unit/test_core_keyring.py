"""Keys as values."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from walkeeper.core import bech32
from walkeeper.core.keyring import Identity, Recipient, Writer, WriterKey

# C2SP age specification, "The X25519 recipient type": its example pair.
IDENTITY = "AGE-SECRET-KEY-1GFPYYSJZGFPYYSJZGFPYYSJZGFPYYSJZGFPYYSJZGFPYYSJZGFPQ4EGAEX"
RECIPIENT = "age1zvkyg2lqzraa2lnjvqej32nkuu0ues2s82hzrye869xeexvn73equnujwj"

KINDS = [Recipient, Writer, Identity, WriterKey]


def text_of(key):
    return key.reveal() if isinstance(key, Identity | WriterKey) else str(key)


def test_the_example_of_the_specification_is_read():
    assert Identity.parse(IDENTITY).secret == b"\x42" * 32
    assert Recipient.parse(RECIPIENT).key.hex().startswith("132c442be010fbd5")


@given(st.sampled_from(KINDS), st.binary(min_size=32, max_size=32))
def test_every_key_is_read_back_as_it_was_written(kind, raw):
    key = kind(raw)
    assert kind.parse(text_of(key)) == key


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("other", KINDS)
def test_a_key_of_another_kind_is_refused(kind, other):
    if kind is not other:
        with pytest.raises(ValueError, match="does not begin with"):
            kind.parse(text_of(other(bytes(32))))


@pytest.mark.parametrize("kind", KINDS)
def test_the_wrong_case_is_refused(kind):
    with pytest.raises(ValueError, match="does not begin with"):
        kind.parse(text_of(kind(bytes(32))).swapcase())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("length", [0, 31, 33])
def test_the_wrong_length_is_refused(kind, length):
    with pytest.raises(ValueError, match="32"):
        kind(bytes(length))
    with pytest.raises(ValueError, match="instead of 32"):
        kind.parse(bech32.encode(kind.PREFIX, bytes(length)))


@pytest.mark.parametrize("kind", [Identity, WriterKey])
def test_secrets_are_never_shown_unless_asked(kind):
    key = kind(b"\x42" * 32)
    shown = f"{key} {key!r} {[key]}"
    assert key.reveal() not in shown
    assert "42" not in shown
    assert "x42" not in repr({"key": key})
    assert "hidden" in shown


@pytest.mark.parametrize("kind", [Identity, WriterKey])
def test_a_mistyped_secret_is_not_quoted(kind):
    text = kind(b"\x42" * 32).reveal()
    with pytest.raises(ValueError) as caught:
        kind.parse(text[:-1] + ("Q" if text[-1] != "Q" else "P"))
    assert text[-20:-1] not in str(caught.value)


def test_other_kinds_of_recipients_are_told_apart_from_mistakes():
    with pytest.raises(ValueError, match="only X25519"):
        Recipient.parse("age1pq1x34nzsvr0rxjsg")


def test_a_fingerprint_is_short_and_distinct():
    one, two = Recipient(bytes(32)), Recipient(b"\x01" + bytes(31))
    assert len(one.fingerprint) == 16
    assert one.fingerprint != two.fingerprint
