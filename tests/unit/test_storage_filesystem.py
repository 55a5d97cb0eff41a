"""What is particular to a repository in a directory."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import stat
import subprocess
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fix_file_size import LimitFileSize
from walkeeper.errors import (
    ObjectExists,
    ObjectNotFound,
    StorageDenied,
    StorageError,
    StorageFull,
    StorageUnavailable,
)
from walkeeper.storage import durable
from walkeeper.storage.direct import STAGE_BYTES, Stages
from walkeeper.storage.filesystem import FilesystemStorage
from walkeeper.storage.folder import FolderReader
from walkeeper.storage.root import RootGuard

DAY_S = 24 * 3600


@pytest.fixture
def storage(tmp_path: Path, executor: ThreadPoolExecutor) -> FilesystemStorage:
    return FilesystemStorage(tmp_path, executor)


async def names(storage: FilesystemStorage, prefix: str = "", after: str = "") -> list[str]:
    return [info.name async for info in storage.list_objects(prefix, after=after)]


def files_below(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


async def test_files_and_folders_are_private_whatever_the_umask(
    storage: FilesystemStorage, tmp_path: Path
) -> None:
    before = os.umask(0)
    try:
        await storage.put("a/b", b"1")
        os.umask(0o277)
        await storage.put("c/d", b"1")
    finally:
        os.umask(before)
    for name in ("a/b", "c/d"):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600
        assert stat.S_IMODE((tmp_path / name).parent.stat().st_mode) == 0o700


async def test_nothing_but_the_object_stays_behind(
    storage: FilesystemStorage, tmp_path: Path
) -> None:
    await storage.put("a/b", b"1")
    with pytest.raises(ObjectExists):
        await storage.put("a/b", b"2")
    assert files_below(tmp_path) == ["a/b"]
    assert (tmp_path / "a/b").stat().st_nlink == 1


@pytest.mark.parametrize("size", [100_000, STAGE_BYTES, STAGE_BYTES + 1, 3 * STAGE_BYTES - 4095])
async def test_large_objects_are_stored_byte_for_byte(
    storage: FilesystemStorage, tmp_path: Path, size: int
) -> None:
    content = os.urandom(size)

    async def pieces() -> AsyncIterator[bytes]:
        for begin in range(0, size, 300_001):
            yield content[begin : begin + 300_001]

    async with asyncio.TaskGroup() as group:  # at once: none has another's memory
        group.create_task(storage.put("whole", memoryview(content)))
        group.create_task(storage.put("other", content[::-1]))
        group.create_task(storage.put_stream("stream", pieces()))

    assert (tmp_path / "whole").read_bytes() == content
    assert (tmp_path / "other").read_bytes() == content[::-1]
    assert (tmp_path / "stream").read_bytes() == content


async def test_everything_up_to_the_root_is_forced_to_disk_before_put_returns(
    storage: FilesystemStorage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[tuple[str, bool]] = []
    real = os.fsync

    def fsync(fd: int) -> None:
        path = Path(f"/proc/self/fd/{fd}").readlink()
        synced.append((os.path.relpath(path, tmp_path), (tmp_path / "a/b/c").exists()))
        real(fd)

    monkeypatch.setattr(os, "fsync", fsync)
    await storage.put("a/b/c", b"1")
    assert len(synced) == 4
    content, *folders = synced
    assert durable.TEMPORARY_NAME.fullmatch(Path(content[0]).name)
    assert not content[1], "the content is durable before the name is given"
    assert folders == [("a/b", True), ("a", True), (".", True)]

    synced.clear()
    await storage.sync("a/b/c")
    assert [name for name, _ in synced] == ["a/b/c", "a/b", "a", "."]


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (errno.ENOSPC, StorageFull),
        (errno.EDQUOT, StorageFull),
        (errno.EIO, StorageUnavailable),
        (errno.ESTALE, StorageUnavailable),
        (errno.EROFS, StorageDenied),
        (errno.EACCES, StorageDenied),
    ],
)
@pytest.mark.parametrize("call", ["write", "fsync"])
async def test_a_failing_disk_is_reported_and_nothing_becomes_visible(
    storage: FilesystemStorage,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    call: str,
    number: int,
    expected: type[StorageError],
) -> None:
    def fail(*_: object) -> int:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(os, call, fail)
        with pytest.raises(expected, match=os.strerror(number)):
            await storage.put("a/b", b"1")
    assert files_below(tmp_path) == []
    await storage.put("a/b", b"2")


async def test_a_disk_that_fills_up_in_the_middle_of_an_object_leaves_nothing(
    storage: FilesystemStorage, tmp_path: Path, limit_file_size: LimitFileSize
) -> None:
    content = os.urandom(3 * STAGE_BYTES)

    async def pieces() -> AsyncIterator[bytes]:
        yield content

    with limit_file_size(2 * STAGE_BYTES + 100):
        with pytest.raises(StorageFull):
            await storage.put("a/b", content)
        with pytest.raises(StorageFull):
            await storage.put_stream("a/c", pieces())
    assert files_below(tmp_path) == []

    await storage.put("a/b", content)
    assert (tmp_path / "a/b").read_bytes() == content


async def test_an_answer_that_an_nfs_server_lost_is_success(
    storage: FilesystemStorage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.link

    def link_twice(source: Path, target: Path) -> None:
        real(source, target)
        real(source, target)

    monkeypatch.setattr(os, "link", link_twice)
    await storage.put("a/b", b"1")
    assert files_below(tmp_path) == ["a/b"]
    with pytest.raises(ObjectExists):
        await storage.put("a/b", b"1")


@pytest.fixture
def without_links(monkeypatch: pytest.MonkeyPatch) -> None:
    def link(*_: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", link)


@pytest.mark.usefixtures("without_links")
async def test_without_hard_links_a_rename_that_does_not_replace_serves(
    storage: FilesystemStorage, tmp_path: Path
) -> None:
    await storage.put("a/b", b"first")
    draft = durable.Draft(tmp_path, tmp_path / "a/b", Stages())
    draft.write(b"second")
    with pytest.raises(ObjectExists):
        draft.publish()
    draft.discard()
    assert (tmp_path / "a/b").read_bytes() == b"first"
    assert files_below(tmp_path) == ["a/b"]


@pytest.mark.usefixtures("without_links")
async def test_a_file_system_that_has_neither_is_refused(
    storage: FilesystemStorage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(durable, "_renameat2", lambda: durable._without_renameat2)
    with pytest.raises(StorageError, match="neither link nor rename") as caught:
        await storage.put("a/b", b"first")
    assert not caught.value.retryable
    assert files_below(tmp_path) == []


async def test_a_missing_root_is_an_outage_not_an_absence(
    tmp_path: Path, executor: ThreadPoolExecutor
) -> None:
    storage = FilesystemStorage(tmp_path / "not-mounted", executor)

    async def read() -> None:
        async with storage.read("one"):
            pass

    for attempt in (
        storage.put("one", b"1"),
        storage.head("one"),
        storage.delete("one"),
        storage.folders(""),
        storage.sync("one"),
        names(storage),
        read(),
    ):
        with pytest.raises(StorageUnavailable):
            await attempt
    assert not (tmp_path / "not-mounted").exists()


async def test_an_unmounted_root_is_an_outage_and_comes_back(
    tmp_path: Path, executor: ThreadPoolExecutor
) -> None:
    root = tmp_path / "mount"
    root.mkdir()
    storage = FilesystemStorage(root, executor)
    with pytest.raises(ObjectNotFound):
        await storage.head("one")
    await storage.put("one", b"1")

    root.rename(tmp_path / "away")
    root.mkdir()
    with pytest.raises(StorageUnavailable, match="another one than before"):
        await storage.head("one")
    with pytest.raises(StorageUnavailable):
        await storage.put("two", b"2")
    with pytest.raises(StorageUnavailable):
        await names(storage)

    root.rmdir()
    (tmp_path / "away").rename(root)
    assert await names(storage) == ["one"]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A repository with one archive and one more object, made by an earlier process."""
    folder = tmp_path / "mount" / "archive-1"
    folder.mkdir(parents=True)
    (folder / "archive.json").write_bytes(b"whose archive it is")
    (folder / "one").write_bytes(b"1")
    return tmp_path / "mount"


