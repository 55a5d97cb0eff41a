"""What the outermost frame of a command says of an error."""

from __future__ import annotations

import pytest

from walkeeper.cli.main import report
from walkeeper.errors import ConfigError


def test_the_report_of_an_error_shows_no_secret(
    canary: str, capsys: pytest.CaptureFixture[str]
) -> None:
    error = ConfigError(f"the server said {canary}", hint=f"is {canary} right?")
    assert report(error) == ConfigError.exit_code
    said = capsys.readouterr().err
    assert said == "walkeeper: the server said [redacted]\n  hint: is [redacted] right?\n"


def test_the_traceback_of_an_internal_error_shows_no_secret(
    canary: str, capsys: pytest.CaptureFixture[str]
) -> None:
    cause = ValueError(f"not a number: {canary}")
    error = RuntimeError(f"not with {canary}")
    error.__cause__ = cause
    assert report(error) == 1
    said = capsys.readouterr().err
    assert "RuntimeError: not with [redacted]" in said
    assert "ValueError: not a number: [redacted]" in said
    assert canary not in said
