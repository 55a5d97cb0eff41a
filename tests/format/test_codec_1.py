"""Objects of format 1 as they were once written: they open for ever.

The files beside this module are never made again. A change that cannot read them is a change of
the format, and needs a new version and a new folder.
"""

import hashlib
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest

from walkeeper.codec import signed_json
from walkeeper.codec.opener import Opener
from walkeeper.codec.writer import SigningKey
from walkeeper.core.layout import ObjectName
from walkeeper.errors import IntegrityError
from walkeeper.keys.files import parse_identity_file, parse_writer_key_file

FOLDER = Path(__file__).parent / "codec_1"
ARCHIVE = "6b1f0c9a4e7d2358"
SYSTEM_IDENTIFIER = "7423847238472384723"
WRITER = "walkeeper-writer1jjpnd8uu3f8dl628h5gttpr2apmwewz2hhaemznh763hf3acv64sfsc2tg"
WRITTEN = datetime(2026, 11, 20, 10, 15, tzinfo=UTC)
SEGMENT = ObjectName("wal/00000001/00000000/000000010000000000000001.zst.age")
LINK = ObjectName("tail/000000010000000000000002/00000000.zst.age")
PART = ObjectName("backups/20261120T101500Z-full-3fa9c1/data/00001.tar.zst.age")
WAL = b"".join(b"golden WAL page %06d " % number + bytes(8169) for number in range(32))
CONTENT = "dbd4b5055089b0b295a89cf48efba1f33f8947790ebfcb646f691f4d318cd765"


@pytest.fixture(scope="module")
def identity_file():
    return parse_identity_file((FOLDER / "key.txt").read_text(), "key.txt")


@pytest.fixture(scope="module")
def signing():
    file = parse_writer_key_file((FOLDER / "key.txt.writer").read_text(), "key.txt.writer")
    assert str(file.writer) == WRITER
    return SigningKey.derive(file.key)


@pytest.fixture(scope="module")
def opener(identity_file, signing):
    return Opener(
        archive=ARCHIVE,
        system_identifier=SYSTEM_IDENTIFIER,
        writers=identity_file.writers,
        identities=identity_file.identities,
        signing=signing,
    )


def test_the_writer_key_has_the_writer_that_the_identity_file_pins(identity_file, signing):
    assert [str(writer) for writer in identity_file.writers] == [WRITER]
    assert str(signing.writer) == WRITER


def test_the_content_code_is_what_it_was(signing):
    assert signing.content_code(hashlib.sha256(WAL).digest()).hex() == CONTENT


def test_a_segment_opens(opener):
    stored = (FOLDER / "segment.zst.age").read_bytes()
    header = opener.read_header(SEGMENT, stored)
    assert header.implied_size() == len(stored) == 1139
    assert header.content.hex() == CONTENT
    assert (header.facts.size, header.facts.written) == (len(WAL), WRITTEN)
    assert header.facts.writer == "a3c1f09e"
    assert opener.open_whole(SEGMENT, stored, limit_bytes=len(WAL)).plaintext == WAL


def test_a_link_opens_and_carries_its_running_digest(opener):
    opened = opener.open_whole(LINK, (FOLDER / "link.zst.age").read_bytes(), limit_bytes=1 << 20)
    assert opened.plaintext == WAL[:12_345]
    assert opened.frames == (hashlib.sha256(WAL[:12_345]).digest(),)


def test_a_part_of_unknown_size_opens(opener):
    stored = (FOLDER / "part.tar.zst.age").read_bytes()
    assert opener.read_header(PART, stored).implied_size() is None
    assert opener.open_whole(PART, stored, limit_bytes=len(WAL)).plaintext == WAL


def test_stock_tools_open_a_segment(tool):
    stored = (FOLDER / "segment.zst.age").read_bytes()
    compressed = tool("age", "-d", "-i", str(FOLDER / "key.txt"), stdin=stored)
    assert tool("zstd", "-d", "-c", stdin=compressed) == WAL


class Record(msgspec.Struct, frozen=True):
    name: str
    archive: str
    label: str


def test_a_signed_record_is_believed(identity_file):
    data = (FOLDER / "archive.json").read_bytes()
    record = signed_json.decode(
        data, Record, name="archive.json", archive=None, writers=identity_file.writers
    )
    assert record == Record("archive.json", ARCHIVE, "letta \u00e4")
    with pytest.raises(IntegrityError):
        signed_json.decode(
            data.replace(b"letta", b"lette"),
            Record,
            name="archive.json",
            archive=None,
            writers=identity_file.writers,
        )
