"""What would keep PostgreSQL's user from the program and the agent."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.fix_postgres import Owner
from walkeeper.services.host_check import find_host_problems


@pytest.fixture
def program(short_dir: Path) -> Path:
    path = short_dir / "bin" / "walkeeper"
    path.parent.mkdir(mode=0o755)
    path.parent.chmod(0o755)
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def data_dir(short_dir: Path) -> Path:
    path = short_dir / "data"
    path.mkdir()
    return path


def test_a_host_that_is_as_it_should_be_has_no_problems(data_dir: Path, program: Path) -> None:
    assert find_host_problems(data_dir, program, data_dir / "agent.sock") == []


def test_a_data_directory_of_another_host_is_the_only_thing_said(
    short_dir: Path, program: Path
) -> None:
    (problem,) = find_host_problems(short_dir / "none", program, short_dir / "none" / "s")
    assert "not on this host" in problem


def test_a_socket_directory_that_is_missing_or_a_file_is_named(
    data_dir: Path, program: Path
) -> None:
    (missing,) = find_host_problems(data_dir, program, data_dir / "run" / "agent.sock")
    assert str(data_dir / "run") in missing
    (file,) = find_host_problems(data_dir, program, program / "agent.sock")
    assert "not a directory" in file


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
class TestAnotherUser:
    """PostgreSQL's user is another than ours."""

    @pytest.fixture(autouse=True)
    def _given_away(self, data_dir: Path) -> None:
        owner = Owner.current()
        os.chown(data_dir, owner.uid, owner.gid)

    def test_that_the_agent_must_run_as_that_user_is_said(
        self, data_dir: Path, program: Path
    ) -> None:
        (problem,) = find_host_problems(data_dir, program, data_dir / "agent.sock")
        assert f"the agent must run as {Owner.current().name}" in problem

    @pytest.mark.parametrize("what", ["program", "folder", "unreadable", "missing"])
    def test_a_program_that_the_user_cannot_run_is_named(
        self, data_dir: Path, program: Path, what: str
    ) -> None:
        match what:
            case "program":
                program.chmod(0o744)
            case "folder":
                program.parent.chmod(0o700)
            case "unreadable":
                program.chmod(0o711)
            case "missing":
                program.unlink()
        _, problem = find_host_problems(data_dir, program, data_dir / "agent.sock")
        assert f"may not execute {program}" in problem

    def test_rights_by_group_and_through_a_link_count(
        self, data_dir: Path, program: Path, short_dir: Path
    ) -> None:
        program.chmod(0o750)
        os.chown(program, 0, Owner.current().gid)
        link = short_dir / "walkeeper"
        link.symlink_to(program)
        assert len(find_host_problems(data_dir, link, data_dir / "agent.sock")) == 1
        program.parent.chmod(0o700)
        assert len(find_host_problems(data_dir, link, data_dir / "agent.sock")) == 2