def replace_root(root: Path, other: Path) -> None:
    root.rename(root.with_name("away"))
    other.rename(root)


def other_disk(root: Path) -> Path:
    other = root.with_name("other")
    (other / "lost+found").mkdir(parents=True)
    (other / ".keep").touch()
    return other


async def read(storage: FilesystemStorage, name: str) -> bytes:
    async with storage.read(name) as chunks:
        return b"".join([chunk async for chunk in chunks])


async def refuses_everything(storage: FilesystemStorage, root: Path) -> None:
    before = files_below(root)
    for attempt in (
        storage.put("archive-1/two", b"2"),
        storage.put_stream("archive-1/two", _one_chunk()),
        storage.head("archive-1/one"),
        storage.delete("archive-1/one"),
        storage.folders(""),
        storage.sync("archive-1/one"),
        names(storage),
        read(storage, "archive-1/one"),
    ):
        with pytest.raises(StorageUnavailable, match="another one than before") as caught:
            await attempt
        assert "mounted" in (caught.value.hint or "")
    assert files_below(root) == before


async def _one_chunk() -> AsyncIterator[bytes]:
    yield b"2"


@pytest.mark.parametrize("first", ["read", "head", "list", "put", "not found"])
async def test_another_directory_that_is_not_empty_is_an_outage_and_nothing_is_put_there(
    root: Path, executor: ThreadPoolExecutor, first: str
) -> None:
    storage = FilesystemStorage(root, executor)
    if first == "read":
        await read(storage, "archive-1/one")
    elif first == "head":
        await storage.head("archive-1/one")
    elif first == "list":
        await names(storage)
    elif first == "put":
        await storage.put("archive-1/three", b"3")
    else:
        with pytest.raises(ObjectNotFound):
            await storage.head("archive-1/two")
    replace_root(root, other_disk(root))
    await refuses_everything(storage, root)

    root.rename(root.with_name("other"))
    root.with_name("away").rename(root)
    assert await read(storage, "archive-1/one") == b"1"


