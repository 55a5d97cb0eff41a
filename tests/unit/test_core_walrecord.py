"""Walking records made by hand: every way in which one can lie on pages, every kind of cut."""

from __future__ import annotations

import struct
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fix_wal import MIB, PAGE, TRANSACTION, XLOG, WalWriter, main_data
from walkeeper.core.lsn import Lsn
from walkeeper.core.wal import WalSegment
from walkeeper.core.walfacts import Commit, RestorePoint, TimelineChange
from walkeeper.core.walrecord import scan_segment

FIRST = WalSegment.parse("000000030000000200000007")
AT = datetime(2026, 11, 20, 10, 15, 0, 123456, tzinfo=UTC)
MICROSECONDS = int((AT - datetime(2000, 1, 1, tzinfo=UTC)) / timedelta(microseconds=1))
TIME = struct.pack("<q", MICROSECONDS)
LENGTHS = st.lists(
    st.integers(3, 60) | st.integers(8000, 8300) | st.integers(3, 40_000), min_size=1, max_size=12
)
FLAG_ORDER = (1 << 0, 1 << 1, 1 << 2, 1 << 8, 1 << 3)


def write(lengths: list[int], writer: WalWriter | None = None) -> WalWriter:
    writer = writer or WalWriter(FIRST)
    for number, length in enumerate(lengths):
        writer.append(bytes((number + k * 31) % 251 + 1 for k in range(length)))
    return writer


@given(LENGTHS)
def test_all_records_are_walked_wherever_they_lie(lengths):
    writer = write(lengths)
    scan = scan_segment(FIRST, MIB, writer.data)
    assert scan.last_record == writer.records[-1].begin
    assert scan.valid_end == writer.records[-1].end
    assert scan.stopped is not None  # this is not the whole segment


@given(LENGTHS, st.data(), st.booleans())
def test_a_cut_leaves_the_records_before_it(lengths, data, padded):
    writer = write(lengths)
    cut = data.draw(st.integers(40, len(writer.data) - 1))
    content = bytes(writer.data[:cut]) + (bytes(MIB.bytes - cut) if padded else b"")
    whole = [record for record in writer.records if not any(writer.data[cut : record.last_byte])]
    scan = scan_segment(FIRST, MIB, content)
    assert scan.stopped is not None
    assert scan.carry is None
    if whole:
        assert (scan.last_record, scan.valid_end) == (whole[-1].begin, whole[-1].end)
    else:
        assert scan.valid_end == FIRST.begin(MIB)


@given(LENGTHS, st.data(), st.integers(1, 255))
def test_a_damaged_byte_in_the_last_record_is_noticed(lengths, data, change):
    writer = write(lengths)
    last = writer.records[-1]
    body = last.header_end, last.header_end + min(lengths[-1], PAGE - last.header_end % PAGE)
    at = data.draw(st.integers(*body).filter(lambda at: at < body[1]))
    writer.data[at] ^= change
    scan = scan_segment(FIRST, MIB, writer.data)
    if len(writer.records) > 1:
        assert scan.last_record == writer.records[-2].begin
        assert scan.valid_end == writer.records[-2].end
    else:
        assert scan.valid_end == FIRST.begin(MIB)


@pytest.mark.parametrize("room", [8, 16, 24, 32])
def test_a_record_header_may_be_split_by_a_page_border(room):
    writer = WalWriter(FIRST)
    writer.append(bytes(2 * PAGE - 40 - 24 - room - 24))
    assert len(writer.data) == 2 * PAGE - room
    commit = writer.append(main_data(TIME), rmid=TRANSACTION, info=0x00, xid=99)
    after = writer.append(b"abc")
    scan = scan_segment(FIRST, MIB, writer.data)
    assert scan.facts == (Commit(commit.begin, commit.end, 99, AT, aborted=False),)
    assert scan.valid_end == after.end


