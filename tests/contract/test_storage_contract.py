"""What every store does, whatever is behind it: the contract of walkeeper.storage.base."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from functools import partial

import pytest

from tests.fix_storage import Store
from walkeeper.errors import DifferentContent, ObjectExists, ObjectNotFound
from walkeeper.storage.base import READ_CHUNK_BYTES, ObjectInfo, Storage

MIB = 1024 * 1024


def some_bytes(size: int, seed: int = 1) -> bytes:
    return bytes((seed + i * 7 + i // 251) % 256 for i in range(1024)) * (size // 1024 + 1)


def body(size: int, seed: int = 1) -> bytes:
    return some_bytes(size, seed)[:size]


async def read(storage: Storage, name: str, offset: int = 0, length: int | None = None) -> bytes:
    async with storage.read(name, offset=offset, length=length) as chunks:
        return b"".join([chunk async for chunk in chunks])


async def names(storage: Storage, prefix: str = "", after: str = "") -> list[str]:
    return [info.name async for info in storage.list_objects(prefix, after=after)]


async def page_names(storage: Storage, prefix: str, after: str) -> list[str]:
    pages = storage.list_pages(prefix, after=after, names_only=True)
    return [name async for page in pages for name in page.names]


async def stream(*chunks: bytes | bytearray | memoryview) -> AsyncIterator[bytes]:
    for chunk in chunks:
        await asyncio.sleep(0)
        yield chunk  # type: ignore[misc]


async def test_what_was_put_is_read_back(store: Store) -> None:
    for size in (0, 1, 65_537, 3 * MIB + 1):
        await store.storage.put(f"wal/{size}", body(size))
        assert await read(store.storage, f"wal/{size}") == body(size)


async def test_a_body_may_be_any_buffer(store: Store) -> None:
    for kind in (bytes, bytearray, memoryview):
        await store.storage.put(kind.__name__, kind(body(100_000)))
        assert await read(store.storage, kind.__name__) == body(100_000)


async def test_a_taken_name_is_refused_and_its_content_stays(store: Store) -> None:
    await store.storage.put("one", b"first")
    with pytest.raises(ObjectExists):
        await store.storage.put("one", b"second, longer")
    assert await read(store.storage, "one") == b"first"


async def test_the_same_bytes_are_refused_as_well(store: Store) -> None:
    await store.storage.put("one", b"first")
    with pytest.raises(ObjectExists):
        await store.storage.put("one", b"first")


async def test_of_many_writers_at_once_one_wins_where_creates_are_conditional(
    store: Store,
) -> None:
    async def attempt(number: int) -> int | None:
        try:
            await store.storage.put("lease", b"%d" % number)
        except ObjectExists:
            return None
        return number

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(attempt(number)) for number in range(8)]
    winners = [task.result() for task in tasks if task.result() is not None]
    stored = int(await read(store.storage, "lease"))
    assert stored in winners
    if store.enforces.conditional_put:
        assert winners == [stored]


async def test_after_a_probe_the_capabilities_are_those_of_the_store(store: Store) -> None:
    await store.storage.put("archive.json", b'{"some": "record"}')
    found = await store.storage.probe("archive.json", b'{"some": "record"}')
    assert found == store.enforces
    assert store.storage.capabilities == store.enforces
    assert await read(store.storage, "archive.json") == b'{"some": "record"}'
    assert await names(store.storage) == ["archive.json"]


async def test_a_probe_with_other_bytes_is_refused_and_changes_nothing(store: Store) -> None:
    await store.storage.put("archive.json", b"the record")
    for other in (b"another one", b"the recor", b"the record "):
        with pytest.raises(DifferentContent):
            await store.storage.probe("archive.json", other)
    assert await read(store.storage, "archive.json") == b"the record"


async def test_a_probe_of_nothing_creates_nothing(store: Store) -> None:
    with pytest.raises(ObjectNotFound):
        await store.storage.probe("archive.json", b"the record")
    assert await names(store.storage) == []


@pytest.mark.parametrize(
    "sizes",
    [
        [],
        [0, 0],
        [10, 20, 0, 30],
        [5 * MIB],
        [5 * MIB, 1],
        [70_001] * 200,
        [11 * MIB + 5],
        [3 * MIB, 5 * MIB, 4 * MIB],
    ],
    ids=lambda sizes: f"{len(sizes)}-chunks-{sum(sizes)}",
)
async def test_a_stream_is_stored_whole_whatever_its_chunks(store: Store, sizes: list[int]) -> None:
    chunks = [body(size, seed) for seed, size in enumerate(sizes)]
    size = await store.storage.put_stream("data/part", stream(*chunks))
    assert size == sum(sizes)
    assert await read(store.storage, "data/part") == b"".join(chunks)
    assert (await store.storage.head("data/part")).size_bytes == size


async def test_the_memory_of_a_chunk_may_be_used_again(store: Store) -> None:
    async def refilling() -> AsyncIterator[bytearray]:
        memory = bytearray(700_000)
        for number in range(12):
            memory[:] = bytes([number]) * len(memory)
            yield memory

    await store.storage.put_stream("one", refilling())
    stored = await read(store.storage, "one")
    assert stored == b"".join(bytes([number]) * 700_000 for number in range(12))


@pytest.mark.parametrize("size", [10, 6 * MIB])
async def test_a_stream_does_not_replace_what_is_there(store: Store, size: int) -> None:
    await store.storage.put("one", b"first")
    with pytest.raises(ObjectExists):
        await store.storage.put_stream("one", stream(body(size)))
    assert await read(store.storage, "one") == b"first"


@pytest.mark.parametrize("size", [10, 6 * MIB, 16 * MIB])
async def test_a_stream_whose_source_fails_leaves_nothing_and_its_error_passes(
    store: Store, size: int
) -> None:
    class OurOwnError(Exception):
        pass

    async def failing() -> AsyncIterator[bytes]:
        yield body(size)
        raise OurOwnError

    with pytest.raises(OurOwnError):
        await store.storage.put_stream("one", failing())
    with pytest.raises(ObjectNotFound):
        await store.storage.head("one")
    assert await names(store.storage) == []


@pytest.mark.parametrize("size", [10, 6 * MIB, 16 * MIB])
async def test_a_cancelled_stream_leaves_nothing(store: Store, size: int) -> None:
    waiting = asyncio.Event()

    async def endless() -> AsyncIterator[bytes]:
        yield body(size)
        waiting.set()
        await asyncio.sleep(3600)

    task = asyncio.create_task(store.storage.put_stream("one", endless()))
    await waiting.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await names(store.storage) == []
    await store.storage.put("one", b"free")


async def test_a_part_of_an_object_is_read(store: Store) -> None:
    content = body(1000)
    await store.storage.put("one", content)
    assert await read(store.storage, "one", 10) == content[10:]
    assert await read(store.storage, "one", 10, 20) == content[10:30]
    assert await read(store.storage, "one", 0, 20) == content[:20]
    assert await read(store.storage, "one", 999, 1) == content[999:]


async def test_asking_beyond_the_end_yields_what_there_is(store: Store) -> None:
    content = body(1000)
    await store.storage.put("one", content)
    assert await read(store.storage, "one", 990, 100) == content[990:]
    assert await read(store.storage, "one", 0, 5000) == content
    assert await read(store.storage, "one", 1000) == b""
    assert await read(store.storage, "one", 1000, 5) == b""
    assert await read(store.storage, "one", 5000) == b""
    assert await read(store.storage, "one", 5, 0) == b""


async def test_of_an_empty_object_every_part_is_empty(store: Store) -> None:
    await store.storage.put("one", b"")
    assert await read(store.storage, "one") == b""
    assert await read(store.storage, "one", 0, 5) == b""
    assert await read(store.storage, "one", 5) == b""


async def test_chunks_are_small_and_never_empty(store: Store) -> None:
    await store.storage.put("one", body(2 * MIB))
    async with store.storage.read("one") as chunks:
        sizes = [len(chunk) async for chunk in chunks]
    assert sum(sizes) == 2 * MIB
    assert store.kind == "memory" or len(sizes) > 1
    assert all(0 < size <= READ_CHUNK_BYTES for size in sizes)


async def test_a_read_can_be_left_early(store: Store) -> None:
    await store.storage.put("one", body(8 * MIB))
    for _ in range(30):
        async with store.storage.read("one") as chunks:
            assert body(8 * MIB).startswith(await anext(aiter(chunks)))
    assert await read(store.storage, "one", 0, 10) == body(10)


async def test_what_is_not_there_is_not_found(store: Store) -> None:
    storage = store.storage
    await storage.put("wal/one", b"1")
    for name in ("two", "wal/two", "wal/one2", "wal", "wal/on", "wal/one/two"):
        with pytest.raises(ObjectNotFound):
            await storage.head(name)
        with pytest.raises(ObjectNotFound):
            await read(storage, name)
        with pytest.raises(ObjectNotFound):
            await read(storage, name, 5, 0)
        with pytest.raises(ObjectNotFound):
            await storage.sync(name)


async def test_head_tells_size_and_the_time_of_writing(store: Store) -> None:
    before = datetime.now(UTC) - timedelta(seconds=2)
    await store.storage.put("wal/one", body(12_345))
    info = await store.storage.head("wal/one")
    assert (info.name, info.size_bytes) == ("wal/one", 12_345)
    assert info.modified_at.utcoffset() == timedelta(0)
    assert before <= info.modified_at <= datetime.now(UTC) + timedelta(seconds=2)


async def test_sync_of_what_is_there_succeeds(store: Store) -> None:
    await store.storage.put("a/b/c", b"1")
    await store.storage.sync("a/b/c")


async def test_a_listing_is_in_the_order_of_the_bytes_of_whole_names(store: Store) -> None:
    unordered = ["a/b", "a.b", "a0", "A", "a-b", "a/b.c", "b/a/z", "b/a.z", "b/Z", "~", "b/a/-"]
    for name in unordered:
        await store.storage.put(name, name.encode())
    assert await names(store.storage) == sorted(unordered)
    found = [(info.name, info.size_bytes) async for info in store.storage.list_objects("")]
    assert found == [(name, len(name)) for name in sorted(unordered)]


async def test_a_listing_holds_what_begins_with_the_prefix(store: Store) -> None:
    for name in ("wal/1/a", "wal/1/b", "wal/10", "wal/2/a", "walk", "tail/1"):
        await store.storage.put(name, b"")
    assert await names(store.storage, "wal/") == ["wal/1/a", "wal/1/b", "wal/10", "wal/2/a"]
    assert await names(store.storage, "wal/1") == ["wal/1/a", "wal/1/b", "wal/10"]
    assert await names(store.storage, "wal/1/") == ["wal/1/a", "wal/1/b"]
    assert await names(store.storage, "wal/10") == ["wal/10"]
    assert await names(store.storage, "none/") == []
    assert await names(store.storage, "wal/10/") == []


async def test_a_listing_begins_after_a_name_that_need_not_be_there(store: Store) -> None:
    everything = ["a.b", "a/b", "a/c/d", "a/c/e", "a0", "b"]
    for name in everything:
        await store.storage.put(name, b"")
    for after in ("", "a", "a.b", "a/", "a/b", "a/bb", "a/c", "a/c/d", "a/c/dd", "a0", "b", "c"):
        assert await names(store.storage, "", after) == [n for n in everything if n > after]
        expected = [n for n in everything if n > after and n.startswith("a/")]
        assert await names(store.storage, "a/", after) == expected


async def test_a_long_listing_is_complete(store: Store) -> None:
    everything = [f"wal/{number % 7}/{number:05}" for number in range(1100)]
    limit = asyncio.Semaphore(16)

    async def put(name: str) -> None:
        async with limit:
            await store.storage.put(name, b"x")

    for name in everything[:7]:  # rclone may fail where two requests make the same folder
        await put(name)
    async with asyncio.TaskGroup() as group:
        for name in everything[7:]:
            group.create_task(put(name))
    assert await names(store.storage, "wal/") == sorted(everything)
    middle = sorted(everything)[700]
    assert await names(store.storage, "wal/", middle) == sorted(everything)[701:]
    assert await store.storage.folders("wal/") == [f"wal/{number}/" for number in range(7)]


async def test_pages_say_what_a_listing_of_single_objects_says(store: Store) -> None:
    everything = ["a.b", *(f"a/b/{number:03}" for number in range(40)), "a/b.c", "a/c/d/e", "a0"]
    for name in everything:
        await store.storage.put(name, name.encode())
    for prefix, after in (("", ""), ("a/", ""), ("a/b/", "a/b/017"), ("a/b/01", ""), ("b/", "")):
        listed = [info async for info in store.storage.list_objects(prefix, after=after)]
        pages = [page async for page in store.storage.list_pages(prefix, after=after)]
        assert all(page.names for page in pages)
        assert [info for page in pages for info in page.infos()] == listed
        assert await page_names(store.storage, prefix, after) == [info.name for info in listed]
    assert listed == []


async def test_a_page_falls_into_the_parts_of_its_folders(store: Store) -> None:
    everything = [f"wal/{folder}/{number}" for folder in "abc" for number in range(5)]
    strays = ["before", "wal/a!", "wal/b/3/y", "wal/behind"]
    for name in [*everything[:8], *everything[9:], *strays]:
        await store.storage.put(name, name.encode())
    found: dict[str, list[ObjectInfo]] = {}
    async for page in store.storage.list_pages(""):
        for folder, part in page.by_folder():
            found.setdefault(folder, []).extend(part.infos())
    assert {folder: [one.name for one in infos] for folder, infos in found.items()} == {
        "": ["before"],
        "wal/": ["wal/a!", "wal/behind"],
        "wal/a/": everything[:5],
        "wal/b/": [*everything[5:8], everything[9]],
        "wal/b/3/": ["wal/b/3/y"],
        "wal/c/": everything[10:],
    }
    assert all(one.size_bytes == len(one.name) for infos in found.values() for one in infos)


async def test_whoever_lists_may_use_the_store_meanwhile(store: Store) -> None:
    for number in range(5):
        await store.storage.put(f"a/{number}", b"x")
    async for info in store.storage.list_objects(""):
        await store.storage.delete(info.name)
    assert await names(store.storage) == []


async def test_an_upload_under_way_is_not_shown(store: Store) -> None:
    seen: list[list[str]] = []

    async def watched() -> AsyncIterator[bytes]:
        for _ in range(3):
            yield body(6 * MIB)
            seen.append(await names(store.storage))

    await store.storage.put_stream("data/one", watched())
    assert seen == [[], [], []]
    assert await names(store.storage) == ["data/one"]


async def test_folders_are_those_that_hold_objects(store: Store) -> None:
    for name in ("a/b/c", "a/d", "a.b/c", "e/f", "a/g/h/i"):
        await store.storage.put(name, b"")
    assert await store.storage.folders("") == ["a.b/", "a/", "e/"]
    assert await store.storage.folders("a/") == ["a/b/", "a/g/"]
    assert await store.storage.folders("a/b/") == []
    assert await store.storage.folders("none/") == []
    await store.storage.delete("a/g/h/i")
    assert await store.storage.folders("a/") == ["a/b/"]


async def test_a_deleted_object_is_gone_and_its_name_is_free(store: Store) -> None:
    await store.storage.put("a/b/c", b"1")
    await store.storage.delete("a/b/c")
    with pytest.raises(ObjectNotFound):
        await store.storage.head("a/b/c")
    assert await names(store.storage) == []
    assert await store.storage.folders("") == []
    await store.storage.put("a/b/c", b"2")
    assert await read(store.storage, "a/b/c") == b"2"


async def test_deleting_what_is_not_there_succeeds(store: Store) -> None:
    await store.storage.put("a/b", b"1")
    for name in ("c", "a/c", "d/e/f"):
        await store.storage.delete(name)
    assert await names(store.storage) == ["a/b"]


async def test_names_may_hold_any_printable_character(store: Store) -> None:
    odd = ["a+b=c", "a%2Fb", "a&b?c#d", "(x)*'!", "@:,;[]{}|~^`$", 'q"<>']
    for name in odd:
        await store.storage.put(f"odd/{name}", name.encode())
    for name in odd:
        assert await read(store.storage, f"odd/{name}") == name.encode()
    assert await names(store.storage, "odd/") == sorted(f"odd/{name}" for name in odd)
    for name in odd:
        await store.storage.delete(f"odd/{name}")
    assert await names(store.storage) == []


IMPOSSIBLE_NAMES = [
    *("", "/a", "a/", "a//b", ".", "..", "../a", "a/../b", "a/./b", ".a", "a/.b", "a b"),
    *("a\\b", "a\nb", "a\0b", "ä", "a" * 201, "/".join(["a" * 100] * 10)),
]


async def test_impossible_names_are_refused_everywhere(store: Store) -> None:
    storage = store.storage
    for name in IMPOSSIBLE_NAMES:
        for attempt in (
            partial(storage.put, name, b""),
            partial(storage.put_stream, name, stream(b"")),
            partial(read, storage, name),
            partial(storage.head, name),
            partial(storage.delete, name),
            partial(storage.sync, name),
        ):
            with pytest.raises(ValueError, match="not the name"):
                await attempt()


async def test_impossible_ranges_are_refused(store: Store) -> None:
    await store.storage.put("one", b"1")
    for offset, length in ((-1, None), (0, -1), (-5, 3)):
        with pytest.raises(ValueError, match="not a range"):
            await read(store.storage, "one", offset, length)


async def test_the_url_says_where_it_is_without_secrets(store: Store) -> None:
    assert "testsecret12" not in store.storage.url
    assert ":" in store.storage.url


async def test_closing_twice_is_harmless(store: Store) -> None:
    await store.storage.put("one", b"1")
    await store.storage.aclose()
    await store.storage.aclose()
