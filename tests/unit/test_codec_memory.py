"""Memory of payloads is used again, and never under somebody who still reads it."""

from __future__ import annotations

import os

import pytest

from tests.fix_age import Keys
from walkeeper.codec.memory import STEP_BYTES, PayloadMemory
from walkeeper.codec.sealed import SealedPayload
from walkeeper.core.layout import ObjectName


def payload_of(memory: PayloadMemory, content: bytes) -> SealedPayload:
    payload = SealedPayload(memory, None, 0)
    for begin in range(0, len(content), 300_000):
        piece = content[begin : begin + 300_000]
        with payload.room(len(piece)) as target:
            target[:] = piece
    payload.settle()
    return payload


def test_what_one_payload_has_left_the_next_one_takes() -> None:
    memory = PayloadMemory()
    other, first = memory.take(), memory.take()
    first[:5] = b"trace"
    memory.give(first)
    assert memory.take()[:5] == b"trace"
    memory.give(other)


def test_when_no_payload_is_in_memory_none_is_kept() -> None:
    memory = PayloadMemory()
    piece = memory.take()
    piece[:5] = b"trace"
    memory.give(piece)
    assert memory.take()[:5] == bytes(5)


def test_a_payload_that_was_lost_does_not_count() -> None:
    memory = PayloadMemory()
    memory.take()  # by somebody who never gave it back
    piece = memory.take()
    piece[:5] = b"trace"
    memory.give(piece)
    assert memory.take()[:5] == bytes(5)


def test_no_more_is_kept_than_one_large_payload() -> None:
    memory = PayloadMemory()
    pieces = [memory.take() for _ in range(4)]
    for piece in pieces[:3]:
        piece.resize(16 * STEP_BYTES)
    for piece in pieces[:3]:
        memory.give(piece)
    assert [len(memory.take()) for _ in range(3)] == [16 * STEP_BYTES, STEP_BYTES, STEP_BYTES]


def test_a_small_payload_lets_go_of_what_a_large_one_has_left() -> None:
    memory = PayloadMemory()
    other = memory.take()
    payload_of(memory, bytes(5 * STEP_BYTES)).close()
    small = payload_of(memory, b"small")
    small.close()
    assert len(memory.take()) == STEP_BYTES
    memory.give(other)


@pytest.mark.parametrize("size", [0, 1, STEP_BYTES - 8192, STEP_BYTES - 8191, 4 * STEP_BYTES + 7])
def test_header_and_payload_come_out_as_one(size: int) -> None:
    content = os.urandom(size)
    payload = payload_of(PayloadMemory(), content)
    assert payload.size_bytes == size
    assert payload.join(b"header") == b"header" + content
    assert b"".join(payload.blocks()) == content


def test_a_view_outlives_its_object_whatever_is_sealed_meanwhile(codec_keys: Keys) -> None:
    sealer = codec_keys.sealer()
    other = sealer.seal(ObjectName("other"), [b"other"])
    with sealer.seal(ObjectName("a"), [os.urandom(100_000)]) as sealed:
        view = sealed.body()  # as a writer's thread has it, when its task is cancelled
        stored = bytes(view)
    for _ in range(3):
        sealer.seal(ObjectName("b"), [os.urandom(100_000)]).close()
    assert view == stored
    other.close()


def test_an_object_that_was_closed_gives_nothing(codec_keys: Keys) -> None:
    sealed = codec_keys.sealer().seal(ObjectName("a"), [b"content"])
    sealed.close()
    sealed.close()
    with pytest.raises(ValueError, match="closed"):
        sealed.body()
    with pytest.raises(ValueError, match="closed"):
        list(sealed.blocks())
