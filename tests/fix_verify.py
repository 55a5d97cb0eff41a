"""A small archive with everything in it: two timelines, two backups, cut-off segments, a tail.

Timeline 1 has segments 2 to 6 and was left in the middle of 6; of that a cut-off object is stored.
Timeline 2 has segments 6 to 10 and a tail of 11. Backup ``early`` lies in segments 2 and 3,
backup ``late`` in segment 8.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from tests.fix_archive import TestKeys, archive_keys, make_archive
from tests.fix_wal import MIB, SYSTEM, WalWriter, main_data
from walkeeper.core.backup import (
    BackupFacts,
    BackupStart,
    FileEntry,
    Manifest,
    RestoreSettings,
)
from walkeeper.core.backup_id import BackupId
from walkeeper.core.layout import (
    BackupPart,
    CutOffSegment,
    MergedTail,
    ObjectName,
    TailLink,
    tail_object,
    wal_object,
)
from walkeeper.core.lsn import Lsn
from walkeeper.core.read_cycle import ReadCycle
from walkeeper.core.wal import BackupHistoryFile, TimelineHistoryFile, WalSegment
from walkeeper.repository.archive import Archive
from walkeeper.repository.backups import BackupStore
from walkeeper.services.backup_part import PartWriter
from walkeeper.services.backup_read import GivenFile
from walkeeper.services.verify import Verified, Verifier, VerifySettings
from walkeeper.services.verify_report import Finding, VerifyProgress
from walkeeper.storage.memory import MemoryStorage

FORK = Lsn(6 * MIB.bytes + MIB.bytes // 2)
NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)


def segment_bytes(timeline: int, number: int) -> bytes:
    """A complete segment: one record, then a switch."""
    writer = WalWriter(WalSegment.numbered(timeline, number, MIB))
    writer.append(main_data(bytes(4000)))
    writer.switch()
    return writer.segments()[0]


def cut_segment_bytes(timeline: int, number: int) -> bytes:
    """A segment that ends behind a record, padded with zeros."""
    writer = WalWriter(WalSegment.numbered(timeline, number, MIB))
    writer.append(main_data(bytes(4000)))
    return writer.segments()[0]


def history(timeline: int = 2, parent: int = 1, at: Lsn = FORK) -> bytes:
    return f"{parent}\t{at}\tno recovery target specified\n".encode()


class _Ignore:
    def add(self, part: BackupPart, entry: FileEntry) -> None:
        """Nobody collects the files."""


@dataclass
class SmallArchive:
    """The archive, and how to damage and verify it."""

    storage: MemoryStorage
    archive: Archive
    keys: TestKeys
    pool: ThreadPoolExecutor
    early: BackupId
    late: BackupId
    cycle: ReadCycle = field(default_factory=lambda: ReadCycle(seed="test"))
    later: timedelta = timedelta()
    events: list[VerifyProgress] = field(default_factory=list)

    @property
    def store(self) -> BackupStore:
        return BackupStore(self.archive, self.pool)

    def names(self) -> list[str]:
        """Every object but the record, relative to the archive."""
        cut = len(self.archive.folder) + 1
        names = [name[cut:] for name in self.storage._objects]
        return sorted(name for name in names if name != "archive.json")

    def read(self, name: str) -> bytes:
        return self.storage._objects[self.archive.path(name)][0]

    def replace(self, name: str, body: bytes) -> None:
        """What no backend does: change what is stored."""
        self.storage._objects[self.archive.path(name)] = (body, datetime.now(UTC))

    def remove(self, name: str) -> None:
        del self.storage._objects[self.archive.path(name)]

    def flip(self, name: str, at: int) -> None:
        """Change one bit."""
        body = bytearray(self.read(name))
        body[at // 8 % len(body)] ^= 1 << at % 8
        self.replace(name, bytes(body))

    def seal(self, name: ObjectName, content: bytes, frames: Iterable[bytes] = ()) -> bytes:
        with self.archive.sealer.seal(name, [content], frames=list(frames)) as sealed:
            return bytes(sealed.body())

    def put(self, name: ObjectName, content: bytes, frames: Iterable[bytes] = ()) -> None:
        self.replace(name, self.seal(name, content, frames))

    def without_identity(self) -> SmallArchive:
        record = self.archive.record
        keys = archive_keys(record, self.keys, can_read=False)
        archive = Archive(self.storage, self.archive.folder, record, keys, self.pool)
        return SmallArchive(self.storage, archive, self.keys, self.pool, self.early, self.late)

    async def verify(self, **settings: object) -> Verified:
        """Verify; the next round goes on from this one."""
        verifier = Verifier(
            self.archive,
            self.store,
            self.pool,
            settings=VerifySettings(**settings),  # type: ignore[arg-type]
            cycle=self.cycle,
            progress=self.events.append,
            now=lambda: datetime.now(UTC) + self.later,
        )
        done = await verifier.run()
        self.cycle = done.cycle
        return done

    async def findings(self, **settings: object) -> dict[str, Finding]:
        """By the names of their objects."""
        return {one.object: one for one in (await self.verify(**settings)).report.findings}


async def make_small_archive(keys: TestKeys, pool: ThreadPoolExecutor) -> SmallArchive:
    """Build it."""
    storage = MemoryStorage()
    archive = await make_archive(storage, keys, pool, system_identifier=SYSTEM)
    ids = [BackupId.create(NOW + timedelta(hours=n), bytes((0, 0, n))) for n in (0, 1)]
    small = SmallArchive(storage, archive, keys, pool, ids[0], ids[1])
    for timeline, numbers in ((1, range(2, 6)), (2, range(6, 11))):
        for number in numbers:
            name = wal_object(WalSegment.numbered(timeline, number, MIB))
            small.put(name, segment_bytes(timeline, number))
    _put_cut_off(small)
    small.put(wal_object(TimelineHistoryFile(2)), history())
    small.put(wal_object(BackupHistoryFile(WalSegment.numbered(1, 2, MIB), 40)), b"START WAL ...")
    _put_tail(small, WalSegment.numbered(2, 11, MIB))
    for backup, timeline, start, stop in ((ids[0], 1, 2.25, 3.75), (ids[1], 2, 8.25, 8.75)):
        await put_backup(small, backup, timeline, start, stop)
    return small


def _put_cut_off(small: SmallArchive) -> None:
    segment = WalSegment.numbered(1, 6, MIB)
    name_of = lambda content: wal_object(CutOffSegment(segment, content.hex()[:16]))
    with small.archive.sealer.seal(name_of, [cut_segment_bytes(1, 6)]) as sealed:
        small.replace(sealed.name, bytes(sealed.body()))


def _put_tail(small: SmallArchive, segment: WalSegment) -> None:
    content = cut_segment_bytes(2, 11)[:8192]
    ends = (40, 1000, 1008, 5000, 8192)
    begin = 0
    for end in ends:
        digest = hashlib.sha256(content[:end]).digest()
        small.put(tail_object(TailLink(segment, begin)), content[begin:end], [digest])
        if end == 1008:
            small.put(tail_object(MergedTail(segment, end)), content[:end], [digest])
        begin = end


async def put_backup(
    small: SmallArchive, backup: BackupId, timeline: int, start: float, stop: float
) -> None:
    archive, store = small.archive, small.store
    await store.claim(
        BackupStart(
            name=f"backups/{backup}/start.json",
            archive=archive.record.archive,
            id=str(backup),
            host="test",
            started_at=backup.started_at,
            writer="test",
        )
    )
    parts = []
    for number, tablespace in ((1, None), (1, 16400), (2, None)):
        files = [
            GivenFile.of(f"base/{number}/{n}", bytes(str(n), "ascii") * 3000) for n in range(3)
        ]
        writer = PartWriter(BackupPart(backup, tablespace, number), archive.sealer, _Ignore(), None)
        part = writer.part
        await store.put_stream(
            part.data_name, _async(writer.pieces(iter(files))), writer.data_digest
        )
        await store.put_stream(part.files_name, _async(writer.list_pieces()), writer.list_digest)
        parts.append(writer.record())
    begin, end = Lsn(int(start * MIB.bytes)), Lsn(int(stop * MIB.bytes))
    facts = BackupFacts(
        id=str(backup),
        system_identifier=archive.record.system_identifier,
        timeline=timeline,
        start_lsn=str(begin),
        checkpoint_lsn=str(begin),
        stop_lsn=str(end),
        started_at=backup.started_at,
        stopped_at=backup.started_at + timedelta(minutes=5),
        server_version=150018,
        segment_size=MIB.bytes,
        size_bytes=sum(part.size_bytes for part in parts),
        stored_bytes=sum(part.stored_bytes + part.list_bytes for part in parts),
        parts=len(parts),
        files=sum(part.files for part in parts),
        data_checksums=True,
        wal_first=str(WalSegment.at(timeline, begin, MIB)),
        wal_last=str(WalSegment.before(timeline, end, MIB)),
    )
    settings = RestoreSettings(
        max_connections=100,
        max_worker_processes=8,
        max_wal_senders=10,
        max_prepared_xacts=0,
        max_locks_per_xact=64,
        data_directory_mode=0o700,
    )
    prepared = await store.prepare(Manifest(facts=facts, parts=tuple(parts), settings=settings))
    await store.commit(prepared)


async def _async(pieces: Iterable[bytearray]) -> AsyncIterator[bytearray]:
    for piece in pieces:
        yield piece
