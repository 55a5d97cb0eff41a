"""What a planner sees of an archive: the path from a position on, and where branches end."""

from __future__ import annotations

from array import array
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fix_archive import ONE_MIB, TestKeys, make_archive
from tests.fix_fetch import put_object
from tests.fix_fetch_wal import put_tail
from tests.fix_wal import WalWriter, main_data
from walkeeper.core.layout import CutOffSegment, StoredWal, tail_prefix, wal_object
from walkeeper.core.lsn import Lsn
from walkeeper.core.segment_set import SegmentRange, SegmentSet
from walkeeper.core.timeline import Leg, TimelineHistory, TimelineSwitch
from walkeeper.core.wal import BackupHistoryFile, SegmentSize, TimelineHistoryFile, WalSegment
from walkeeper.errors import StorageUnavailable
from walkeeper.repository.archive import Archive
from walkeeper.repository.backups import BackupStore
from walkeeper.services.archive_listing import ArchiveListing, share_out
from walkeeper.services.wal_listing import TimelineListing, WalListing
from walkeeper.storage.base import ObjectInfo, Page
from walkeeper.storage.memory import MemoryStorage

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
GLACIER = (None, "GLACIER")
PER_LOG = ONE_MIB.segments_per_log


class CountingStorage(MemoryStorage):
    """Notes what is listed, and gives objects a storage class."""

    def __init__(self) -> None:
        super().__init__()
        self.listed: list[str] = []
        self.cold: set[str] = set()
        self.broken = ""
        self.before: Callable[[str], Awaitable[None]] | None = None

    async def folders(self, prefix: str) -> list[str]:
        if self.before is not None:
            await self.before(prefix)
        return await super().folders(prefix)

    async def list_objects(self, prefix: str, *, after: str = ""):
        if self.before is not None:
            await self.before(prefix)
        self.listed.append(prefix)
        if self.broken and prefix.endswith(self.broken):
            raise StorageUnavailable("no answer")
        async for info in super().list_objects(prefix, after=after):
            storage_class = "GLACIER" if info.name in self.cold else None
            yield ObjectInfo(info.name, info.size_bytes, info.modified_at, storage_class)

    async def list_pages(self, prefix: str, *, after: str = "", names_only: bool = False):
        infos = [info async for info in self.list_objects(prefix, after=after)]
        for begin in range(0, len(infos), 7):
            page = Page.of(infos[begin : begin + 7])
            yield Page(page.names) if names_only else page


@dataclass
class World:
    storage: CountingStorage
    archive: Archive
    listing: ArchiveListing
    put_names: list[str] = field(default_factory=list)

    async def put(self, *stored: StoredWal, size: int = 10) -> None:
        """Objects of which only names and sizes count."""
        for wal in stored:
            await self.storage.put(self.archive.path(wal_object(wal)), bytes(size))

    async def history(self, timeline: int, *switches: tuple[int, Lsn]) -> None:
        history = TimelineHistory(timeline, tuple(TimelineSwitch(*switch) for switch in switches))
        name = wal_object(TimelineHistoryFile(timeline))
        await put_object(self.archive, name, history.encode().encode())


@pytest.fixture
async def world(keys: TestKeys, pool: ThreadPoolExecutor, tmp_path: Path) -> World:
    storage = CountingStorage()
    archive = await make_archive(storage, keys, pool)
    listing = ArchiveListing(archive, BackupStore(archive, pool), pool, tmp_path)
    return World(storage, archive, listing)


def seg(timeline: int, number: int) -> WalSegment:
    return WalSegment.numbered(timeline, number, ONE_MIB)


def lsn(number: int, offset: int = 0) -> Lsn:
    return Lsn(number * ONE_MIB.bytes + offset)


async def test_a_survey_lists_no_segments_but_the_first_of_each_timeline(world: World) -> None:
    await world.put(*(seg(1, number) for number in range(3, 50)))
    await world.history(2, (1, lsn(20)))
    await world.put(*(seg(2, number) for number in range(20, 60)))
    await world.history(3, (1, lsn(20)), (2, lsn(40)))

    survey = await world.listing.survey()

    assert survey.first == {1: seg(1, 3), 2: seg(2, 20)}
    assert sorted(survey.histories) == [2, 3]
    assert survey.view().timelines == (1, 2, 3)
    assert len(world.storage.listed) <= 7


async def test_a_history_that_is_not_one_is_told_apart_from_a_missing_one(world: World) -> None:
    name = wal_object(TimelineHistoryFile(2))
    await put_object(world.archive, name, b"no history\n")

    survey = await world.listing.survey()

    assert "malformed" in survey.damaged[2].message
    assert survey.histories == {}