async def test_another_repository_in_the_place_of_the_root_is_refused(
    root: Path, executor: ThreadPoolExecutor
) -> None:
    storage = FilesystemStorage(root, executor)
    await storage.head("archive-1/one")
    other = root.with_name("other")
    shutil.copytree(root, other)
    (other / "archive-1" / "archive.json").write_bytes(b"whose archive it it")
    replace_root(root, other)
    await refuses_everything(storage, root)


async def test_the_same_repository_mounted_anew_is_accepted_again_and_again(
    root: Path, executor: ThreadPoolExecutor
) -> None:
    storage = FilesystemStorage(root, executor)
    await storage.head("archive-1/one")
    for number in range(2):
        copy = root.with_name("copy")
        subprocess.run(["cp", "-a", root, copy], check=True)
        root.rename(root.with_name(f"old-{number}"))
        copy.rename(root)
        await storage.put(f"archive-1/new-{number}", b"2")
        assert await read(storage, "archive-1/one") == b"1"
    assert [name for name in await names(storage) if "new" in name] == [
        "archive-1/new-0",
        "archive-1/new-1",
    ]
    assert await storage.folders("") == ["archive-1/"]
    replace_root(root, other_disk(root))
    await refuses_everything(storage, root)


@pytest.mark.parametrize("streamed", [False, True])
async def test_an_archive_made_through_us_is_known_when_it_is_mounted_anew(
    tmp_path: Path, executor: ThreadPoolExecutor, streamed: bool
) -> None:
    root = tmp_path / "mount"
    root.mkdir()
    storage = FilesystemStorage(root, executor)
    if streamed:
        await storage.put_stream("archive-1/archive.json", _one_chunk())
    else:
        await storage.put("archive-1/archive.json", b"2")
    shutil.copytree(root, tmp_path / "copy")
    replace_root(root, tmp_path / "copy")
    assert await read(storage, "archive-1/archive.json") == b"2"

    await storage.delete("archive-1/archive.json")
    await storage.put("archive-2/archive.json", b"2")
    shutil.copytree(root, tmp_path / "copy")
    root.rename(tmp_path / "gone")
    (tmp_path / "copy").rename(root)
    assert await names(storage) == ["archive-2/archive.json"]


