"""Archives with a past: backups and WAL as they were stored on days long gone, in a real layout."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from hashlib import sha256

import pytest

from tests.fix_archive import ONE_MIB, TestKeys, make_archive
from tests.fix_fetch import put_object
from walkeeper.codec import signed_json
from walkeeper.core.archive_view import ArchiveView
from walkeeper.core.backup import BackupFacts, BackupStart, Manifest, PartRecord, RestoreSettings
from walkeeper.core.backup_id import BackupId
from walkeeper.core.layout import (
    BackupPart,
    ObjectName,
    StoredWal,
    TailLink,
    backup_start,
    tail_object,
    wal_object,
)
from walkeeper.core.lsn import Lsn
from walkeeper.core.retention_policy import KnownBackup, RetentionPolicy
from walkeeper.core.timeline import TimelineHistory, TimelineSwitch
from walkeeper.core.wal import TimelineHistoryFile, WalSegment
from walkeeper.repository.archive import Archive
from walkeeper.repository.backups import BackupStore
from walkeeper.services.expire import ExpireResult, ExpireService, ExpireSettings
from walkeeper.services.expire_inventory import take_inventory
from walkeeper.storage.memory import MemoryStorage

DAY = timedelta(days=1)
HOUR = timedelta(hours=1)
BEGIN = datetime(2026, 1, 1, 3, tzinfo=UTC)
SYSTEM = "7000000000000000001"


def lsn(segments: float) -> Lsn:
    """The position so many segments of 1 MiB after 0/0."""
    return Lsn(int(segments * ONE_MIB.bytes))


def facts_of(
    start: float, stop: float, at: datetime, *, timeline: int = 1, parts: int = 1, stored: int = 0
) -> BackupFacts:
    """A backup of the WAL between two positions, in segments, that ended at a moment."""
    begin, end = lsn(start), lsn(stop)
    chance = sha256(f"{timeline} {start} {at}".encode()).digest()[:3]
    return BackupFacts(
        id=str(BackupId.create(at, chance)),
        system_identifier=SYSTEM,
        timeline=timeline,
        start_lsn=str(begin),
        checkpoint_lsn=str(begin),
        stop_lsn=str(end),
        started_at=at,
        stopped_at=at,
        server_version=150018,
        segment_size=ONE_MIB.bytes,
        size_bytes=1000,
        stored_bytes=stored,
        parts=parts,
        files=1,
        data_checksums=True,
        wal_first=str(WalSegment.at(timeline, begin, ONE_MIB)),
        wal_last=str(WalSegment.before(timeline, end, ONE_MIB)),
    )


def known_backup(
    start: float, at: datetime, *, timeline: int = 1, stop: float | None = None, **more: object
) -> KnownBackup:
    """A backup as retention knows it; stored when it ended."""
    facts = facts_of(start, start + 0.5 if stop is None else stop, at, timeline=timeline)
    return KnownBackup(**{"facts": facts, "stored_at": at} | more)  # type: ignore[arg-type]


@dataclass
class Bed:
    """An archive on a store whose clock the test sets; ``url`` of a directory for real files."""

    storage: MemoryStorage
    archive: Archive
    store: BackupStore
    pool: ThreadPoolExecutor
    now: list[datetime]
    slept: list[float] = field(default_factory=list)

    async def backup(
        self,
        start: float,
        *,
        timeline: int = 1,
        stop: float | None = None,
        at: datetime | None = None,
        wal: bool = True,
    ) -> BackupId:
        """Store and commit a backup of one part, by default with its own WAL."""
        at = at or self.now[0]
        end = start + 0.5 if stop is None else stop
        facts = facts_of(start, end, at, timeline=timeline)
        part = BackupPart(facts.backup, None, 1)
        data, listed = b"a part of " + facts.id.encode(), b'{"path":"x"}'
        claim = BackupStart(
            name=backup_start(facts.backup),
            archive=self.archive.record.archive,
            id=facts.id,
            host="test",
            started_at=at,
            writer="0" * 16,
        )
        await self.store.claim(claim)
        for name, content in ((part.data_name, data), (part.files_name, listed)):
            await self.put(name, content)
        record = PartRecord(
            number=1,
            stored_bytes=len(data),
            stored_sha256=sha256(data).hexdigest(),
            list_name=part.files_name,
            list_bytes=len(listed),
            list_sha256=sha256(listed).hexdigest(),
            size_bytes=1000,
            files=1,
        )
        facts = facts_of(start, end, at, timeline=timeline, stored=len(data) + len(listed))
        if wal:
            await self.wal(timeline, int(start), int(end) + 1)
        await self.store.commit(await self.store.prepare(manifest_of(facts, record)))
        return facts.backup

    async def wal(self, timeline: int, begin: int, end: int) -> None:
        """Complete segments with these numbers; only their names count."""
        for number in range(begin, end):
            name = wal_object(WalSegment.numbered(timeline, number, ONE_MIB))
            if not self.has(name):
                await self.put(name, b"segment")

    async def stored(self, *stored: StoredWal) -> None:
        """Any WAL objects, of which only names count."""
        for one in stored:
            await self.put(wal_object(one), b"wal")

    async def history(self, timeline: int, *switches: tuple[int, float]) -> None:
        """A real history file."""
        history = TimelineHistory(
            timeline, tuple(TimelineSwitch(parent, lsn(fork)) for parent, fork in switches)
        )
        name = wal_object(TimelineHistoryFile(timeline))
        await put_object(self.archive, name, history.encode().encode())

    async def tail(self, timeline: int, number: int) -> ObjectName:
        """The first link of a segment's tail."""
        name = tail_object(TailLink(WalSegment.numbered(timeline, number, ONE_MIB), 0))
        await self.put(name, b"tail")
        return name

    async def put(self, name: str, content: bytes) -> None:
        await self.storage.put(self.archive.path(name), content)

    async def sign(self, name: str, body: signed_json.SignedBody) -> None:
        """A signed document."""
        await self.put(name, signed_json.encode(body, self.archive.sealer.signing))

    def has(self, name: str) -> bool:
        return self.archive.path(name) in self.storage._objects

    def names(self, prefix: str = "") -> list[str]:
        cut = len(self.archive.folder) + 1
        return sorted(name[cut:] for name in self.storage._objects if name[cut:].startswith(prefix))

    def segments(self, timeline: int = 1) -> list[int]:
        """The numbers of the complete segments that are stored."""
        found = []
        for name in self.names(f"wal/{timeline:08X}/"):
            stem = name.rpartition("/")[2].removesuffix(".zst.age")
            if len(stem) == 24:
                found.append(WalSegment.parse(stem).number(ONE_MIB))
        return found

    async def ids(self) -> set[str]:
        """The backups that are listed and believed."""
        listed = await self.store.list_backups()
        return {one.facts.id for one in listed if one.facts is not None}

    def service(
        self,
        policy: RetentionPolicy,
        *,
        during_grace: Callable[[], Awaitable[object]] | None = None,
    ) -> ExpireService:
        async def sleep(seconds: float) -> None:
            self.slept.append(seconds)
            if during_grace is not None:
                await during_grace()

        return ExpireService(
            self.store,
            self.pool,
            ExpireSettings(policy, 60),
            clock=lambda: self.now[0],
            sleep=sleep,
        )

    async def expire(self, policy: RetentionPolicy, *, dry_run: bool = False) -> ExpireResult:
        return await self.service(policy).run(dry_run=dry_run)

    async def view(self) -> ArchiveView:
        """What a planner sees."""
        from walkeeper.core.coverage import WalHoldings
        from walkeeper.services.expire_ancestry import read_histories

        inventory = await take_inventory(self.archive)
        listed = await self.store.list_backups()
        return ArchiveView(
            WalHoldings(ONE_MIB, inventory.complete()),
            tuple(one.facts for one in listed if one.facts is not None),
            await read_histories(self.archive, inventory, []),
        )


