"""Plain JSON that is believed only when a known writer signed it."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fix_age import make_keys
from walkeeper.codec import signed_json
from walkeeper.errors import IntegrityError, KeyUnavailable

NAME = "backups/20261120T101500Z-full-3fa9c1/start.json"
ARCHIVE = "9f86d081"


class Claim(msgspec.Struct, frozen=True, kw_only=True):
    name: str = NAME
    archive: str = ARCHIVE
    note: str = "n"


class LaterClaim(Claim, frozen=True, kw_only=True):
    more: int = 7


def decode(data: bytes, codec_keys, **changes):
    options = {"name": NAME, "archive": ARCHIVE, "writers": [codec_keys.writer]}
    return signed_json.decode(data, Claim, **(options | changes))


@given(st.text(max_size=50))
def test_what_was_signed_is_read_back(codec_keys, note):
    claim = Claim(note=note)
    data = signed_json.encode(claim, codec_keys.signing)
    assert decode(data, codec_keys) == claim
    assert decode(b" \n" + data + b"\n", codec_keys) == claim
    assert msgspec.json.decode(data)["body"]["note"] == note


def test_every_flipped_bit_is_noticed(codec_keys):
    data = signed_json.encode(Claim(), codec_keys.signing)
    for place in range(len(data) * 8):
        broken = bytearray(data)
        broken[place // 8] ^= 1 << place % 8
        with pytest.raises(IntegrityError, match=NAME):
            decode(bytes(broken), codec_keys)


def test_every_cut_is_noticed(codec_keys):
    data = signed_json.encode(Claim(), codec_keys.signing)
    for length in range(len(data)):
        with pytest.raises(IntegrityError, match=NAME):
            decode(data[:length], codec_keys)


def test_the_signature_covers_the_bytes_as_they_stand(codec_keys):
    data = signed_json.encode(Claim(), codec_keys.signing)
    spaced = data.replace(b'"note":"n"', b'"note": "n"')
    assert spaced != data
    with pytest.raises(IntegrityError, match="not signed by a known writer"):
        decode(spaced, codec_keys)


def test_unknown_fields_are_passed_over(codec_keys):
    assert decode(signed_json.encode(LaterClaim(), codec_keys.signing), codec_keys) == Claim()


def test_an_object_that_was_moved_is_refused(codec_keys):
    data = signed_json.encode(Claim(), codec_keys.signing)
    with pytest.raises(IntegrityError, match=f"archive.json: it was written as {NAME}"):
        decode(data, codec_keys, name="archive.json")
    with pytest.raises(IntegrityError, match=f"{NAME}: it belongs to another archive"):
        decode(data, codec_keys, archive="other")
    assert decode(data, codec_keys, archive=None) == Claim()


def test_another_writer_is_refused_unless_asked_for(codec_keys):
    data = signed_json.encode(Claim(), make_keys().signing)
    with pytest.raises(IntegrityError, match=f"{NAME}: it is not signed by a known writer"):
        decode(data, codec_keys)
    assert decode(data, codec_keys, allow_unsigned=True, writers=[]) == Claim()
    with pytest.raises(IntegrityError, match="moved"):
        decode(data, codec_keys, allow_unsigned=True, name="archive.json")


def test_without_a_writer_to_compare_with_nothing_is_read(codec_keys):
    with pytest.raises(KeyUnavailable, match="no writer is known"):
        decode(signed_json.encode(Claim(), codec_keys.signing), codec_keys, writers=[])


def test_a_signature_of_an_object_is_none_of_plain_json(codec_keys):
    body = msgspec.json.encode(Claim())
    signature = signed_json.encode_base64(codec_keys.signing.sign(b"walkeeper.object 1\n" + body))
    data = b'{"body":' + body + b',"signature":"' + signature.encode() + b'"}'
    with pytest.raises(IntegrityError, match="not signed by a known writer"):
        decode(data, codec_keys)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff",
        b"[]",
        b"{}",
        b'{"body":{}}',
        b'{"body":{},"signature":7}',
        b'{"body":{},"signature":"A=="}',
        b'{"body":{},"signature":"\xc3\xa4"}',
        b'{"body":{"name":"\xff"},"signature":"AAAA"}',
    ],
)
def test_what_is_no_signed_object_is_refused(data, codec_keys):
    with pytest.raises(IntegrityError, match=NAME):
        decode(data, codec_keys)


@pytest.mark.parametrize(
    "data", [b"", b"\xff", b"[]", b'{"body":[],"signature":""}', b'{"body":{}}']
)
def test_what_is_no_object_is_refused_though_signatures_do_not_matter(data, codec_keys):
    with pytest.raises(IntegrityError, match=NAME):
        decode(data, codec_keys, allow_unsigned=True)
