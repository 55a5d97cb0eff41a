"""What drills have shown: a signed record for everybody, and sealed details beside it."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import msgspec

from walkeeper.codec import signed_json
from walkeeper.core import layout_holds
from walkeeper.core.backup_files import Count, Moment
from walkeeper.core.layout import ObjectName
from walkeeper.core.layout_holds import DrillName
from walkeeper.errors import DifferentContent, IntegrityError, ObjectExists, ObjectNotFound
from walkeeper.repository.archive import Archive

_RECORD_LIMIT: Final = 64 * 1024
_MOST_READ: Final = 100
"""Records that are read in search of a proof; who may create names can plant many."""


class DrillRecord(msgspec.Struct, frozen=True, kw_only=True):
    """``drills/<time>-<6 hex>.json``: what a drill has proven. No SQL, no values, no names.

    ``proven`` is true when recovery ended where the plan said and no check failed. ``at`` is when
    the drill began, ``point_at`` the newest moment that was reached: that of the target, or of the
    last transaction. ``failed_phase`` names the phase in which it failed. ``reached_*`` are null
    when recovery did not end. ``seconds`` are those of each phase, ``rto_s`` of all that a real
    restore would have taken.
    """

    name: str
    archive: str
    backup: str
    proven: bool
    at: Moment
    target: str
    server_version: Count
    size_bytes: Count
    planned_timeline: Count
    planned_end_lsn: str
    planned_point_at: Moment
    reached_timeline: Count | None
    reached_lsn: str | None
    point_at: Moment | None
    failed_phase: str | None
    seconds: dict[str, float]
    rto_s: float
    checks: Count
    failed_checks: Count
    unfinished_checks: Count
    skipped_checks: Count
    counted_tables: Count
    counted_rows: Count
    details: str


@dataclass(frozen=True, slots=True)
class DrillHistory:
    """The newest drill, and the newest one that proved something; None where there is none.

    ``recent`` has the newest ones, newest first, as far as they were read.
    """

    last: DrillRecord | None = None
    last_proven: DrillRecord | None = None
    recent: tuple[DrillRecord, ...] = ()


class DrillStore:
    """Writes and reads the drills of one archive."""

    def __init__(self, archive: Archive, pool: ThreadPoolExecutor) -> None:
        self._archive = archive
        self._pool = pool
        self._known: dict[ObjectName, DrillRecord] = {}

    @property
    def archive_id(self) -> str:
        """What records carry as their ``archive``."""
        return self._archive.record.archive

    def require_writable(self) -> None:
        """Raise KeyUnavailable on a host that could not record what a drill shows."""
        self._archive.sealer  # noqa: B018 - raises

    async def write(self, drill: DrillName, record: DrillRecord, details: bytes) -> None:
        """Store the details, then the record, which is what counts.

        Raises DifferentContent when the name is taken, and what storage raises.
        """
        sealer = self._archive.sealer
        loop = asyncio.get_running_loop()
        sealed = await loop.run_in_executor(
            self._pool, lambda: sealer.seal(layout_holds.drill_details(drill), [details])
        )
        with sealed:
            await self._archive.put(sealed)
        name = layout_holds.drill_record(drill)
        signed = signed_json.encode(record, sealer.signing)
        try:
            await self._archive.storage.put(self._archive.path(name), signed)
        except ObjectExists:  # maybe by a first try of ours whose answer was lost
            if await self._archive.read_range(name, 0, _RECORD_LIMIT) != signed:
                raise DifferentContent(f"{name} is taken by another drill") from None
            await self._archive.storage.sync(self._archive.path(name))

    async def read_details(self, drill: DrillName) -> bytes:
        """The details of a drill; needs an identity."""
        return await self._archive.read(layout_holds.drill_details(drill), limit_bytes=64 << 20)

    async def history(self, now: datetime, *, recent: int = 1) -> DrillHistory:
        """The newest drills, by their names, at least ``recent`` of them where there are so many.

        Those dated after ``now`` do not count; what no known writer signed is passed over. What
        was read is kept, for it never changes. Raises what storage raises.
        """
        names = [
            ObjectName(info.name)
            async for info in self._archive.list_objects(layout_holds.DRILLS_PREFIX)
            if (at := layout_holds.parse_drill_record(info.name)) is not None and at <= now
        ]
        newest = names[: -_MOST_READ - 1 : -1]
        self._known = {name: self._known[name] for name in newest if name in self._known}
        found: list[DrillRecord] = []
        proven: DrillRecord | None = None
        for name in newest:
            if len(found) >= recent and proven is not None:
                break
            record = await self._find(name)
            if record is not None:
                found.append(record)
                proven = proven or (record if record.proven else None)
        return DrillHistory(found[0] if found else None, proven, tuple(found))

    async def _find(self, name: ObjectName) -> DrillRecord | None:
        """A record; None for one that was planted, damaged or just deleted: it proves nothing."""
        if name not in self._known:
            try:
                self._known[name] = await self._read(name)
            except (IntegrityError, ObjectNotFound):
                return None
        return self._known[name]

    async def _read(self, name: ObjectName) -> DrillRecord:
        opener = self._archive.opener
        return signed_json.decode(
            await self._archive.read_range(name, 0, _RECORD_LIMIT),
            DrillRecord,
            writers=opener.writers,
            name=name,
            archive=self.archive_id,
            allow_unsigned=opener.allow_unsigned,
        )
