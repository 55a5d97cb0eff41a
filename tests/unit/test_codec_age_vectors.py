"""The container against the public age test suite (C2SP/CCTV)."""

import hashlib

import pytest

from walkeeper.codec.age_header import encode_header, encode_stanza, parse_header
from walkeeper.codec.age_stream import NONCE_BYTES, StreamDecryptor
from walkeeper.codec.x25519 import Unwrapper
from walkeeper.core.keyring import Identity
from walkeeper.errors import IntegrityError

HYBRID = "its outcome hangs on a hybrid post-quantum stanza, which format 1 skips as unknown"
SCRYPT = "its passphrase would have to be tried; a passphrase stanza is refused before that"

# Everything that is not run, each with its reason; armored files (objects never are) are told by
# their own facts.
LEFT_OUT = {
    "hybrid": HYBRID,
    "hybrid_and_x25519": HYBRID,
    "hybrid_extra_argument": HYBRID,
    "hybrid_grease": HYBRID,
    "hybrid_identity": HYBRID,
    "hybrid_long_file_key": HYBRID,
    "hybrid_long_share": HYBRID,
    "hybrid_low_order": HYBRID,
    "hybrid_multiple_recipients": HYBRID,
    "hybrid_not_canonical_enc": HYBRID,
    "hybrid_short_share": HYBRID,
    "scrypt": SCRYPT,
    "scrypt_bad_tag": SCRYPT,
    "scrypt_no_match": SCRYPT,
    "scrypt_work_factor_wrong": SCRYPT,
}


@pytest.fixture(scope="session")
def run_vectors(age_vectors):
    return [v for v in age_vectors if not v.armored and v.name not in LEFT_OUT]


def decrypt(vector):
    """What happens to a file, in the suite's words, and the plaintext that was given out."""
    plain = b""
    try:
        header = parse_header(vector.file)
        if header is None:
            return "header failure", plain
        texts = [text for text in vector.identities if text.startswith("AGE-SECRET-KEY-1")]
        file_key = Unwrapper(map(Identity.parse, texts)).find_file_key(header.stanzas)
    except IntegrityError:
        return "header failure", plain
    if file_key is None:
        return "no match", plain
    try:
        header.check_mac(file_key)
    except IntegrityError:
        return "HMAC failure", plain
    payload = vector.file[len(header.text) :]
    if len(payload) < NONCE_BYTES:
        # The suite counts the nonce as a part of the header, we as a part of the payload.
        with pytest.raises(IntegrityError):
            StreamDecryptor(file_key).finish()
        return "header failure", plain
    decryptor = StreamDecryptor(file_key)
    try:
        for begin in range(0, len(payload), 5000):
            plain += decryptor.decrypt(payload[begin : begin + 5000])
        plain += decryptor.finish()
    except IntegrityError:
        return "payload failure", plain
    return "success", plain


def test_every_vector_is_run_but_those_left_out_for_a_reason(age_vectors, run_vectors):
    assert len(age_vectors) == 143
    assert set(LEFT_OUT) <= {vector.name for vector in age_vectors}
    assert sum(vector.armored for vector in age_vectors) == 33
    assert len(run_vectors) == 95
    kinds = {name.split("_")[0] for name in (vector.name for vector in run_vectors)}
    assert kinds >= {"x25519", "stream", "stanza", "hmac", "header", "version", "empty"}


def test_every_vector_ends_as_the_suite_says(run_vectors, subtests):
    for vector in run_vectors:
        with subtests.test(vector.name):
            outcome, plain = decrypt(vector)
            assert outcome == vector.expect
            if vector.payload_sha256 is not None:
                assert hashlib.sha256(plain).hexdigest() == vector.payload_sha256


def test_every_readable_header_is_written_again_byte_for_byte(run_vectors, subtests):
    for vector in run_vectors:
        if vector.expect == "success":
            with subtests.test(vector.name):
                header = parse_header(vector.file)
                lines = [encode_stanza(stanza.args, stanza.body) for stanza in header.stanzas]
                texts = map(Identity.parse, vector.identities)
                file_key = Unwrapper(texts).find_file_key(header.stanzas)
                assert encode_header(b"".join(lines), file_key) == header.text


def test_every_header_asks_for_more_bytes_until_it_is_whole(run_vectors, subtests):
    for vector in run_vectors:
        if vector.expect == "success":
            with subtests.test(vector.name):
                header = parse_header(vector.file)
                for length in range(len(header.text)):
                    assert parse_header(header.text[:length]) is None
                assert parse_header(header.text) == header
