"""What the agent remembers of what it acknowledged."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.fix_archive import TestKeys, make_archive
from walkeeper.agent import acknowledged
from walkeeper.agent.acknowledged import Acknowledged
from walkeeper.core.layout import ObjectName, wal_object
from walkeeper.core.wal import BackupHistoryFile, WalSegment
from walkeeper.errors import StorageUnavailable
from walkeeper.repository.archive import Archive
from walkeeper.storage.base import ObjectInfo
from walkeeper.storage.memory import MemoryStorage

FIRST, SECOND = WalSegment(1, 0, 7), WalSegment(1, 0, 8)


class Away(MemoryStorage):
    async def head(self, name: str) -> ObjectInfo:
        raise StorageUnavailable(f"{name} cannot be asked for")


class Stalling(ThreadPoolExecutor):
    """Threads of which the first gets nowhere until ``free`` is set: the disk is slow."""

    def __init__(self) -> None:
        super().__init__(2)
        self.begun = threading.Event()
        self.free = threading.Event()

    def submit(self, work: Callable[..., Any], /, *args: Any, **options: Any) -> Future[Any]:
        if self.begun.is_set():
            return super().submit(work, *args, **options)
        self.begun.set()

        def late() -> Any:
            assert self.free.wait(60)
            return work(*args, **options)

        return super().submit(late)


class Scene:
    """An archive and the directory of the agent that writes into it."""

    def __init__(self, archive: Archive, state_dir: Path, pool: ThreadPoolExecutor) -> None:
        self.archive = archive
        self._state_dir = state_dir
        self._pool = pool

    async def start(self) -> Acknowledged:
        memory = Acknowledged(self.archive, self._state_dir, self._pool)
        await memory.load()
        return memory

    async def store(self, segment: WalSegment) -> ObjectName:
        name = wal_object(segment)
        await self.archive.put(self.archive.sealer.seal(name, [b"a segment"]))
        return name

    async def lose(self, segment: WalSegment) -> None:
        await self.archive.storage.delete(self.archive.path(wal_object(segment)))


async def stopped(memory: Acknowledged) -> None:
    """It has run and was told to end."""
    running = asyncio.ensure_future(memory.run())
    await asyncio.sleep(0)
    running.cancel()
    await asyncio.wait({running})


@pytest.fixture
async def scene(pool: ThreadPoolExecutor, keys: TestKeys, tmp_path: Path) -> Scene:
    return Scene(await make_archive(MemoryStorage(), keys, pool), tmp_path / "state", pool)


async def test_without_anything_acknowledged_nothing_is_lost(scene: Scene) -> None:
    memory = await scene.start()
    assert await memory.look() is None
    assert memory.lost is None


async def test_what_is_there_is_not_lost(scene: Scene) -> None:
    memory = await scene.start()
    memory.note(await scene.store(FIRST))
    assert await memory.look() is None
    assert memory.segment == FIRST


async def test_a_later_agent_misses_what_an_earlier_one_has_acknowledged(scene: Scene) -> None:
    before = await scene.start()
    before.note(await scene.store(FIRST))
    await stopped(before)
    await scene.lose(FIRST)
    memory = await scene.start()
    assert await memory.look() == FIRST
    assert memory.lost == wal_object(FIRST)


async def test_a_stop_while_an_older_one_is_being_written_leaves_the_newest(
    scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(acknowledged, "_WRITE_EVERY_S", 0.01)
    with Stalling() as pool:
        before = Acknowledged(scene.archive, tmp_path / "state", pool)
        before.note(await scene.store(FIRST))
        running = asyncio.ensure_future(before.run())
        while not pool.begun.is_set():
            await asyncio.sleep(0.001)
        before.note(await scene.store(SECOND))
        running.cancel()
        await asyncio.wait({running}, timeout=0.3)
        pool.free.set()
        await asyncio.wait({running})
    memory = await scene.start()
    assert memory.segment == SECOND


async def test_what_has_come_back_is_not_lost(scene: Scene) -> None:
    memory = await scene.start()
    memory.note(await scene.store(FIRST))
    await scene.lose(FIRST)
    assert await memory.look() == FIRST
    await scene.store(FIRST)
    assert await memory.look() is None
    assert memory.lost is None


async def test_with_the_next_segment_that_is_looked_for_instead(scene: Scene) -> None:
    memory = await scene.start()
    memory.note(await scene.store(FIRST))
    await scene.lose(FIRST)
    assert await memory.look() == FIRST
    memory.note(await scene.store(SECOND))
    assert memory.lost is None
    assert await memory.look() is None


async def test_the_newest_segment_counts_whichever_came_last(scene: Scene) -> None:
    memory = await scene.start()
    for segment in (SECOND, FIRST):
        memory.note(await scene.store(segment))
    assert memory.segment == SECOND


async def test_a_file_that_is_no_complete_segment_is_passed_over(scene: Scene) -> None:
    memory = await scene.start()
    memory.note(wal_object(BackupHistoryFile(FIRST, 40)))
    assert memory.segment is None


async def test_another_archive_s_segments_are_not_missed(
    scene: Scene, pool: ThreadPoolExecutor, keys: TestKeys
) -> None:
    before = await scene.start()
    before.note(await scene.store(FIRST))
    await stopped(before)
    scene.archive = await make_archive(MemoryStorage(), keys, pool)
    memory = await scene.start()
    assert memory.segment is None


async def test_a_store_that_does_not_answer_has_lost_nothing(
    scene: Scene, pool: ThreadPoolExecutor, keys: TestKeys
) -> None:
    scene.archive = await make_archive(Away(), keys, pool)
    memory = await scene.start()
    memory.note(wal_object(FIRST))
    with pytest.raises(StorageUnavailable):
        await memory.look()
    assert memory.lost is None
