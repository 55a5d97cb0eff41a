"""The progress of a backup on a terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from walkeeper.services.backup_report import BackupProgress

_PHASES: Final = {
    "checkpoint": "waiting for the checkpoint",
    "copy": "copying",
    "wal": "waiting for its WAL",
    "commit": "committing",
    "done": "done",
}


@contextmanager
def show_progress(*, quiet: bool) -> Iterator[Callable[[BackupProgress], None]]:
    """A line that follows the backup; nothing at all when ``quiet``."""
    if quiet:
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TransferSpeedColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("connecting", total=None)

        def show(progress: BackupProgress) -> None:
            bar.update(
                task,
                description=_PHASES.get(progress.phase, progress.phase),
                completed=progress.read_bytes,
                total=max(progress.total_bytes, progress.read_bytes) or None,
            )

        yield show
