"""What reading WAL shows for each kind of target, with WAL made by hand."""

from __future__ import annotations

import struct
import tempfile
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.fix_archive import TestKeys, make_archive
from tests.fix_fetch import put_object
from tests.fix_wal import MIB, TRANSACTION, XLOG, WalWriter, Written, main_data
from walkeeper.core.backup import BackupFacts
from walkeeper.core.backup_id import BackupId
from walkeeper.core.coverage import WalHoldings, reach
from walkeeper.core.layout import wal_object
from walkeeper.core.lsn import Lsn
from walkeeper.core.plan import Candidate
from walkeeper.core.segment_set import SegmentSet
from walkeeper.core.target import AtLsn, AtName, AtTime, AtXid, Immediate, Latest
from walkeeper.core.timeline import Leg
from walkeeper.core.wal import WalSegment
from walkeeper.errors import IntegrityError, NoSuchSegment
from walkeeper.repository.archive import Archive
from walkeeper.services.wal_reader import ScanProgress
from walkeeper.services.wal_scan import WalScanner
from walkeeper.storage.memory import MemoryStorage

EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
NOON = datetime(2026, 11, 20, 12, tzinfo=UTC)
FIRST = WalSegment(1, 0, 1)


def at(minutes: float) -> datetime:
    return NOON + timedelta(minutes=minutes)


def stamp(moment: datetime) -> bytes:
    return struct.pack("<q", int((moment - EPOCH) / timedelta(microseconds=1)))


@dataclass
class World:
    """A timeline of 1 MiB segments from the first one on."""

    archive: Archive
    pool: ThreadPoolExecutor
    writer: WalWriter = field(default_factory=lambda: WalWriter(FIRST))
    seen: list[ScanProgress] = field(default_factory=list)

    def commit(self, minutes: float, xid: int = 700) -> Written:
        body = main_data(stamp(at(minutes)))
        return self.writer.append(body, rmid=TRANSACTION, info=0, xid=xid)

    def restore_point(self, name: str, minutes: float) -> Written:
        body = main_data(stamp(at(minutes)) + name.encode().ljust(64, b"\0"))
        return self.writer.append(body, rmid=XLOG, info=0x70, xid=0)

    def fill_to(self, room: int) -> None:
        """Write until so many bytes are left in the segment."""
        while -len(self.writer.data) % MIB.bytes > room + 8192:
            self.writer.append(main_data(bytes(4000)))
        while -len(self.writer.data) % MIB.bytes > room:
            self.writer.append(main_data(bytes(32)))

    async def scanner(self) -> WalScanner:
        segments = self.writer.segments()
        for number, content in enumerate(segments):
            name = wal_object(WalSegment(1, 0, 1 + number))
            await put_object(self.archive, name, content)
        path = (Leg(1, Lsn(0), None),)
        held = WalHoldings(MIB, {1: SegmentSet((1,), (1 + len(segments),))})
        start = FIRST.begin(MIB) + 40
        backup = BackupFacts(
            id=str(BackupId.create(at(0), b"abc")),
            system_identifier="1",
            timeline=1,
            start_lsn=str(start),
            checkpoint_lsn=str(start),
            stop_lsn=str(start + 8),
            started_at=at(0),
            stopped_at=at(0),
            server_version=150018,
            segment_size=MIB.bytes,
            size_bytes=1,
            stored_bytes=1,
            parts=1,
            files=1,
            data_checksums=True,
            wal_first=str(FIRST),
            wal_last=str(FIRST),
        )
        candidate = Candidate(path, backup, reach(held, path, start))
        return WalScanner(
            self.archive, self.pool, candidate, Path(tempfile.gettempdir()), self.seen.append
        )


@pytest.fixture
async def world(keys: TestKeys, pool: ThreadPoolExecutor) -> World:
    return World(await make_archive(MemoryStorage(), keys, pool), pool)


def end_segment(world: World) -> None:
    world.writer.switch()


async def many_minutes(world: World, count: int) -> list[Written]:
    """A commit a minute, a segment each."""
    commits = []
    for minute in range(count):
        world.writer.append(main_data(bytes(100)))
        commits.append(world.commit(minute, xid=700 + minute))
        world.writer.append(main_data(bytes(100)))
        end_segment(world)
    return commits


async def test_a_time_is_met_by_the_first_transaction_after_it_and_few_segments_are_read(
    world: World,
) -> None:
    commits = await many_minutes(world, 40)
    scanner = await world.scanner()

    found = await scanner.find(AtTime(at(17.5)))

    assert found is not None
    assert (found.found_at, found.found_end) == (commits[18].begin, commits[18].end)
    assert found.last_commit_at == at(17)
    assert len(world.seen) < 16