async def test_only_the_path_is_listed_from_the_position_on_and_where_branches_end(
    world: World,
) -> None:
    far = 3 * PER_LOG
    for log in range(6):
        await world.put(*(seg(1, log * PER_LOG + number) for number in range(3)))
    await world.history(2, (1, lsn(far + 2)))
    await world.put(seg(2, far + 2), seg(2, far + 3))
    await world.put(seg(9, 7))
    survey = await world.listing.survey()
    world.storage.listed.clear()
    path = (Leg(1, Lsn(0), lsn(far + 2)), Leg(2, lsn(far + 2), None))

    wal = await world.listing.wal(survey, path, lsn(2 * PER_LOG + 1))

    held = wal.holdings().complete
    assert held[2] == SegmentSet((far + 2,), (far + 4,))
    assert held[9] == SegmentSet((7,), (8,))
    begins = [log * PER_LOG for log in (2, 3, 5)]  # 4 lies behind the fork, 5 is where it ends
    assert held[1] == SegmentSet(tuple(begins), tuple(begin + 3 for begin in begins))
    prefix = world.archive.path("wal/00000001/")
    assert sorted(name.removeprefix(prefix) for name in world.storage.listed if prefix in name) == [
        "00000002/",
        "00000003/",
        "00000005/",
    ]


@given(
    numbers=st.sets(st.integers(0, 40)) | st.builds(range, st.integers(0, 9)).map(set),
    cuts=st.sets(st.integers(0, 40)),
)
def test_a_folder_is_read_alike_however_it_is_cut_into_pages(
    numbers: set[int], cuts: set[int]
) -> None:
    size = SegmentSize(1 << 28)  # sixteen segments a folder
    stored = [WalSegment.numbered(3, number, size) for number in sorted(numbers)]
    infos = [
        ObjectInfo(wal_object(one), number, EPOCH + timedelta(seconds=number), GLACIER[number % 2])
        for one, number in zip(stored, sorted(numbers), strict=True)
    ]
    listing, names_only = TimelineListing(), TimelineListing()
    for begin, end in pairwise([0, *sorted(cut for cut in cuts if cut < len(infos)), len(infos)]):
        page = Page.of(infos[begin:end])
        listing.take(page, size)
        names_only.take(Page(page.names), size)
    assert list(listing.numbers) == list(names_only.numbers) == sorted(numbers)
    assert list(listing.sizes) == list(listing.stored) == sorted(numbers)
    assert listing.cold == {number: "GLACIER" for number in sorted(numbers) if number % 2}
    assert list(names_only.sizes) == list(names_only.stored) == [0] * len(numbers)
    assert not names_only.cold


def test_a_segment_that_came_later_is_listed_in_its_place_with_all_that_is_known_of_it() -> None:
    numbers = [1, 2, 3, 4, 5]
    infos = [ObjectInfo(wal_object(seg(1, one)), one, EPOCH, GLACIER[one % 2]) for one in numbers]
    whole, grown = TimelineListing(), TimelineListing()
    whole.take(Page.of(infos), ONE_MIB)
    grown.take(Page.of([infos[0], *infos[2:4]]), ONE_MIB)

    for number in (2, 5):
        grown.insert(number, infos[number - 1])

    assert grown == whole
    assert grown.cold == {1: "GLACIER", 3: "GLACIER", 5: "GLACIER"}


async def test_sizes_and_cold_objects_of_a_range_are_known(world: World) -> None:
    await world.put(seg(1, 1), seg(1, 2), seg(1, 3), size=100)
    await world.put(seg(1, 5), size=1000)
    world.storage.cold.add(world.archive.path(wal_object(seg(1, 2))))
    survey = await world.listing.survey()

    wal = await world.listing.wal(survey, (Leg(1, Lsn(0), None),), lsn(1))

    assert wal.stored_bytes((SegmentRange(1, 2, 4),)) == 200
    assert wal.stored_bytes((SegmentRange(1, 1, 2), SegmentRange(1, 5, 6))) == 1100
    assert wal.cold((SegmentRange(1, 1, 4),)) == [(wal_object(seg(1, 2)), "GLACIER")]
    assert wal.cold((SegmentRange(1, 3, 6),)) == []


async def test_the_records_of_a_cut_off_segment_count_where_no_complete_one_is(
    world: World,
) -> None:
    writer = WalWriter(seg(1, 2))
    writer.append(main_data(bytes(100)))
    last = writer.append(main_data(bytes(100)))
    (content,) = writer.segments()
    await world.put(seg(1, 1))
    for number in (1, 2):
        cut_off = wal_object(CutOffSegment(seg(1, number), "a" * 16))
        await put_object(world.archive, cut_off, content)
    survey = await world.listing.survey()

    wal = await world.listing.wal(survey, (Leg(1, Lsn(0), None),), lsn(1))

    assert wal.holdings().complete[1] == SegmentSet((1,), (2,))
    assert wal.holdings().fragments == {seg(1, 2): last.end}


def between_listings(asked: list[str]) -> bool:
    """The second of the folders ``wal/`` and ``tail/`` is about to be listed."""
    return len({prefix.split("/")[0] for prefix in asked}) == 2


def before_the_tail_is_read(asked: list[str]) -> bool:
    return asked[-1] == tail_prefix(seg(1, 2))


