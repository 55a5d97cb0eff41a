"""Objects sealed and opened again: what is not exactly what was written is refused."""

import hashlib
import io
import os
import tempfile

import msgspec
import pyrage
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fix_age import make_keys
from walkeeper.codec.age_header import decode_base64, encode_base64, encode_header, encode_stanza
from walkeeper.codec.age_stream import CHUNK_BYTES, Piece, StreamEncryptor
from walkeeper.codec.compress import Compressor
from walkeeper.codec.keygen import generate_identity
from walkeeper.codec.sealer import Sealer
from walkeeper.codec.stanza import MAX_BODY_BYTES, ObjectFacts, commitment, encode_object_stanza
from walkeeper.codec.x25519 import wrap
from walkeeper.core.layout import ObjectName
from walkeeper.errors import FormatTooNew, IntegrityError, KeyUnavailable, WalRefused, WrongKey

NAME = ObjectName("wal/00000001/00000000/000000010000000000000001.zst.age")
OTHER_NAME = ObjectName("wal/00000001/00000000/000000010000000000000002.zst.age")
MIB = 1 << 20


def blocks_of(data: bytes, size: int = MIB) -> list[memoryview]:
    return [memoryview(data)[begin : begin + size] for begin in range(0, len(data), size)]


def seal(codec_keys, data: bytes, name=NAME, **options) -> bytes:
    with codec_keys.sealer().seal(name, blocks_of(data), **options) as sealed:
        return bytes(sealed.body())


def stream(codec_keys, data: bytes, name=NAME, step: int = MIB) -> bytes:
    writer = codec_keys.sealer().start(name)
    pieces = [piece for block in blocks_of(data, step) for piece in writer.write(block)]
    stored = b"".join([*pieces, *writer.finish()])
    assert writer.sha256 == hashlib.sha256(stored).digest()
    assert writer.size_bytes == len(stored)
    assert writer.plain_size == len(data)
    return stored


def read(opener, stored: bytes, name=NAME, step: int = 300_000) -> bytes:
    header = opener.read_header(name, stored, complete=True)
    reader = opener.open(header)
    plain = bytearray()
    for begin in range(header.size_bytes, len(stored), step):
        for block in reader.feed(stored[begin : begin + step]):
            plain += block
    assert not reader.complete
    for block in reader.finish():
        plain += block
    assert reader.complete
    return bytes(plain)


@settings(deadline=None, max_examples=50)
@given(
    st.integers(0, 300_000),
    st.booleans(),
    st.sampled_from([5_000, 65_536, MIB]),
    st.sampled_from([700, 65_552, MIB]),
    st.booleans(),
)
def test_what_was_sealed_is_what_is_opened(codec_keys, size, random, written, step, known):
    data = os.urandom(size) if random else bytes(size)
    if known:
        stored = bytes(codec_keys.sealer().seal(NAME, blocks_of(data, written)).body())
    else:
        stored = stream(codec_keys, data, step=written)
    assert read(codec_keys.opener(signing=codec_keys.signing), stored, step=step) == data


@pytest.mark.parametrize("make", [seal, stream])
def test_stock_tools_open_an_object(make, codec_keys, tool, tmp_path):
    data = os.urandom(1000) * 3000
    (tmp_path / "key.txt").write_text(codec_keys.identity.reveal())
    stored = make(codec_keys, data)
    compressed = tool("age", "-d", "-i", str(tmp_path / "key.txt"), stdin=stored)
    assert tool("zstd", "-d", "-c", stdin=compressed) == data
    theirs = pyrage.x25519.Identity.from_str(codec_keys.identity.reveal())
    assert pyrage.decrypt(stored, [theirs]) == compressed


def test_stock_tools_open_an_object_with_facts_behind_its_content(codec_keys, tool, tmp_path):
    (tmp_path / "key.txt").write_text(codec_keys.identity.reveal())
    stored = seal(codec_keys, b"link", frames=[b"digest", b""])
    compressed = tool("age", "-d", "-i", str(tmp_path / "key.txt"), stdin=stored)
    assert tool("zstd", "-d", "-c", stdin=compressed) == b"link"
    opened = codec_keys.opener().open_whole(NAME, stored, limit_bytes=4)
    assert (opened.plaintext, opened.frames) == (b"link", (b"digest", b""))
    assert opened.facts.name == NAME


