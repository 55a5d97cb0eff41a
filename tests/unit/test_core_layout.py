"""Object names: every name reads back as what it was made for, and nothing else is ours."""

import string
from datetime import UTC

import pytest
from hypothesis import given
from hypothesis import strategies as st

from walkeeper.core import layout
from walkeeper.core.backup_id import BackupId
from walkeeper.core.layout import BackupPart, CutOffSegment
from walkeeper.core.wal import BackupHistoryFile, TimelineHistoryFile, WalSegment

TIMELINES = st.integers(1, 2**32 - 1)
SEGMENTS = st.builds(WalSegment, TIMELINES, st.integers(0, 2**32 - 1), st.integers(0, 4095))
STORED = st.one_of(
    SEGMENTS,
    st.builds(CutOffSegment, SEGMENTS, st.text("0123456789abcdef", min_size=16, max_size=16)),
    st.builds(BackupHistoryFile, SEGMENTS, st.integers(0, 2**32 - 1)),
    TIMELINES.map(TimelineHistoryFile),
)
BACKUPS = st.builds(
    BackupId.create,
    st.datetimes(timezones=st.just(UTC)),
    st.binary(min_size=3, max_size=3),
)
PARTS = st.builds(
    BackupPart,
    BACKUPS,
    st.none() | st.integers(1, 2**32 - 1),
    st.integers(1, 99_999),
)
BACKUP = BackupId.parse("20261120T101500Z-full-3fa9c1")


@given(STORED)
def test_a_stored_wal_file_reads_back_from_its_name(wal):
    name = layout.wal_object(wal)
    assert layout.parse_wal_object(name) == wal
    assert name.startswith(layout.WAL_PREFIX)


@given(SEGMENTS, SEGMENTS)
def test_segments_of_a_timeline_list_in_their_order(one, other):
    other = other.on(one.timeline)
    assert (one < other) == (layout.wal_object(one) < layout.wal_object(other))


@given(SEGMENTS)
def test_segments_lie_in_the_folders_that_are_listed_for_them(segment):
    name = layout.wal_object(segment)
    assert name.startswith(layout.wal_prefix(segment))
    assert name.startswith(layout.timeline_prefix(segment.timeline))
    assert layout.parse_timeline_folder(layout.timeline_prefix(segment.timeline)) == (
        segment.timeline
    )


@given(PARTS)
def test_a_part_and_its_list_of_files_read_back_from_their_names(part):
    assert layout.parse_backup_part(part.data_name) == (part, False)
    assert layout.parse_backup_part(part.files_name) == (part, True)
    assert part.data_name.startswith(layout.backup_data_prefix(part.backup))


@given(BACKUPS)
def test_a_backup_reads_back_from_its_folder_and_everything_of_it_lies_there(backup):
    folder = layout.backup_prefix(backup)
    assert layout.parse_backup_folder(folder) == backup
    for make in (layout.backup_start, layout.backup_summary, layout.backup_manifest):
        assert make(backup).startswith(folder)
        assert layout.parse_backup_part(make(backup)) is None


@given(st.integers(1, 10**9))
def test_a_format_marker_reads_back(version):
    assert layout.parse_format_marker(layout.format_marker(version)) == version


ALPHABET = string.ascii_lowercase + string.digits + "ABCDEF/.-TZ_\n"


@given(
    st.text(ALPHABET, max_size=80)
    | st.tuples(STORED.map(layout.wal_object), st.integers(0, 70), st.sampled_from(ALPHABET)).map(
        lambda t: t[0][: t[1]] + t[2] + t[0][t[1] + 1 :]
    )
)
def test_a_name_that_reads_as_wal_is_exactly_the_name_we_would_build(name):
    wal = layout.parse_wal_object(name)
    assert wal is None or layout.wal_object(wal) == name


@given(
    st.tuples(PARTS.map(lambda p: p.files_name), st.integers(0, 70), st.sampled_from(ALPHABET)).map(
        lambda t: t[0][: t[1]] + t[2] + t[0][t[1] + 1 :]
    )
)
def test_a_name_that_reads_as_a_part_is_exactly_the_name_we_would_build(name):
    found = layout.parse_backup_part(name)
    if found is not None:
        part, is_list = found
        assert name == (part.files_name if is_list else part.data_name)


@pytest.mark.parametrize(
    "name",
    [
        "wal/00000001/00000000/000000010000000000000001",
        "wal/00000001/00000000/000000020000000000000001.zst.age",
        "wal/00000001/00000001/000000010000000000000001.zst.age",
        "wal/00000000/00000000/000000000000000000000001.zst.age",
        "wal/00000001/00000000/000000010000000000001000.zst.age",
        "wal/00000001/00000000/000000010000000000000001.partial.zst.age",
        "wal/00000001/00000000/000000010000000000000001.partial.0123456789ABCDEF.zst.age",
        "wal/00000001/00000000/000000010000000000000001.28.backup.zst.age",
        "wal/00000000.history.zst.age",
        "wal/00000001/00000002.history.zst.age",
        "x/wal/00000002.history.zst.age",
        "wal/00000002.history.zst.age\n",
    ],
)
def test_what_only_looks_like_wal_is_not_ours(name):
    assert layout.parse_wal_object(name) is None


@pytest.mark.parametrize(
    "tail",
    [
        "data/00000.tar.zst.age",
        "data/1.tar.zst.age",
        "data/000001.tar.zst.age",
        "data/0/00001.tar.zst.age",
        "data/016384/00001.tar.zst.age",
        "data/4294967296/00001.tar.zst.age",
        "data/x/00001.tar.zst.age",
        "data/00001.tar.zst",
        "data/../00001.tar.zst.age",
        "start.json",
        "manifest.json.zst.age",
    ],
)
def test_what_only_looks_like_a_part_is_not_ours(tail):
    assert layout.parse_backup_part(f"{layout.backup_prefix(BACKUP)}{tail}") is None
    assert layout.parse_backup_part(f"backups/someone/{tail}") is None


@pytest.mark.parametrize("number", [0, -1, 100_000])
def test_a_part_number_of_other_than_five_digits_has_no_name(number):
    with pytest.raises(ValueError, match="parts 1 to 99999"):
        _ = BackupPart(BACKUP, None, number).data_name


@pytest.mark.parametrize(
    "name", ["wal/00000000/", "wal/0000000g/", "wal/00000001", "wal/1/", "backups/00000001/"]
)
def test_only_folders_of_timelines_are_timelines(name):
    assert layout.parse_timeline_folder(name) is None


@pytest.mark.parametrize(
    "name", ["backups/", "backups//", "backups/x/", f"backups/{BACKUP}", f"backups/{BACKUP}/data/"]
)
def test_only_folders_of_backups_are_backups(name):
    assert layout.parse_backup_folder(name) is None


@pytest.mark.parametrize("name", ["format/0.json", "format/01.json", "format/x.json", "format/1"])
def test_only_format_markers_are_format_markers(name):
    assert layout.parse_format_marker(name) is None
