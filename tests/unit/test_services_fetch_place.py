"""A segment fetched ahead takes the place of the client's file, or is copied where it cannot."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.fix_archive import TestKeys
from tests.fix_fetch import FetchBench, content_of, lsn_in, make_bench, running, segment, settle
from walkeeper.core.wal import WalSegment
from walkeeper.errors import StorageFull
from walkeeper.services.ahead import AheadSource, Wishes
from walkeeper.services.fetch_file import FetchFile
from walkeeper.services.fetch_rules import ClientIdentity, FetchRequest
from walkeeper.services.fetcher import FetchOutcome
from walkeeper.storage.memory import MemoryStorage

CONTENT = b"a segment" * 1000


@pytest.fixture
async def bench(pool: ThreadPoolExecutor, keys: TestKeys, tmp_path: Path) -> FetchBench:
    return await make_bench(MemoryStorage(), keys, pool, tmp_path)


@pytest.fixture
def pg_wal(tmp_path: Path) -> Path:
    directory = tmp_path / "pg_wal"
    directory.mkdir()
    return directory


def open_new(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)


def ahead_in(directory: Path) -> FetchFile:
    file = FetchFile.unnamed(directory)
    file.write(CONTENT)
    return file


async def ask(
    bench: FetchBench, wal: WalSegment, path: Path, **facts: object
) -> tuple[FetchOutcome, int]:
    """The answer to a client whose file lies under a name, and that file's inode."""
    request = FetchRequest(
        wal=wal, client=ClientIdentity(1, 2), standby=False, recovery=True, timeout_s=30.0,
        **facts,  # type: ignore[arg-type]
    )  # fmt: skip
    path.unlink(missing_ok=True)
    descriptor = open_new(path)
    inode = os.fstat(descriptor).st_ino
    return await bench.fetcher.fetch(request, descriptor, path), inode


async def test_what_was_fetched_ahead_is_put_in_place_and_has_no_name_before(
    bench: FetchBench, pg_wal: Path
) -> None:
    await bench.put_segments(1, *range(1, 6))
    path = pg_wal / "RECOVERYXLOG.walkeeper.1"
    async with running(bench):
        first, own = await ask(bench, segment(1, 1), path)
        assert (first.inode, path.stat().st_ino) == (None, own)
        for number in range(2, 6):
            await settle(bench)
            assert list(pg_wal.iterdir()) == [path]
            outcome, own = await ask(bench, segment(1, number), path)
            assert path.read_bytes() == content_of(segment(1, number))
            assert outcome.inode == path.stat().st_ino != own
            assert (path.stat().st_mode & 0o7777, path.stat().st_nlink) == (0o600, 1)
    assert list(pg_wal.iterdir()) == [path]


async def test_what_is_put_in_place_ends_where_the_path_leaves_its_timeline(
    bench: FetchBench, pg_wal: Path
) -> None:
    await bench.put_segments(1, 1, 2, 3)
    path = pg_wal / "RECOVERYXLOG.walkeeper.1"
    async with running(bench):
        for number in (1, 2):
            await ask(bench, segment(1, number), path)
            await settle(bench)
        await bench.put_history(2, (1, lsn_in(3, 100)))  # after it was fetched ahead
        assert await bench.look_for_latest() == 2
        outcome, _ = await ask(bench, segment(1, 3), path)
    content = path.read_bytes()
    assert content == content_of(segment(1, 3))[:100] + bytes(len(content) - 100)
    assert outcome.inode == path.stat().st_ino


@pytest.mark.parametrize(("room_bytes", "wished"), [(1 << 60, ""), (0, "gone"), (0, "")])
async def test_where_postgresql_might_miss_the_room_it_is_copied(
    room_bytes: int,
    wished: str,
    bench: FetchBench,
    pool: ThreadPoolExecutor,
    tmp_path: Path,
    pg_wal: Path,
) -> None:
    await bench.put_segments(1, 1)
    source = AheadSource(bench.archive, pool, tmp_path, room_bytes)
    ahead = await source.fetch(segment(1, 1), Wishes(pg_wal / wished), lambda: None)
    links = [link for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]
    files = [link.readlink().parent for link in links]
    ahead.file.close()
    lies_in = tmp_path if room_bytes or wished else pg_wal
    assert [path for path in files if path in (tmp_path, pg_wal)] == [lies_in]


def test_room_that_is_not_there_is_missed_before_anything_is_fetched(pg_wal: Path) -> None:
    file = FetchFile.unnamed(pg_wal)
    with pytest.raises(StorageFull):
        file.reserve(1 << 50)
    file.close()


def taken_by_another(path: Path) -> FetchFile:
    path.rename(path.with_name("elsewhere"))
    path.write_bytes(b"of another client")
    return ahead_in(path.parent)


def gone(path: Path) -> FetchFile:
    path.unlink()
    return ahead_in(path.parent)


def of_another_owner(path: Path) -> FetchFile:
    os.chown(path, 12_345, -1)
    return ahead_in(path.parent)


def of_another_mode(path: Path) -> FetchFile:
    path.chmod(0o640)
    return ahead_in(path.parent)


def not_empty(path: Path) -> FetchFile:
    path.write_bytes(b"begun")
    return ahead_in(path.parent)


def on_another_file_system(path: Path) -> FetchFile:
    shm = Path("/dev/shm")
    assert shm.stat().st_dev != path.stat().st_dev, "/dev/shm has to be a file system of its own"
    return ahead_in(shm)


def linked(path: Path) -> FetchFile:
    path.with_name("second").hardlink_to(path)
    return ahead_in(path.parent)


@pytest.mark.parametrize(
    "change",
    [
        taken_by_another,
        gone,
        of_another_owner,
        of_another_mode,
        not_empty,
        on_another_file_system,
        linked,
    ],
)
def test_a_file_that_is_not_just_the_clients_own_is_written_to_and_never_replaced(
    change: Callable[[Path], FetchFile], pg_wal: Path
) -> None:
    path = pg_wal / "RECOVERYXLOG.walkeeper.1"
    descriptor = open_new(path)
    out = FetchFile(os.dup(descriptor), name=path)
    file = change(path)
    before = {entry: entry.stat().st_ino for entry in pg_wal.iterdir()}
    assert file.move_to(out) == len(CONTENT)
    assert out.replaced_by is None
    assert os.pread(descriptor, 2 * len(CONTENT), 0) == CONTENT
    assert {entry: entry.stat().st_ino for entry in pg_wal.iterdir()} == before
    for one in (file, out):
        one.close()
    os.close(descriptor)


def test_a_name_that_is_in_the_way_means_a_copy(pg_wal: Path) -> None:
    path = pg_wal / "RECOVERYXLOG.walkeeper.1"
    path.with_name(path.name + ".whole").write_bytes(b"left by one that was killed")
    descriptor = open_new(path)
    out = FetchFile(descriptor, name=path)
    file = ahead_in(pg_wal)
    assert file.move_to(out) == len(CONTENT)
    assert (out.replaced_by, path.read_bytes()) == (None, CONTENT)
    for one in (file, out):
        one.close()
