"""The container against the stock commands, and its limits."""

import os

import pyrage
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from walkeeper.codec.age_header import (
    MAX_HEADER_BYTES,
    decode_base64,
    encode_base64,
    encode_header,
    encode_stanza,
    parse_header,
)
from walkeeper.codec.age_stream import (
    CHUNK_BYTES,
    NONCE_BYTES,
    Piece,
    StreamDecryptor,
    StreamEncryptor,
    payload_size,
)
from walkeeper.codec.keygen import generate_identity, generate_writer_key
from walkeeper.codec.x25519 import Unwrapper, recipient_of, wrap
from walkeeper.core.keyring import Identity, Recipient
from walkeeper.errors import IntegrityError, KeyUnavailable

SIZES = [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 3 * CHUNK_BYTES, 200_000]


def encrypt(plain: bytes, *recipients: Recipient, step: int = 50_000) -> bytes:
    file_key = os.urandom(16)
    stanzas = b"".join(wrap(file_key, recipient) for recipient in recipients)
    out = Piece(encode_header(stanzas, file_key))
    stream = StreamEncryptor(file_key)
    stream.begin(out)
    for begin in range(0, len(plain), step):
        stream.encrypt(plain[begin : begin + step], out)
    stream.finish(out)
    return bytes(out.content)


def decrypt(file: bytes, identity: Identity, *, step: int = 50_000) -> bytes:
    header = parse_header(file)
    file_key = Unwrapper([identity]).find_file_key(header.stanzas)
    header.check_mac(file_key)
    stream = StreamDecryptor(file_key)
    plain = bytearray()
    for begin in range(len(header.text), len(file), step):
        plain += stream.decrypt(file[begin : begin + step])
    return bytes(plain) + stream.finish()


def test_the_example_identity_has_the_example_recipient():
    text = "AGE-SECRET-KEY-1GFPYYSJZGFPYYSJZGFPYYSJZGFPYYSJZGFPYYSJZGFPYYSJZGFPQ4EGAEX"
    recipient = "age1zvkyg2lqzraa2lnjvqej32nkuu0ues2s82hzrye869xeexvn73equnujwj"
    assert str(recipient_of(Identity.parse(text))) == recipient


def test_age_keygen_finds_the_same_recipient(tool):
    identity, recipient = generate_identity()
    assert tool("age-keygen", "-y", stdin=identity.reveal().encode()).decode().strip() == str(
        recipient
    )


def test_new_keys_are_all_different():
    assert len({generate_identity()[0].secret for _ in range(20)}) == 20
    assert len({generate_writer_key()[1].key for _ in range(20)}) == 20


@pytest.mark.parametrize("size", SIZES)
def test_the_age_command_opens_what_we_encrypt(size, codec_keys, tool, tmp_path):
    plain = os.urandom(size)
    (tmp_path / "key.txt").write_text(codec_keys.identity.reveal())
    file = encrypt(plain, generate_identity()[1], codec_keys.recipient)
    assert tool("age", "-d", "-i", str(tmp_path / "key.txt"), stdin=file) == plain


@pytest.mark.parametrize("size", SIZES)
def test_we_open_what_the_age_command_encrypts(size, codec_keys, tool):
    plain = os.urandom(size)
    others = str(generate_identity()[1])
    file = tool("age", "-r", others, "-r", str(codec_keys.recipient), stdin=plain)
    assert decrypt(file, codec_keys.identity) == plain


@pytest.mark.parametrize("size", SIZES)
def test_pyrage_and_we_open_each_other(size, codec_keys):
    plain = os.urandom(size)
    theirs = pyrage.x25519.Identity.from_str(codec_keys.identity.reveal())
    assert pyrage.decrypt(encrypt(plain, codec_keys.recipient), [theirs]) == plain
    assert decrypt(pyrage.encrypt(plain, [theirs.to_public()]), codec_keys.identity) == plain


