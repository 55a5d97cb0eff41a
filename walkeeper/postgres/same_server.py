"""Whether the server at the other end of a session is the one that owns the local files."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Final

from walkeeper.errors import PostgresError
from walkeeper.postgres.control_file import ClusterState, read_control_file
from walkeeper.postgres.facts import ServerFacts
from walkeeper.postgres.postmaster import find_postmaster

# postmaster.pid holds when the process began, in whole seconds (MyStartTime);
# pg_postmaster_start_time() when it had set up shared memory and loaded its libraries
# (src/backend/postmaster/postmaster.c, PgStartTime). Clocks may be set in between.
_EARLIER: Final = timedelta(seconds=2)
_LATER: Final = timedelta(seconds=30)

_RECOVERING: Final = {ClusterState.IN_ARCHIVE_RECOVERY, ClusterState.IN_CRASH_RECOVERY}


def find_difference(facts: ServerFacts, data_dir: Path, *, any_start: bool = False) -> str | None:
    """How the server of ``facts`` differs from the one on ``data_dir``; None: they are the same.

    A primary and its standby share the system identifier, often the path, and after a power cut
    the second at which they started: therefore whether they are in recovery counts as well.
    ``any_start`` leaves out when they started, for whoever has a better proof.
    Blocks. Raises PostgresError when the files cannot be read.
    """
    postmaster = find_postmaster(data_dir)
    if postmaster is None:
        return "no server runs there"
    if not _same_directory(facts.data_directory, data_dir):
        return f"its data directory is {facts.data_directory}"
    control = read_control_file(data_dir)
    if control.system_identifier != facts.system_identifier:
        return (
            f"its system identifier is {facts.system_identifier}, not {control.system_identifier}"
        )
    later = facts.postmaster_started_at - postmaster.started_at
    if not any_start and not -_EARLIER <= later <= _LATER:
        return f"it started at {facts.postmaster_started_at}, not at {postmaster.started_at}"
    if facts.in_recovery != (control.state in _RECOVERING):
        return f"{'it' if facts.in_recovery else 'the local one'} is a standby, the other is not"
    return None


def holds_snapshot(data_dir: Path, name: str, pid: int) -> bool:
    """Whether the backend ``pid`` has exported this snapshot into the directory; blocks.

    src/backend/utils/time/snapmgr.c, ExportSnapshot. Raises PostgresError.
    """
    path = data_dir / "pg_snapshots" / name
    try:
        return f"pid:{pid}" in path.read_text(errors="replace").splitlines()
    except FileNotFoundError:
        return False
    except OSError as error:
        raise PostgresError(f"cannot read {path}: {error.strerror}") from error


def _same_directory(theirs: Path, ours: Path) -> bool:
    try:
        return theirs.samefile(ours)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise PostgresError(f"cannot compare {theirs} and {ours}: {error.strerror}") from error