async def test_without_an_archive_a_used_directory_is_not_exchanged_for_another(
    tmp_path: Path, executor: ThreadPoolExecutor
) -> None:
    root = tmp_path / "mount"
    root.mkdir()
    storage = FilesystemStorage(root, executor)
    await storage.put("archive-1/one", b"1")
    replace_root(root, other_disk(root))
    await refuses_everything(storage, root)


async def test_a_repository_that_is_mounted_after_the_first_look_is_accepted(
    root: Path, executor: ThreadPoolExecutor
) -> None:
    repository = root.rename(root.with_name("repository"))
    root.mkdir()
    storage = FilesystemStorage(root, executor)
    with pytest.raises(ObjectNotFound):
        await storage.head("archive-1/one")
    replace_root(root, repository)
    assert await read(storage, "archive-1/one") == b"1"
    assert await names(storage) == ["archive-1/archive.json", "archive-1/one"]


async def test_a_listing_during_which_the_root_is_unmounted_fails_and_does_not_end_early(
    root: Path, executor: ThreadPoolExecutor
) -> None:
    for folder in ("a", "b", "c"):
        (root / folder).mkdir()
        (root / folder / "object").touch()
    storage = FilesystemStorage(root, executor)
    listing = aiter(storage.list_objects(""))
    assert (await anext(listing)).name == "a/object"
    replace_root(root, other_disk(root))
    with pytest.raises(StorageUnavailable, match="another one than before"):
        await anext(listing)


@pytest.mark.parametrize("question", ["list", "folders"])
async def test_a_folder_found_missing_because_of_an_unmount_is_not_an_empty_listing(
    root: Path,
    executor: ThreadPoolExecutor,
    monkeypatch: pytest.MonkeyPatch,
    question: str,
) -> None:
    storage = FilesystemStorage(root, executor)
    await storage.head("archive-1/one")
    real = os.scandir
    other = other_disk(root)

    def unmount_before(path: Path) -> object:
        if other.exists():
            replace_root(root, other)
        return real(path)

    monkeypatch.setattr(os, "scandir", unmount_before)
    with pytest.raises(StorageUnavailable, match="another one than before"):
        await (
            names(storage, "archive-1/") if question == "list" else storage.folders("archive-1/")
        )


