"""What the listings of an archive say can be recovered."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

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

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
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


@pytest.fixture
async def planted(pool: ThreadPoolExecutor, keys: TestKeys) -> Planted:
    archive = await make_archive(MemoryStorage(), keys, pool, system_identifier=SYSTEM)
    return Planted(archive, pool)


async def test_an_empty_archive_holds_nothing(planted: Planted) -> None:
    health = await planted.inspect()
    assert (health.backups, health.windows, health.problems) == ((), (), ())


async def test_backups_with_one_end_make_one_window_from_the_earliest(planted: Planted) -> None:
    first = await planted.backup(1, 2, 3.5)
    second = await planted.backup(1, 5, 5.5)
    await planted.wal(1, range(1, 9))
    (window,) = (await planted.inspect()).windows
    assert window.backups == (first.id, second.id)
    assert (window.begin, window.begin_at) == (first.stop, first.stopped_at)
    assert window.last == WalSegment.numbered(1, 8, SIZE)
    assert window.end == window.last.end(SIZE)
    assert window.stored_at is not None
    assert window.missing == ()


async def test_a_gap_ends_a_window_and_a_later_backup_begins_another(planted: Planted) -> None:
    await planted.backup(1, 2, 3.5)
    later = await planted.backup(1, 7, 7.5)
    await planted.wal(1, [2, 3, 4, 6, 7, 8])
    first, second = (await planted.inspect()).windows
    assert [part.named(SIZE) for part in first.missing] == ["000000010000000000000005"]
    assert sum(part.count for part in first.stranded) == 3
    assert second.backups == (later.id,)
    assert second.missing == ()


async def test_a_backup_without_its_own_wal_is_unusable(planted: Planted) -> None:
    facts = await planted.backup(1, 2, 3.5)
    await planted.wal(1, [2, 4])
    health = await planted.inspect()
    assert health.unusable == (facts.id,)
    assert health.windows == ()


async def test_a_backup_in_an_archive_without_wal_is_unusable(planted: Planted) -> None:
    facts = await planted.backup(1, 2, 3.5)
    assert (await planted.inspect()).unusable == (facts.id,)


async def test_recovery_goes_on_across_a_failover(planted: Planted) -> None:
    facts = await planted.backup(1, 2, 3.5)
    await planted.wal(1, range(2, 5))
    await planted.history(2, 1, 5.5)
    await planted.wal(2, range(5, 9))
    (window,) = (await planted.inspect()).windows
    assert (window.timeline, window.backups) == (2, (facts.id,))
    assert window.last == WalSegment.numbered(2, 8, SIZE)


async def test_a_parent_that_went_on_is_a_window_of_its_own(planted: Planted) -> None:
    await planted.backup(1, 2, 3.5)
    await planted.wal(1, range(2, 12))
    await planted.history(2, 1, 5.5)
    await planted.wal(2, range(5, 9))
    windows = (await planted.inspect()).windows
    assert [(one.timeline, one.end.value >> 20) for one in windows] == [(1, 12), (2, 9)]


async def test_a_timeline_without_its_history_is_a_problem(planted: Planted) -> None:
    await planted.backup(1, 2, 3.5)
    await planted.wal(1, range(2, 6))
    await planted.wal(2, range(5, 9))
    health = await planted.inspect()
    assert any("timeline 2" in problem for problem in health.problems)
    assert [one.timeline for one in health.windows] == [1]


async def test_without_an_identity_each_timeline_is_looked_at_by_itself(
    planted: Planted, pool: ThreadPoolExecutor, keys: TestKeys
) -> None:
    await planted.backup(1, 2, 3.5)
    await planted.wal(1, range(2, 6))
    await planted.history(2, 1, 5.5)
    await planted.wal(2, range(5, 9))
    later = await planted.backup(2, 6.5, 7.5)
    blind = await make_archive(
        planted.archive.storage, keys, pool, system_identifier=SYSTEM, can_read=False
    )
    health = await planted.inspect(blind)
    assert not health.histories_read
    assert health.problems == ()
    assert [one.timeline for one in health.windows] == [1, 2]
    assert health.windows[1].backups == (later.id,)


class Counting(MemoryStorage):
    """Remembers what it was asked to list."""

    def __init__(self) -> None:
        super().__init__()
        self.listed: list[str] = []

    def list_objects(self, prefix: str, *, after: str = "") -> AsyncIterator[ObjectInfo]:
        self.listed.append(prefix)
        return super().list_objects(prefix, after=after)


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


async def test_folders_that_were_full_are_not_listed_again(
    large: tuple[Planted, Counting],
) -> None:
    planted, storage = large
    memory = FolderMemory(planted.archive.record.archive, None, NOW)
    first = await planted.inspect(memory=memory)
    storage.listed.clear()
    again = FolderMemory(planted.archive.record.archive, memory.document(), NOW)
    assert await planted.inspect(memory=again) == first
    listed = [name for name in storage.listed if name.count("/") == 4]
    assert [name[-9:] for name in listed] == ["00000000/", "00000008/"]


async def test_without_a_memory_every_folder_is_listed(large: tuple[Planted, Counting]) -> None:
    planted, storage = large
    await planted.inspect()
    storage.listed.clear()
    await planted.inspect()
    assert len([name for name in storage.listed if name.count("/") == 4]) == 9


async def test_a_folder_with_a_gap_is_never_remembered(large: tuple[Planted, Counting]) -> None:
    planted, _ = large
    gone = planted.archive.path(wal_object(WalSegment.numbered(1, 17, GIB_SEGMENTS)))
    await planted.archive.storage.delete(gone)
    memory = FolderMemory(planted.archive.record.archive, None, NOW)
    first = await planted.inspect(memory=memory)
    assert "00000004/" not in {name[-9:] for name in memory.document().listed_at}
    again = FolderMemory(planted.archive.record.archive, memory.document(), NOW)
    assert await planted.inspect(memory=again) == first
