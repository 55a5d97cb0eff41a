"""Reads what is stored and says what is damaged or missing, and what that costs.

The order is that of commits: backups, then the WAL that was durable before them, then the tails.
Works without an identity as far as signed headers, sizes and digests in clear go. Nothing is
changed, neither in the archive nor on this host.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, Literal

from walkeeper.core import layout
from walkeeper.core.backup_id import BackupId
from walkeeper.core.layout import wal_object
from walkeeper.core.read_cycle import ReadCycle, Sample
from walkeeper.core.wal import WalSegment
from walkeeper.errors import ObjectNotFound
from walkeeper.repository.archive import Archive
from walkeeper.repository.backups import BackupStore
from walkeeper.services.verify_backups import BackupWalk, FoundBackups
from walkeeper.services.verify_continuity import Continuity
from walkeeper.services.verify_object import ObjectCheck, crew
from walkeeper.services.verify_report import Notebook, VerifyProgress, VerifyReport
from walkeeper.services.verify_tail import TailWalk
from walkeeper.services.verify_wal import StoredWal, WalWalk
from walkeeper.storage.base import ObjectInfo

_CONFIRMED: Final = 1000
"""Missing segments that are looked for once more: they may have come since the listing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifySettings:
    """What is read: with ``quick`` headers only, else that ``share`` (above 0, up to 1) of all.

    With ``only`` that backup is looked at and the WAL from its start on, and what was read is not
    remembered: it is no share of all. ``parallel`` objects are looked at at once; each that is
    read takes a few MiB.
    """

    share: float = 1.0
    quick: bool = False
    only: BackupId | None = None
    parallel: int = 4


@dataclass(frozen=True, slots=True)
class Verified:
    """The report, and the cycle to go on with next time."""

    report: VerifyReport
    cycle: ReadCycle


