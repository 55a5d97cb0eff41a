"""The progress of a restore on a terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from walkeeper.core.lsn import Lsn
from walkeeper.services.restore import PhaseProgress, RestoreProgress
from walkeeper.services.restore_fetch import FetchProgress
from walkeeper.services.restore_start import ReplayProgress
from walkeeper.services.wal_reader import ScanProgress

_PHASES: Final = {
    "plan": "looking at what the archive holds",
    "try": "fetching a segment as PostgreSQL's user",
    "fetch": "fetching the backup",
    "configure": "writing the recovery settings",
    "ahead": "fetching the first WAL",
    "recover": "starting PostgreSQL",
}


@contextmanager
def show_progress(*, quiet: bool) -> Iterator[Callable[[RestoreProgress], None]]:
    """A line that follows the restore; nothing at all when ``quiet``."""
    if quiet:
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(_PHASES["plan"], total=None)

        def show(event: RestoreProgress) -> None:
            text, done, total = _line(event)
            bar.update(task, description=text, completed=done, total=total)

        yield show


def _line(event: RestoreProgress) -> tuple[str, int, int | None]:
    """What to say, how much is done and of how much, None where that is not known."""
    match event:
        case PhaseProgress(phase):
            return _PHASES.get(phase, phase), 0, None
        case ScanProgress(segment, segments):
            return f"reading WAL: {segment}, {segments} read", 0, None
        case FetchProgress(fetched, total):
            done = f"{fetched / 2**20:,.0f} of {total / 2**20:,.0f} MiB"
            return f"fetching the backup: {done}", fetched, max(total, fetched, 1)
        case ReplayProgress(lsn, begin, end):
            first, last = Lsn.parse(begin), Lsn.parse(end)
            replayed = max(Lsn.parse(lsn) - first, 0)
            return f"replaying WAL: {lsn} of {end}", replayed, max(last - first, 1)