async def test_exclusive_times_stop_before_a_transaction_of_that_very_moment(world: World) -> None:
    commits = await many_minutes(world, 5)
    scanner = await world.scanner()

    inclusive = await scanner.find(AtTime(at(2)))
    exclusive = await scanner.find(AtTime(at(2), inclusive=False))

    assert inclusive is not None
    assert exclusive is not None
    assert inclusive.found_at == commits[3].begin
    assert exclusive.found_at == commits[2].begin


async def test_a_time_behind_the_last_transaction_is_not_met(world: World) -> None:
    await many_minutes(world, 20)
    scanner = await world.scanner()

    found = await scanner.find(AtTime(at(60)))

    assert found is not None
    assert found.found_at is None
    assert found.last_commit_at == at(19)
    assert len(world.seen) < 5  # it is clear from the newest ones


async def test_idle_segments_at_the_end_hide_no_transaction(world: World) -> None:
    commits = await many_minutes(world, 3)
    for _ in range(9):
        world.writer.append(main_data(bytes(100)))
        end_segment(world)
    scanner = await world.scanner()

    found = await scanner.find(AtTime(at(0.5)))
    latest = await scanner.find(Latest())

    assert found is not None
    assert latest is not None
    assert found.found_at == commits[1].begin
    assert latest.last_commit_at == at(2)


async def test_a_transaction_whose_record_lies_on_two_segments_is_seen_from_both_sides(
    world: World,
) -> None:
    world.writer.append(main_data(bytes(100)))
    world.commit(0)
    world.fill_to(40)
    split = world.commit(10, xid=999)
    assert split.begin.value // MIB.bytes != (split.end.value - 1) // MIB.bytes
    world.writer.append(main_data(bytes(100)))
    end_segment(world)
    scanner = await world.scanner()

    by_time = await scanner.find(AtTime(at(5)))
    by_xid = await scanner.find(AtXid(999))
    latest = await scanner.find(Latest())

    assert by_time is not None
    assert by_xid is not None
    assert latest is not None
    assert by_time.found_at == by_xid.found_at == split.begin
    assert by_time.last_commit_at == at(0)
    assert latest.last_commit_at == at(10)


async def test_transactions_and_restore_points_are_met_at_the_first_of_them(world: World) -> None:
    world.commit(0, xid=701)
    end_segment(world)
    first = world.restore_point("here", 1)
    world.commit(2, xid=702)
    world.restore_point("here", 3)
    end_segment(world)
    scanner = await world.scanner()

    named = await scanner.find(AtName("here"))
    xid = await scanner.find(AtXid(702))
    before = await scanner.find(AtXid(702, inclusive=False))
    nowhere = await scanner.find(AtName("there"))

    assert named is not None
    assert (named.found_at, named.last_commit_at) == (first.begin, at(0))
    assert xid is not None
    assert xid.last_commit_at == at(2)
    assert before is not None
    assert before.last_commit_at == at(0)
    assert nowhere is not None
    assert nowhere.found_at is None


async def test_an_lsn_is_met_by_a_whole_record_that_begins_at_or_behind_it(world: World) -> None:
    commits = await many_minutes(world, 3)
    scanner = await world.scanner()

    found = await scanner.find(AtLsn(commits[1].begin))
    beyond = await scanner.find(AtLsn(commits[2].end + 4096))

    assert found is not None
    assert found.found_at is not None
    assert commits[1].begin <= found.found_at
    assert found.last_commit_at == at(1)
    assert beyond is not None


async def test_immediate_needs_no_wal_to_be_read(world: World) -> None:
    await many_minutes(world, 1)
    assert await (await world.scanner()).find(Immediate()) is None
    assert world.seen == []


async def test_broken_wal_is_named_and_never_passed_over(world: World) -> None:
    commits = await many_minutes(world, 3)
    offset = commits[1].begin - FIRST.begin(MIB)
    world.writer.data[offset : offset + 4] = b"\0\0\0\0"
    scanner = await world.scanner()

    with pytest.raises(IntegrityError, match="holds no valid WAL from"):
        await scanner.find(AtXid(702))


async def test_a_segment_that_went_away_meanwhile_is_named(world: World) -> None:
    await many_minutes(world, 2)
    scanner = await world.scanner()
    name = wal_object(WalSegment(1, 0, 2))
    await world.archive.storage.delete(world.archive.path(name))

    with pytest.raises(NoSuchSegment, match="000000010000000000000002 was removed"):
        await scanner.find(Latest())


async def test_segments_that_are_read_for_a_plan_do_not_lie_in_memory(world: World) -> None:
    for _ in range(12):
        world.fill_to(64)
        world.writer.switch()
    scanner = await world.scanner()
    tracemalloc.start()
    try:
        await scanner.find(AtName("none"))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(world.seen) >= 12
    assert peak < 7 * MIB.bytes, "what four pipelines take; with the segments it is 8.1"