@pytest.mark.parametrize("moment", [between_listings, before_the_tail_is_read])
@pytest.mark.parametrize("deleted", [1, 3])
async def test_a_segment_that_becomes_whole_while_it_is_listed_counts_and_its_tail_does_not(
    world: World, moment: Callable[[list[str]], bool], deleted: int
) -> None:
    writer = WalWriter(seg(1, 2))
    writer.append(main_data(bytes(40_000)))
    (content,) = writer.segments()
    await world.put(seg(1, 1))
    links = await put_tail(world.archive, seg(1, 2), content, [8_192, 16_384, 24_576])
    survey = await world.listing.survey()
    asked: list[str] = []

    async def complete(prefix: str) -> None:
        asked.append(prefix.removeprefix(f"{world.archive.folder}/"))
        if moment(asked):
            world.storage.before = None
            await world.put(seg(1, 2), size=20)
            for name in links[:deleted]:
                await world.storage.delete(world.archive.path(name))

    world.storage.before = complete
    wal = await world.listing.wal(survey, (Leg(1, Lsn(0), None),), lsn(1))

    assert world.storage.before is None
    assert wal.holdings().complete[1] == SegmentSet((1,), (3,))
    assert wal.fragments == {}
    assert wal.stored_bytes((SegmentRange(1, 1, 3),)) == 30


async def test_a_damaged_cut_off_segment_is_noted_and_does_not_hide_the_rest(world: World) -> None:
    await world.put(seg(1, 1))
    name = wal_object(CutOffSegment(seg(1, 2), "a" * 16))
    await put_object(world.archive, name, bytes(ONE_MIB.bytes))
    survey = await world.listing.survey()

    wal = await world.listing.wal(survey, (Leg(1, Lsn(0), None),), lsn(1))

    assert wal.fragments == {}
    assert "000000010000000000000002" in wal.damaged[0].message


def test_only_segments_that_a_recovery_could_end_in_are_looked_at() -> None:
    path = (Leg(1, Lsn(0), lsn(5, 100)), Leg(2, lsn(5, 100), None))
    numbers = TimelineListing(array("Q", [5, 6]), array("Q", [1, 1]))
    wal = WalListing(ONE_MIB, {1: TimelineListing(), 2: numbers})
    tails = [seg(1, 2), seg(1, 5), seg(1, 6), seg(2, 4), seg(2, 6), seg(2, 7), seg(3, 7)]

    assert wal.incomplete(path, lsn(3), tails) == [seg(2, 7)]
    assert wal.incomplete(path, lsn(2), tails) == [seg(1, 2), seg(2, 7)]


def folder(log: int) -> str:
    return f"wal/00000001/{log:08X}/"


@given(
    there=st.sets(st.integers(0, 700), max_size=60)
    | st.builds(range, st.integers(0, 3), st.integers(4, 600)).map(set),
    passed_over=st.sets(st.integers(0, 700), max_size=3),
    parts=st.integers(1, 8),
)
def test_prefixes_share_out_just_the_folders_that_are_wanted(
    there: set[int], passed_over: set[int], parts: int
) -> None:
    folders = [folder(log) for log in sorted(there)]
    wanted = {folder(log) for log in there - passed_over}

    shares = share_out(wanted, folders, parts)

    for prefix, names in shares.items():
        assert names == [name for name in folders if name.startswith(prefix)]
    assert sorted(name for names in shares.values() for name in names) == sorted(wanted)
    assert all(len(names) == 1 or len(names) * parts <= len(wanted) for names in shares.values())


def test_many_folders_in_a_row_are_listed_by_few_prefixes() -> None:
    folders = [folder(log) for log in range(4096)]
    assert len(share_out(set(folders), folders, 8)) == 16
    assert len(share_out(set(folders[1:]), folders, 8)) == 15 + 15 + 15
    assert len(share_out(set(folders[:256]), folders, 8)) == 16


async def test_what_is_no_segment_does_not_hide_those_around_it(world: World) -> None:
    numbers = [*range(10, 14), *range(15, 40), PER_LOG, PER_LOG + 2]
    await world.put(*(seg(1, number) for number in numbers))
    await world.put(CutOffSegment(seg(1, 12), "a" * 16), BackupHistoryFile(seg(1, 20), 40))
    no_segment = f"00000000/0000000100000000{PER_LOG:08X}.zst.age"
    for stray in ("00000000/000000010000000000000016", "00000000/more/one", "one", no_segment):
        await world.storage.put(world.archive.path(f"wal/00000001/{stray}"), b"")
    survey = await world.listing.survey()

    wal = await world.listing.wal(survey, (Leg(1, Lsn(0), None),), lsn(10))

    assert list(wal.timelines[1].numbers) == numbers
    assert list(wal.timelines[1].sizes) == [10] * len(numbers)
    assert wal.timelines[1].cut_off == [CutOffSegment(seg(1, 12), "a" * 16)]


async def test_an_outage_is_an_outage_and_not_an_empty_archive(world: World) -> None:
    await world.put(seg(1, 1))
    survey = await world.listing.survey()
    world.storage.broken = "wal/00000001/00000000/"

    with pytest.raises(StorageUnavailable):
        await world.listing.wal(survey, (Leg(1, Lsn(0), None),), lsn(1))
