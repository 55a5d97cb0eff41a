"""A file of pg_wal on its way into the archive, where no server does it on demand."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from tests.fix_archive import TestKeys, make_archive
from tests.fix_wal import MAGIC, PAGE, SYSTEM, WalWriter, main_data
from walkeeper.core.layout import wal_object
from walkeeper.core.wal import TimelineHistoryFile, WalFile, WalSegment
from walkeeper.errors import DifferentContent, StorageFull, WalRefused
from walkeeper.postgres.wal_dir import FileIdentity
from walkeeper.services.budget import ByteBudget
from walkeeper.services.wal_upload import WalSource, WalUploader
from walkeeper.storage.base import Buffer
from walkeeper.storage.memory import MemoryStorage

SEGMENT = WalSegment(1, 0, 5)
PUTS = 2


class Gated(MemoryStorage):
    """Stores nothing before its gate is opened; counts who waits there."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = asyncio.Event()
        self.gate.set()
        self.waiting = 0
        self.most = 0

    async def put(self, name: str, body: Buffer) -> None:
        self.waiting += 1
        self.most = max(self.most, self.waiting)
        await self.gate.wait()
        self.waiting -= 1
        await super().put(name, body)


class Bench:
    """A pg_wal, an archive in memory and the uploader between them."""

    def __init__(self, pg_wal: Path) -> None:
        self.pg_wal = pg_wal
        self.storage = Gated()
        self.budget = ByteBudget(64 << 20)

    async def open(self, keys: TestKeys, pool: ThreadPoolExecutor, spool_dir: Path) -> None:
        archive = await make_archive(self.storage, keys, pool, system_identifier=SYSTEM)
        self.uploader = WalUploader(
            archive,
            WalSource(self.pg_wal, SYSTEM, 15),
            pool=pool,
            budget=self.budget,
            spool_dir=spool_dir,
            puts=PUTS,
        )

    def write(self, wal: WalFile, content: bytes) -> FileIdentity:
        path = self.pg_wal / str(wal)
        path.write_bytes(content)
        facts = path.stat()
        return FileIdentity(facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns)

    async def names(self) -> list[str]:
        found = [info.name async for info in self.storage.list_objects("")]
        return [name.partition("/")[2] for name in found if "archive.json" not in name]


@pytest.fixture
async def bench(tmp_path: Path, keys: TestKeys, pool: ThreadPoolExecutor) -> Bench:
    one = Bench(tmp_path)
    await one.open(keys, pool, tmp_path)
    return one


def segment(text: bytes, name: WalSegment = SEGMENT) -> bytes:
    writer = WalWriter(name)
    writer.append(main_data(text))
    writer.switch()
    return writer.segments()[0]


async def test_a_whole_segment_takes_its_own_name_and_gives_its_memory_back(bench: Bench) -> None:
    await bench.uploader.upload(SEGMENT, bench.write(SEGMENT, segment(b"one")))
    assert await bench.names() == [wal_object(SEGMENT)]
    assert bench.budget.used_bytes == 0


async def test_the_same_name_with_other_content_fails_and_names_both(bench: Bench) -> None:
    await bench.uploader.upload(SEGMENT, bench.write(SEGMENT, segment(b"one")))
    identity = bench.write(SEGMENT, segment(b"two"))
    with pytest.raises(DifferentContent, match=r"stored [0-9a-f]{16}, offered [0-9a-f]{16}"):
        await bench.uploader.upload(SEGMENT, identity)
    (bench.pg_wal / str(SEGMENT)).unlink()
    await bench.uploader.upload(SEGMENT, bench.write(SEGMENT, segment(b"one")))
    assert bench.budget.used_bytes == 0


async def test_a_file_that_was_replaced_since_it_was_offered_is_not_stored(bench: Bench) -> None:
    identity = bench.write(SEGMENT, segment(b"one"))
    for other in (
        replace(identity, inode=identity.inode + 1),
        replace(identity, mtime_ns=identity.mtime_ns - 1),
        replace(identity, size_bytes=1),
    ):
        with pytest.raises(WalRefused, match="changed while it was being archived"):
            await bench.uploader.upload(SEGMENT, other)
    assert await bench.names() == []


async def test_a_link_or_a_missing_file_is_refused(bench: Bench) -> None:
    identity = bench.write(SEGMENT, segment(b"one"))
    path = bench.pg_wal / str(SEGMENT)
    path.rename(bench.pg_wal / "elsewhere")
    with pytest.raises(WalRefused, match="is not in"):
        await bench.uploader.upload(SEGMENT, identity)
    path.symlink_to(bench.pg_wal / "elsewhere")
    with pytest.raises(WalRefused, match="cannot be read"):
        await bench.uploader.upload(SEGMENT, identity)
    assert await bench.names() == []


async def test_a_segment_of_another_version_is_refused(bench: Bench) -> None:
    content = bytearray(segment(b"one"))
    content[:2] = MAGIC[16].to_bytes(2, "little")
    identity = bench.write(SEGMENT, bytes(content))
    with pytest.raises(WalRefused, match="written by PostgreSQL 16, not 15"):
        await bench.uploader.upload(SEGMENT, identity)


async def test_a_cut_off_segment_never_takes_the_full_name(bench: Bench) -> None:
    writer = WalWriter(SEGMENT)
    writer.append(main_data(bytes(3 * PAGE)))
    await bench.uploader.upload(SEGMENT, bench.write(SEGMENT, writer.segments()[0]))
    (name,) = await bench.names()
    assert f"/{SEGMENT}.partial." in name


@pytest.mark.parametrize("content", [b"no history\n", b"\xff\xfe", b"#" * ((1 << 20) + 1)])
async def test_what_is_no_history_is_refused(bench: Bench, content: bytes) -> None:
    history = TimelineHistoryFile(2)
    with pytest.raises(WalRefused):
        await bench.uploader.upload(history, bench.write(history, content))
    assert await bench.names() == []


async def test_without_room_for_a_large_segment_the_reason_is_told(
    keys: TestKeys, pool: ThreadPoolExecutor, tmp_path: Path
) -> None:
    bench = Bench(tmp_path)
    await bench.open(keys, pool, tmp_path / "missing")
    with pytest.raises(StorageFull, match="no temporary file can be made"):
        bench.uploader.open_spool()


async def test_others_are_sealed_while_as_many_as_are_wanted_are_being_stored(bench: Bench) -> None:
    bench.storage.gate.clear()
    segments = [WalSegment(1, 0, number) for number in range(5, 9)]
    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        for one in segments:
            identity = bench.write(one, segment(b"one", one))
            group.create_task(bench.uploader.upload(one, identity))
        # Sealed they hold next to nothing of the budget, whether they are being stored or not.
        while not 0 < bench.budget.used_bytes < 1 << 20 or bench.storage.waiting < PUTS:
            await asyncio.sleep(0.01)
        bench.storage.gate.set()
    assert bench.storage.most == PUTS
    assert await bench.names() == [wal_object(one) for one in segments]
