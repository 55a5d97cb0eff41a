"""An archive whose listings are as a test wants them: segments and backups without content."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from concurrent.futures import ThreadPoolExecutor

import msgspec
import pytest

from tests.fix_archive import TestKeys, make_archive
from tests.fix_core_plan import SIZE, full_backup, histories
from walkeeper.codec import signed_json
from walkeeper.core.backup import BackupFacts, BackupSummary
from walkeeper.core.layout import backup_manifest, backup_summary, wal_object
from walkeeper.core.wal import SegmentSize, TimelineHistoryFile, WalSegment
from walkeeper.repository.archive import Archive
from walkeeper.repository.backups import BackupStore
from walkeeper.services.folder_memory import FolderMemory
from walkeeper.services.status import ArchiveHealth, Inspection
from walkeeper.storage.base import ObjectInfo
from walkeeper.storage.memory import MemoryStorage

GIB_SEGMENTS = SegmentSize(1 << 30)
SYSTEM = int(full_backup(1, 1, 2).system_identifier)


class Planted:
    """An archive into which tests put what they need."""

    def __init__(
        self, archive: Archive, pool: ThreadPoolExecutor, size: SegmentSize = SIZE
    ) -> None:
        self.archive = archive
        self.pool = pool
        self.size = size

    async def wal(self, timeline: int, numbers: Iterable[int]) -> None:
        for number in numbers:
            name = wal_object(WalSegment.numbered(timeline, number, self.size))
            await self.archive.put(self.archive.sealer.seal(name, [b"segment"]))

    async def history(self, timeline: int, parent: int, fork: float) -> None:
        text = histories((timeline, ((parent, fork),)))[timeline].encode()
        name = wal_object(TimelineHistoryFile(timeline))
        await self.archive.put(self.archive.sealer.seal(name, [text.encode()]))

    async def backup(self, timeline: int, start: float, stop: float) -> BackupFacts:
        facts = full_backup(timeline, start, stop)
        facts = msgspec.structs.replace(
            facts,
            segment_size=self.size.bytes,
            wal_first=str(WalSegment.at(timeline, facts.start, self.size)),
            wal_last=str(WalSegment.before(timeline, facts.stop, self.size)),
        )
        backup = facts.backup
        summary = BackupSummary(
            name=backup_summary(backup),
            archive=self.archive.record.archive,
            facts=facts,
            manifest_name=backup_manifest(backup),
            manifest_sha256="0" * 64,
        )
        signed = signed_json.encode(summary, self.archive.sealer.signing)
        await self.archive.storage.put(self.archive.path(summary.name), signed)
        await self.archive.storage.put(self.archive.path(summary.manifest_name), b"a manifest")
        return facts

    async def inspect(
        self, archive: Archive | None = None, memory: FolderMemory | None = None
    ) -> ArchiveHealth:
        seen = archive or self.archive
        return await Inspection(seen, BackupStore(seen, self.pool), memory).run()


class Counting(MemoryStorage):
    """Remembers what it was asked to list."""

    def __init__(self) -> None:
        super().__init__()
        self.listed: list[str] = []

    def list_objects(self, prefix: str, *, after: str = "") -> AsyncIterator[ObjectInfo]:
        self.listed.append(prefix)
        return super().list_objects(prefix, after=after)


@pytest.fixture
async def planted(pool: ThreadPoolExecutor, keys: TestKeys) -> Planted:
    archive = await make_archive(MemoryStorage(), keys, pool, system_identifier=SYSTEM)
    return Planted(archive, pool)


@pytest.fixture
async def large(pool: ThreadPoolExecutor, keys: TestKeys) -> tuple[Planted, Counting]:
    """Segments of 1 GiB, four of which share a folder: nine folders, the first and last partly."""
    storage = Counting()
    archive = await make_archive(
        storage, keys, pool, system_identifier=SYSTEM, segment_size=GIB_SEGMENTS
    )
    planted = Planted(archive, pool, GIB_SEGMENTS)
    await planted.backup(1, 2048, 2050)  # MiB
    await planted.wal(1, range(2, 34))
    return planted, storage
