"""A damaged page is told from a page caught while it is written."""

import struct

from hypothesis import given, settings
from hypothesis import strategies as st

from walkeeper.postgres.page_checksum import _OFFSETS, PageVerifier, find_bad_pages

SIZE = 8192


def pg_checksum_page(page, number):
    """checksum_impl.h, word by word."""
    words = struct.unpack("=2048I", page[:8] + b"\0\0" + page[10:])
    sums = list(_OFFSETS)
    for position, word in enumerate((*words, *[0] * 64)):
        mixed = sums[position % 32] ^ word
        sums[position % 32] = (mixed * 16777619 ^ mixed >> 17) & 0xFFFF_FFFF
    result = number
    for value in sums:
        result ^= value
    return result % 65535 + 1


def make_page(number, fill=b"some rows"):
    page = bytearray((fill * SIZE)[:SIZE])
    struct.pack_into("=QHHHH", page, 0, 0x1000028, 0, 0, 40, 8000)
    struct.pack_into("=H", page, 8, pg_checksum_page(bytes(page), number))
    return bytes(page)


class File:
    """A file that a server changes between our reads."""

    def __init__(self, *versions):
        self.versions = list(versions)
        self.rereads = 0

    def reread(self, offset, size_bytes):
        self.rereads += 1
        content = self.versions.pop(0) if len(self.versions) > 1 else self.versions[0]
        return content[offset : offset + size_bytes]


def verify(content, *later, segment=0, offset=0):
    file = File(*(later or (content,)))
    verifier = PageVerifier(segment, file.reread, sleep=lambda seconds: None)
    return verifier.feed(offset, content[offset:]), file


@settings(max_examples=30, deadline=None)
@given(st.binary(min_size=1, max_size=300), st.integers(0, 0xFFFF_FFFF))
def test_the_checksum_is_postgresqls(fill, number):
    page = make_page(number, fill)
    assert find_bad_pages(memoryview(page), [number]) == []
    assert find_bad_pages(memoryview(page), [number ^ 1]) == [0]


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 599), st.integers(0, SIZE - 1), st.integers(1, 255))
def test_one_changed_byte_is_found_in_its_page(number, position, flip):
    content = bytearray(b"".join(PAGES))
    content[number * SIZE + position] ^= flip
    assert find_bad_pages(memoryview(content), range(len(content) // 8192)) == [number]


PAGES = [make_page(number, b"row %d" % number) for number in range(600)]


def test_pages_are_numbered_through_all_segments_of_a_relation():
    page = make_page(2 * 131_072 + 1)
    content = bytes(SIZE) + page
    assert verify(content, segment=2)[0] == []
    assert verify(content, segment=1)[0] == [1]


def test_new_pages_have_no_checksum_yet():
    assert verify(bytes(3 * SIZE))[0] == []


def test_a_page_that_says_new_but_holds_something_is_damaged():
    page = bytearray(SIZE)
    page[5000] = 1
    assert verify(bytes(page))[0] == [0]


def test_an_unchanged_bad_page_is_damaged():
    content = b"".join(PAGES[:3])
    content = content[: SIZE + 100] + b"!" + content[SIZE + 101 :]
    found, file = verify(content)
    assert found == [1]
    assert file.rereads == 1


def test_a_damaged_header_does_not_hide_behind_a_future_lsn():
    page = bytearray(PAGES[0])
    page[0:8] = b"\xff" * 8
    assert verify(bytes(page))[0] == [0]


def test_a_torn_page_is_no_alarm():
    old, new = make_page(0, b"old"), make_page(0, b"new")
    torn = new[:4096] + old[4096:]
    assert verify(torn, new)[0] == []


def test_a_page_torn_twice_is_no_alarm():
    old, new = make_page(0, b"old"), make_page(0, b"new")
    assert verify(new[:512] + old[512:], new[:4096] + old[4096:], new)[0] == []


def test_a_page_that_never_rests_is_alive_and_the_wait_for_it_ends():
    versions = [bytes([n]) * SIZE for n in range(1, 200)]
    found, file = verify(versions[0], *versions[1:])
    assert found == []
    assert file.rereads < 50


def test_a_page_that_was_truncated_meanwhile_is_no_alarm():
    assert verify(b"x" * SIZE, b"")[0] == []


def test_a_part_of_a_page_at_the_end_is_passed_over():
    assert verify(PAGES[0] + b"x" * 100)[0] == []
    assert verify(b"")[0] == []


def test_blocks_are_counted_within_the_file():
    content = bytearray(b"".join(PAGES[:5]))
    content[4 * SIZE + 50] ^= 1
    assert verify(bytes(content), offset=3 * SIZE)[0] == [4]
