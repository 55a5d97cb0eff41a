"""Configuration outside the data directory is found as PostgreSQL finds it, and in nobody's way."""

import os
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import msgspec
import pytest

from walkeeper.core.wal import SegmentSize
from walkeeper.postgres.facts import ServerFacts
from walkeeper.services.backup_last import find_outside_files


@pytest.fixture
def etc(tmp_path):
    """Where the configuration lies, as on Debian."""
    place = SimpleNamespace(root=tmp_path / "etc", data=tmp_path / "data")
    place.root.mkdir()
    place.data.mkdir()

    def write(name, text=""):
        path = place.root / os.fsdecode(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def find(**changes):
        for name in ("postgresql.conf", "pg_hba.conf", "pg_ident.conf"):
            if not (place.root / name).exists():
                write(name)
        facts = ServerFacts(
            version_num=160_000,
            system_identifier=1,
            data_directory=place.data,
            config_file=changes.get("config_file", place.root / "postgresql.conf"),
            hba_file=place.root / "pg_hba.conf",
            ident_file=place.root / "pg_ident.conf",
            in_recovery=False,
            postmaster_started_at=datetime.now(UTC),
            timeline=1,
            archive_mode="on",
            archive_command="",
            archive_library="",
            archive_timeout=timedelta(0),
            wal_level="replica",
            max_wal_senders=10,
            segment_size=SegmentSize(1 << 20),
            block_size=8192,
            data_checksums=True,
        )
        found, left_out = find_outside_files(facts)
        place.left_out = left_out
        place.found = found
        ours = {"postgresql.conf", "pg_hba.conf", "pg_ident.conf"}
        names = {os.path.relpath(one.saved.path, place.root) for one in found}
        return names - ours

    place.write, place.find = write, find
    return place


@pytest.mark.parametrize(
    "line",
    [
        "include 'more.conf'",
        "  INCLUDE = 'more.conf'  # why",
        "include more.conf",
        'include "more.conf"',
        "include_if_exists='more.conf'",
        "include_dir 'conf.d'",
        "include 'conf.d/../more.conf'",
    ],
)
def test_every_way_to_include_is_understood(etc, line):
    etc.write("more.conf")
    etc.write("conf.d/one.conf")
    etc.write("postgresql.conf", f"work_mem = '4MB'\n{line}\n")
    assert etc.find() == ({"conf.d/one.conf"} if "_dir" in line else {"more.conf"})


def test_lines_that_only_look_like_it_are_not_followed(etc):
    etc.write("more.conf")
    etc.write(
        "postgresql.conf",
        "# include 'more.conf'\nincluded = 'more.conf'\napp.names = 'x @more.conf'\n",
    )
    assert etc.find() == set()


def test_a_directory_gives_what_postgresql_reads_of_it(etc):
    for name in ("b.conf", "a.conf", ".hidden.conf", "c.txt"):
        etc.write(f"conf.d/{name}")
    etc.write("postgresql.conf", "include_dir 'conf.d'\n")
    assert etc.find() == {"conf.d/a.conf", "conf.d/b.conf"}


def test_files_that_include_each_other_are_taken_once(etc):
    etc.write("postgresql.conf", "include 'a.conf'\n")
    etc.write("a.conf", "include 'b.conf'\n")
    etc.write("b.conf", "include 'a.conf'\ninclude 'b.conf'\n")
    assert etc.find() == {"a.conf", "b.conf"}


def test_access_rules_bring_their_lists_of_names(etc):
    etc.write("pg_hba.conf", 'host @dbs all,@"some users" ::1/128 trust\n# host @no all\n')
    etc.write("dbs")
    etc.write("some users")
    etc.write("no")
    assert etc.find() == {"dbs", "some users"}


def test_a_member_never_has_a_name_that_a_restore_refuses(etc):
    etc.write("more.conf", "x")
    etc.write("conf.d/one.conf", "include '../more.conf'\n")
    etc.write("postgresql.conf", "include_dir 'conf.d'\n")
    etc.find()
    for one in etc.found:
        assert one.saved.member == f"walkeeper_config{one.saved.path}"
        assert ".." not in one.saved.member.split("/")
        assert "//" not in one.saved.member


def test_names_that_are_not_utf_8_can_stand_in_the_manifest(etc):
    etc.write(b"conf.d/caf\xe9.conf", "x")
    etc.write("postgresql.conf", "include_dir 'conf.d'\n")
    etc.find()
    assert b"caf\\\\xe9" in msgspec.json.encode([one.saved for one in etc.found])


def test_what_lies_in_the_data_directory_is_not_kept_twice(etc):
    (etc.data / "postgresql.conf").write_text(f"include '{etc.root}/more.conf'\n")
    etc.write("more.conf")
    assert etc.find(config_file=etc.data / "postgresql.conf") == {"more.conf"}


def test_a_missing_file_is_passed_over_and_another_obstacle_is_told(etc):
    os.mkfifo(etc.root / "pipe")
    (etc.root / "folder").mkdir()
    etc.write(
        "postgresql.conf",
        "include_if_exists 'none'\ninclude_dir 'none.d'\ninclude 'pipe'\ninclude 'folder'\n",
    )
    assert etc.find() == set()
    assert etc.left_out == [
        f"{etc.root}/pipe: not a regular file",
        f"{etc.root}/folder: not a regular file",
    ]
