"""What a base backup leaves out is decided by name."""

import pytest

from walkeeper.postgres.exclusions import (
    find_checksummed_segment,
    find_relation_file,
    is_database_directory,
    is_excluded,
    is_temporary_relation,
)


@pytest.mark.parametrize(
    ("name", "number", "fork", "segment"),
    [
        ("16384", "16384", "", 0),
        ("16384.1", "16384", "", 1),
        ("16384_fsm", "16384", "fsm", 0),
        ("16384_vm.12", "16384", "vm", 12),
        ("16384_init", "16384", "init", 0),
    ],
)
def test_relation_files_are_taken_apart(name, number, fork, segment):
    relation = find_relation_file(name)
    assert (relation.number, relation.fork, relation.segment) == (number, fork, segment)


@pytest.mark.parametrize(
    "name",
    ["PG_VERSION", "pg_filenode.map", "pg_internal.init", "16384.0", "0123", "16384_x", "t3_16384"],
)
def test_other_files_are_no_relations(name):
    assert find_relation_file(name) is None


@pytest.mark.parametrize("name", ["t3_16384", "t3_16384.1", "t3_16384_fsm", "t12_16384_vm.2"])
def test_temporary_relations_are_known_by_their_names(name):
    assert is_temporary_relation(name)


@pytest.mark.parametrize("name", ["16384", "t3", "t_16384", "t3_", "t3_1_x", "test_1", "t3_1.x"])
def test_others_are_not_temporary(name):
    assert not is_temporary_relation(name)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("base/5", True),
        ("PG_15_202209061/5", True),
        ("pg_tblspc/16400/PG_15_202209061/5", True),
        ("global", False),
        ("base", False),
        ("base/5/x", False),
        ("pg_tblspc/16400", False),
        ("pg_xact", False),
    ],
)
def test_relations_lie_in_the_directories_of_databases(path, expected):
    assert is_database_directory(path) is expected


@pytest.mark.parametrize(
    ("path", "segment"),
    [
        ("base/5/16384", 0),
        ("base/5/16384_fsm", 0),
        ("base/5/16384.3", 3),
        ("global/1262", 0),
        ("PG_15_202209061/5/16384.1", 1),
        ("pg_tblspc/16400/PG_15_202209061/5/16384", 0),
        ("global/pg_control", None),
        ("global/pg_filenode.map", None),
        ("base/5/PG_VERSION", None),
        ("base/5/pg_internal.init", None),
        ("pg_xact/0000", None),
        ("pg_multixact/offsets/0000", None),
        ("16384", None),
        ("pg_stat/1234", None),
    ],
)
def test_only_relations_have_page_checksums(path, segment):
    assert find_checksummed_segment(path) == segment


@pytest.mark.parametrize(
    ("directory", "name"),
    [
        ("", "postmaster.pid"),
        ("", "backup_label"),
        ("", "backup_label.old"),
        ("", "backup_manifest"),
        ("", "recovery.signal"),
        ("", "standby.signal"),
        ("", "walkeeper.detached"),
        ("", "walkeeper_config"),
        ("", "postgresql.auto.conf.tmp"),
        ("base", "pgsql_tmp"),
        ("base/pgsql_tmp", "pgsql_tmp123.0"),
        ("base/5", "pg_internal.init"),
        ("global", "pg_internal.init.4711"),
    ],
)
def test_what_belongs_to_the_running_server_stays_out(directory, name):
    assert is_excluded(directory, name)


@pytest.mark.parametrize(
    ("directory", "name"),
    [
        ("", "postgresql.auto.conf"),
        ("", "PG_VERSION"),
        ("", "pg_hba.conf"),
        ("", "current_logfiles"),
        ("log", "recovery.signal"),
        ("base/5", "pg_filenode.map"),
    ],
)
def test_everything_else_stays_in(directory, name):
    assert not is_excluded(directory, name)
