"""The scripts that a newcomer and the CI run, as far as they can be judged without running them."""

import os
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SHELL = [
    path
    for path in sorted([*(ROOT / "scripts").iterdir(), *(ROOT / ".ci").iterdir()])
    if path.is_file() and path.suffix in {"", ".sh"}
]
COMMANDS = [path for path in SHELL if path.suffix == ""]


@pytest.mark.parametrize("path", SHELL, ids=lambda path: path.name)
def test_every_shell_script_parses(path: Path) -> None:
    result = subprocess.run(["sh", "-n", path], capture_output=True, text=True, check=False)
    assert result.stderr == ""
    assert result.returncode == 0


@pytest.mark.parametrize("path", COMMANDS, ids=lambda path: path.name)
def test_every_command_is_executable_and_says_what_it_does(path: Path) -> None:
    first, second = path.read_text().splitlines()[:2]
    assert os.access(path, os.X_OK)
    assert first == "#!/bin/sh"
    assert second.startswith("# ")


@pytest.mark.parametrize("path", COMMANDS, ids=lambda path: path.name)
def test_every_command_is_short(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 24


def test_the_commands_that_the_project_promises_exist() -> None:
    promised = {"install", "test", "check", "lint", "demo", "bench", "run"}
    assert promised <= {path.name for path in COMMANDS}


def test_ci_installs_checks_and_tests_in_this_order() -> None:
    lines = (ROOT / ".ci" / "run").read_text().splitlines()
    assert [line for line in lines if line.startswith("scripts/")] == [
        "scripts/install",
        "scripts/check",
        "scripts/test --hypothesis-profile=settled",
    ]
    assert "set -eu" in lines


def test_check_runs_every_tool() -> None:
    words = (ROOT / "scripts" / "check").read_text()
    for tool in ["ruff check .", "ruff format --check .", "mypy", "lint-imports"]:
        assert re.search(rf"^{re.escape(tool)}$", words, re.MULTILINE), tool


def test_an_unknown_option_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    result = subprocess.run(
        [ROOT / "scripts" / "install", "--tset"],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert result.returncode == 2
    assert result.stderr.startswith("usage: install")