class Verifier:
    """Verifies one archive. ``cycle`` tells what was read before."""

    def __init__(
        self,
        archive: Archive,
        backups: BackupStore,
        pool: ThreadPoolExecutor,
        *,
        settings: VerifySettings,
        cycle: ReadCycle,
        progress: Callable[[VerifyProgress], None],
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._archive = archive
        self._backups = backups
        self._pool = pool
        self._settings = settings
        self._cycle = cycle
        self._now = now
        self._book = Notebook(progress)
        sample = None if settings.quick else cycle.next_sample(settings.share)
        self._objects = ObjectCheck(archive, self._book, sample)

    async def run(self) -> Verified:
        """Look at everything that is asked for.

        Raises what storage raises, for "could not tell" is no finding, FormatTooNew, and
        NoSuchBackup for the one that is asked for.
        """
        started_at = self._now()
        await self._names()
        found, wal = await self._walk()
        continuity = self._judge(found, wal)
        if continuity.missing() and (
            await self._came_since(continuity, wal) | await self._went_since(found)
        ):
            continuity = self._judge(found, wal)
        findings = sorted(continuity.findings(), key=lambda one: (one.object, one.what))
        sample = self._objects.sample
        cycle = self._cycle
        if sample is not None and self._settings.only is None:
            cycle = cycle.after(sample, started_at, tuple(self._book.damaged))
        self._limits(wal)
        report = VerifyReport(
            archive=self._archive.record.archive,
            folder=self._archive.folder,
            started_at=started_at,
            ended_at=self._now(),
            clean=not findings,
            read=self._read(sample),
            sample=None if sample is None else float(self._settings.share),
            checked=self._book.checked,
            complete_since=cycle.complete_since(),
            findings=tuple(findings),
            findings_left_out=self._book.left_out,
            unchecked=tuple(self._book.unchecked),
            notes=tuple(sorted(self._book.notes)),
        )
        return Verified(report, cycle)

    async def _walk(self) -> tuple[FoundBackups, StoredWal]:
        parallel, only = self._settings.parallel, self._settings.only
        # Threads of their own: they wait for blocks that the shared pool has to decrypt first.
        with ThreadPoolExecutor(parallel, thread_name_prefix="verify") as threads:
            backups = BackupWalk(
                self._objects, self._backups, self._pool, threads, only=only, now=self._now
            )
            self._book.enter("backups")
            async with crew(parallel) as workers:
                await backups.run(workers)
        chosen = next((one for one in backups.found.facts if one.backup == only), None)
        wal = WalWalk(self._objects, self._pool, chosen)
        self._book.enter("wal")
        async with crew(parallel) as workers:
            await wal.run(workers)
        self._book.enter("tail")
        await TailWalk(self._objects, wal, self._pool).run()
        return backups.found, wal.found

    def _judge(self, found: FoundBackups, wal: StoredWal) -> Continuity:
        self._book.enter("continuity")
        return Continuity(
            self._archive.segment_size,
            sorted(found.facts, key=lambda backup: backup.stop),
            wal,
            self._book.problems,
            only=self._settings.only,
            each_by_itself=not self._archive.opener.can_open,
        )

    async def _came_since(self, continuity: Continuity, wal: StoredWal) -> bool:
        """Whether segments that seemed to be missing are there: uploads overtake each other."""
        came = False
        left = _CONFIRMED
        walk = WalWalk(self._objects, self._pool)
        walk.found = wal
        for part in continuity.missing():
            numbers = range(part.begin, min(part.end, part.begin + left))
            left -= len(numbers)
            for number in numbers:
                segment = WalSegment.numbered(part.timeline, number, self._archive.segment_size)
                info = await self._find(segment)
                if info is not None:
                    wal.add(segment.timeline, number)
                    await walk.check_segment(info, segment)
                    came = True
        return came

    async def _went_since(self, found: FoundBackups) -> bool:
        """Whether backups were deleted meanwhile, and with them WAL that only they needed."""
        kept = []
        for facts in found.facts:
            name = layout.backup_manifest(facts.backup)
            is_known = any(one.object == name for one in self._book.problems)
            if not await self._archive.holds(name) and not is_known:
                self._book.note(f"backup {facts.id} was deleted since it was listed")
                continue
            kept.append(facts)
        went = len(kept) < len(found.facts)
        found.facts[:] = kept
        return went

    async def _find(self, segment: WalSegment) -> ObjectInfo | None:
        name = wal_object(segment)
        try:
            info = await self._archive.storage.head(self._archive.path(name))
        except ObjectNotFound:
            return None
        return ObjectInfo(name, info.size_bytes, info.modified_at, info.storage_class)

    async def _names(self) -> None:
        """Note what lies in the archive's folder and is not walkeeper's: a LIST for each."""
        after = ""
        while (name := await self._first_behind(after)) is not None:
            folder, slash, _ = name.partition("/")
            known = name == layout.ARCHIVE_RECORD if not slash else f"{folder}/" in layout.FOLDERS
            if not known:
                self._book.note(f"{folder}{slash} is not a name of walkeeper's")
            after = f"{folder}0" if slash else name  # "0" follows "/"

    async def _first_behind(self, after: str) -> str | None:
        objects: AsyncIterator[ObjectInfo] = self._archive.list_objects("", after=after)
        try:
            async for info in objects:
                return info.name
        finally:
            if isinstance(objects, AsyncGenerator):
                await objects.aclose()
        return None

    def _read(self, sample: Sample | None) -> Literal["all", "sample", "headers"]:
        if sample is None:
            return "headers"
        return "all" if self._settings.share >= 1 else "sample"

    def _limits(self, wal: StoredWal) -> None:
        """Say what was not looked at."""
        unchecked = self._book.unchecked
        if not self._archive.opener.can_open:
            unchecked.append(
                "without an identity only headers, sizes, signatures and the digests of manifests"
                " were checked, not what is inside"
            )
            if wal.history_files:
                unchecked.append(
                    "timeline histories could not be read, so continuity was not checked across"
                    " switches"
                )
        elif self._settings.quick:
            unchecked.append("only headers and sizes were checked, as asked")
        if self._book.cold:
            unchecked.append(f"{self._book.cold} objects in cold storage could not be looked at")
        if self._book.notes_left_out:
            self._book.notes.append(f"{self._book.notes_left_out} more notes were left out")
