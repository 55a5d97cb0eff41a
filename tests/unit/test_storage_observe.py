"""Counting what is asked of a store."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import FrozenInstanceError

import pytest

from tests.fix_tail import FaultyStorage
from walkeeper.errors import ObjectExists, ObjectNotFound, StorageUnavailable
from walkeeper.storage.memory import MemoryStorage
from walkeeper.storage.observe import ObservedStorage, StorageCounters


async def test_requests_bytes_and_errors_are_counted_by_operation() -> None:
    counters = StorageCounters()
    storage = ObservedStorage(MemoryStorage(), counters)

    async def chunks() -> AsyncIterator[bytes]:
        yield b"12345"

    await storage.put("a/one", memoryview(b"123"))
    await storage.put_stream("a/two", chunks())
    with pytest.raises(ObjectExists):
        await storage.put("a/one", b"other content")
    with pytest.raises(ObjectNotFound):
        await storage.head("three")
    async with storage.read("a/two", offset=1) as content:
        assert [chunk async for chunk in content] == [b"2345"]
    with pytest.raises(ObjectNotFound):
        async with storage.read("three"):
            pass
    assert [info.name async for info in storage.list_objects("")] == ["a/one", "a/two"]
    pages = storage.list_pages("", names_only=True)
    assert [name async for page in pages for name in page.names] == ["a/one", "a/two"]
    await storage.folders("")
    await storage.sync("a/one")
    await storage.delete("a/one")

    found = counters.statistics()
    assert found.requests == {
        "put": 2,
        "put_stream": 1,
        "head": 1,
        "read": 2,
        "list_objects": 2,
        "folders": 1,
        "sync": 1,
        "delete": 1,
    }
    assert found.errors == {
        ("put", "ObjectExists"): 1,
        ("head", "ObjectNotFound"): 1,
        ("read", "ObjectNotFound"): 1,
    }
    assert (found.bytes_written, found.bytes_read) == (8, 4)


async def test_a_store_fails_until_it_answers_again(faulty: FaultyStorage) -> None:
    counters = StorageCounters()
    storage = ObservedStorage(faulty, counters)
    with pytest.raises(ObjectNotFound):
        await storage.head("nothing")
    assert counters.failing() is None
    faulty.down = True
    with pytest.raises(StorageUnavailable):
        await storage.head("nothing")
    with pytest.raises(StorageUnavailable):
        await storage.put("one", b"1")
    assert counters.failing() == "the store is down"
    faulty.down = False
    with pytest.raises(ObjectNotFound):  # an answer, too
        await storage.head("nothing")
    assert counters.failing() == "the store is down"  # it may be read, but not written
    await storage.put("one", b"1")
    assert counters.failing() is None


async def test_an_answer_that_does_not_come_is_a_failure_until_one_does() -> None:
    counters = StorageCounters()
    storage = ObservedStorage(MemoryStorage(), counters)
    counters.note_retry(StorageUnavailable("no answer within 30 s"))
    assert counters.failing() == "no answer within 30 s"
    await storage.folders("")
    assert counters.failing() is None


async def test_a_snapshot_does_not_change() -> None:
    counters = StorageCounters()
    storage = ObservedStorage(MemoryStorage(), counters)
    before = counters.statistics()
    await storage.put("one", b"1")
    assert before.requests == {}
    with pytest.raises(FrozenInstanceError):
        before.bytes_read = 1  # type: ignore[misc]
    with pytest.raises(TypeError):
        before.requests["put"] = 1  # type: ignore[index]


def test_what_is_tried_again_is_told_with_its_age_until_it_is_too_old() -> None:
    now_s = 100.0
    counters = StorageCounters(now=lambda: now_s)
    assert counters.trouble(60) is None
    counters.note_retry(StorageUnavailable("put x: 503 SlowDown"))
    now_s = 107.0
    assert counters.trouble(60) == "put x: 503 SlowDown (7 s ago)"
    now_s = 161.0
    assert counters.trouble(60) is None
