"""Joining a stored tail: byte for byte what its writer had, or an error that names the piece."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.fix_archive import ONE_MIB, TestKeys, make_archive
from tests.fix_fetch import FaultyStorage, segment
from tests.fix_fetch_wal import put_tail
from walkeeper.core.layout import MergedTail, ObjectName, TailLink, tail_object
from walkeeper.errors import IntegrityError, ObjectNotFound, StorageUnavailable
from walkeeper.repository.archive import Archive
from walkeeper.services.fetch_file import FetchFile
from walkeeper.services.tail_chain import find_chain
from walkeeper.services.tail_join import join_tail
from walkeeper.storage.memory import MemoryStorage

WAL = segment(1, 3)
CONTENT = random.Random(7).randbytes(ONE_MIB.bytes)


@pytest.fixture
def storage() -> FaultyStorage:
    return FaultyStorage(MemoryStorage())


@pytest.fixture
async def archive(storage: FaultyStorage, keys: TestKeys, pool: ThreadPoolExecutor) -> Archive:
    return await make_archive(storage, keys, pool)


async def joined(archive: Archive, pool: ThreadPoolExecutor, directory: Path) -> bytes:
    chain = await find_chain(archive, WAL)
    file = FetchFile.unnamed(directory)
    try:
        size = await join_tail(archive, chain, file, pool)
        return bytes(file.view(size)) if size else b""
    finally:
        file.close()


@pytest.mark.parametrize(
    ("ends", "merged"),
    [
        ([], None),
        ([1], None),
        ([300, 301, 9000, 65_536], None),
        (list(range(1000, 65_000, 1000)), None),
        ([ONE_MIB.bytes // 2, ONE_MIB.bytes], None),
        ([100, 5000, 6000, 7000], 5000),
        (list(range(10_000, 1_000_001, 10_000)), 640_000),
        ([ONE_MIB.bytes], ONE_MIB.bytes),
    ],
)
async def test_pieces_join_to_the_beginning_of_the_segment(
    archive: Archive,
    pool: ThreadPoolExecutor,
    tmp_path: Path,
    ends: Sequence[int],
    merged: int | None,
) -> None:
    await put_tail(archive, WAL, CONTENT, ends, merged)
    assert await joined(archive, pool, tmp_path) == CONTENT[: ends[-1] if ends else 0]


async def test_a_merged_object_saves_reading_the_links_before_it(
    archive: Archive, storage: FaultyStorage, pool: ThreadPoolExecutor, tmp_path: Path
) -> None:
    names = await put_tail(archive, WAL, CONTENT, range(1000, 71_000, 1000), 64_000)
    storage.reads.clear()
    await joined(archive, pool, tmp_path)
    needed = {archive.path(name) for name in [*names[64:70], names[-1]]}
    assert set(storage.reads) == needed


async def put(archive: Archive, name: ObjectName, piece: bytes, frames: list[bytes]) -> None:
    with archive.sealer.seal(name, [piece], frames=frames) as sealed:
        await archive.put(sealed)


@pytest.mark.parametrize(
    "frames",
    [
        [],
        [b""],
        [hashlib.sha256(CONTENT[1000:2000]).digest()],  # of the piece alone
        [hashlib.sha256(b"?" * 1000 + CONTENT[1000:2000]).digest()],  # another writer's begin
        [hashlib.sha256(CONTENT[:2000]).digest()] * 2,
    ],
)
@pytest.mark.parametrize("behind", [False, True])
async def test_a_piece_that_does_not_go_on_from_those_before_is_named(
    archive: Archive, pool: ThreadPoolExecutor, tmp_path: Path, frames: list[bytes], behind: bool
) -> None:
    await put_tail(archive, WAL, CONTENT, [1000])
    name = tail_object(TailLink(WAL, 1000))
    await put(archive, name, CONTENT[1000:2000], frames)
    if behind:
        frame = hashlib.sha256(CONTENT[:3000]).digest()
        await put(archive, tail_object(TailLink(WAL, 2000)), CONTENT[2000:3000], [frame])
    with pytest.raises(IntegrityError, match=name):
        await joined(archive, pool, tmp_path)


async def test_a_merged_object_of_other_bytes_is_named_by_its_own_digest(
    archive: Archive, pool: ThreadPoolExecutor, tmp_path: Path
) -> None:
    name = tail_object(MergedTail(WAL, 1000))
    await put(archive, name, CONTENT[1:1001], [hashlib.sha256(CONTENT[:1000]).digest()])
    with pytest.raises(IntegrityError, match=name):
        await joined(archive, pool, tmp_path)


@pytest.mark.parametrize("size", [2000, 600_000])
async def test_a_damaged_piece_is_named(
    archive: Archive, storage: FaultyStorage, pool: ThreadPoolExecutor, tmp_path: Path, size: int
) -> None:
    names = await put_tail(archive, WAL, CONTENT, [1000, size])
    path = archive.path(names[1])
    async with storage.read(path) as chunks:
        body = bytearray(b"".join([chunk async for chunk in chunks]))
    body[-30] ^= 1
    await storage.delete(path)
    await storage.put(path, body)
    with pytest.raises(IntegrityError, match=names[1]):
        await joined(archive, pool, tmp_path)


async def test_a_chain_that_is_longer_than_a_segment_is_refused(
    archive: Archive, pool: ThreadPoolExecutor, tmp_path: Path
) -> None:
    names = await put_tail(archive, WAL, CONTENT + b"!", [ONE_MIB.bytes, ONE_MIB.bytes + 1])
    with pytest.raises(IntegrityError, match=names[1]):
        await joined(archive, pool, tmp_path)


@pytest.mark.parametrize("gone", [0, 1, 2])
async def test_a_piece_that_is_deleted_meanwhile_is_not_found(
    archive: Archive, storage: FaultyStorage, pool: ThreadPoolExecutor, tmp_path: Path, gone: int
) -> None:
    names = await put_tail(archive, WAL, CONTENT, [1000, 2000, 3000])
    chain = await find_chain(archive, WAL)
    await storage.delete(archive.path(names[gone]))
    file = FetchFile.unnamed(tmp_path)
    with pytest.raises(ObjectNotFound):
        await join_tail(archive, chain, file, pool)
    file.close()


async def test_an_outage_is_an_outage(
    archive: Archive, storage: FaultyStorage, pool: ThreadPoolExecutor, tmp_path: Path
) -> None:
    names = await put_tail(archive, WAL, CONTENT, [1000, 2000, 3000])
    chain = await find_chain(archive, WAL)
    storage.fail_read[names[1]] = StorageUnavailable("cut")
    file = FetchFile.unnamed(tmp_path)
    with pytest.raises(StorageUnavailable):
        await join_tail(archive, chain, file, pool)
    file.close()


async def test_several_links_are_read_at_once(
    archive: Archive, storage: FaultyStorage, pool: ThreadPoolExecutor, tmp_path: Path
) -> None:
    await put_tail(archive, WAL, CONTENT, range(1000, 33_000, 1000))
    storage.delay_s = 0.05
    await joined(archive, pool, tmp_path)
    assert storage.most_opening == 8
