"""The frames between a hook and the agent."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from walkeeper.hooks import wire

KEYS = st.text("abcdefghijklmnopqrstuvwxyz_", min_size=1, max_size=12)
VALUES = st.binary(max_size=300).filter(lambda value: b"\0" not in value)


def payload_of(frame: bytes, kind: int) -> bytes:
    found, length = wire.decode_header(frame[: wire.HEADER_SIZE])
    assert (found, length) == (kind, len(frame) - wire.HEADER_SIZE)
    return frame[wire.HEADER_SIZE :]


@given(command=KEYS, fields=st.dictionaries(KEYS, VALUES, max_size=12))
def test_a_request_arrives_as_it_was_sent(command: str, fields: dict[str, bytes]) -> None:
    frame = wire.encode_request(command, fields)
    assert wire.decode_request(payload_of(frame, wire.REQUEST)) == (command, fields)


@given(message=st.text(), hint=st.text(), code=st.integers(1, 130))
def test_a_failure_always_fits_and_keeps_its_exit_code(message: str, hint: str, code: int) -> None:
    frame = wire.encode_reply(wire.FAILED, code, message * 50, hint * 50)
    status, found, _, _ = wire.decode_reply(payload_of(frame, wire.REPLY))
    assert (status, found) == (wire.FAILED, code)


@given(text=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=99))
def test_the_texts_of_a_reply_arrive_as_they_were_sent(text: str) -> None:
    frame = wire.encode_reply(wire.OK, 0, text, text)
    assert wire.decode_reply(payload_of(frame, wire.REPLY)) == (wire.OK, 0, text, text)


@given(st.binary(max_size=40))
def test_any_bytes_are_a_frame_or_a_wire_error(data: bytes) -> None:
    for decode in (wire.decode_header, wire.decode_request, wire.decode_reply):
        try:
            decode(data)
        except wire.WireError:
            continue


def test_a_nul_in_a_value_is_refused() -> None:
    with pytest.raises(wire.WireError, match="NUL"):
        wire.encode_request("wal-push", {"path": b"/a\0status=ok"})


def test_a_request_over_its_limit_is_refused_on_both_sides() -> None:
    with pytest.raises(wire.WireError, match="limit"):
        wire.encode_request("wal-push", {"path": b"x" * wire.MAX_REQUEST})
    header = wire.encode_frame(wire.REQUEST, b"")[:4] + (wire.MAX_REQUEST + 1).to_bytes(4, "big")
    with pytest.raises(wire.WireError):
        wire.decode_header(header)


def test_another_version_is_named_not_guessed_at() -> None:
    header = b"WK\x07Q" + bytes(4)
    with pytest.raises(wire.VersionMismatch) as caught:
        wire.decode_header(header)
    assert caught.value.version == 7


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"ok",
        b"ok\x000\x00message",
        b"ok\x001\x00\x00",
        b"failed\x000\x00\x00",
        b"okay\x000\x00\x00",
        b"OK\x000\x00\x00",
        b"ok\x00-0\x00\x00",
        b"ok\x000\x00\x00\x00",
    ],
)
def test_only_an_exact_reply_counts_as_one(payload: bytes) -> None:
    with pytest.raises(wire.WireError):
        wire.decode_reply(payload)
