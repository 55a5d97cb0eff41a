"""Stored documents of a backup, its label and its tablespace map."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fix_postgres import MakeCluster
from walkeeper.core.backup import (
    BackupFacts,
    BackupLabel,
    BackupStart,
    BackupSummary,
    FileEntry,
    Manifest,
    PartRecord,
    RestoreSettings,
    SavedConfig,
    Tablespace,
    TablespaceMap,
    TablespaceRecord,
    decode,
    decode_files,
    encode,
    encode_files,
)
from walkeeper.core.backup_id import BackupId
from walkeeper.core.lsn import Lsn
from walkeeper.core.wal import SegmentSize, WalSegment
from walkeeper.errors import IntegrityError, UsageError

NOON = datetime(2026, 11, 20, 12, tzinfo=UTC)
BACKUP = "20261120T120000Z-full-3fa9c1"

LABEL = """\
START WAL LOCATION: 0/2000028 (file 000000030000000000000002)
CHECKPOINT LOCATION: 0/2000060
BACKUP METHOD: streamed
BACKUP FROM: primary
START TIME: 2026-11-20 12:00:00 CET
LABEL: nightly: a label (with colons)
START TIMELINE: 3
"""


def facts(**changes: object) -> BackupFacts:
    fields: dict[str, object] = {
        "id": BACKUP,
        "system_identifier": "7301234567890123456",
        "timeline": 3,
        "start_lsn": "0/2000028",
        "stop_lsn": "0/3000100",
        "checkpoint_lsn": "0/2000060",
        "started_at": NOON,
        "stopped_at": NOON,
        "server_version": 150018,
        "segment_size": 1 << 24,
        "label": "nightly",
        "size_bytes": 100,
        "stored_bytes": 50,
        "parts": 2,
        "files": 3,
        "data_checksums": True,
        "tablespaces": (TablespaceRecord(16400, "/mnt/fast"),),
        "wal_first": "000000030000000000000002",
        "wal_last": "000000030000000000000003",
    }
    return BackupFacts(**{**fields, **changes})  # type: ignore[arg-type]


def manifest(**changes: object) -> Manifest:
    id_ = BackupId.parse(BACKUP)
    parts = tuple(
        PartRecord(
            tablespace=oid,
            number=1,
            stored_bytes=20,
            stored_sha256="ab" * 32,
            list_name=f"backups/{id_}/data/{'' if oid is None else f'{oid}/'}"
            "00001.tar.files.jsonl.zst.age",
            list_bytes=5,
            list_sha256="cd" * 32,
            size_bytes=50,
            files=2,
        )
        for oid in (None, 16400)
    )
    fields: dict[str, object] = {
        "facts": facts(),
        "parts": parts,
        "settings": RestoreSettings(
            max_connections=100,
            max_worker_processes=8,
            max_wal_senders=10,
            max_prepared_xacts=0,
            max_locks_per_xact=64,
            data_directory_mode=0o700,
            config_file="/etc/postgresql/15/main/postgresql.conf",
        ),
        "config_files": (SavedConfig("/etc/postgresql/15/main/postgresql.conf", "c/1.conf"),),
    }
    return Manifest(**{**fields, **changes})  # type: ignore[arg-type]


def test_a_backup_label_says_where_replay_begins_and_on_which_timeline() -> None:
    label = BackupLabel.parse(LABEL)
    assert label.start == Lsn(0x2000028)
    assert label.start_segment == WalSegment(3, 0, 2)
    assert label.checkpoint == Lsn(0x2000060)
    assert (label.method, label.source) == ("streamed", "primary")
    assert label.start_time == "2026-11-20 12:00:00 CET"
    assert label.label == "nightly: a label (with colons)"
    assert label.timeline == 3


def test_lines_of_later_versions_are_passed_over() -> None:
    later = LABEL + "INCREMENTAL FROM LSN: 0/1000028\nSOMETHING NEW: yes\n"
    assert BackupLabel.parse(later) == BackupLabel.parse(LABEL)


@pytest.mark.parametrize(
    "line",
    LABEL.splitlines(keepends=True),
    ids=lambda line: line.split(":")[0],
)
def test_a_label_without_a_line_that_recovery_needs_is_refused(line: str) -> None:
    with pytest.raises(ValueError, match=line.split(":", maxsplit=1)[0]):
        BackupLabel.parse(LABEL.replace(line, ""))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("0/2000028 (file", "0/2000028 (fil"),
        ("0/2000060", "0-2000060"),
        ("TIMELINE: 3", "TIMELINE: 4"),
        ("TIMELINE: 3", "TIMELINE: x"),
    ],
)
def test_a_label_that_contradicts_itself_is_refused(old: str, new: str) -> None:
    with pytest.raises(ValueError):
        BackupLabel.parse(LABEL.replace(old, new))


LOCATIONS = st.text(
    st.one_of(st.sampled_from("\n\r\\ /"), st.characters(codec="utf-8", exclude_characters="\0")),
).map(lambda tail: "/" + tail)
MAPS = st.lists(st.builds(Tablespace, st.integers(1, 0xFFFF_FFFF), LOCATIONS), max_size=5).map(
    lambda spaces: TablespaceMap(tuple(spaces))
)


@given(MAPS)
def test_a_tablespace_map_reads_back_whatever_its_paths_hold(spaces: TablespaceMap) -> None:
    assert TablespaceMap.parse(spaces.encode()) == spaces


def test_newlines_and_backslashes_in_a_path_are_escaped_as_postgresql_does() -> None:
    spaces = TablespaceMap((Tablespace(16400, "/a\nb\\c\rd e"), Tablespace(2, "/x")))
    assert spaces.encode() == "16400 /a\\\nb\\\\c\\\rd e\n2 /x\n"


def test_a_map_with_carriage_returns_reads_the_same() -> None:
    assert TablespaceMap.parse("1 /a\r\n2 /b\r\n") == TablespaceMap.parse("1 /a\n2 /b\n")


@pytest.mark.parametrize("text", ["1 /a", "1 /a\\\n", "x /a\n", "1 a\n", "0 /a\n", "1\n"])
def test_a_map_that_is_cut_or_malformed_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        TablespaceMap.parse(text)


def test_a_tablespace_moves_to_where_the_operator_says() -> None:
    spaces = TablespaceMap((Tablespace(1, "/old"), Tablespace(2, "/stays")))
    moved = spaces.remap({"/old": "/new"})
    assert moved == TablespaceMap((Tablespace(1, "/new"), Tablespace(2, "/stays")))
    assert spaces.remap({}) == spaces


@pytest.mark.parametrize(
    ("moves", "message"),
    [
        ({"/nowhere": "/new"}, "no tablespace of this backup"),
        ({"/old": "new"}, "absolute"),
        ({"/old": "/stays"}, "share"),
        ({"/old": "/stays/"}, "share"),
        ({"/old": "/stays/inside"}, "share"),
        ({"/stays": "/"}, "share"),
    ],
)
def test_a_move_that_would_mix_or_lose_tablespaces_is_refused(
    moves: dict[str, str], message: str
) -> None:
    spaces = TablespaceMap((Tablespace(1, "/old"), Tablespace(2, "/stays")))
    with pytest.raises(UsageError, match=message):
        spaces.remap(moves)


def test_postgresqls_own_label_and_map_are_understood(make_cluster: MakeCluster) -> None:
    cluster = make_cluster()
    odd = cluster.workspace.directory("odd \\ name\nof two lines")
    location = str(odd).replace("\\", "\\\\").replace("\n", "\\n")
    cluster.sql(f"CREATE TABLESPACE odd LOCATION E'{location}'")
    # One session, as the label exists only in the one that began the backup.
    rows = cluster.sql(
        "SELECT pg_backup_start('nightly: a label', true);"
        "SELECT labelfile, spcmapfile, lsn FROM pg_backup_stop(false);"
    )
    start, (label_text, map_text, stop) = Lsn.parse(rows[0][0]), rows[-1]
    label = BackupLabel.parse(label_text)
    assert (label.start, label.label, label.timeline) == (start, "nightly: a label", 1)
    assert label.start_segment == WalSegment.at(1, start, SegmentSize(1 << 24))
    assert label.start <= label.checkpoint < Lsn.parse(stop)
    oid = int(cluster.value("SELECT oid FROM pg_tablespace WHERE spcname = 'odd'"))
    spaces = TablespaceMap.parse(map_text)
    assert spaces == TablespaceMap((Tablespace(oid, str(odd)),))
    assert spaces.encode() == map_text


def test_facts_hold_values_and_strings_of_the_same_thing() -> None:
    known = facts()
    assert known.backup == BackupId.parse(BACKUP)
    assert (known.start, known.checkpoint, known.stop) == (
        Lsn(0x2000028),
        Lsn(0x2000060),
        Lsn(0x3000100),
    )
    assert known.wal_segment_size == SegmentSize(1 << 24)
    assert known.required_wal == (WalSegment(3, 0, 2), WalSegment(3, 0, 3))


def test_a_backup_that_stops_at_a_boundary_does_not_need_the_segment_after_it() -> None:
    known = facts(stop_lsn="0/3000000", wal_last="000000030000000000000002")
    assert known.required_wal[1] == WalSegment(3, 0, 2)


DOCUMENTS = [
    BackupStart(
        name="backups/x/start.json", archive="a", id=BACKUP, host="h", started_at=NOON, writer="w"
    ),
    BackupSummary(
        name="n", archive="a", facts=facts(), manifest_name="m", manifest_sha256="ef" * 32
    ),
    manifest(),
]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: type(document).__name__)
def test_documents_read_back_and_pass_over_unknown_fields(
    document: BackupStart | BackupSummary | Manifest,
) -> None:
    stored = json.loads(encode(document))
    stored["added_later"] = {"x": [1]}
    if "facts" in stored:
        stored["facts"]["added_later"] = 1
        assert stored["facts"]["stop_lsn"] == "0/3000100"
        assert stored["facts"]["system_identifier"] == "7301234567890123456"
    assert decode(json.dumps(stored).encode(), type(document)) == document


def test_a_claim_names_its_backup() -> None:
    claim = DOCUMENTS[0]
    assert isinstance(claim, BackupStart)
    assert claim.backup == BackupId.parse(BACKUP)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("id", "20261120-full"),
        ("start_lsn", "2000028"),
        ("stop_lsn", "0/2000060"),
        ("checkpoint_lsn", "0/2000000"),
        ("segment_size", 12345),
        ("wal_first", "000000030000000000000001"),
        ("wal_last", "000000030000000000000004"),
        ("system_identifier", 7301234567890123456),
        ("timeline", 0),
        ("stopped_at", "2026-11-20T12:00:00"),
        ("kind", "delta"),
        ("size_bytes", -1),
    ],
)
def test_a_summary_whose_facts_make_no_sense_does_not_decode(field: str, value: object) -> None:
    stored = json.loads(encode(DOCUMENTS[1]))
    stored["facts"][field] = value
    with pytest.raises(IntegrityError, match="BackupSummary"):
        decode(json.dumps(stored).encode(), BackupSummary)


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b'{"name": "\xff"}'])
def test_what_is_no_document_is_an_integrity_error(data: bytes) -> None:
    with pytest.raises(IntegrityError):
        decode(data, BackupStart)


def test_a_manifest_lists_every_part_once_with_its_own_list() -> None:
    whole = manifest()
    id_ = BackupId.parse(BACKUP)
    assert str(whole.parts[1].part_of(id_).data_name).endswith("/data/16400/00001.tar.zst.age")
    with pytest.raises(ValueError, match="parts"):
        manifest(parts=whole.parts[:1])
    with pytest.raises(ValueError, match="parts"):
        manifest(parts=whole.parts[:1] * 2)
    swapped = msgspec.structs.replace(whole.parts[0], list_name=whole.parts[1].list_name)
    with pytest.raises(ValueError, match="list"):
        manifest(parts=(swapped, whole.parts[1]))


@given(
    st.binary(min_size=1).filter(lambda name: b"\0" not in name),
    st.integers(0, 1 << 40),
    st.lists(st.integers(0, 131071), max_size=3),
    st.booleans(),
)
def test_a_line_of_a_list_reads_back_whatever_the_name(
    name: bytes, size: int, bad: list[int], checked: bool
) -> None:
    entry = FileEntry.named(
        name, size_bytes=size, mode=0o600, sha256="ab" * 32, bad_blocks=bad, checked=checked
    )
    (line,) = encode_files([entry])
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    (again,) = decode_files([line])
    assert again == entry
    assert again.name == name
    assert again.checksums == ("bad" if bad else "ok" if checked else "none")


@pytest.mark.parametrize(
    "line",
    [
        b'{"size_bytes":1,"mode":384,"sha256":"%s"}' % (b"ab" * 32),
        b'{"path":"","size_bytes":1,"mode":384,"sha256":"%s"}' % (b"ab" * 32),
        b'{"path":"a","path_hex":"61","size_bytes":1,"mode":384,"sha256":"%s"}' % (b"ab" * 32),
        b'{"path_hex":"6","size_bytes":1,"mode":384,"sha256":"%s"}' % (b"ab" * 32),
        b'{"path":"a","size_bytes":1,"mode":384,"sha256":"%s","checksums":"bad"}' % (b"ab" * 32),
        b'{"path":"a","size_bytes":1,"mode":384,"sha256":"AB"}',
        b'{"path":"a","size_bytes":1,',
    ],
)
def test_a_line_that_describes_no_file_names_its_number(line: bytes) -> None:
    good = next(encode_files([FileEntry.named(b"a", size_bytes=1, mode=0, sha256="ab" * 32)]))
    with pytest.raises(IntegrityError, match="line 2"):
        list(decode_files([good, line]))
