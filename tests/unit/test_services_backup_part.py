"""A part holds its files as they were when they were opened, whatever happens to them meanwhile."""

import hashlib
import io
import os
import random
import struct
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.fix_archive import archive_keys
from tests.unit.test_postgres_page_checksum import pg_checksum_page
from walkeeper.core.backup import decode_files
from walkeeper.core.backup_id import BackupId
from walkeeper.core.layout import BackupPart
from walkeeper.postgres.data_dir import DataEntry, EntryKind
from walkeeper.postgres.page_checksum import PageRules
from walkeeper.repository.records import ArchiveRecord
from walkeeper.services.backup_part import PartWriter
from walkeeper.services.backup_read import GivenFile, at_once

BACKUP = BackupId.parse("20261120T101500Z-full-3fa9c1")
PAGES = PageRules(8192, 131_072)


class Heard:
    """Who is told of files."""

    def __init__(self):
        self.entries = []

    def add(self, part, entry):
        self.entries.append(entry)


NOISE = random.Random(1).randbytes(4 << 20)
"""No page of it has the checksum that it should have: of random ones one in 65,536 has."""


@pytest.fixture
def archive(keys):
    record = ArchiveRecord(
        name="archive.json",
        archive="ab" * 16,
        label="test",
        source="postgresql",
        system_identifier="7000000000000000001",
        segment_size=1 << 20,
        format=1,
        created="2026-11-20T00:00:00Z",
    )
    return archive_keys(record, keys)