def test_the_header_tells_size_and_content_without_an_identity(codec_keys):
    data = os.urandom(100_000)
    with codec_keys.sealer().seal(NAME, blocks_of(data)) as sealed:
        stored = bytes(sealed.body())
        header = codec_keys.opener(identities=[]).read_header(NAME, stored[:4096])
        assert header.size_bytes == len(sealed.header)
        assert header.implied_size() == sealed.size_bytes == len(stored)
        assert header.facts.size == sealed.plain_size == len(data)
        assert header.facts.stored == sealed.stored
        assert header.content == sealed.content
        assert header.content == codec_keys.signing.content_code(hashlib.sha256(data).digest())
        assert header.facts.requires == ()
        assert header.facts.writer == codec_keys.context.writer


@pytest.mark.parametrize("over", [-1, 0, 1])
def test_the_implied_size_is_right_around_whole_chunks(over, codec_keys):
    for size in (CHUNK_BYTES, 2 * CHUNK_BYTES):
        data = os.urandom(size - 100)
        with codec_keys.sealer().seal(NAME, [data]) as sealed:
            missing = size + over - sealed.stored
        stored = seal(codec_keys, data, frames=[bytes(missing - 8)])
        header = codec_keys.opener().read_header(NAME, stored)
        assert header.facts.stored == size + over
        assert header.implied_size() == len(stored)
        assert read(codec_keys.opener(), stored) == data


def test_an_object_written_as_it_is_read_implies_no_size(codec_keys):
    header = codec_keys.opener().read_header(NAME, stream(codec_keys, b"part"))
    assert (header.implied_size(), header.content, header.facts.size) == (None, None, None)


def test_no_digest_of_the_plaintext_is_stored_in_clear(codec_keys):
    data = b"guess me"
    digest = hashlib.sha256(data)
    stored = seal(codec_keys, data)
    header = codec_keys.opener().read_header(NAME, stored)
    body = header.age.stanzas[0].body
    assert digest.digest() not in stored
    assert digest.hexdigest().encode() not in body
    assert encode_base64(digest.digest()).encode() not in body


def test_the_same_content_has_the_same_code_and_no_other_bytes_in_common(codec_keys):
    one, two = (codec_keys.opener().read_header(NAME, seal(codec_keys, b"same")) for _ in range(2))
    other = codec_keys.opener().read_header(NAME, seal(codec_keys, b"other"))
    assert one.content == two.content != other.content
    assert one.facts.commit != two.facts.commit
    assert make_keys().signing.content_code(bytes(32)) != codec_keys.signing.content_code(bytes(32))


def test_a_header_is_asked_for_again_until_it_is_whole(codec_keys):
    stored = seal(codec_keys, b"x")
    opener = codec_keys.opener()
    size = opener.read_header(NAME, stored).size_bytes
    assert all(opener.read_header(NAME, stored[:length]) is None for length in range(size))
    with pytest.raises(IntegrityError, match=f"{NAME}: the age header is cut"):
        opener.read_header(NAME, stored[: size - 1], complete=True)


