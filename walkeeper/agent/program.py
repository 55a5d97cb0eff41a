"""The installed program, as PostgreSQL's commands name it."""

from __future__ import annotations

import shutil
import sys
import sysconfig
from pathlib import Path

from walkeeper.errors import ConfigError


def find_program() -> Path:
    """The ``walkeeper`` that PostgreSQL's commands should call: the one beside this Python.

    Raises ConfigError when there is none, as when the package is run without being installed.
    """
    candidates = [
        Path(sys.executable).with_name("walkeeper"),
        Path(sysconfig.get_path("scripts")) / "walkeeper",
    ]
    found = shutil.which("walkeeper")
    if found is not None:
        candidates.append(Path(found))
    for candidate in candidates:
        if candidate.is_file():
            return candidate.absolute()
    raise ConfigError(
        f"the program walkeeper was not found, not even as {candidates[0]}",
        hint="install the package: PostgreSQL calls the program for each WAL file",
    )
