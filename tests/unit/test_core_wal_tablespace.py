"""Creating a tablespace is found in WAL wherever its record lies on pages and segments."""

import struct

from hypothesis import given
from hypothesis import strategies as st

from walkeeper.core.wal_tablespace import find_created_tablespaces, find_places
from walkeeper.core.walpage import PAGE_SIZE

PAGES = 4
SEGMENT = PAGES * PAGE_SIZE


def record(path: str, *, info: int = 0, rmgr: int = 5, prefix: bytes = b"") -> bytes:
    """XLOG_TBLSPC_CREATE as XLogRecordAssemble lays it out."""
    body = struct.pack("<I", 16_384) + path.encode() + b"\0"
    length = (
        b"\xff" + bytes([len(body)])
        if len(body) < 256
        else b"\xfe" + len(body).to_bytes(4, "little")
    )
    data = prefix + length + body
    return struct.pack("<IIQBBxxI", 24 + len(data), 700, 0x1000, info, rmgr, 0x05000000) + data


def lay_out(content: bytes, at: int) -> tuple[bytes, bytes]:
    """Two segments of pages with headers; ``content`` begins at a position in what they carry."""
    carried = bytearray(2 * SEGMENT)
    carried[at : at + len(content)] = content
    out, used = bytearray(), 0
    for page in range(2 * PAGES):
        header = 40 if page % PAGES == 0 else 24
        out += b"\xd1" * header + carried[used : used + PAGE_SIZE - header]
        used += PAGE_SIZE - header
    return bytes(out[:SEGMENT]), bytes(out[SEGMENT:])


@given(
    at=st.integers(0, 2 * SEGMENT - 2048).map(lambda number: number // 8 * 8),
    path=st.sampled_from(["/t", "/var/lib/postgresql/fast", "/" + "x" * 900]),
    prefix=st.sampled_from([b"", b"\xfd\x01\x00", b"\xfc\x01\x02\x03\x04"]),
)
def test_a_record_is_found_across_pages_and_segments(at: int, path: str, prefix: bytes) -> None:
    first, second = lay_out(record(path, prefix=prefix), at)
    found = [*find_created_tablespaces(first), *find_created_tablespaces(second, first)]
    assert path in found


@given(
    at=st.integers(0, 2 * SEGMENT - 2048).map(lambda number: number // 8 * 8),
    path=st.sampled_from(["/t", "/var/lib/postgresql/fast", "/" + "x" * 900, "/" * 300]),
    filling=st.sampled_from([b"\0", b"/", b"/a", b"\x05\0\0/"]),
    block_bytes=st.integers(1, 3 * PAGE_SIZE),
)
def test_a_record_is_found_in_blocks_of_any_size_and_among_any_number_of_slashes(
    at: int, path: str, filling: bytes, block_bytes: int
) -> None:
    whole = (filling * (2 * SEGMENT))[: 2 * SEGMENT]
    content = record(path)
    first, second = lay_out(whole[:at] + content + whole[at + len(content) :], 0)
    found = [*find_created_tablespaces(first), *find_created_tablespaces(second, first)]
    streamed = list(find_created_tablespaces(second, first, places=[]))
    for data in (first, second):
        begins = range(0, SEGMENT, block_bytes)
        places = [place for at in begins for place in find_places(data[at : at + block_bytes], at)]
        streamed += find_created_tablespaces(data, places=places)
    assert path in found
    assert path in streamed


@given(st.binary(min_size=1, max_size=64), st.integers(0, 63))
def test_what_stands_before_a_record_hides_it_no_more(noise: bytes, at: int) -> None:
    # The beginning of something that looks like one, so that the two overlap.
    decoy = b"\x00\x05\x00\x00\x01\x02\x03\x04\xff\x40"
    first, _ = lay_out(noise + decoy[: at % 11] + record("/live"), 80)
    assert "/live" in list(find_created_tablespaces(first))


def test_other_records_of_tablespaces_and_other_managers_are_let_pass() -> None:
    for other in (
        record("/t", info=0x10),  # XLOG_TBLSPC_DROP
        record("/t", rmgr=4),
        record("relative"),  # an in-place tablespace lies in the data directory
        record(""),
    ):
        first, _ = lay_out(other, 160)
        assert list(find_created_tablespaces(first)) == []


def test_a_path_of_another_length_than_its_record_says_is_no_record() -> None:
    first, _ = lay_out(record("/tablespace").replace(b"\xff\x10", b"\xff\x11"), 160)
    assert list(find_created_tablespaces(first)) == []
