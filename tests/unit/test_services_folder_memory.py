"""What a look at a large archive takes from the look before."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from walkeeper.core.wal import SegmentSize
from walkeeper.services.folder_memory import FolderMemory, FullFolders
from walkeeper.services.wal_listing import TimelineListing

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
ALL = [f"wal/00000001/{log:08X}/" for log in range(200)]
SIZE = SegmentSize(1 << 30)


def remembered(folders: list[str], at: datetime) -> FullFolders:
    memory = FolderMemory("an archive", None, at)
    for folder in folders:
        memory.note(folder, full=True)
    return memory.document()


def test_full_folders_between_others_are_believed() -> None:
    memory = FolderMemory("an archive", remembered(ALL, NOW), NOW)
    assert set(memory.recall(ALL, ALL, SIZE)) == set(ALL[1:-1])


def test_folders_at_the_ends_of_what_is_there_are_listed() -> None:
    memory = FolderMemory("an archive", remembered(ALL, NOW), NOW)
    assert set(memory.recall(ALL[:3], [ALL[1], *ALL[2:]], SIZE)) == {ALL[2]}


def test_a_folder_that_is_gone_is_not_believed() -> None:
    memory = FolderMemory("an archive", remembered(ALL, NOW), NOW)
    there = [name for name in ALL if name != ALL[50]]
    assert ALL[50] not in set(memory.recall(ALL, there, SIZE))


def test_only_what_is_wanted_is_recalled() -> None:
    memory = FolderMemory("an archive", remembered(ALL, NOW), NOW)
    assert set(memory.recall({ALL[7]}, ALL, SIZE)) == {ALL[7]}


def test_those_that_were_listed_longest_ago_are_listed_again() -> None:
    old, new = NOW - timedelta(hours=20), NOW - timedelta(hours=1)
    listed_at = remembered(ALL[100:], new).listed_at | remembered(ALL[:100], old).listed_at
    memory = FolderMemory("an archive", FullFolders(archive="an archive", listed_at=listed_at), NOW)
    assert set(memory.recall(ALL, ALL, SIZE)) == set(ALL[65:-1])
    assert memory.oldest == old


def test_every_folder_is_listed_anew_after_some_looks() -> None:
    known = remembered(ALL, NOW - timedelta(hours=20))
    for _ in range(4):
        memory = FolderMemory("an archive", known, NOW)
        for name in set(ALL) - set(memory.recall(ALL, ALL, SIZE)):
            memory.note(name, full=True)
        known = memory.document()
    assert min(known.listed_at.values()) == int(NOW.timestamp())


def test_nothing_is_believed_for_longer_than_a_day() -> None:
    known = remembered(ALL, NOW - timedelta(days=1, seconds=1))
    memory = FolderMemory("an archive", known, NOW)
    assert set(memory.recall(ALL, ALL, SIZE)) == set()
    assert memory.document().listed_at == {}


def test_nothing_is_believed_of_the_future() -> None:
    memory = FolderMemory("an archive", remembered(ALL, NOW + timedelta(hours=1)), NOW)
    assert set(memory.recall(ALL, ALL, SIZE)) == set()


def test_a_folder_that_was_not_full_any_more_is_forgotten() -> None:
    memory = FolderMemory("an archive", remembered(ALL, NOW), NOW)
    memory.note(ALL[5], full=False)
    assert ALL[5] not in set(memory.recall(ALL, ALL, SIZE))
    assert ALL[5] not in memory.document().listed_at


def test_another_archive_s_folders_are_not_believed() -> None:
    memory = FolderMemory("another", remembered(ALL, NOW), NOW)
    assert set(memory.recall(ALL, ALL, SIZE)) == set()


def test_without_anything_believed_the_oldest_listing_is_of_now() -> None:
    assert FolderMemory("an archive", None, NOW).oldest == NOW


def test_without_a_listing_before_a_recalled_folder_has_segments_without_sizes() -> None:
    memory = FolderMemory("an archive", remembered(ALL, NOW), NOW)
    assert memory.recall({ALL[7]}, ALL, SIZE)[ALL[7]] == TimelineListing.full(ALL[7], SIZE)
    assert not memory.has_sizes


def test_with_a_listing_before_a_recalled_folder_is_as_it_was_listed(
    listed: TimelineListing,
) -> None:
    memory = FolderMemory("an archive", remembered(ALL, NOW), NOW, before={1: listed})
    assert memory.has_sizes
    found = memory.recall(ALL, ALL, SIZE)
    assert set(found) == {ALL[1], ALL[2]}
    assert list(found[ALL[2]].numbers) == [8, 9, 10, 11]
    assert list(found[ALL[2]].sizes) == [800, 900, 1000, 1100]
    assert list(found[ALL[2]].stored) == [8.0, 9.0, 10.0, 11.0]
    assert found[ALL[2]].cold == {9: "GLACIER"}
    assert not found[ALL[1]].cold


def test_a_folder_of_which_the_listing_before_has_only_a_part_is_listed(
    listed: TimelineListing,
) -> None:
    memory = FolderMemory("an archive", remembered(ALL, NOW), NOW, before={1: listed})
    assert ALL[3] not in memory.recall(ALL, ALL, SIZE)


def test_a_timeline_of_which_the_listing_before_has_nothing_is_listed() -> None:
    memory = FolderMemory("an archive", remembered(ALL, NOW), NOW, before={})
    assert not memory.recall(ALL, ALL, SIZE)


@pytest.fixture
def listed() -> TimelineListing:
    """The first three folders whole, and half of the fourth."""
    listing = TimelineListing(cold={9: "GLACIER"})
    for number in range(14):
        listing.numbers.append(number)
        listing.sizes.append(100 * number)
        listing.stored.append(float(number))
    return listing
