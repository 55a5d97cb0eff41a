"""Takes base backups out of an archive: marked first, deleted from the manifest down.

A run that is killed at any step can be run again. Before the manifest is gone the backup is whole
and the mark only says what was intended; from then on there is no backup, and the mark lets the
next run finish at once what would otherwise wait as an orphan for a day.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from walkeeper.codec import signed_json
from walkeeper.core import layout, layout_holds
from walkeeper.core.backup_id import BackupId
from walkeeper.core.layout import ObjectName
from walkeeper.errors import IntegrityError, ObjectExists, ObjectNotFound
from walkeeper.repository.archive import Archive
from walkeeper.repository.holds import ExpiryMark, read_signed
from walkeeper.storage.base import ObjectInfo


@dataclass(frozen=True, slots=True)
class Marks:
    """Backups with a mark of a known writer, and questions for the clock that nobody took back."""

    backups: tuple[BackupId, ...]
    questions: tuple[ObjectInfo, ...]


class BackupRemoval:
    """Marks and deletes the backups of one archive."""

    def __init__(self, archive: Archive) -> None:
        self._archive = archive

    async def marks(self) -> Marks:
        """What earlier runs have left. A mark that nobody signed is no mark."""
        backups: list[BackupId] = []
        questions: list[ObjectInfo] = []
        async for info in self._archive.list_objects(layout_holds.EXPIRING_PREFIX):
            backup = layout_holds.parse_expiring_mark(info.name)
            if layout_holds.is_clock_object(info.name):
                questions.append(info)
            elif backup is not None and await self._is_marked(backup):
                backups.append(backup)
        return Marks(tuple(backups), tuple(questions))

    async def _is_marked(self, backup: BackupId) -> bool:
        try:
            await read_signed(self._archive, layout_holds.expiring_mark(backup), ExpiryMark)
        except (IntegrityError, ObjectNotFound):
            return False
        return True

    async def mark(self, backup: BackupId, now: datetime) -> None:
        """Say that a backup will be deleted; it may have been said before."""
        name = layout_holds.expiring_mark(backup)
        mark = ExpiryMark(
            name=name, archive=self._archive.record.archive, backup=str(backup), at=now
        )
        data = signed_json.encode(mark, self._archive.sealer.signing)
        try:
            await self._archive.storage.put(self._archive.path(name), data)
        except ObjectExists:
            return

    async def unmark(self, backup: BackupId) -> None:
        """Take it back."""
        await self._delete(layout_holds.expiring_mark(backup))

    async def is_committed(self, backup: BackupId) -> bool:
        """Whether its manifest is there."""
        return await self._archive.holds(layout.backup_manifest(backup))

    async def remove(self, backup: BackupId) -> int:
        """Delete a backup, or what is left of one: manifest, summary, data, claim, what held it,
        the mark. Returns how many bytes that were.

        Only names that are ours are deleted. Raises what storage raises; the rest is there then.
        """
        fixed = [layout.backup_manifest(backup), layout.backup_summary(backup)]
        claim = layout.backup_start(backup)
        prefix = layout.backup_prefix(backup)
        sizes = {info.name: info.size_bytes async for info in self._archive.list_objects(prefix)}
        ours = [name for name in [*fixed, *_parts_of(backup, sizes), claim] if name in sizes]
        for name in ours:
            await self._delete(name)
        for held in (layout_holds.pins_prefix(backup), layout_holds.leases_prefix(backup)):
            await self._delete_held(held)
        await self.unmark(backup)
        return sum(sizes[name] for name in ours)

    async def _delete_held(self, prefix: str) -> None:
        names = [info.name async for info in self._archive.list_objects(prefix)]
        for name in names:
            parsed = layout_holds.parse_pin_object(name) or layout_holds.parse_lease_object(name)
            if parsed is not None:
                await self._delete(ObjectName(name))

    async def _delete(self, name: ObjectName) -> None:
        await self._archive.storage.delete(self._archive.path(name))


def _parts_of(backup: BackupId, names: dict[str, int]) -> list[ObjectName]:
    return [
        ObjectName(name)
        for name in sorted(names)
        if (found := layout.parse_backup_part(name)) is not None and found[0].backup == backup
    ]
