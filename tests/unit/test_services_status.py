"""What the listings of an archive say can be recovered."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

from tests.fix_archive import TestKeys, make_archive
from tests.fix_core_plan import SIZE
from tests.fix_planted import GIB_SEGMENTS, SYSTEM, Counting, Planted
from walkeeper.core.layout import wal_object
from walkeeper.core.wal import WalSegment
from walkeeper.services.folder_memory import FolderMemory

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)


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


async def test_a_look_with_sizes_remembers_what_the_look_before_listed(
    large: tuple[Planted, Counting],
) -> None:
    planted, storage = large
    archive = planted.archive.record.archive
    memory = FolderMemory(archive, None, NOW, before={})
    first = await planted.inspect(memory=memory)
    assert sum(first.wal[1].sizes) > 0
    storage.listed.clear()
    again = FolderMemory(archive, memory.document(), NOW, before=first.wal)
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