class Bench:
    """Writes parts of files in a directory and opens them again."""

    def __init__(self, archive, root):
        self.archive = archive
        self.root = root
        self.heard = Heard()

    def file(self, name, content):
        path = self.root / os.fsdecode(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return self.entry(os.fsdecode(name), path)

    def entry(self, name, path, kind=EntryKind.FILE):
        return DataEntry(kind, name, str(path), None, 0o600, 0, 0, path.stat().st_size, 0)

    def writer(self, *, tablespace=None, pages=None, sleep=lambda seconds: None, beside=at_once):
        part = BackupPart(BACKUP, tablespace, 1)
        sealer = self.archive.sealer
        return PartWriter(part, sealer, self.heard, pages, sleep=sleep, beside=beside)

    def open(self, name, stored):
        return self.archive.opener.open_whole(name, stored, limit_bytes=1 << 28).plaintext

    def write(self, *entries, **options):
        """The tar of these entries, opened, and the lines of its list."""
        writer = self.writer(**options)
        stored = b"".join(writer.pieces(iter(entries)))
        return self.unpacked(writer, stored)

    def unpacked(self, writer, stored):
        listed = b"".join(writer.list_pieces())
        assert writer.data_digest().sha256 == hashlib.sha256(stored).hexdigest()
        assert writer.list_digest().sha256 == hashlib.sha256(listed).hexdigest()
        record = writer.record()
        assert (record.stored_bytes, record.list_bytes) == (len(stored), len(listed))
        plain = self.open(writer.part.data_name, stored)
        assert record.size_bytes == len(plain) == writer.counts.plain_bytes
        lines = self.open(writer.part.files_name, listed).splitlines()
        entries = list(decode_files(lines))
        assert record.files == len(entries) == len(self.heard.entries)
        return tarfile.open(fileobj=io.BytesIO(plain)), {one.name: one for one in entries}


@pytest.fixture
def bench(archive, tmp_path):
    return Bench(archive, tmp_path)


def content_of(tar, name):
    return tar.extractfile(name).read()


@pytest.mark.parametrize(
    "size", [0, 1, 511, 512, 513, 300_000, (1 << 20) - 1, (1 << 20) + 7, 5 << 20]
)
def test_files_of_every_size_come_back(bench, size):
    content = os.urandom(size)
    tar, listed = bench.write(
        bench.file("first", b"1"), bench.file("middle", content), bench.file("last", b"3")
    )
    assert [member.name for member in tar] == ["first", "middle", "last"]
    assert content_of(tar, "middle") == content
    assert listed[b"middle"].sha256 == hashlib.sha256(content).hexdigest()
    assert listed[b"middle"].size_bytes == size


def test_a_directory_is_a_member_and_not_a_file(bench):
    folder = bench.root / "empty"
    folder.mkdir(mode=0o700)
    tar, listed = bench.write(bench.entry("empty", folder, EntryKind.DIRECTORY))
    (member,) = tar
    assert member.isdir()
    assert listed == {}


def test_members_are_nobodys_by_number_and_named_by_owner(bench):
    tar, _ = bench.write(bench.file("a", b"a"))
    (member,) = tar
    assert (member.uid, member.gid, member.mode, member.uname) == (0, 0, 0o600, "root")


def after_fstat(monkeypatch, change):
    """Let something happen to a file between the look at its size and the reading."""
    fstat = os.fstat

    def changing(file):
        facts = fstat(file)
        change()
        return facts

    monkeypatch.setattr(os, "fstat", changing)


def test_a_file_that_shrinks_is_padded_and_the_digest_covers_the_padding(bench, monkeypatch):
    entry = bench.file("relation", b"x" * (3 << 20))
    after_fstat(monkeypatch, lambda: os.truncate(entry.source, 1 << 20))
    tar, listed = bench.write(entry, bench.file("after", b"still right"))
    content = b"x" * (1 << 20) + bytes(2 << 20)
    assert content_of(tar, "relation") == content
    assert content_of(tar, "after") == b"still right"
    assert listed[b"relation"].sha256 == hashlib.sha256(content).hexdigest()


def test_a_file_that_grows_is_cut_to_the_size_in_its_header(bench, monkeypatch):
    entry = bench.file("relation", b"a" * 1000)
    after_fstat(monkeypatch, lambda: Path(entry.source).write_bytes(b"b" * 2000))
    tar, listed = bench.write(entry, bench.file("after", b"still right"))
    assert content_of(tar, "relation") == b"b" * 1000
    assert content_of(tar, "after") == b"still right"
    assert listed[b"relation"].size_bytes == 1000


def test_a_file_that_was_dropped_is_left_out(bench):
    gone = bench.file("gone", b"x")
    Path(gone.source).unlink()
    tar, listed = bench.write(gone, bench.file("here", b"y"))
    assert tar.getnames() == ["here"]
    assert set(listed) == {b"here"}


def test_of_thousands_of_small_files_each_is_as_when_it_was_opened(bench, monkeypatch):
    contents = {f"base/1/{number}": os.urandom(20 + number % 900) for number in range(2000)}
    entries = [bench.file(name, content) for name, content in contents.items()]
    for number in range(0, 2000, 5):
        (bench.root / f"base/1/{number}").unlink()
        del contents[f"base/1/{number}"]
    read = os.readv

    def changing(file, buffers):
        """What the server may do between fstat(2) and the read."""
        path = Path(f"/proc/self/fd/{file}").readlink()
        match int(path.name) % 5:
            case 1:
                os.truncate(path, 10)
            case 2:
                path.write_bytes(path.read_bytes() + b"grown")
            case 3:
                path.unlink()
        return read(file, buffers)

    monkeypatch.setattr(os, "readv", changing)
    tar, listed = bench.write(*entries)

    assert [member.name for member in tar] == list(contents)
    for name, content in contents.items():
        shrunk = int(name.rpartition("/")[2]) % 5 == 1
        expected = content[:10] + bytes(len(content) - 10) if shrunk else content
        assert content_of(tar, name) == expected
        assert listed[name.encode()].sha256 == hashlib.sha256(expected).hexdigest()


def test_names_that_are_not_utf_8_come_back(bench):
    tar, listed = bench.write(bench.file(b"caf\xe9/na\nme", b"x"), bench.file("schön", b"y"))
    assert [os.fsencode(name) for name in tar.getnames()] == [b"caf\xe9/na\nme", "schön".encode()]
    assert set(listed) == {b"caf\xe9/na\nme", "schön".encode()}


def test_given_files_follow_in_their_order(bench):
    tar, listed = bench.write(
        GivenFile.of("backup_label", b"START"), GivenFile.of("global/pg_control", b"\1" * 8192)
    )
    assert tar.getnames() == ["backup_label", "global/pg_control"]
    assert content_of(tar, "backup_label") == b"START"
    assert listed[b"global/pg_control"].size_bytes == 8192


def page_with_checksum(fill):
    """Block 0 with some rows, as the server would write it (checksum_impl.h, word by word)."""
    page = bytearray((fill * 8192)[:8192])
    struct.pack_into("=QHHHH", page, 0, 0x1000028, 0, 0, 40, 8000)
    struct.pack_into("=H", page, 8, pg_checksum_page(bytes(page), 0))
    return bytes(page)


@pytest.mark.parametrize("new_pages", [0, 30])
def test_a_page_caught_half_written_is_no_alarm(bench, new_pages):
    """Neither in a small file nor in a large one."""
    good = page_with_checksum(b"new")
    entry = bench.file("base/5/16384", good[:4096] + bytes(4096) + bytes(8192) * new_pages)
    pauses = []

    def server_goes_on(seconds):
        pauses.append(seconds)
        Path(entry.source).write_bytes(good)

    writer_options = {"pages": PAGES, "sleep": server_goes_on}
    _, listed = bench.write(entry, **writer_options)
    assert listed[b"base/5/16384"].checksums == "ok"
    assert len(pauses) == 1


def test_of_many_small_files_only_the_damaged_ones_are_told(bench):
    good = page_with_checksum(b"row")
    contents = {f"base/5/{number}": good for number in range(16384, 16684)}
    contents |= {"base/5/16400": good + b"!" * 8192 + b"a part of a page", "base/5/16500": b""}
    contents |= {"base/5/16600": b"?" * 8192, "base/5/note": b"!" * 30_000}
    files = [bench.file(name, content) for name, content in contents.items()]
    tar, listed = bench.write(*files, pages=PAGES)
    assert tar.getnames() == list(contents)
    for name, content in contents.items():
        assert content_of(tar, name) == content
        assert listed[name.encode()].sha256 == hashlib.sha256(content).hexdigest()
    bad = {name: one.bad_blocks for name, one in listed.items() if one.checksums == "bad"}
    assert bad == {b"base/5/16400": (1,), b"base/5/16600": (0,)}
    assert listed[b"base/5/note"].checksums == "none"


def test_a_small_suspect_that_is_dropped_meanwhile_is_no_damage(bench):
    entry = bench.file("base/5/16384", b"!" * 8192)
    after = bench.file("base/5/16385", b"")
    entries = iter([entry, after])

    def dropping():
        yield next(entries)
        yield next(entries)
        Path(entry.source).unlink()

    writer = bench.writer(pages=PAGES)
    tar, listed = bench.unpacked(writer, b"".join(writer.pieces(dropping())))
    assert content_of(tar, "base/5/16384") == b"!" * 8192
    assert listed[b"base/5/16384"].checksums == "ok"


def test_digests_and_checksums_may_be_made_in_another_thread(bench):
    content = b"".join([page_with_checksum(b"row"), NOISE[:8192], NOISE])
    entry = bench.file("base/5/16384", content)
    with ThreadPoolExecutor(1) as pool:
        writer = bench.writer(pages=PAGES, beside=lambda work: pool.submit(work).result)
        tar, listed = bench.unpacked(writer, b"".join(writer.pieces(iter([entry]))))
    assert content_of(tar, "base/5/16384") == content
    found = listed[b"base/5/16384"]
    assert found.sha256 == hashlib.sha256(content).hexdigest()
    assert 1 in found.bad_blocks
    assert 0 not in found.bad_blocks


def test_a_damaged_page_is_told_with_its_file_and_kept_as_it_is(bench):
    good = page_with_checksum(b"row")
    content = good + b"!" * 8192 + good
    tar, listed = bench.write(bench.file("PG_15_1/5/16384.2", content), tablespace=77, pages=PAGES)
    entry = listed[b"PG_15_1/5/16384.2"]
    assert entry.checksums == "bad"
    assert 1 in entry.bad_blocks
    assert content_of(tar, "PG_15_1/5/16384.2") == content


def test_a_wholly_damaged_file_costs_a_pause_for_each_block_read_not_for_each_page(bench):
    pauses = []
    content = NOISE
    writer = bench.writer(tablespace=77, pages=PAGES, sleep=pauses.append)
    entry = bench.file("PG_15_1/5/16384", content)
    _, listed = bench.unpacked(writer, b"".join(writer.pieces(iter([entry]))))
    assert len(listed[b"PG_15_1/5/16384"].bad_blocks) == 512
    (found,) = writer.counts.damaged
    assert found.path == "pg_tblspc/77/PG_15_1/5/16384"
    assert (found.count, found.blocks) == (512, tuple(range(100)))
    assert len(pauses) == 2


def test_files_that_are_no_relations_have_no_checksums(bench):
    _, listed = bench.write(
        bench.file("base/5/PG_VERSION", b"15\n" * 4096),
        bench.file("note", b"x" * 8192),
        pages=PAGES,
    )
    assert {entry.checksums for entry in listed.values()} == {"none"}


def test_what_compresses_to_nothing_does_not_hold_a_thread_for_long(bench):
    """Each piece is asked for in a thread that cannot be interrupted."""
    holes = bench.root / "holes"
    with holes.open("wb") as file:
        file.truncate(200 << 20)
    writer = bench.writer()
    pieces = writer.pieces(iter([bench.entry("holes", holes)]))
    plain = [writer.counts.plain_bytes for _ in pieces]
    steps = [after - before for before, after in zip([0, *plain], plain, strict=False)]
    assert max(steps) <= 65 << 20
