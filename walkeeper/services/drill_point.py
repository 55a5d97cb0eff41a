"""Which point a drill tries to reach: the newest, a moment, or one by chance."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from walkeeper.core.backup_id import BackupId
from walkeeper.core.lsn import Lsn
from walkeeper.core.target import AtLsn, Latest, RecoveryRequest
from walkeeper.errors import NoSuchBackup
from walkeeper.repository.archive import Archive
from walkeeper.repository.backups import BackupStore
from walkeeper.services.status import Inspection, RecoverableWindow

Chance = Callable[[int], int]
"""A number from 0 to just below the one given."""


@dataclass(frozen=True, slots=True)
class Stretch:
    """Positions on a timeline, ``begin`` to just before ``end``, that recovery can reach."""

    timeline: int
    begin: Lsn
    end: Lsn

    @property
    def size(self) -> int:
        """Bytes of WAL."""
        return self.end - self.begin


async def find_stretches(
    archive: Archive, backups: BackupStore, backup: BackupId | None
) -> list[Stretch]:
    """Everything that can be recovered, or only what can be from one backup on.

    Raises NoSuchBackup where that is nothing, and what storage raises.
    """
    health = await Inspection(archive, backups).run()
    begins = {one.id: one.stop for one in health.backups}
    found = list(_stretches(health.windows, begins, backup))
    if not found:
        raise NoSuchBackup(
            "there is nothing that could be recovered"
            if backup is None
            else f"nothing can be recovered from a backup {backup}",
            hint="walkeeper status shows what can be; walkeeper backup takes a backup",
        )
    return found


def _stretches(
    windows: Sequence[RecoverableWindow], begins: dict[str, Lsn], backup: BackupId | None
) -> list[Stretch]:
    found: list[Stretch] = []
    for window in windows:
        begin = window.begin
        if backup is not None:
            if str(backup) not in window.backups:
                continue
            begin = begins[str(backup)]
        if begin < window.end:
            found.append(Stretch(window.timeline, begin, window.end))
    return found


def draw_point(stretches: Sequence[Stretch], chance: Chance) -> RecoveryRequest:
    """A position by chance, every byte of WAL as likely as any other."""
    offset = chance(sum(stretch.size for stretch in stretches))
    for stretch in stretches:
        if offset < stretch.size:
            target = AtLsn(stretch.begin + offset)
            return RecoveryRequest(target, stretch.timeline)
        offset -= stretch.size
    raise ValueError("the number was not below the one given")


def last_point(stretches: Sequence[Stretch]) -> RecoveryRequest:
    """The end of the stretch that ends last: behind it there is no record to stop at."""
    return RecoveryRequest(Latest(), max(stretches, key=lambda one: one.end).timeline)
