"""What a server must be so that its WAL may go into an archive, and its directory too."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from walkeeper.errors import ForeignCluster, PostgresError, WalRefused
from walkeeper.postgres.facts import ServerFacts
from walkeeper.repository.records import ArchiveRecord

DETACHED_FILE: Final = "walkeeper.detached"
"""Left in a restored data directory: it must not write into the archive of its source."""


def require_source(facts: ServerFacts, record: ArchiveRecord) -> None:
    """Raise the reason why a server's WAL may not go into the archive, if there is one."""
    if str(facts.system_identifier) != record.system_identifier:
        raise ForeignCluster(
            f"the archive belongs to the cluster {record.system_identifier}, the server is "
            f"{facts.system_identifier}",
            hint="choose the right [cluster] archive, or create one: walkeeper init",
        )
    if facts.segment_size.bytes != record.segment_size:
        raise ForeignCluster(
            f"the archive holds WAL segments of {record.segment_size} bytes, the server writes "
            f"{facts.segment_size.bytes}",
            hint="pg_resetwal --wal-segsize begins a new archive: choose another [cluster] archive",
        )
    problem = find_archiving_problem(facts)
    if problem is not None:
        raise PostgresError(problem, hint="set what is missing: walkeeper init --apply")


def find_archiving_problem(facts: ServerFacts) -> str | None:
    """Why the server does not archive through our hook, or None when it does."""
    if facts.archive_mode not in {"on", "always"}:
        return f"archive_mode is {facts.archive_mode}"
    if facts.archive_library:
        return f"archive_library is {facts.archive_library!r}, so archive_command is not used"
    if "walkeeper" not in facts.archive_command or "wal-push" not in facts.archive_command:
        return "archive_command is not walkeeper's wal-push"
    if facts.wal_level == "minimal":
        return "wal_level is minimal"
    return None


def require_attached(data_dir: Path) -> None:
    """Raise WalRefused for a restored copy that was not told to resume archiving; blocks."""
    if (data_dir / DETACHED_FILE).exists():
        raise WalRefused(
            f"{data_dir} is a restored copy ({DETACHED_FILE} is there): it writes nothing into "
            "the archive of its source",
            hint="restore with --resume-archiving, or begin an archive of its own",
        )
