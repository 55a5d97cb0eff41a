"""One zstd frame, nothing else."""

import os
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from walkeeper.codec.compress import (
    MAX_LEVEL,
    MAX_TRAILER_BYTES,
    STEP_BYTES,
    Compressor,
    Decompressor,
    skippable_frame,
)
from walkeeper.errors import IntegrityError

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd


def compress(data: bytes, level: int = 1) -> bytes:
    compressor = Compressor(level)
    return compressor.compress(data) + compressor.finish()


def decompress(data: bytes, *, size: int | None = None, step: int = 10_000) -> tuple:
    decompressor = Decompressor(size)
    blocks = []
    for begin in range(0, len(data), step):
        decompressor.feed(data[begin : begin + step])
        blocks += decompressor.drain()
    return b"".join(blocks), decompressor.finish()


@settings(deadline=None)
@given(
    st.binary(max_size=3000),
    st.integers(0, 2000),
    st.integers(1, 400),
    st.lists(st.binary(max_size=40), max_size=3),
)
def test_everything_comes_back(seed, times, step, frames):
    data = seed * (times % 30)
    stored = compress(data) + b"".join(map(skippable_frame, frames))
    assert decompress(stored, step=step) == (data, tuple(frames))


@pytest.mark.parametrize("level", [1, 3, 9, 15, MAX_LEVEL])
def test_the_zstd_command_reads_every_level(level, tool):
    data = os.urandom(1000) * 12_000
    stored = compress(data, level) + skippable_frame(b"digest")
    assert decompress(stored, step=1 << 20) == (data, (b"digest",))
    assert tool("zstd", "-d", "-c", "--memory=8MiB", stdin=stored) == data


def test_what_the_zstd_command_writes_is_read(tool):
    data = os.urandom(1000) * 100
    assert decompress(tool("zstd", "-c", stdin=data))[0] == data


@pytest.mark.parametrize("level", [0, -1, MAX_LEVEL + 1])
def test_a_level_with_other_limits_is_refused(level):
    with pytest.raises(ValueError, match="between 1 and 19"):
        Compressor(level)


def test_a_bomb_comes_out_in_small_blocks():
    stored = compress(bytes(64 << 20))
    decompressor = Decompressor()
    decompressor.feed(stored)
    sizes = [len(block) for block in decompressor.drain()]
    assert sum(sizes) == decompressor.plain_size == 64 << 20
    assert max(sizes) <= STEP_BYTES


def test_a_bomb_is_cut_off_at_the_declared_size():
    decompressor = Decompressor(5 << 20)
    decompressor.feed(compress(bytes(64 << 20)))
    given_out = 0
    blocks = decompressor.drain()
    for _ in range(5):
        given_out += len(next(blocks))
    with pytest.raises(IntegrityError, match="more than the 5242880 bytes"):
        next(blocks)
    assert given_out == 5 << 20


def test_output_that_was_not_taken_comes_with_the_next():
    decompressor = Decompressor()
    stored = compress(bytes(3 << 20)) + skippable_frame(b"x")
    decompressor.feed(stored[:50])
    assert next(decompressor.drain())
    decompressor.feed(stored[50:])
    assert sum(map(len, decompressor.drain())) == 2 << 20
    assert decompressor.finish() == (b"x",)


def options(**changes: int) -> dict[int, int]:
    return {zstd.CompressionParameter[name]: value for name, value in changes.items()}


def foreign(data: bytes, **changes: int) -> bytes:
    return zstd.compress(data, options=options(**({"checksum_flag": 1} | changes)))


def test_a_frame_without_a_checksum_is_refused():
    with pytest.raises(IntegrityError, match="no checksum"):
        decompress(foreign(b"x" * 100, checksum_flag=0))


def test_a_frame_with_a_dictionary_is_refused():
    words = [f"row {n} of {n * 7919 % 1000}".encode() for n in range(20_000)]
    dictionary = zstd.train_dict(words, 10_000)
    stored = zstd.compress(b"row 7 of 9", options=options(checksum_flag=1), zstd_dict=dictionary)
    with pytest.raises(IntegrityError, match="needs a dictionary"):
        decompress(stored)


@pytest.mark.parametrize("step", [3, 1 << 20])
@pytest.mark.parametrize("known_size", [0, 1])
def test_a_window_of_more_than_8_mib_is_refused(step, known_size):
    data = bytes(17 << 20)
    stored = foreign(data, window_log=24, content_size_flag=known_size)
    with pytest.raises(IntegrityError, match="window of more than 8 MiB"):
        decompress(stored, step=step)


@pytest.mark.parametrize("size", [10, 255, 256, 65_791, 65_792, 100_000, 8 << 20])
def test_small_frames_that_know_their_size_are_read(size):
    assert decompress(foreign(bytes(size)), step=7) == (bytes(size), ())


def test_every_cut_is_noticed():
    stored = compress(b"abc" * 100) + skippable_frame(b"digest")
    end_of_data = len(compress(b"abc" * 100))
    for length in set(range(len(stored))) - {end_of_data}:
        with pytest.raises(IntegrityError):
            decompress(stored[:length])


@pytest.mark.parametrize(
    "behind", [b"\x00", b"x" * 20, compress(b"second"), skippable_frame(b"x")[:-1]]
)
def test_only_skippable_frames_may_follow(behind):
    with pytest.raises(IntegrityError, match="other than a skippable frame"):
        decompress(compress(b"first") + behind)


@pytest.mark.parametrize("before", [skippable_frame(b"x"), b"x", b"\x28\xb5\x2f\xfc"])
def test_nothing_may_come_first(before):
    with pytest.raises(IntegrityError, match="does not begin with a zstd data frame"):
        decompress(before + compress(b"data"))


def test_what_follows_is_bounded():
    fits = skippable_frame(bytes(MAX_TRAILER_BYTES - 8))
    assert len(decompress(compress(b"x") + fits)[1][0]) == MAX_TRAILER_BYTES - 8
    with pytest.raises(IntegrityError, match="too much follows"):
        decompress(compress(b"x") + fits + b"\x50")


def test_a_changed_byte_never_gives_other_data():
    data = os.urandom(200)
    stored = compress(data)
    refused = 0
    for place in range(len(stored)):
        broken = bytearray(stored)
        broken[place] ^= 0x55
        try:
            assert decompress(bytes(broken))[0] == data
        except IntegrityError:
            refused += 1
    # Only the window's size, in the frame header, can change without a consequence.
    assert refused >= len(stored) - 2