def test_a_split_record_header_is_checked_once_it_is_there():
    writer = WalWriter(FIRST)
    first = writer.append(bytes(2 * PAGE - 40 - 24 - 8 - 24))
    split = writer.append(b"abc")
    writer.data[split.header_end - 16] ^= 1  # xl_prev
    scan = scan_segment(FIRST, MIB, writer.data)
    assert scan.valid_end == first.end
    assert scan.stopped == f"no record begins at {split.begin}"


@pytest.mark.parametrize(("room", "at"), [(8, 3), (16, 3), (16, 8)])
def test_what_is_there_of_a_split_record_header_is_checked_at_once(room, at):
    writer = WalWriter(FIRST)
    first = writer.append(bytes(2 * PAGE - 40 - 24 - room - 24))
    split = writer.append(b"abc")
    writer.data[split.begin.value - writer.base + at] ^= 0x80  # xl_tot_len, xl_prev
    scan = scan_segment(FIRST, MIB, writer.data)
    assert scan.valid_end == first.end
    assert scan.stopped == f"no record begins at {split.begin}"


@pytest.mark.parametrize("room", [8, 16, 24, 32, 64, 4000])
def test_a_record_may_go_on_in_the_next_segment(room):
    writer = WalWriter(FIRST)
    writer.continue_until(MIB.bytes - room)
    commit = writer.append(main_data(TIME + bytes(8000)), rmid=TRANSACTION, info=0x20, xid=98)
    after = writer.append(b"abc")
    one, two = writer.segments()
    first = scan_segment(FIRST, MIB, one)
    assert first.carry is not None
    second = scan_segment(FIRST.next(MIB), MIB, two, first.carry)
    assert second.facts == (Commit(commit.begin, commit.end, 98, AT, aborted=True),)
    assert second.valid_end == after.end
    alone = scan_segment(FIRST.next(MIB), MIB, two)
    assert (alone.facts, alone.valid_end) == ((), after.end)


def test_a_record_that_goes_on_in_the_next_segment_and_is_cut_there_ends_before_it_began():
    writer = WalWriter(FIRST)
    writer.continue_until(MIB.bytes - 400)
    before = writer.append(b"abc")
    writer.append(b"x" * 9000)
    one, two = writer.segments()
    first = scan_segment(FIRST, MIB, one)
    for cut in (41, 4000, PAGE, PAGE + 30):
        second = scan_segment(FIRST.next(MIB), MIB, two[:cut], first.carry)
        assert second.valid_end == before.end
        assert second.last_record == before.begin
        assert second.stopped is not None


def test_a_record_may_fill_whole_segments():
    writer = WalWriter(FIRST)
    writer.append(b"abc")
    name = b"p" * (2 * MIB.bytes)
    commit = writer.append(
        main_data(TIME + struct.pack("<I", 0) + name), rmid=TRANSACTION, info=0x80, xid=5
    )
    writer.append(b"abc")
    carry = None
    facts = []
    segment = FIRST
    ends = []
    for data in writer.segments():
        scan = scan_segment(segment, MIB, data, carry)
        facts += scan.facts
        ends.append(scan.valid_end)
        carry, segment = scan.carry, segment.next(MIB)
    assert facts == [Commit(commit.begin, commit.end, 5, AT, aborted=False)]
    assert ends == [writer.records[0].end, writer.records[0].end, writer.records[-1].end]


def test_records_of_extensions_are_walked_and_those_of_nobody_are_not():
    writer = WalWriter(FIRST)
    writer.append(b"abc", rmid=21)
    custom = writer.append(b"abc", rmid=128)
    writer.append(b"abc", rmid=22)
    assert scan_segment(FIRST, MIB, writer.data).valid_end == custom.end


