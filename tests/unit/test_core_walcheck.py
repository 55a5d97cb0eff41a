"""Whole, cut off or foreign: verdicts on segments made by hand."""

from __future__ import annotations

import random
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fix_wal import MIB, PAGE, SYSTEM, WalWriter, main_data
from walkeeper.core.lsn import Lsn
from walkeeper.core.wal import PartialSegment, SegmentSize, WalSegment
from walkeeper.core.walcheck import Complete, CutOff, Refused, SegmentCheck, Verdict

FIRST = WalSegment.parse("000000030000000200000007")
SIZE = MIB.bytes
LARGE = SegmentSize(16 << 20)
LENGTHS = st.lists(
    st.integers(3, 60) | st.integers(8000, 8300) | st.integers(3, 30_000), min_size=1, max_size=8
)
STALE = random.Random(3).randbytes(SIZE)


def judge(
    data: bytes | bytearray | memoryview,
    segment: WalSegment | PartialSegment = FIRST,
    *,
    size: SegmentSize = MIB,
    block: int = 1 << 17,
    major: int | None = None,
    system: int = SYSTEM,
) -> Verdict:
    check = SegmentCheck(segment, size, system, major)
    for at in range(0, len(data), block):
        check.feed(data[at : at + block])
    return check.finish()


def nearly_full(left: int = 20_000) -> WalWriter:
    """A segment in which a record begun earlier takes all but the last bytes."""
    writer = WalWriter(FIRST)
    writer.continue_until(SIZE - left)
    return writer


def recycled(previous: int = 5) -> bytes:
    """What a recycled file holds: valid pages and records of an earlier segment."""
    writer = WalWriter(WalSegment(FIRST.timeline, FIRST.log, FIRST.seg - previous))
    writer.continue_until(SIZE - 40_000)
    while len(writer.data) < SIZE:
        writer.append(b"an older record", xid=600)
    return bytes(writer.data[:SIZE])


RECYCLED = recycled()


@given(LENGTHS, st.sampled_from([PAGE, 3 * PAGE, 1 << 17, SIZE]))
def test_a_segment_whose_records_run_to_its_end_is_complete(lengths, block):
    writer = nearly_full()
    while len(writer.data) < SIZE:
        for length in lengths:
            writer.append(b"\x07" * length)
    assert judge(writer.segments()[0], block=block) == Complete()


@pytest.mark.parametrize("last", [40, 4000, PAGE - 24])
def test_a_last_record_may_end_exactly_with_the_segment(last):
    writer = nearly_full(last if last < PAGE - 24 else PAGE)
    writer.append(b"\x07" * (last - 24))
    assert len(writer.data) == SIZE
    assert judge(writer.data) == Complete()
    damaged = bytearray(writer.data)
    damaged[-1] ^= 1
    verdict = judge(damaged)
    assert isinstance(verdict, CutOff)
    assert "damaged" in verdict.reason


def test_a_segment_in_which_no_record_begins_is_complete():
    writer = WalWriter(FIRST)
    writer.append(b"abc")
    writer.append(bytes(2 * SIZE))
    assert judge(writer.segments()[1], FIRST.next(MIB)) == Complete()


@given(LENGTHS, st.data(), st.sampled_from(["zeros", "stale", "recycled"]))
def test_a_cut_segment_is_cut_off_after_its_last_whole_record(lengths, data, filler):
    writer = nearly_full()
    start = len(writer.data)
    while len(writer.data) < SIZE:
        for number, length in enumerate(lengths):
            writer.append(bytes((number + k) % 255 + 1 for k in range(length)))
    first = Lsn(writer.base)
    inside = [r for r in writer.records if r.end - first <= SIZE]
    if not inside:
        return
    # What comes after the last whole record belongs to one that ends in the next segment.
    cut = data.draw(st.integers(start, inside[-1].last_byte - 1))
    behind = {"zeros": bytes(SIZE), "stale": STALE, "recycled": RECYCLED}[filler]
    content = bytes(writer.data[:cut]) + behind[cut:]
    verdict = judge(content)
    assert isinstance(verdict, CutOff)
    original = writer.data
    # Bytes behind the content, up to the next multiple of eight, do not matter.
    whole = [r.end for r in inside if content[: r.last_byte] == original[: r.last_byte]]
    if whole:
        assert verdict.valid_up_to == whole[-1]
    else:
        assert verdict.valid_up_to <= first + start


