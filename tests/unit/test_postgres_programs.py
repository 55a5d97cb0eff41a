"""PostgreSQL's programs are found by version, never by hope."""

import os
from pathlib import Path

import pytest

from tests.fix_postgres import find_bin_dir as installed
from walkeeper.errors import PostgresError
from walkeeper.postgres.programs import find_bin_dir, find_major, find_owner


@pytest.mark.parametrize("major", [15, 18])
def test_installed_versions_are_found(major):
    assert find_bin_dir(major) == installed(major)
    assert find_major(installed(major) / "postgres") == major


def test_a_configured_directory_is_the_only_one_looked_at():
    assert find_bin_dir(15, installed(15)) == installed(15)
    with pytest.raises(PostgresError, match="PostgreSQL 15 were not found") as caught:
        find_bin_dir(15, installed(18))
    assert "bin_dir" in caught.value.hint


def test_a_version_that_is_not_installed_names_where_it_was_looked_for():
    with pytest.raises(PostgresError, match="/usr/lib/postgresql/12/bin"):
        find_bin_dir(12)


def test_another_program_is_not_postgresql():
    assert find_major(Path("/bin/true")) is None
    assert find_major(Path("/nowhere/postgres")) is None


def test_a_server_runs_as_the_owner_of_its_directory(workspace):
    data_dir = workspace.directory("data")
    owner = find_owner(data_dir)
    if os.geteuid() == workspace.owner.uid:
        assert owner is None
    else:
        assert (owner.uid, owner.gid) == (workspace.owner.uid, workspace.owner.gid)
        assert workspace.owner.gid in owner.groups


def test_nobody_starts_a_server_as_root():
    with pytest.raises(PostgresError, match="belongs to root") as caught:
        find_owner(Path("/usr"))
    assert "chown" in caught.value.hint