def test_a_switch_ends_the_segment_and_the_chain_goes_on_in_the_next():
    writer = WalWriter(FIRST)
    writer.append(b"abc")
    switch = writer.switch()
    after = writer.append(b"def")
    one, two = writer.segments()
    first = scan_segment(FIRST, MIB, one)
    assert (first.switched, first.stopped) == (True, None)
    assert (first.valid_end, first.last_record) == (switch.end, switch.begin)
    second = scan_segment(FIRST.next(MIB), MIB, two, first.carry)
    assert second.last_record == after.begin


def test_a_record_that_was_lost_in_a_crash_is_passed_over():
    writer = WalWriter(FIRST)
    writer.append(b"abc")
    lost = writer.append(b"x" * 30_000)
    writer.abandon(lost, pages=2)
    after = writer.append(main_data(bytes(16)), rmid=XLOG, info=0xD0, flags=8)
    assert after.begin.value - writer.base == 2 * PAGE + 24
    scan = scan_segment(FIRST, MIB, writer.data)
    assert scan.valid_end == after.end
    assert scan.last_record == after.begin


@pytest.mark.parametrize("pages", [1, 2, 3])
def test_without_the_mark_of_a_crash_a_record_that_is_not_continued_ends_the_walk(pages):
    writer = WalWriter(FIRST)
    first = writer.append(b"abc")
    lost = writer.append(b"x" * 30_000)
    writer.abandon(lost, pages)
    writer.append(b"abc")
    scan = scan_segment(FIRST, MIB, writer.data)
    assert scan.valid_end == first.end
    assert scan.stopped is not None
    assert "not continued" in scan.stopped


def sections(major: int, flags: int) -> bytes:
    """Everything that may stand between a commit's time and its two-phase data."""
    sizes = {1 << 1: 4, 1 << 2: 12, 1 << 8: 16 if major >= 18 else 12, 1 << 3: 16}
    found = b""
    for flag in FLAG_ORDER:
        if flags & flag:
            count = b"" if flag == 1 else struct.pack("<I", 3)
            found += count + b"\xee" * (8 if flag == 1 else 3 * sizes[flag])
    return found


@pytest.mark.parametrize("major", [13, 14, 15, 16, 17, 18])
@pytest.mark.parametrize(("info", "aborted"), [(0xB0, False), (0xC0, True)])
@given(flags=st.sets(st.sampled_from(FLAG_ORDER)).map(sum))
def test_a_prepared_transaction_is_named_by_its_own_id(major, info, aborted, flags):
    if major < 15:
        flags &= ~(1 << 8)  # dropped statistics came with 15
    data = TIME + struct.pack("<I", flags | 1 << 4) + sections(major, flags)
    data += struct.pack("<I", 4711) + b"gid\0"
    writer = WalWriter(FIRST, major=major)
    record = writer.append(main_data(data), rmid=TRANSACTION, info=info, xid=12)
    assert scan_segment(FIRST, MIB, writer.data).facts == (
        Commit(record.begin, record.end, 4711, AT, aborted),
    )


@pytest.mark.parametrize(
    "prefix", [b"", b"\xfd\x05\x00", b"\xfc\x01\x02\x03\x04", b"\xfd\x05\x00\xfc\x01\x02\x03\x04"]
)
def test_an_origin_and_a_top_level_id_may_come_before_the_data(prefix):
    writer = WalWriter(FIRST)
    record = writer.append(main_data(TIME, prefix), rmid=TRANSACTION, xid=12)
    assert scan_segment(FIRST, MIB, writer.data).facts == (
        Commit(record.begin, record.end, 12, AT, aborted=False),
    )


@pytest.mark.parametrize(
    ("name", "shown"),
    [(b"before upgrade", "before upgrade"), ("é".encode(), "é"), (b"caf\xe9", "caf\\xe9")],
)
def test_restore_points_have_names(name, shown):
    writer = WalWriter(FIRST)
    record = writer.append(main_data(TIME + name.ljust(64, b"\0")), rmid=XLOG, info=0x70)
    assert scan_segment(FIRST, MIB, writer.data).facts == (
        RestorePoint(record.begin, record.end, shown, AT),
    )


