"""The observer: what it has seen, through outages, without ever raising."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor

import msgspec
import pytest

from tests.fix_archive import TestKeys
from tests.fix_planted import Counting, Planted
from tests.fix_status import AGENT, ARCHIVING
from tests.fix_tail import FaultyStorage
from walkeeper.agent.compose import Workshop
from walkeeper.agent.observer import Observer
from walkeeper.config import Config, RepositoryConfig
from walkeeper.keys.keyring import Keyring
from walkeeper.repository.archive import Archive
from walkeeper.services.agent_status import (
    AgentStatus,
    SourceStatus,
)
from walkeeper.storage.observe import ObservedStorage, StorageCounters

DEADLINE_S = 60


class HangingStorage(FaultyStorage):
    """Takes requests and does not answer while ``hangs``."""

    hangs = False

    async def folders(self, prefix: str) -> list[str]:
        if self.hangs:
            await asyncio.Event().wait()
        return await super().folders(prefix)


@pytest.fixture
def faulty() -> HangingStorage:
    return HangingStorage()


class Scene:
    """An observer of an archive in memory, beside an agent that is well."""

    def __init__(self, archive: Archive, keys: TestKeys, pool: ThreadPoolExecutor) -> None:
        self.counters = StorageCounters()
        storage = ObservedStorage(archive.storage, self.counters)
        archive.storage = storage
        self._shop = Workshop(
            Config(repositories=(RepositoryConfig(url="file:///r"),)),
            pool,
            pool,
            Keyring(writers=(keys.writer,)),
            storage,
            self.counters,
        )
        self._archive = archive
        self.changed = asyncio.Event()
        self.verified = True

    def agent(self) -> AgentStatus:
        return msgspec.structs.replace(
            AGENT,
            folder=self._archive.folder,
            archive=self._archive.record.archive,
            source=SourceStatus(verified=self.verified, reason=None if self.verified else "gone"),
            archiving=msgspec.structs.replace(ARCHIVING, backlog=3, backlog_bytes=3 << 20),
        )

    def observer(self, *, every_s: float = 3600.0, patience_s: float = DEADLINE_S) -> Observer:
        return Observer(
            self._shop,
            self._archive,
            self.agent,
            changed=self.changed,
            every_s=every_s,
            patience_s=patience_s,
        )


@pytest.fixture
async def scene(
    tail_archive: Archive, keys: TestKeys, pool: ThreadPoolExecutor
) -> AsyncIterator[Scene]:
    async with asyncio.timeout(DEADLINE_S):
        yield Scene(tail_archive, keys, pool)


async def stop(running: asyncio.Task[None]) -> None:
    running.cancel()
    await asyncio.wait({running})


async def test_before_the_first_look_nothing_is_known_and_nothing_is_ready(scene: Scene) -> None:
    observer = scene.observer()
    assert observer.look.at is None
    assert observer.unready() == ("repository: it has not been looked at yet",)
    document = json.loads(observer.document())
    assert document["looked_at"] is None
    assert document["repository_status"] is None


async def test_a_look_shows_the_archive_and_a_sample_the_agent(scene: Scene) -> None:
    observer = scene.observer()
    async with asyncio.TaskGroup() as group:
        running = group.create_task(observer.run())
        look = await observer.wait_look()
        assert look.error is None
        assert look.health is not None
        assert observer.unready() == ()
        texts = [finding.what for finding in observer.findings()]
        assert texts == ["there is no base backup: nothing can be recovered"]
        assert msgspec.json.encode(observer.report().findings[0].what) in observer.document()
        (sample,) = observer.samples
        assert (sample.rpo_s, sample.backlog_files, sample.backlog_bytes) == (2.0, 3, 3 << 20)
        scene.verified = False
        assert observer.unready() == ("PostgreSQL: gone",)
        await stop(running)


async def test_what_has_changed_is_looked_at_soon(scene: Scene) -> None:
    observer = scene.observer(every_s=3600)
    async with asyncio.TaskGroup() as group:
        running = group.create_task(observer.run())
        first = await observer.wait_look()
        scene.changed.set()
        second = await observer.wait_look()
        assert second.at != first.at
        await stop(running)


async def test_folders_of_wal_that_were_full_are_not_listed_in_each_look(
    large: tuple[Planted, Counting], keys: TestKeys, pool: ThreadPoolExecutor
) -> None:
    planted, storage = large
    observer = Scene(planted.archive, keys, pool).observer()
    async with asyncio.timeout(DEADLINE_S), asyncio.TaskGroup() as group:
        running = group.create_task(observer.run())
        first = await observer.wait_look()
        listed, storage.listed = storage.listed, []
        observer.look_soon()
        second = await observer.wait_look()
        await stop(running)
    assert len([name for name in listed if name.count("/") == 4]) == 9
    assert len([name for name in storage.listed if name.count("/") == 4]) == 2
    assert second.health is not None
    assert second.health == first.health


async def test_an_outage_is_noted_and_what_was_seen_before_is_kept(
    scene: Scene, faulty: HangingStorage
) -> None:
    observer = scene.observer(every_s=0.01)
    async with asyncio.TaskGroup() as group:
        running = group.create_task(observer.run())
        await observer.wait_look()
        faulty.down = True
        while observer.look.error is None:
            await observer.wait_look()
        assert observer.look.health is None
        assert observer.look.error == "the store is down"
        assert observer.last_good.health is not None
        assert observer.unready() == ("repository: the store is down",)
        assert observer.findings()[0].what == "the repository cannot be read: the store is down"
        faulty.down = False
        while observer.look.error is not None:
            await observer.wait_look()
        assert observer.unready() == ()
        await stop(running)


async def test_a_store_that_does_not_answer_is_given_up_and_asked_again(
    scene: Scene, faulty: HangingStorage
) -> None:
    faulty.hangs = True
    observer = scene.observer(every_s=0.01, patience_s=0.2)
    async with asyncio.TaskGroup() as group:
        running = group.create_task(observer.run())
        look = await observer.wait_look()
        assert look.error == "no answer in 0.2 s"
        faulty.hangs = False
        while observer.look.error is not None:
            await observer.wait_look()
        await stop(running)