async def test_the_archives_are_not_read_again_on_every_operation(
    root: Path, executor: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = FilesystemStorage(root, executor)
    await storage.head("archive-1/one")

    def refuse(*_: object) -> None:
        raise AssertionError("read again")

    monkeypatch.setattr(RootGuard, "_fingerprint", refuse)
    await storage.put("archive-1/two", b"2")
    await storage.head("archive-1/two")
    assert len(await names(storage)) == 3


async def test_a_file_that_shrinks_while_it_is_read_is_not_a_short_object(
    storage: FilesystemStorage, tmp_path: Path
) -> None:
    await storage.put("one", bytes(1_000_000))
    with pytest.raises(StorageUnavailable, match="ended early"):
        async with storage.read("one") as chunks:
            await anext(aiter(chunks))
            os.truncate(tmp_path / "one", 300_000)
            async for _ in chunks:
                pass


async def test_only_temporary_files_of_ours_that_are_a_day_old_are_removed(
    storage: FilesystemStorage, tmp_path: Path
) -> None:
    await storage.put("a/object", b"1")
    folder = tmp_path / "a"
    old = folder / f".walkeeper-{'0' * 16}.tmp"
    young = folder / f".walkeeper-{'1' * 16}.tmp"
    others = [folder / ".other-0123456789abcdef.tmp", folder / ".walkeeper-x.tmp", folder / ".nfs1"]
    for path in (old, young, *others):
        path.touch()
        os.utime(path, (time.time() - 2 * DAY_S,) * 2)
    os.utime(young, (time.time() - DAY_S + 600,) * 2)
    assert await names(storage) == ["a/object"]
    assert not old.exists()
    assert young.exists()
    assert all(path.exists() for path in others)


async def test_what_is_not_ours_is_not_listed(storage: FilesystemStorage, tmp_path: Path) -> None:
    await storage.put("a/object", b"1")
    (tmp_path / "a" / "with blank").touch()
    (tmp_path / "a" / ".hidden").touch()
    (tmp_path / "lost+found").mkdir()
    (tmp_path / ".snapshot" / "a").mkdir(parents=True)
    (tmp_path / ".snapshot" / "a" / "object").touch()
    os.mkfifo(tmp_path / "a" / "fifo")
    assert await names(storage) == ["a/object"]
    assert await storage.folders("") == ["a/"]


async def test_empty_folders_go_with_their_last_object_but_not_the_root(
    storage: FilesystemStorage, tmp_path: Path
) -> None:
    await storage.put("a/b/c", b"1")
    await storage.put("a/d", b"1")
    await storage.delete("a/b/c")
    assert not (tmp_path / "a" / "b").exists()
    await storage.delete("a/d")
    assert tmp_path.exists()
    assert list(tmp_path.iterdir()) == []


async def test_writing_and_pruning_the_same_folder_do_not_disturb_each_other(
    storage: FilesystemStorage,
) -> None:
    async def churn(number: int) -> None:
        for turn in range(40):
            await storage.put(f"a/b/{number}-{turn}", b"1")
            await storage.delete(f"a/b/{number}-{turn}")

    async with asyncio.TaskGroup() as group:
        for number in range(4):
            group.create_task(churn(number))
    assert await names(storage) == []


async def test_a_folder_in_the_place_of_an_object_is_no_object(
    storage: FilesystemStorage,
) -> None:
    await storage.put("a/b", b"1")
    with pytest.raises(StorageError):
        await storage.put("a/b/c", b"1")
    with pytest.raises(ObjectNotFound):
        await storage.head("a")


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def test_descriptors_are_given_back_whatever_happens(storage: FilesystemStorage) -> None:
    async def endless() -> AsyncIterator[bytes]:
        yield bytes(2_000_000)
        await asyncio.sleep(3600)

    await storage.put("one", bytes(1_000_000))
    before = open_descriptors()
    for number in range(50):
        task = asyncio.create_task(storage.put_stream("two", endless()))
        reading = asyncio.create_task(_read_a_little(storage))
        for _ in range(number % 7):
            await asyncio.sleep(0.0005)
        task.cancel()
        reading.cancel()
        await asyncio.wait({task, reading})
    deadline = time.monotonic() + 60  # a thread may still be writing
    while open_descriptors() > before and time.monotonic() < deadline:
        await asyncio.sleep(0.01)
    assert open_descriptors() <= before
    assert await names(storage) == ["one"]


async def _read_a_little(storage: FilesystemStorage) -> None:
    async with storage.read("one") as chunks:
        async for _ in chunks:
            await asyncio.sleep(0.001)


tree_names = st.sets(
    st.lists(st.text("ab.-0", min_size=1, max_size=2), min_size=1, max_size=3)
    .filter(lambda parts: not any(part.startswith(".") for part in parts))
    .map("/".join),
    max_size=12,
)


@given(found=tree_names, prefix=tree_names, after=st.text("ab.-0/", max_size=5))
def test_folders_are_walked_in_the_order_of_whole_names(
    tmp_path_factory: pytest.TempPathFactory, found: set[str], prefix: set[str], after: str
) -> None:
    wanted_prefix = min(prefix, default="")
    root = tmp_path_factory.mktemp("tree")
    placed = []
    for name in sorted(found):
        path = root / name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch(exist_ok=False)
        except (FileExistsError, NotADirectoryError):
            continue
        placed.append(name)
    reader = FolderReader(root, wanted_prefix, after, now=time.time)
    pending = reader.entries(wanted_prefix[: wanted_prefix.rfind("/") + 1])
    seen = []
    while pending:
        entry = pending.pop()
        if entry.endswith("/"):
            pending += reader.entries(entry)
        else:
            seen.append(entry)
    expected = [n for n in sorted(placed) if n.startswith(wanted_prefix) and n > after]
    assert seen == expected


async def test_a_folder_without_any_object_below_is_none(
    storage: FilesystemStorage, tmp_path: Path
) -> None:
    await storage.put("a/full/deep/object", b"1")
    (tmp_path / "a/empty/deep").mkdir(parents=True)
    (tmp_path / "a/strange/deep").mkdir(parents=True)
    (tmp_path / "a/strange/deep/.walkeeper-0123456789abcdef.tmp").write_bytes(b"half")
    assert await storage.folders("a/") == ["a/full/"]