@pytest.mark.parametrize("left", [24, 32, 4000, 8 + PAGE, 16 + PAGE, 24 + PAGE, PAGE, 50_000])
def test_a_segment_that_ends_with_a_switch_is_complete(left):
    writer = nearly_full(left)
    switch = writer.switch()
    assert switch.end <= Lsn(writer.base + SIZE)
    assert judge(writer.data) == Complete()
    assert judge(memoryview(bytes(writer.data)), block=PAGE) == Complete()


@pytest.mark.parametrize("left", [8, 16])
def test_a_switch_whose_header_is_split_by_the_segments_border_empties_the_next(left):
    writer = nearly_full(left)
    switch = writer.switch()
    one, two = writer.segments()
    assert switch.end == Lsn(writer.base + SIZE + 40 + 24 - left)
    assert judge(one) == Complete()
    assert judge(two, FIRST.next(MIB)) == Complete()
    broken = bytearray(two)
    broken[40 + 24 - left - 8] = 0x50
    assert isinstance(judge(broken, FIRST.next(MIB)), CutOff)
    followed = bytearray(two)
    followed[200_000] = 1
    assert isinstance(judge(followed, FIRST.next(MIB)), CutOff)


@pytest.mark.parametrize("left", [4000, 24 + PAGE, 50_000])
@pytest.mark.parametrize("gap", [0, 1, 900])
def test_whatever_follows_a_switch_is_never_read_so_the_segment_is_complete(left, gap):
    """A server that is killed while it fills the rest leaves a recycled file's bytes there."""
    writer = nearly_full(left)
    switch = writer.switch()
    writer.data[switch.end.value - writer.base + gap + (left == 24 + PAGE) * PAGE // 2] = 1
    assert judge(writer.data) == Complete()
    behind = switch.end.value - writer.base
    assert judge(bytes(writer.data[:behind]) + STALE[behind:]) == Complete()


@pytest.mark.parametrize("left", [4000, 24 + PAGE, 50_000])
def test_zeros_without_a_switch_before_them_are_cut_off(left):
    writer = nearly_full(left)
    last = writer.append(b"ab" * 10)
    verdict = judge(writer.segments()[0])
    assert isinstance(verdict, CutOff)
    assert verdict.valid_up_to == last.end


def test_a_damaged_switch_is_none():
    writer = nearly_full(50_000)
    before = writer.append(b"abc")
    switch = writer.switch()
    writer.data[switch.begin.value - writer.base + 21] ^= 1
    verdict = judge(writer.data)
    assert isinstance(verdict, CutOff)
    assert verdict.valid_up_to == before.end


def test_a_cut_through_a_record_that_goes_on_in_the_next_segment_cannot_be_seen():
    writer = nearly_full(3000)
    writer.append(b"x" * 9000)
    cut = bytes(writer.data[: SIZE - 500]) + bytes(500)
    assert judge(cut) == Complete()


def test_a_partial_file_never_stands_for_the_segment():
    writer = nearly_full()
    while len(writer.data) < SIZE:
        last = writer.append(b"abc" * 10)
    verdict = judge(writer.data[:SIZE], PartialSegment(FIRST))
    assert isinstance(verdict, CutOff)
    assert ".partial" in verdict.reason
    assert last.begin <= verdict.valid_up_to <= last.end


def test_pages_before_a_fork_keep_the_older_timeline():
    writer = WalWriter(FIRST.on(2))
    writer.continue_until(SIZE - 20_000)
    writer.timeline = 3
    while len(writer.data) < SIZE:
        writer.append(b"abc" * 10)
    assert judge(writer.data[:SIZE]) == Complete()
    assert isinstance(judge(writer.data[:SIZE], FIRST.on(2)), CutOff)


def test_a_timeline_never_goes_back():
    writer = WalWriter(FIRST)
    writer.continue_until(SIZE - 20_000)
    writer.timeline = 2
    while len(writer.data) < SIZE:
        writer.append(b"abc" * 10)
    verdict = judge(writer.data[:SIZE])
    assert isinstance(verdict, CutOff)
    assert "timeline 2" in verdict.reason


@pytest.mark.parametrize("before", [0, 3 << 20, 9 << 20])
@pytest.mark.parametrize("huge", [6 << 20, 12 << 20])
def test_records_longer_than_what_is_kept_in_memory_are_judged_as_well(before, huge):
    writer = WalWriter(FIRST, LARGE)
    if before:
        writer.continue_until(before + 40)
    first = writer.append(main_data(b"abc"))
    second = writer.append(bytes(huge))
    third = writer.append(main_data(b"def"))
    data = writer.segments()[0]
    begin = writer.base
    if second.end.value - begin < LARGE.bytes:
        for block in (1 << 17, 5 << 20):
            verdict = judge(data, size=LARGE, block=block)
            assert isinstance(verdict, CutOff)
            assert verdict.valid_up_to == third.end
            cut = bytearray(data)
            at = third.begin.value - begin
            cut[at:] = bytes(len(cut) - at)
            verdict = judge(cut, size=LARGE, block=block)
            assert isinstance(verdict, CutOff)
            # Whether the long record is whole is not looked at when its begin was let go of.
            assert verdict.valid_up_to in {first.end, second.end}
    else:
        assert judge(data, size=LARGE) == Complete()
    cut = bytearray(data)
    middle = min(first.end.value - begin + (5 << 20), LARGE.bytes - (1 << 20))
    cut[middle:] = bytes(len(cut) - middle)
    verdict = judge(cut, size=LARGE)
    assert isinstance(verdict, CutOff)
    assert verdict.valid_up_to == first.end


def full() -> bytearray:
    writer = nearly_full()
    while len(writer.data) < SIZE:
        writer.append(b"abc" * 10)
    return writer.data[:SIZE]


@pytest.mark.parametrize(
    ("at", "value", "says"),
    [
        (0, struct.pack("<H", 0xD105), "magic number D105"),
        (0, struct.pack("<H", 0xD110 - 3), "not 15"),
        (2, b"\x05\x00", "info bits"),
        (2, b"\x17\x00", "info bits"),
        (4, struct.pack("<I", 4), "timeline 4"),
        (4, struct.pack("<I", 0), "timeline 0"),
        (8, struct.pack("<Q", 0x2_0080_0000), "begins at 2/800000"),
        (24, struct.pack("<Q", 1), "cluster 1"),
        (32, struct.pack("<I", 2 << 20), "segment of 2097152 bytes"),
        (32, struct.pack("<I", 12345), "segment size"),
        (36, struct.pack("<I", 16384), "16384"),
    ],
)
def test_a_first_page_of_something_else_is_refused(at, value, says):
    data = full()
    data[at : at + len(value)] = value
    verdict = judge(data, major=15)
    assert isinstance(verdict, Refused)
    assert says in verdict.reason
    assert str(FIRST) in verdict.reason


def test_a_file_of_another_length_is_refused():
    data = full()
    for content in (b"", data[:-1], data[:-PAGE], data + bytes(PAGE), data + b"x", data[:30]):
        verdict = judge(content)
        assert isinstance(verdict, Refused)
        assert f"{len(content)} bytes" in verdict.reason


def test_an_empty_file_and_one_never_written_are_refused():
    assert isinstance(judge(bytes(SIZE)), Refused)
    assert isinstance(judge(RECYCLED), Refused)


def test_only_the_last_block_may_hold_a_part_of_a_page():
    check = SegmentCheck(FIRST, MIB, SYSTEM)
    check.feed(full()[: PAGE + 1])
    with pytest.raises(ValueError, match="last block"):
        check.feed(b"x")
