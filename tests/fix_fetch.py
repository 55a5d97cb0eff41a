"""Archives to fetch from that can be made to fail, and what asks for WAL."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.fix_archive import ONE_MIB, TestKeys, make_archive
from walkeeper.core.layout import CutOffSegment, ObjectName, StoredWal, wal_object
from walkeeper.core.lsn import Lsn
from walkeeper.core.wal import TimelineHistoryFile, WalFile, WalSegment
from walkeeper.errors import StorageError
from walkeeper.repository.archive import Archive
from walkeeper.services.fetch_rules import ClientIdentity, FetchRequest
from walkeeper.services.fetch_settings import FetchSettings
from walkeeper.services.fetcher import Fetcher
from walkeeper.services.history_files import HistoryFiles
from walkeeper.services.history_store import HistoryStore
from walkeeper.services.prefetch import PrefetchSettings
from walkeeper.storage.base import Buffer, Capabilities, ObjectInfo, Storage

REFRESH_S = 3600.0


class FaultyStorage:
    """Another store, passed through except where it is told to fail; it counts its reads.

    ``fail_read`` gives the error of single names, ``fail_all`` that of every operation;
    ``delay_s`` goes before each read.
    """

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self.fail_read: dict[str, StorageError] = {}
        self.fail_list: StorageError | None = None
        self.fail_all: StorageError | None = None
        self.delay_s = 0.0
        self.reads: list[str] = []
        self.opening = self.most_opening = 0
        """Reads that wait for their delay to pass: now, and at most."""

    @property
    def url(self) -> str:
        return self._storage.url

    @property
    def capabilities(self) -> Capabilities:
        return self._storage.capabilities

    def check(self) -> None:
        if self.fail_all is not None:
            raise self.fail_all

    async def put(self, name: str, body: Buffer) -> None:
        self.check()
        await self._storage.put(name, body)

    async def put_stream(self, name: str, chunks: AsyncIterator[Buffer]) -> int:
        self.check()
        return await self._storage.put_stream(name, chunks)

    @asynccontextmanager
    async def read(
        self, name: str, *, offset: int = 0, length: int | None = None
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        self.reads.append(name)
        if self.delay_s:
            await self._delay()
        self.check()
        for suffix, error in self.fail_read.items():
            if name.endswith(suffix):
                raise error
        async with self._storage.read(name, offset=offset, length=length) as chunks:
            yield chunks

    async def _delay(self) -> None:
        self.opening += 1
        self.most_opening = max(self.most_opening, self.opening)
        try:
            await asyncio.sleep(self.delay_s)
        finally:
            self.opening -= 1

    async def head(self, name: str) -> ObjectInfo:
        self.check()
        return await self._storage.head(name)

    async def list_objects(self, prefix: str, *, after: str = "") -> AsyncIterator[ObjectInfo]:
        self.check()
        if self.fail_list is not None:
            raise self.fail_list
        async for info in self._storage.list_objects(prefix, after=after):
            yield info

    async def folders(self, prefix: str) -> list[str]:
        self.check()
        return await self._storage.folders(prefix)

    async def delete(self, name: str) -> None:
        self.check()
        await self._storage.delete(name)

    async def sync(self, name: str) -> None:
        self.check()
        await self._storage.sync(name)

    async def probe(self, name: str, body: Buffer) -> Capabilities:
        self.check()
        return await self._storage.probe(name, body)

    async def aclose(self) -> None:
        await self._storage.aclose()


def content_of(segment: WalSegment) -> bytes:
    """A segment's worth of bytes that belong to this name alone."""
    return (str(segment).encode() * (ONE_MIB.bytes // 24 + 1))[: ONE_MIB.bytes]


def segment(timeline: int, number: int) -> WalSegment:
    return WalSegment.numbered(timeline, number, ONE_MIB)


def lsn_in(number: int, offset: int = 0) -> Lsn:
    return Lsn(number * ONE_MIB.bytes + offset)


@dataclass
class FetchBench:
    """An archive, its store, and a fetcher; segments are 1 MiB, numbers count from LSN 0."""

    storage: FaultyStorage
    archive: Archive
    pool: ThreadPoolExecutor
    directory: Path
    fetcher: Fetcher
    history: HistoryStore
    naps: list[float]
    refreshed: asyncio.Event
    """Set once the histories were looked for after the fetcher has begun to run."""

    async def put(self, wal: StoredWal, content: bytes) -> None:
        await put_object(self.archive, wal_object(wal), content)

    async def put_segments(self, timeline: int, *numbers: int) -> None:
        for number in numbers:
            wal = segment(timeline, number)
            await self.put(wal, content_of(wal))

    async def put_cut_off(self, timeline: int, number: int) -> None:
        await self.put(CutOffSegment(segment(timeline, number), "0" * 16), b"cut off")

    async def put_history(self, timeline: int, *switches: tuple[int, Lsn]) -> bytes:
        lines = [f"{parent}\t{at}\tno recovery target specified\n" for parent, at in switches]
        content = "\n".join(lines).encode()
        await self.put(TimelineHistoryFile(timeline), content)
        return content

    async def fetch(self, wal: WalFile, mode: str = "recovery", **facts: object) -> bytes | None:
        """What a client in this mode is given: the file's bytes, None for absent, or the error."""
        request = _request(wal, mode, facts)
        path = self.directory / "fetched"
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
        outcome = await self.fetcher.fetch(request, descriptor)
        if outcome.size_bytes is None:
            return None
        content = path.read_bytes()
        assert len(content) == outcome.size_bytes
        return content

    async def go_ahead(self, wal: WalSegment, **facts: object) -> None:
        """A prepared recovery is about to begin with this segment."""
        await self.fetcher.go_ahead(_request(wal, "recovery", facts), None)

    async def look_for_latest(self, mode: str = "recovery", **facts: object) -> int:
        """What a recovery to the latest timeline does first, and a standby again and again."""
        timeline = 2
        while await self.fetch_history(timeline, mode, **facts) is not None:
            timeline += 1
        return timeline - 1

    async def fetch_history(
        self, timeline: int, mode: str = "recovery", **facts: object
    ) -> bytes | None:
        return await self.fetch(TimelineHistoryFile(timeline), mode, **facts)


def _request(wal: WalFile, mode: str, facts: dict[str, object]) -> FetchRequest:
    known = {"client": ClientIdentity(1, 2), "timeout_s": 30.0} | facts
    return FetchRequest(
        wal=wal,
        standby=mode == "standby",
        recovery=mode == "recovery",
        **known,  # type: ignore[arg-type]
    )


async def put_object(archive: Archive, name: ObjectName, content: bytes) -> None:
    with archive.sealer.seal(name, [content]) as sealed:
        await archive.put(sealed)


async def make_bench(
    storage: Storage,
    keys: TestKeys,
    pool: ThreadPoolExecutor,
    directory: Path,
    *,
    prefetch: PrefetchSettings | None = None,
    can_read: bool = True,
    keep: bool = True,
) -> FetchBench:
    """A bench on a store; ``keep`` histories below ``directory``, as an agent does."""
    faulty = FaultyStorage(storage)
    archive = await make_archive(faulty, keys, pool, can_read=can_read)
    files = HistoryFiles(directory, archive.record.archive) if keep else None
    history = HistoryStore(archive, pool, files)
    await history.load()
    naps: list[float] = []
    refreshed = asyncio.Event()

    async def nap(seconds: float) -> None:
        if seconds == REFRESH_S:
            refreshed.set()
            await asyncio.sleep(seconds)
        naps.append(seconds)

    settings = FetchSettings(prefetch=prefetch or PrefetchSettings(), history_refresh_s=REFRESH_S)
    fetcher = Fetcher(archive, pool, history, directory, settings, sleep=nap)
    return FetchBench(faulty, archive, pool, directory, fetcher, history, naps, refreshed)


@asynccontextmanager
async def running(bench: FetchBench) -> AsyncIterator[None]:
    """While it fetches ahead; what was read before counts for nothing."""
    async with asyncio.TaskGroup() as group:
        bench.refreshed.clear()
        task = group.create_task(bench.fetcher.run())
        async with asyncio.timeout(60):
            await bench.refreshed.wait()
        bench.storage.reads.clear()
        try:
            yield
        finally:
            task.cancel()


async def settle(bench: FetchBench) -> None:
    """Wait until all that was begun has ended."""
    async with asyncio.timeout(60):
        while any(
            not task.done()
            for client in bench.fetcher._prefetcher._clients.values()
            for task in client.ahead.values()
        ):
            await asyncio.sleep(0.005)