@pytest.mark.parametrize("make", [seal, stream])
def test_every_flipped_bit_of_an_object_is_noticed(make, codec_keys):
    stored = make(codec_keys, b"precious")
    opener = codec_keys.opener()
    assert read(opener, stored) == b"precious"
    for place in range(len(stored) * 8):
        broken = bytearray(stored)
        broken[place // 8] ^= 1 << place % 8
        with pytest.raises(IntegrityError, match=NAME):
            read(opener, bytes(broken))


@pytest.mark.parametrize("make", [seal, stream])
def test_every_cut_and_every_extension_of_an_object_is_noticed(make, codec_keys):
    stored = make(codec_keys, b"precious")
    opener = codec_keys.opener()
    for length in range(len(stored)):
        with pytest.raises(IntegrityError, match=NAME):
            read(opener, stored[:length])
    for more in (b"\0", b"x" * 16, stored):
        with pytest.raises(IntegrityError, match=NAME):
            read(opener, stored + more)


@pytest.fixture(scope="module")
def large(codec_keys):
    data = os.urandom(150_000) + bytes(150_000)
    return data, seal(codec_keys, data), stream(codec_keys, data)


@settings(deadline=None, max_examples=150)
@given(st.data(), st.booleans(), st.sampled_from([4096, 65_552, MIB]))
def test_damage_anywhere_in_a_larger_object_is_noticed(codec_keys, large, draw, known, step):
    _, sealed, streamed = large
    stored = sealed if known else streamed
    kind = draw.draw(st.sampled_from(["flip", "cut", "add", "drop", "swap"]))
    place = draw.draw(st.integers(0, len(stored) - 1))
    broken = bytearray(stored)
    if kind == "flip":
        broken[place] ^= 1 << draw.draw(st.integers(0, 7))
    elif kind == "cut":
        del broken[place:]
    elif kind == "add":
        broken += os.urandom(1 + place % 70_000)
    elif kind == "drop":
        del broken[place : place + 1 + place % 70_000]
    else:
        begin = len(stored) - 2 * (CHUNK_BYTES + 16) - place % 100
        first = bytes(broken[begin : begin + CHUNK_BYTES])
        broken[begin : begin + CHUNK_BYTES] = broken[-CHUNK_BYTES:]
        broken[-CHUNK_BYTES:] = first
    with pytest.raises(IntegrityError, match=NAME):
        read(codec_keys.opener(), bytes(broken), step=step)


def test_a_renamed_object_is_refused(codec_keys):
    with pytest.raises(IntegrityError, match=f"{OTHER_NAME}: it was written as {NAME}"):
        codec_keys.opener().read_header(OTHER_NAME, seal(codec_keys, b"x"))


def test_an_object_of_another_archive_or_cluster_is_refused(codec_keys):
    stored = seal(codec_keys, b"x")
    with pytest.raises(IntegrityError, match=f"{NAME}: it belongs to another archive"):
        codec_keys.opener(archive="elsewhere").read_header(NAME, stored)
    with pytest.raises(IntegrityError, match=f"{NAME}: it belongs to another cluster"):
        codec_keys.opener(system_identifier="1").read_header(NAME, stored)


def forged(codec_keys, signing, data=b"forged", **changes) -> bytes:
    """What somebody makes who knows recipients and names, and perhaps a writer key."""
    file_key = os.urandom(16)
    recipients = wrap(file_key, codec_keys.recipient)
    facts = {
        "name": NAME,
        "archive": codec_keys.context.archive,
        "system_identifier": codec_keys.context.system_identifier,
        "requires": [],
        "written": "2026-11-20T10:15:00Z",
        "writer": "w",
        "commit": encode_base64(commitment(file_key)),
        "recipients": encode_base64(hashlib.sha256(recipients).digest()),
    }
    body = msgspec.json.encode({**facts, **changes})
    signature = encode_base64(signing.sign(b"walkeeper.object 1\n" + body))
    own = encode_stanza(("walkeeper.object", "1", signature), body)
    return pack(file_key, own + recipients, data)


def pack(file_key: bytes, stanzas: bytes, data: bytes) -> bytes:
    compressor = Compressor(1)
    out = Piece(encode_header(stanzas, file_key))
    encryptor = StreamEncryptor(file_key)
    encryptor.begin(out)
    encryptor.encrypt(compressor.compress(data) + compressor.finish(), out)
    encryptor.finish(out)
    return bytes(out.content)


def test_what_another_writer_signed_is_refused_unless_asked_for(codec_keys):
    stored = forged(codec_keys, make_keys().signing)
    with pytest.raises(IntegrityError, match=f"{NAME}: it is not signed by a known writer"):
        codec_keys.opener().read_header(NAME, stored)
    assert read(codec_keys.opener(allow_unsigned=True), stored) == b"forged"
    assert read(codec_keys.opener(allow_unsigned=True, writers=[]), stored) == b"forged"


def test_one_of_several_pinned_writers_is_enough(codec_keys):
    other = make_keys()
    stored = forged(codec_keys, other.signing)
    assert read(codec_keys.opener(writers=[codec_keys.writer, other.writer]), stored) == b"forged"


def test_what_only_recipients_are_needed_for_is_refused(codec_keys):
    stored = forged(codec_keys, codec_keys.signing)
    assert read(codec_keys.opener(), stored) == b"forged"
    file_key = os.urandom(16)
    plain_age = pack(file_key, wrap(file_key, codec_keys.recipient), b"forged")
    with pytest.raises(IntegrityError, match="object stanza is not first"):
        codec_keys.opener().read_header(NAME, plain_age)
    with pytest.raises(IntegrityError, match="object stanza is not first"):
        codec_keys.opener(allow_unsigned=True).read_header(NAME, plain_age)


def test_an_unsigned_object_is_refused_unless_asked_for(codec_keys):
    file_key = os.urandom(16)
    header = codec_keys.opener().read_header(NAME, forged(codec_keys, codec_keys.signing))
    recipients = wrap(file_key, codec_keys.recipient)
    facts = msgspec.structs.replace(
        header.facts,
        commit=encode_base64(commitment(file_key)),
        recipients=encode_base64(hashlib.sha256(recipients).digest()),
    )
    own = encode_stanza(("walkeeper.object", "1"), msgspec.json.encode(facts))
    stored = pack(file_key, own + recipients, b"unsigned")
    with pytest.raises(IntegrityError, match=f"{NAME}: it is not signed"):
        codec_keys.opener().read_header(NAME, stored)
    assert read(codec_keys.opener(allow_unsigned=True), stored) == b"unsigned"


@pytest.mark.parametrize("signature", ["A", "AAA=", "A" * 86, "AAAA", "-" * 86])
def test_a_malformed_signature_is_refused(signature, codec_keys):
    stanzas = encode_stanza(("walkeeper.object", "1", signature), b"{}")
    stored = encode_header(stanzas + encode_stanza(("X25519",), b""), bytes(16))
    with pytest.raises(IntegrityError, match="sign"):
        codec_keys.opener().read_header(NAME, stored)


def test_the_payload_of_another_object_is_refused(codec_keys):
    one, two = seal(codec_keys, b"one"), seal(codec_keys, b"two")
    begin = codec_keys.opener().read_header(NAME, one).size_bytes
    other = codec_keys.opener().read_header(NAME, two).size_bytes
    with pytest.raises(IntegrityError, match=f"{NAME}: the encrypted payload is damaged"):
        read(codec_keys.opener(), one[:begin] + two[other:])


def test_the_stanza_stands_first_and_once(codec_keys):
    file_key = os.urandom(16)
    recipients = wrap(file_key, codec_keys.recipient)
    header = codec_keys.opener().read_header(NAME, seal(codec_keys, b"x"))
    own = encode_object_stanza(header.facts, codec_keys.signing)
    for stanzas, reason in [
        (recipients + own, "not first"),
        (own + own + recipients, "repeated"),
        (own + recipients + own, "repeated"),
        (own, "names no recipient"),
        (recipients, "not first"),
    ]:
        with pytest.raises(IntegrityError, match=reason):
            codec_keys.opener().read_header(NAME, encode_header(stanzas, file_key))


def test_a_passphrase_stanza_is_refused(codec_keys):
    file_key = os.urandom(16)
    recipients = wrap(file_key, codec_keys.recipient)
    recipients += encode_stanza(("scrypt", encode_base64(bytes(16)), "18"), bytes(32))
    digest = encode_base64(hashlib.sha256(recipients).digest())
    facts = codec_keys.opener().read_header(NAME, seal(codec_keys, b"x")).facts
    facts = msgspec.structs.replace(
        facts, recipients=digest, commit=encode_base64(commitment(file_key))
    )
    header = encode_header(encode_object_stanza(facts, codec_keys.signing) + recipients, file_key)
    with pytest.raises(IntegrityError, match=f"{NAME}: .*passphrase"):
        codec_keys.opener().open(codec_keys.opener().read_header(NAME, header))


def test_unknown_facts_are_passed_over_and_unknown_features_refused(codec_keys):
    assert (
        read(codec_keys.opener(), forged(codec_keys, codec_keys.signing, later={"a": 1}))
        == b"forged"
    )
    with pytest.raises(FormatTooNew, match=f"{NAME}: .*deltas, folds") as caught:
        codec_keys.opener().read_header(
            NAME, forged(codec_keys, codec_keys.signing, requires=["folds", "deltas"])
        )
    assert "upgrade" in caught.value.hint


@pytest.mark.parametrize(
    "changes",
    [
        {"commit": "AAAA"},
        {"commit": "A" * 42 + "B"},
        {"recipients": "!"},
        {"written": "2026-11-20T10:15:00"},
        {"written": "yesterday"},
        {"name": 7},
        {"size": 1},
        {"size": 1, "stored": 10},
        {"size": -1, "stored": 10, "content": "A" * 43},
        {"size": 1, "stored": 0, "content": "A" * 43},
        {"size": 1, "stored": 10, "content": ""},
    ],
)
def test_malformed_facts_are_refused_though_they_are_signed(changes, codec_keys):
    with pytest.raises(IntegrityError, match=f"{NAME}: .*malformed"):
        codec_keys.opener().read_header(NAME, forged(codec_keys, codec_keys.signing, **changes))


def test_facts_that_do_not_fit_are_refused_by_both_sides(codec_keys):
    facts = codec_keys.opener().read_header(NAME, seal(codec_keys, b"x")).facts
    with pytest.raises(ValueError, match="2048"):
        encode_object_stanza(
            msgspec.structs.replace(facts, writer="w" * MAX_BODY_BYTES), codec_keys.signing
        )
    with pytest.raises(IntegrityError, match="more than 2048"):
        codec_keys.opener().read_header(
            NAME, forged(codec_keys, codec_keys.signing, writer="w" * MAX_BODY_BYTES)
        )


@pytest.mark.parametrize(
    ("size", "stored", "reason"),
    [(0, 0, "holds more than"), (2, 0, "holds 6 bytes, not 8"), (0, 1, "less is"), (0, -1, "more")],
)
def test_totals_that_differ_from_the_header_are_refused(size, stored, reason, codec_keys):
    compressor = Compressor(1)
    true_stored = len(compressor.compress(b"forged") + compressor.finish())
    facts = {"size": 6 + size, "stored": true_stored + stored, "content": "A" * 43}
    if reason.startswith("holds more"):
        facts["size"] = 5
    with pytest.raises(IntegrityError, match=f"{NAME}: .*{reason}"):
        read(codec_keys.opener(), forged(codec_keys, codec_keys.signing, **facts))


def test_content_that_differs_from_its_code_is_refused_by_who_holds_the_writer_key(codec_keys):
    compressor = Compressor(1)
    stored = len(compressor.compress(b"forged") + compressor.finish())
    object_ = forged(codec_keys, codec_keys.signing, size=6, stored=stored, content="A" * 43)
    assert read(codec_keys.opener(), object_) == b"forged"
    with pytest.raises(IntegrityError, match=f"{NAME}: its content is not what"):
        read(codec_keys.opener(signing=codec_keys.signing), object_)


def test_a_file_key_that_was_not_committed_to_is_refused(codec_keys):
    with pytest.raises(IntegrityError, match=f"{NAME}: the file key is not the one"):
        read(
            codec_keys.opener(),
            forged(codec_keys, codec_keys.signing, commit=encode_base64(bytes(32))),
        )


def test_a_wrong_key_is_told_from_a_damaged_header(codec_keys):
    stored = seal(codec_keys, b"x")
    stranger = codec_keys.opener(identities=[generate_identity()[0]])
    with pytest.raises(WrongKey, match=f"{NAME}: none of the identities"):
        read(stranger, stored)
    begin = stored.index(b"-> X25519 ")
    broken = stored[: begin + 60] + bytes([stored[begin + 60] ^ 1]) + stored[begin + 61 :]
    with pytest.raises(IntegrityError, match=NAME):
        read(stranger, broken)


def test_without_keys_the_next_step_is_named(codec_keys):
    header = codec_keys.opener(identities=[]).read_header(NAME, seal(codec_keys, b"x"))
    with pytest.raises(KeyUnavailable, match=f"{NAME}: an identity is needed") as caught:
        codec_keys.opener(identities=[]).open(header)
    assert "identity_file" in caught.value.hint
    with pytest.raises(KeyUnavailable, match="no writer is known") as caught:
        codec_keys.opener(writers=[])
    assert "writers" in caught.value.hint
    with pytest.raises(KeyUnavailable, match="recipients"):
        Sealer([], codec_keys.signing, codec_keys.context)
    with pytest.raises(KeyUnavailable, match="not 32"):
        Sealer([codec_keys.recipient] * 32, codec_keys.signing, codec_keys.context)


def test_as_many_recipients_as_a_header_holds_can_all_read(codec_keys):
    others = [generate_identity() for _ in range(30)]
    sealer = codec_keys.sealer(*(recipient for _, recipient in others))
    stored = bytes(sealer.seal(ObjectName("n" * 1500), [b"x"]).body())
    for identity in (codec_keys.identity, others[0][0], others[-1][0]):
        opener = codec_keys.opener(identities=[generate_identity()[0], identity])
        assert read(opener, stored, ObjectName("n" * 1500)) == b"x"


def test_a_large_payload_goes_to_a_file_and_comes_back(codec_keys):
    data = os.urandom(3 * MIB)
    opened = []

    def spool():
        opened.append(tempfile.TemporaryFile())  # noqa: SIM115
        return opened[-1]

    with codec_keys.sealer().seal(
        NAME, blocks_of(data, 300_000), spool=spool, spool_over_bytes=MIB, frames=[b"f"]
    ) as sealed:
        assert sealed.spilled
        stored = b"".join(sealed.blocks())
        assert b"".join(sealed.blocks()) == stored
        assert len(stored) == sealed.size_bytes
        assert sealed.sha256() == hashlib.sha256(stored).digest()
        with pytest.raises(ValueError, match="no single buffer"):
            sealed.body()
    assert [file.closed for file in opened] == [True]
    assert read(codec_keys.opener(), stored) == data


def test_a_small_payload_stays_in_memory(codec_keys):
    with codec_keys.sealer().seal(
        NAME, [bytes(5 * MIB)], spool=io.BytesIO, spool_over_bytes=MIB
    ) as it:
        assert not it.spilled
        stored = bytes(it.body())
        assert b"".join(it.blocks()) == stored
        assert it.sha256() == hashlib.sha256(stored).digest()
        assert bytes(it.body()) == stored
    assert read(codec_keys.opener(), stored) == bytes(5 * MIB)


def test_a_block_that_is_refused_ends_the_work_and_closes_the_file(codec_keys):
    files = []

    def spool():
        files.append(tempfile.TemporaryFile())  # noqa: SIM115
        return files[-1]

    seen = []

    def check(block):
        seen.append(len(block))
        if len(seen) == 3:
            raise WalRefused("a page of another cluster")

    with pytest.raises(WalRefused):
        codec_keys.sealer().seal(NAME, blocks_of(os.urandom(4 * MIB)), on_block=check, spool=spool)
    assert seen == [MIB] * 3
    assert [file.closed for file in files] == [True]


def test_plaintext_comes_in_bounded_blocks(codec_keys):
    stored = seal(codec_keys, bytes(40 * MIB))
    opener = codec_keys.opener()
    header = opener.read_header(NAME, stored)
    reader = opener.open(header)
    sizes = [len(block) for block in reader.feed(stored[header.size_bytes :])]
    sizes += [len(block) for block in reader.finish()]
    assert sum(sizes) == reader.plain_size == 40 * MIB
    assert max(sizes) <= MIB
    with pytest.raises(IntegrityError, match=f"{NAME}: it holds more than 1000 bytes"):
        opener.open_whole(NAME, stored, limit_bytes=1000)


def test_nothing_secret_is_shown(codec_keys):
    shown = f"{codec_keys!r} {codec_keys.opener().read_header(NAME, seal(codec_keys, b'x'))!r}"
    for secret in (codec_keys.identity, codec_keys.writer_key):
        assert secret.reveal() not in shown
        assert repr(secret.secret) not in shown


def test_facts_are_stored_as_the_format_says(codec_keys):
    header = codec_keys.opener().read_header(NAME, seal(codec_keys, b"x"))
    stanza = header.age.stanzas[0]
    assert stanza.args[:2] == ("walkeeper.object", "1")
    assert len(decode_base64(stanza.args[2])) == 64
    facts = msgspec.json.decode(stanza.body)
    assert list(facts) == [
        *("name", "archive", "system_identifier", "requires", "written", "writer"),
        *("commit", "recipients", "size", "stored", "content"),
    ]
    assert isinstance(facts["system_identifier"], str)
    assert facts["written"].endswith("Z")
    assert msgspec.json.decode(stanza.body, type=ObjectFacts) == header.facts
