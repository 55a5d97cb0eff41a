"""Names of WAL files and their arithmetic, for every segment size."""

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from walkeeper.core.lsn import Lsn
from walkeeper.core.wal import (
    BackupHistoryFile,
    PartialSegment,
    SegmentSize,
    TimelineHistoryFile,
    WalSegment,
    parse_wal_file,
)

SIZES = st.integers(20, 30).map(lambda bits: SegmentSize(1 << bits))
TIMELINES = st.integers(1, 2**32 - 1)
LSNS = st.integers(0, 2**64 - 1).map(Lsn)
SEGMENTS = st.builds(WalSegment, TIMELINES, st.integers(0, 2**32 - 1), st.integers(0, 4095))
FILES = st.one_of(
    SEGMENTS,
    SEGMENTS.map(PartialSegment),
    st.builds(BackupHistoryFile, SEGMENTS, st.integers(0, 2**32 - 1)),
    TIMELINES.map(TimelineHistoryFile),
)


@given(FILES)
def test_a_name_reads_back_as_the_file_it_was_made_from(wal):
    assert parse_wal_file(str(wal)) == wal


@given(st.text(string.hexdigits + ".partiblckuhsoy", max_size=50))
def test_whatever_is_read_as_a_name_is_that_name(text):
    try:
        wal = parse_wal_file(text)
    except ValueError:
        return
    assert str(wal) == text


@pytest.mark.parametrize("bits", range(20, 31))
def test_the_last_segment_of_a_log_is_followed_by_the_first_of_the_next(bits):
    size = SegmentSize(1 << bits)
    last = WalSegment(1, 0, size.segments_per_log - 1)
    assert last.next(size) == WalSegment(1, 1, 0)
    assert last.end(size) == Lsn(1 << 32)
    assert WalSegment.before(1, Lsn(1 << 32), size) == last
    assert WalSegment.at(1, Lsn(1 << 32), size) == WalSegment(1, 1, 0)


def test_sixteen_megabyte_segments_end_each_log_at_ff():
    size = SegmentSize(16 << 20)
    assert str(WalSegment.parse("0000000100000000000000FF").next(size)) == (
        "000000010000000100000000"
    )


@given(TIMELINES, LSNS, SIZES)
def test_a_position_lies_in_the_segment_that_is_named_for_it(timeline, lsn, size):
    segment = WalSegment.at(timeline, lsn, size)
    assert segment.fits(size)
    assert 0 <= lsn - segment.begin(size) < size.bytes
    assert segment.begin(size).value % size.bytes == 0


@given(TIMELINES, LSNS, SIZES)
def test_the_segment_before_a_position_holds_the_byte_before_it(timeline, lsn, size):
    segment = WalSegment.before(timeline, lsn, size)
    expected = max(lsn.value - 1, 0)
    assert segment == WalSegment.at(timeline, Lsn(expected), size)


@given(TIMELINES, SIZES, st.data())
def test_the_order_of_names_is_that_of_positions(timeline, size, data):
    numbers = st.integers(0, 2**64 // size.bytes - 2)
    one, other = (WalSegment.numbered(timeline, data.draw(numbers), size) for _ in range(2))
    assert (one < other) == (one.begin(size) < other.begin(size)) == (str(one) < str(other))
    assert one.next(size).begin(size) == one.end(size)
    assert WalSegment.numbered(timeline, one.number(size), size) == one


@given(SEGMENTS, SIZES)
def test_a_name_that_does_not_fit_the_segment_size_has_no_position(segment, size):
    if segment.fits(size):
        assert WalSegment.at(segment.timeline, segment.begin(size), size) == segment
    else:
        with pytest.raises(ValueError, match="is no segment of"):
            segment.begin(size)


@given(SEGMENTS, TIMELINES)
def test_the_same_place_on_another_timeline_keeps_its_position(segment, timeline):
    moved = segment.on(timeline)
    assert (moved.timeline, moved.log, moved.seg) == (timeline, segment.log, segment.seg)


@pytest.mark.parametrize("size", [0, 1 << 19, (1 << 20) + 1, 3 << 20, 1 << 31, -(1 << 20)])
def test_only_powers_of_two_from_1_mib_to_1_gib_are_segment_sizes(size):
    with pytest.raises(ValueError, match="not a WAL segment size"):
        SegmentSize(size)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "00000001000000000000000",
        "0000000100000000000000010",
        "00000001000000000000000a",
        "000000000000000000000001",
        "000000010000000000001000",  # beyond 1 MiB segments
        "000000010000000000000001\n",
        "000000010000000000000001.part",
        "000000010000000000000001.partial.partial",
        "000000010000000000000001.backup",
        "000000010000000000000001.28.backup",
        "000000000000000000000001.00000028.backup",
        "000000010000000000000001.00000028.backup.partial",
        "00000001.history.partial",
        "00000000.history",
        "1.history",
        "0000000a.history",
        "RECOVERYXLOG",
        "archive_status",
        "../000000010000000000000001",
        "\u0660" * 24,
    ],
)
def test_other_names_are_refused(name):
    with pytest.raises(ValueError, match="WAL segment"):
        parse_wal_file(name)


def test_the_log_has_an_end():
    size = SegmentSize(1 << 30)
    last = WalSegment(1, 2**32 - 1, 3)
    for beyond in (last.next, last.end):
        with pytest.raises(ValueError, match=r"no WAL segment|an LSN"):
            beyond(size)
    with pytest.raises(ValueError, match="no WAL segment"):
        WalSegment.numbered(1, -1, size)
