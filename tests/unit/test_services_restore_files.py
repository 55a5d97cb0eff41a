"""Unpacking a part: what is written is what was listed, and nothing leaves its place."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import io
import os
import stat
import tarfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fix_file_size import LimitFileSize
from walkeeper.core.backup import FileEntry
from walkeeper.errors import IntegrityError, RecoveryError, WalkeeperError
from walkeeper.services.restore_files import HELD_CONTROL_FILE, BlockPipe, PartFiles
from walkeeper.services.restore_target import FileOwner

Member = tuple[tarfile.TarInfo, bytes]


def member(name: str, content: bytes = b"", **changes: object) -> Member:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    info.mode = 0o600
    for key, value in changes.items():
        setattr(info, key, value)
    return info, content


def entry(name: str, content: bytes = b"", mode: int = 0o600) -> FileEntry:
    digest = hashlib.sha256(content).hexdigest()
    return FileEntry(path=name, size_bytes=len(content), mode=mode, sha256=digest)


def tar_of(*members: Member) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for info, content in members:
            tar.addfile(info, io.BytesIO(content))
    return out.getvalue()


def open_files() -> set[str]:
    """Those below the directories of tests that this process has open."""
    found = set()
    for descriptor in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):
            found.add(str(descriptor.readlink()))
    return {path for path in found if "/base/" in path}


async def unpack(root: Path, tar: bytes, *entries: FileEntry, block: int = 700) -> PartFiles:
    files = PartFiles("data/00001.tar.zst.age", root, 0o700, FileOwner("me"))
    files.expect(entries)
    with ThreadPoolExecutor(1) as threads:
        loop = asyncio.get_running_loop()
        pipe = BlockPipe(loop)
        work = loop.run_in_executor(threads, files.unpack, pipe)
        for begin in range(0, len(tar), block):
            if not await pipe.write(tar[begin : begin + block]):
                break
        pipe.close()
        await work
    return files


async def test_files_come_with_content_mode_and_directories(tmp_path: Path) -> None:
    content = bytes(range(256)) * 100
    tar = tar_of(
        member("base", type=tarfile.DIRTYPE),
        member("base/1/2", content),
        member("run.sh", b"x", mode=0o640),
    )

    files = await unpack(tmp_path, tar, entry("base/1/2", content), entry("run.sh", b"x", 0o640))

    assert (tmp_path / "base" / "1" / "2").read_bytes() == content
    assert stat.S_IMODE((tmp_path / "run.sh").stat().st_mode) == 0o640
    assert stat.S_IMODE((tmp_path / "base" / "1").stat().st_mode) == 0o700
    assert (files.files, files.size_bytes) == (2, len(content) + 1)


@pytest.mark.parametrize("size", [(1 << 20) - 1, 1 << 20, (2 << 20) + 8192, (3 << 20) + 5])
async def test_large_files_beside_small_ones_come_byte_for_byte(tmp_path: Path, size: int) -> None:
    large, small = os.urandom(size), os.urandom(100)
    members = {"base/1": large, "base/2": small, "base/3": large[1:], "base/4": b""}
    tar = tar_of(*(member(name, content) for name, content in members.items()))

    listed = (entry(name, content) for name, content in members.items())
    await unpack(tmp_path, tar, *listed, block=70_000)

    for name, content in members.items():
        assert (tmp_path / name).read_bytes() == content


async def test_of_thousands_of_files_each_is_synced_by_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    contents = {f"base/{number % 7}/{number}": os.urandom(number % 300) for number in range(2000)}
    contents["base/8/large"] = os.urandom(200_000)
    tar = tar_of(*(member(name, content) for name, content in contents.items()))
    synced: set[int] = set()
    sync = os.fsync

    def watched(file: int) -> None:
        sync(file)
        assert os.lseek(file, 0, os.SEEK_CUR) == os.fstat(file).st_size, "written before that"
        synced.add(os.fstat(file).st_ino)

    monkeypatch.setattr(os, "fsync", watched)
    before = open_files()
    listed = (entry(name, content) for name, content in contents.items())
    await unpack(tmp_path, tar, *listed, block=100_000)

    assert open_files() == before
    for name, content in contents.items():
        assert (tmp_path / name).read_bytes() == content
        assert (tmp_path / name).stat().st_ino in synced


async def test_a_file_that_cannot_be_synced_ends_it_and_lets_go_of_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(file: int) -> None:
        if Path(f"/proc/self/fd/{file}").readlink().name == "3":
            raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", failing)
    names = [f"base/{number}" for number in range(10)]
    before = open_files()
    with pytest.raises(RecoveryError, match="base/3 cannot be written: Input/output error"):
        await unpack(
            tmp_path,
            tar_of(*(member(name, b"x") for name in names)),
            *(entry(name, b"x") for name in names),
        )
    assert open_files() == before


async def test_a_file_that_does_not_fit_ends_it_and_says_which(
    tmp_path: Path, limit_file_size: LimitFileSize
) -> None:
    content = os.urandom(3 << 20)
    tar = tar_of(member("base/1", content))
    with (
        limit_file_size((2 << 20) + 100),
        pytest.raises(RecoveryError, match=r"base/1 cannot be written: File too large"),
    ):
        await unpack(tmp_path, tar, entry("base/1", content), block=70_000)


async def test_pg_control_is_held_back_under_another_name(tmp_path: Path) -> None:
    tar = tar_of(member("global/pg_control", b"c"))
    await unpack(tmp_path, tar, entry("global/pg_control", b"c"))
    assert not (tmp_path / "global" / "pg_control").exists()
    assert (tmp_path / HELD_CONTROL_FILE).read_bytes() == b"c"


async def test_a_name_that_is_not_utf_8_comes_back_byte_for_byte(tmp_path: Path) -> None:
    name = b"base/\xff\xfe"
    info = tarfile.TarInfo(name.decode("utf-8", "surrogateescape"))
    tar = info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape") + bytes(1024)
    empty = FileEntry.named(name, size_bytes=0, mode=0o600, sha256=hashlib.sha256().hexdigest())

    await unpack(tmp_path, tar, empty)

    assert [path.name.encode("utf-8", "surrogateescape") for path in tmp_path.glob("base/*")] == [
        b"\xff\xfe"
    ]


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (member("../outside", b"x"), "outside its place"),
        (member("base/../../outside", b"x"), "outside its place"),
        (member("/etc/outside", b"x"), "outside its place"),
        (member("link", type=tarfile.SYMTYPE, linkname="/etc/passwd"), "no regular file"),
        (member("link", type=tarfile.LNKTYPE, linkname="first"), "no regular file"),
        (member("device", type=tarfile.CHRTYPE), "no regular file"),
        (member("pipe", type=tarfile.FIFOTYPE), "no regular file"),
        (member("unlisted", b"x"), "which its list lacks"),
        (member("listed", b"changed"), "is not as its list says"),
    ],
)
async def test_a_member_that_may_not_be_there_ends_it(
    tmp_path: Path, bad: Member, said: str
) -> None:
    root = tmp_path / "root"
    root.mkdir()
    tar = tar_of(member("first", b"1"), bad)
    listed = entry("listed", b"as it was")
    names = [entry(bad[0].name, bad[1])] if "list" not in said else [listed]

    with pytest.raises(IntegrityError, match=said):
        await unpack(root, tar, entry("first", b"1"), *names)

    assert not (tmp_path / "outside").exists()


async def test_a_file_of_the_list_that_did_not_come_is_damage(tmp_path: Path) -> None:
    with pytest.raises(IntegrityError, match="lacks base/2, which its list names"):
        await unpack(tmp_path, tar_of(member("base/1")), entry("base/1"), entry("base/2"))


async def test_a_file_that_comes_twice_is_damage(tmp_path: Path) -> None:
    (tmp_path / "PG_VERSION").write_text("15")
    with pytest.raises(IntegrityError, match="comes twice"):
        await unpack(tmp_path, tar_of(member("PG_VERSION", b"15")), entry("PG_VERSION", b"15"))


async def test_a_tar_that_is_cut_is_damage(tmp_path: Path) -> None:
    tar = tar_of(member("base/1", b"x" * 5000))
    with pytest.raises(IntegrityError):
        await unpack(tmp_path, tar[:2000], entry("base/1", b"x" * 5000))


async def test_a_part_that_breaks_off_is_given_up_and_its_thread_ends(tmp_path: Path) -> None:
    files = PartFiles("part", tmp_path, 0o700, FileOwner("me"))
    files.expect([entry("base/1", b"x" * 5000)])
    with ThreadPoolExecutor(1) as threads:
        loop = asyncio.get_running_loop()
        pipe = BlockPipe(loop)
        work = loop.run_in_executor(threads, files.unpack, pipe)
        await pipe.write(tar_of(member("base/1", b"x" * 5000))[:1000])
        pipe.close(broken=True)
        with pytest.raises(WalkeeperError):
            await work


async def test_who_writes_into_an_abandoned_pipe_does_not_wait_for_ever(tmp_path: Path) -> None:
    loop = asyncio.get_running_loop()
    pipe = BlockPipe(loop)
    async with asyncio.timeout(5):
        for _ in range(4):
            assert await pipe.write(b"x")
        loop.call_later(0.01, pipe.abandon)
        assert not await pipe.write(b"y")
        assert not await pipe.write(b"z")


@settings(max_examples=30, deadline=None)
@given(blocks=st.lists(st.binary(min_size=1, max_size=50), max_size=20))
def test_a_pipe_gives_back_what_was_put_in(blocks: list[bytes]) -> None:
    async def through() -> list[bytes]:
        loop = asyncio.get_running_loop()
        pipe = BlockPipe(loop)
        with ThreadPoolExecutor(1) as threads:
            reading = loop.run_in_executor(threads, lambda: list(pipe))
            for block in blocks:
                await pipe.write(block)
            pipe.close()
            return await reading

    assert asyncio.run(through()) == blocks


async def test_a_list_that_names_a_file_twice_is_damage(tmp_path: Path) -> None:
    with pytest.raises(IntegrityError, match="twice"):
        await unpack(tmp_path, b"", entry("base/1"), entry("base/1"))


async def test_a_directory_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "base").write_text("a file")
    with pytest.raises((IntegrityError, RecoveryError), match="base"):
        await unpack(tmp_path, tar_of(member("base/1", b"x")), entry("base/1", b"x"))


async def test_a_part_that_is_refused_early_does_not_leave_its_writer_waiting(
    tmp_path: Path,
) -> None:
    tar = tar_of(member("not/listed", b"x"), member("base/1", b"y" * (1 << 20)))
    with pytest.raises(IntegrityError, match="which its list lacks"):
        async with asyncio.timeout(10):
            await unpack(tmp_path, tar, block=10_000)