@settings(deadline=None, max_examples=60)
@given(
    st.integers(0, 4 * CHUNK_BYTES),
    st.sampled_from([1 << 20, CHUNK_BYTES, CHUNK_BYTES + 16, 70_001]),
    st.sampled_from([1 << 20, CHUNK_BYTES, CHUNK_BYTES + 16, 9_973]),
)
def test_pieces_of_any_size_give_the_same_stream(size, written, read):
    identity, recipient = generate_identity()
    plain = os.urandom(size)
    file = encrypt(plain, recipient, step=written)
    assert len(file) - len(parse_header(file).text) == payload_size(size)
    assert decrypt(file, identity, step=read) == plain


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2 * CHUNK_BYTES + 5), st.data())
def test_a_cut_payload_is_never_taken_for_a_whole_one(size, draw):
    identity, recipient = generate_identity()
    file = encrypt(bytes(size), recipient)
    begin = len(parse_header(file).text)
    length = draw.draw(st.integers(begin, len(file) - 1))
    with pytest.raises(IntegrityError):
        decrypt(file[:length], identity)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("step", [1 << 20, 4096])
@pytest.mark.parametrize("extra", [1, 16, CHUNK_BYTES + 16])
def test_bytes_after_the_end_are_refused(size, step, extra, codec_keys):
    file = encrypt(bytes(size), codec_keys.recipient) + bytes(extra)
    with pytest.raises(IntegrityError):
        decrypt(file, codec_keys.identity, step=step)


def test_nothing_is_used_twice(codec_keys):
    one, two = encrypt(b"x", codec_keys.recipient), encrypt(b"x", codec_keys.recipient)
    assert parse_header(one).stanzas[0].args != parse_header(two).stanzas[0].args
    begin = len(parse_header(one).text)
    assert one[begin : begin + NONCE_BYTES] != two[begin : begin + NONCE_BYTES]


def test_a_recipient_that_nobody_can_hold_is_refused():
    with pytest.raises(KeyUnavailable, match="not a usable public key"):
        wrap(bytes(16), Recipient(bytes(32)))


@given(st.binary(max_size=100))
def test_base64_is_read_back(data):
    assert decode_base64(encode_base64(data)) == data


@given(st.text(st.sampled_from("AQgw+/=\n -_a9\xe4"), max_size=8))
def test_base64_has_only_one_spelling(text):
    try:
        data = decode_base64(text)
    except ValueError:
        return
    assert encode_base64(data) == text


def stanzas(count: int) -> bytes:
    return b"".join(encode_stanza(("x", str(number)), b"") for number in range(count))


def test_a_header_holds_32_stanzas_and_no_more():
    assert len(parse_header(encode_header(stanzas(32), bytes(16))).stanzas) == 32
    with pytest.raises(IntegrityError, match="more than 32 stanzas"):
        parse_header(encode_header(stanzas(33), bytes(16)))


def test_a_header_of_more_than_64_kib_is_refused_before_its_end():
    large = encode_header(encode_stanza(("x",), bytes(MAX_HEADER_BYTES)), bytes(16))
    with pytest.raises(IntegrityError, match="larger than 65536"):
        parse_header(large)
    with pytest.raises(IntegrityError, match="larger than 65536"):
        parse_header(large[:MAX_HEADER_BYTES])
    with pytest.raises(IntegrityError, match="larger than 65536"):
        parse_header(b"age-encryption.org/v1\n-> " + b"x" * MAX_HEADER_BYTES)


@pytest.mark.parametrize(
    "data",
    [
        b"age-encryption.org/v2\n",
        b"x",
        b"age-encryption.org/v1\nx",
        b"age-encryption.org/v1\n-x",
        b"age-encryption.org/v1\n--- " + b"A" * 43 + b"\n",
        b"age-encryption.org/v1\n-> x\n" + b"A" * 65,
        b"age-encryption.org/v1\n-> x\n\n--- " + b"A" * 44,
        b"age-encryption.org/v1\n-> x\n\n---" + b"A" * 44 + b"\n",
    ],
)
def test_a_header_that_cannot_become_one_is_refused_at_once(data):
    with pytest.raises(IntegrityError, match="malformed"):
        parse_header(data)


def test_a_mac_of_another_file_key_is_refused(codec_keys):
    header = parse_header(encrypt(b"x", codec_keys.recipient))
    with pytest.raises(IntegrityError, match="MAC"):
        header.check_mac(bytes(16))
