"""A bound on concurrent operations."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from walkeeper.storage.base import Buffer
from walkeeper.storage.limit import LimitedStorage
from walkeeper.storage.memory import MemoryStorage


class Slow(MemoryStorage):
    def __init__(self) -> None:
        super().__init__()
        self.busy = 0
        self.most = 0

    async def put(self, name: str, body: Buffer) -> None:
        self.busy += 1
        self.most = max(self.most, self.busy)
        await asyncio.sleep(0.001)
        self.busy -= 1
        await super().put(name, body)


async def test_no_more_operations_than_allowed_are_under_way() -> None:
    store = Slow()
    limited = LimitedStorage(store, 3)
    async with asyncio.TaskGroup() as group:
        for number in range(20):
            group.create_task(limited.put(str(number), b""))
    assert store.most == 3
    assert len([info async for info in limited.list_objects("")]) == 20


async def test_a_cancelled_operation_frees_its_place() -> None:
    limited = LimitedStorage(Slow(), 1)
    for number in range(3):
        task = asyncio.create_task(limited.put(str(number), b""))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait({task})
    await asyncio.wait_for(limited.put("x", b""), 60)


async def test_a_reader_who_is_busy_elsewhere_holds_nobody_up() -> None:
    limited = LimitedStorage(MemoryStorage(), 1)
    await limited.put("one", b"content")
    async with asyncio.timeout(60), limited.read("one") as chunks:
        async for chunk in chunks:
            await limited.put("copy", chunk)
        async with limited.read("copy") as copied:
            assert [chunk async for chunk in copied] == [b"content"]


async def test_an_object_can_be_copied_within_a_store_of_several_places() -> None:
    limited = LimitedStorage(MemoryStorage(), 2)
    await limited.put("one", b"content")

    async def source() -> AsyncIterator[bytes]:
        async with limited.read("one") as chunks:
            async for chunk in chunks:
                yield chunk

    async with asyncio.timeout(60):
        assert await limited.put_stream("copy", source()) == 7
