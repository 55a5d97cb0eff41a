"""``postmaster.pid``: what a running server leaves in its data directory."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from walkeeper.errors import PostgresError

# Lines of the file, counted from 0 (src/include/utils/pidfile.h, LOCK_FILE_LINE_*).
_PID: Final = 0
_START_TIME: Final = 2
_SOCKET_DIR: Final = 4
_STATUS: Final = 7


@dataclass(frozen=True, slots=True)
class PostmasterFile:
    """The running server; ``status`` is "starting", "stopping", "ready", "standby" or "".

    ``socket_dir`` is that of its first Unix socket, "" while it has none.
    """

    pid: int
    started_at: datetime
    status: str
    socket_dir: str = ""


def find_postmaster(data_dir: Path) -> PostmasterFile | None:
    """Read the file; None when there is none: no server runs here, or it has not got that far.

    The file outlives a server that was killed. Blocks. Raises PostgresError when it cannot be read.
    """
    path = data_dir / "postmaster.pid"
    try:
        lines = path.read_text(errors="replace").split("\n")
    except FileNotFoundError:
        return None
    except OSError as error:
        raise PostgresError(f"cannot read {path}: {error.strerror}") from error
    try:
        started_at = datetime.fromtimestamp(int(lines[_START_TIME]), UTC)
        pid = abs(int(lines[_PID]))  # negative for a stand-alone backend
    except (ValueError, IndexError):
        return None  # the server is about to write it
    status = lines[_STATUS].strip() if len(lines) > _STATUS else ""
    socket_dir = lines[_SOCKET_DIR].strip() if len(lines) > _SOCKET_DIR else ""
    return PostmasterFile(pid, started_at, status, socket_dir)
