"""The installed program, as PostgreSQL's commands name it."""

from __future__ import annotations

import shutil
import sys
import sysconfig
from pathlib import Path
from typing import Final

from walkeeper.errors import ConfigError

_ON_EVERY_PATH: Final = {Path("/usr/bin"), Path("/usr/local/bin")}


def program_words(config_path: Path | None, archive: str | None) -> tuple[str, ...]:
    """How somebody at a shell of this host calls ``walkeeper`` with this configuration.

    ``config_path`` is None where it is the one that is found anyway.
    """
    try:
        program = find_program()
    except ConfigError:
        program = Path("walkeeper")
    anywhere = program.parent in _ON_EVERY_PATH
    words = ["walkeeper" if anywhere else str(program)]
    if config_path is not None:
        words += ["--config", str(config_path.absolute())]
    if archive is not None:
        words += ["--archive", archive]
    return tuple(words)


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
