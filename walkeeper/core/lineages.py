"""The lines of history in an archive, each judged by itself: retention never mixes them.

A lineage is the path to a timeline that no other continues, see `archive_view.branches`. Backups
are ordered by stop LSN along it; positions of different lineages say nothing about each other.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from walkeeper.core.archive_view import ArchiveView, branches
from walkeeper.core.coverage import Path, WalHoldings, lies_on
from walkeeper.core.lsn import Lsn
from walkeeper.core.retention_policy import Catalog, KnownBackup, RetentionPolicy
from walkeeper.errors import IntegrityError

_NEVER: Final = datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Lineage:
    """The path to a timeline.

    ``main``: it is what the cluster goes on with, as far as the archive can tell: the highest
    timeline, the one that was written last, or that of the newest backup. On a ``live`` one there
    are moments of the window; those of a dead branch end when nothing was written to it for so
    long. ``backups`` are the ids of those that lie on the path.
    """

    timeline: int
    path: Path
    main: bool
    live: bool
    backups: frozenset[str]


def find_paths(catalog: Catalog) -> dict[int, Path]:
    """The path to each timeline whose ancestry is known."""
    view = _view(catalog)
    found = ((timeline, view.find_history(timeline)) for timeline in view.timelines)
    return {timeline: history.legs for timeline, history in found if history is not None}


def find_lineages(
    policy: RetentionPolicy, catalog: Catalog, populations: Iterable[Sequence[KnownBackup]]
) -> tuple[Lineage, ...]:
    """All lineages, by timeline.

    Each of the populations says by itself which are the main ones: what one of them adds takes
    nothing from the others. Raises IntegrityError for backups of a timeline whose ancestry is not
    known: what they need cannot be told.
    """
    paths = find_paths(catalog)
    for backup in catalog.backups:
        if backup.facts.timeline not in paths:
            raise IntegrityError(
                f"backup {backup.facts.id} is of timeline {backup.facts.timeline}, and the archive "
                "has no history of it that can be read: what is needed cannot be told",
                hint="archive the missing .history file with wal-push; nothing was deleted",
            )
    on_path = {
        tip.timeline: _on_path(paths[tip.timeline], catalog)
        for tip in branches(_view(catalog))
        if tip.timeline in paths
    }
    for backup in catalog.backups:
        timeline = backup.facts.timeline
        if not any(backup.facts.id in members for members in on_path.values()):
            on_path[timeline] = _on_path(paths[timeline], catalog)
    main = {tip for known in populations for tip in _main(catalog, on_path, known)}
    written = catalog.wal_stored_at
    since = catalog.now - policy.window
    return tuple(
        Lineage(
            timeline,
            paths[timeline],
            timeline in main,
            timeline in main or written.get(timeline, _NEVER) > since,
            members,
        )
        for timeline, members in sorted(on_path.items())
    )


def _main(
    catalog: Catalog, on_path: Mapping[int, frozenset[str]], known: Sequence[KnownBackup]
) -> set[int]:
    ids = {backup.facts.id for backup in known}
    tips = [timeline for timeline, members in on_path.items() if members & ids]
    if not tips:
        return set()
    newest = max(known, key=lambda backup: backup.taken_at).facts.id
    written = catalog.wal_stored_at
    return {
        max(tips),
        max(tips, key=lambda timeline: written.get(timeline, _NEVER)),
        *(timeline for timeline in tips if newest in on_path[timeline]),
    }


def _on_path(path: Path, catalog: Catalog) -> frozenset[str]:
    return frozenset(backup.facts.id for backup in catalog.backups if lies_on(path, backup.facts))


def _view(catalog: Catalog) -> ArchiveView:
    """For the shape of the tree: a fragment counts as if it went to the end of its segment."""
    size = catalog.wal.size
    ends = {segment: Lsn((segment.number(size) + 1) * size.bytes) for segment in catalog.fragments}
    return ArchiveView(
        WalHoldings(size, catalog.wal.complete, ends),
        tuple(backup.facts for backup in catalog.backups),
        catalog.histories,
    )
