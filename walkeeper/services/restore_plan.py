"""Plans a restore: reads what the archive holds, chooses, proves, and says all of it.

WAL is listed from the chosen backup on. Only when that backup does not do is it listed again, from
the oldest one on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path as FilePath
from typing import Final

from walkeeper.core.archive_view import ArchiveView, choose_timeline
from walkeeper.core.backup import BackupFacts, Manifest
from walkeeper.core.backup_id import BackupId
from walkeeper.core.candidate import ends_before
from walkeeper.core.coverage import Path, lies_on
from walkeeper.core.layout import ObjectName
from walkeeper.core.lsn import Lsn
from walkeeper.core.plan import (
    Candidate,
    RestorePlan,
    WalFinding,
    candidates,
    conclude,
    settles,
)
from walkeeper.core.target import AtName, AtXid, RecoveryRequest
from walkeeper.errors import (
    IntegrityError,
    NoSuchBackup,
    ObjectFrozen,
    TargetUnreachable,
)
from walkeeper.repository.archive import Archive
from walkeeper.repository.backups import BackupStore
from walkeeper.services.archive_listing import ArchiveListing, Survey
from walkeeper.services.wal_listing import COLD_CLASSES, WalListing
from walkeeper.services.wal_reader import ScanProgress
from walkeeper.services.wal_scan import WalScanner

_SHOWN_NAMES: Final = 5
_BEHIND_ALL: Final = Lsn((1 << 64) - 1)
"""Listing from here shows only where timelines end: enough to say that there is no backup."""


@dataclass(frozen=True, slots=True)
class Planned:
    """A plan with what it rests on."""

    plan: RestorePlan
    finding: WalFinding | None
    manifest: Manifest
    wal_stored_bytes: int
    notes: tuple[str, ...]


class Planner:
    """Makes the plan of one restore; ``scratch_dir`` takes unnamed files meanwhile."""

    def __init__(
        self,
        archive: Archive,
        backups: BackupStore,
        pool: ThreadPoolExecutor,
        scratch_dir: FilePath,
        progress: Callable[[ScanProgress], None],
    ) -> None:
        self._archive = archive
        self._backups = backups
        self._pool = pool
        self._scratch_dir = scratch_dir
        self._progress = progress
        self._listing = ArchiveListing(archive, backups, pool, scratch_dir)

    async def plan(
        self,
        request: RecoveryRequest,
        backup: BackupId | None = None,
        *,
        not_before: datetime | None = None,
    ) -> Planned:
        """The plan, every object that it needs looked up in a listing.

        Raises TargetUnreachable, NoSuchBackup, IntegrityError for a backup that is not whole,
        ObjectFrozen naming what must be thawed, WrongKey and what storage raises.
        """
        survey = await self._listing.survey()
        candidate, finding, wal = await self._choose(survey, request, backup)
        plan = conclude(candidate, request, finding, not_before=not_before)
        manifest = await self._backups.read_manifest(plan.backup.backup)
        await self._require_parts(manifest)
        _require_warm(wal.cold(plan.wal))
        return Planned(
            plan,
            finding,
            manifest,
            wal.stored_bytes(plan.wal),
            (*plan.notes, *_notes(survey, wal, plan)),
        )

    async def _choose(
        self, survey: Survey, request: RecoveryRequest, backup: BackupId | None
    ) -> tuple[Candidate, WalFinding | None, WalListing]:
        view = survey.view()
        asked = _find(view, backup)
        timeline = choose_timeline(view, request.timeline, asked)
        if timeline in survey.damaged:
            raise survey.damaged[timeline]
        path = view.path_to(timeline)
        fixed = replace(request, timeline=timeline)
        on_path = _newest_first(view, path, asked)
        usable = [known for known in on_path if ends_before(known, request.target)]
        search = _Search(self, survey, fixed, backup, path)
        if usable:
            found = await search.among(usable[:1], last=len(usable) == 1)
            if found is not None:
                return found
        found = await search.among(usable or on_path, last=True)
        assert found is not None  # the last search raises instead
        return found

    async def list_wal(self, survey: Survey, path: Path, start: Lsn) -> WalListing:
        """The WAL of a path from a position on."""
        return await self._listing.wal(survey, path, start)

    def scanner(self, candidate: Candidate) -> WalScanner:
        """Reads the WAL of a candidate."""
        return WalScanner(self._archive, self._pool, candidate, self._scratch_dir, self._progress)

    async def _require_parts(self, manifest: Manifest) -> None:
        """Every object of the backup is there, with its size, and can be read at once."""
        facts = manifest.facts
        stored = await self._listing.parts(facts)
        cold: list[tuple[str, str]] = []
        for record in manifest.parts:
            part = record.part_of(facts.backup)
            for name, size in (
                (part.data_name, record.stored_bytes),
                (part.files_name, record.list_bytes),
            ):
                _require_size(stored[name].size_bytes if name in stored else None, name, size)
                if stored[name].storage_class in COLD_CLASSES:
                    cold.append((name, str(stored[name].storage_class)))
        _require_warm(cold)


@dataclass(slots=True)
class _Search:
    """Looks through backups, newest first, for the one to conclude with."""

    planner: Planner
    survey: Survey
    request: RecoveryRequest
    backup: BackupId | None
    path: Path

    async def among(
        self, backups: Sequence[BackupFacts], *, last: bool
    ) -> tuple[Candidate, WalFinding | None, WalListing] | None:
        """The candidate to conclude with, what its WAL showed, and the listing it rests on.

        None when none of these settles it; the ``last`` search concludes with the newest then, or
        raises TargetUnreachable.
        """
        start = min((known.start for known in backups), default=_BEHIND_ALL)
        wal = await self.planner.list_wal(self.survey, self.path, start)
        listed = tuple(known for known in self.survey.backups if known.start >= start)
        view = ArchiveView(wal.holdings(), listed, self.survey.histories)
        try:
            found = candidates(view, self.request, self.backup)
        except TargetUnreachable:
            if last:
                raise
            return None
        unsettled: tuple[Candidate, WalFinding | None, WalListing] | None = None
        newer: tuple[Lsn, WalFinding] | None = None
        for candidate in found:
            finding = await self._look(candidate, newer)
            if finding is None or settles(candidate, self.request.target, finding):
                return candidate, finding, wal
            unsettled = unsettled or (candidate, finding, wal)
            newer = candidate.backup.start, finding
        return unsettled if last else None

    async def _look(
        self, candidate: Candidate, newer: tuple[Lsn, WalFinding] | None
    ) -> WalFinding | None:
        """What the candidate's WAL shows; what a newer candidate's showed is not read again."""
        target = self.request.target
        scanner = self.planner.scanner(candidate)
        if newer is None or not isinstance(target, AtXid | AtName):
            return await scanner.find(target)
        begin, known = newer
        earlier = await scanner.find(target, until=begin)
        return known if earlier is None or earlier.found_at is None else earlier


def _find(view: ArchiveView, backup: BackupId | None) -> BackupFacts | None:
    if backup is None:
        return None
    for known in view.backups:
        if known.backup == backup:
            return known
    raise NoSuchBackup(f"the archive holds no backup {backup}", hint="walkeeper backups lists them")


def _newest_first(view: ArchiveView, path: Path, asked: BackupFacts | None) -> list[BackupFacts]:
    on_path = [known for known in view.backups if asked in (None, known) and lies_on(path, known)]
    return sorted(on_path, key=lambda known: known.stop, reverse=True)


def _require_size(stored: int | None, name: ObjectName, size: int) -> None:
    if stored is None:
        raise IntegrityError(
            f"{name} is missing, so its backup is not whole",
            hint="choose another one with --backup; walkeeper backups lists them",
        )
    if stored != size:
        raise IntegrityError(f"{name} has {stored} bytes, not {size}: it is damaged")


def _require_warm(cold: Sequence[tuple[str, str]]) -> None:
    if not cold:
        return
    shown = ", ".join(f"{name} ({storage_class})" for name, storage_class in cold[:_SHOWN_NAMES])
    more = f" and {len(cold) - _SHOWN_NAMES} more" if len(cold) > _SHOWN_NAMES else ""
    raise ObjectFrozen(
        f"{len(cold)} objects that are needed lie in a cold storage class: {shown}{more}",
        hint="restore them to a readable class first (aws s3api restore-object), then try again",
    )


def _notes(survey: Survey, wal: WalListing, plan: RestorePlan) -> list[str]:
    notes = [
        f"the history of timeline {timeline} cannot be used: {error.message}"
        for timeline, error in sorted(survey.damaged.items())
    ]
    notes += [
        f"backup {listed.backup} was not considered: {listed.problem}"
        for listed in survey.unreadable
    ]
    if plan.backup.checksum_findings:
        notes.append(
            f"{plan.backup.checksum_findings} pages of the backup failed their checksum when it "
            "was taken"
        )
    notes += [f"a tail is not used: {error.message}" for error in wal.damaged]
    return notes
