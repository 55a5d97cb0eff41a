"""Where timelines came from, as retention must know it: what cannot be told stops everything."""

from __future__ import annotations

from typing import Final

from walkeeper.core.layout import ObjectName, wal_object
from walkeeper.core.lineages import find_paths
from walkeeper.core.retention_policy import Catalog
from walkeeper.core.timeline import TimelineHistory
from walkeeper.core.wal import TimelineHistoryFile
from walkeeper.errors import IntegrityError, KeyUnavailable, ObjectNotFound
from walkeeper.repository.archive import Archive
from walkeeper.services.expire_inventory import Inventory
from walkeeper.services.history_files import parse_history

_HISTORY_LIMIT: Final = 1 << 20


async def read_histories(
    archive: Archive, inventory: Inventory, findings: list[str]
) -> dict[int, TimelineHistory]:
    """The history files of an archive; what is damaged or forged goes to ``findings``.

    Raises KeyUnavailable when there are real ones and no identity to open them, and what storage
    raises.
    """
    histories: dict[int, TimelineHistory] = {}
    for timeline in inventory.histories:
        name = wal_object(TimelineHistoryFile(timeline))
        try:
            await archive.read_header(name)
            if not archive.opener.can_open:
                raise KeyUnavailable(
                    f"what WAL is needed follows from {name}, which only an identity opens",
                    hint="run expire where [encryption] identity_file is",
                )
            content = await archive.read(name, limit_bytes=_HISTORY_LIMIT)
            histories[timeline] = parse_history(timeline, content)
        except IntegrityError as error:
            findings.append(error.message)
    return histories


async def require_ancestry(
    archive: Archive, catalog: Catalog, inventory: Inventory, findings: list[str]
) -> None:
    """Raise IntegrityError unless the path to every timeline with WAL of our own is known.

    What somebody else put under the name of another timeline goes to ``findings``.
    """
    known = find_paths(catalog)
    for timeline in sorted(set(inventory.stored_at).difference(known)):
        for name in inventory.samples(timeline):
            if await is_ours(archive, name):
                raise IntegrityError(
                    f"the archive holds {name} and no history of timeline {timeline} that can be "
                    "read, so what is needed cannot be told; nothing was deleted",
                    hint=f"archive {TimelineHistoryFile(timeline)} with wal-push",
                )
        findings.append(f"what is stored as WAL of timeline {timeline} is not by a known writer")


async def is_ours(archive: Archive, name: ObjectName) -> bool:
    """Whether a known writer stored the object, by its header."""
    try:
        await archive.read_header(name)
    except (IntegrityError, ObjectNotFound):
        return False
    return True