@pytest.mark.parametrize("info", [0x00, 0x90])
def test_the_first_record_of_a_timeline_says_where_it_comes_from(info):
    writer = WalWriter(FIRST)
    writer.append(main_data(bytes(8) + struct.pack("<II", 3, 3)), rmid=XLOG, info=info)
    record = writer.append(main_data(bytes(8) + struct.pack("<II", 3, 2)), rmid=XLOG, info=info)
    assert scan_segment(FIRST, MIB, writer.data).facts == (
        TimelineChange(record.begin, record.end, 3, 2),
    )


@pytest.mark.parametrize(
    ("rmid", "info", "body"),
    [
        (TRANSACTION, 0x00, b""),
        (TRANSACTION, 0x00, main_data(b"1234")),
        (TRANSACTION, 0x00, b"\x01" + bytes(9000)),  # over two pages
        (TRANSACTION, 0x00, b"\x01" + bytes(40)),  # a commit does not refer to blocks
        (TRANSACTION, 0x00, main_data(b"\xff" * 7 + b"\x7f")),  # "infinity"
        (TRANSACTION, 0x30, main_data(TIME)),
        (TRANSACTION, 0xB0, main_data(TIME + struct.pack("<I", 1 << 5))),
        (TRANSACTION, 0xB0, main_data(TIME + struct.pack("<III", 1 << 4 | 2, 9999, 1))),
        (XLOG, 0x70, main_data(b"")),
        (XLOG, 0x90, main_data(b"short")),
        (XLOG, 0x00, b"\xff"),
    ],
)
def test_a_malformed_record_ends_the_walk(rmid, info, body):
    writer = WalWriter(FIRST)
    good = writer.append(b"abc")
    writer.append(body, rmid=rmid, info=info)
    writer.append(b"abc")
    scan = scan_segment(FIRST, MIB, writer.data)
    assert scan.valid_end == good.end
    assert scan.facts == ()
    assert scan.stopped is not None


@pytest.mark.parametrize(
    ("at", "value", "says"),
    [
        (0, b"\x00\x00", "magic"),
        (2, b"\x11\x00", "info bits"),
        (4, b"\x04\x00\x00\x00", "timeline 4"),
        (4, b"\x02\x00\x00\x00", "timeline 2"),
        (8, b"\x00\x20\x00\x00", "address"),
    ],
)
def test_the_walk_ends_at_a_page_that_is_not_of_this_segment(at, value, says):
    writer = WalWriter(FIRST)
    first = writer.append(bytes(PAGE - 40 - 24))
    writer.append(b"abc")
    writer.data[PAGE + at : PAGE + at + len(value)] = value
    scan = scan_segment(FIRST, MIB, writer.data)
    assert scan.valid_end == first.end == Lsn(writer.base + PAGE)
    assert scan.stopped is not None
    assert says in scan.stopped


def test_a_page_that_continues_nothing_ends_the_walk():
    writer = WalWriter(FIRST)
    first = writer.append(bytes(PAGE - 40 - 24))
    writer.append(b"abc")
    writer.data[PAGE + 2 : PAGE + 4] = b"\x05\x00"
    scan = scan_segment(FIRST, MIB, writer.data)
    assert scan.valid_end == first.end
    assert scan.stopped is not None
    assert "continues no record" in scan.stopped


def test_what_is_not_this_segment_is_not_scanned():
    writer = write([100])
    for segment, size in ((FIRST.next(MIB), MIB), (FIRST.on(2), MIB)):
        with pytest.raises(ValueError, match=r"address|timeline"):
            scan_segment(segment, size, writer.data)
    with pytest.raises(ValueError, match="40 bytes"):
        scan_segment(FIRST, MIB, b"")
    with pytest.raises(ValueError, match="segments of"):
        scan_segment(FIRST, type(MIB)(2 << 20), writer.data)