def manifest_of(facts: BackupFacts, record: PartRecord) -> Manifest:
    return Manifest(
        facts=facts,
        parts=(record,),
        settings=RestoreSettings(
            max_connections=100,
            max_worker_processes=8,
            max_wal_senders=10,
            max_prepared_xacts=0,
            max_locks_per_xact=64,
            data_directory_mode=0o700,
        ),
    )


MakeBed = Callable[..., Awaitable[Bed]]


@pytest.fixture
async def make_retention_bed(keys: TestKeys, pool: ThreadPoolExecutor) -> MakeBed:
    """Make a bed; ``storage`` replaces the store, which must be one in memory."""

    async def make(
        storage_type: type[MemoryStorage] = MemoryStorage, *, can_read: bool = True
    ) -> Bed:
        now = [BEGIN]
        storage = storage_type(clock=lambda: now[0])
        archive = await make_archive(storage, keys, pool, can_read=can_read)
        return Bed(storage, archive, BackupStore(archive, pool), pool, now)

    return make


@pytest.fixture
async def old(make_retention_bed: MakeBed) -> Bed:
    """Forty days of a backup and four segments a day; today is the fortieth."""
    bed = await make_retention_bed()
    await fill(bed, 40)
    return bed


async def fill(bed: Bed, days: int) -> list[BackupId]:
    """A backup each day, with four segments of WAL; ends on the last of these days."""
    made = []
    for day in range(days):
        bed.now[0] = BEGIN + day * DAY
        made.append(await bed.backup(4 * day + 0.25, stop=4 * day + 1.5))
        await bed.wal(1, 4 * day, 4 * day + 4)
    return made
