"""What is said of a base backup, while it runs and at its end.

Apart from what takes it: a command that only watches the agent needs nothing else.
"""

from __future__ import annotations

from datetime import datetime

import msgspec


class BackupProgress(msgspec.Struct, frozen=True):
    """How far a backup is. ``total_bytes`` is what the server estimates, 0 when it does not."""

    phase: str
    backup: str
    files: int = 0
    read_bytes: int = 0
    stored_bytes: int = 0
    total_bytes: int = 0
    message: str = ""


class DamagedFile(msgspec.Struct, frozen=True):
    """A file with pages whose checksums do not hold; ``path`` is relative to the data directory.

    ``count`` pages are damaged; ``blocks`` are the first of them, counted within this file.
    """

    path: str
    count: int
    blocks: tuple[int, ...]


class BackupReport(msgspec.Struct, frozen=True):
    """What a finished backup is reported as; the last document that the agent sends.

    ``checksum_findings`` counts damaged pages. ``damaged`` and ``left_out`` are the first of
    ``damaged_files`` and ``left_out_files``: a document between agent and command has 64 KiB.
    """

    backup: str
    timeline: int
    start_lsn: str
    stop_lsn: str
    stopped_at: datetime
    size_bytes: int
    stored_bytes: int
    files: int
    parts: int
    checksum_findings: int
    damaged_files: int
    damaged: tuple[DamagedFile, ...]
    left_out_files: int
    left_out: tuple[str, ...]
