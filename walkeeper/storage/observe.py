"""Counts what is asked of a store, for the status page, the metrics and the tests."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from types import MappingProxyType

from walkeeper.core.histogram import BYTES, SECONDS, Histogram
from walkeeper.core.layout import KINDS, object_kind
from walkeeper.errors import ObjectExists, ObjectNotFound, StorageError
from walkeeper.storage.base import Buffer, Capabilities, ObjectInfo, Page, Storage


@dataclass(frozen=True, slots=True)
class StorageStatistics:
    """A snapshot; ``requests`` by operation, ``errors`` by operation and class of the error,
    ``retries`` by that class alone.

    Operations are the methods of `Storage`. Each attempt counts, and so does each error, the
    expected ones (`ObjectNotFound`, `ObjectExists`) included. Bytes are those of bodies, written
    when the operation succeeded, read as they arrive.
    """

    requests: Mapping[str, int]
    errors: Mapping[tuple[str, str], int]
    retries: Mapping[str, int]
    bytes_written: int
    bytes_read: int


@dataclass(slots=True)
class Transferred:
    """The bytes of a transfer so far."""

    size_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Transfers:
    """The transfers of one kind of object."""

    seconds: Histogram = field(default_factory=lambda: Histogram(SECONDS))
    bytes: Histogram = field(default_factory=lambda: Histogram(BYTES))


_ANSWERS = (ObjectNotFound, ObjectExists)
"""Errors by which a store shows that it works."""
_DIRECTIONS = {
    "put": "write",
    "put_stream": "write",
    "read": "read",
    "head": "read",
    "list_objects": "read",
    "folders": "read",
}
"""Of the operations that show whether a store can be used."""


_ANY = "any"


class StorageCounters:
    """The counters of one or several stores; owned by whoever reads them."""

    def __init__(self, *, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._retried: tuple[float, str] | None = None
        self._failing: dict[str, str] = {}
        self._requests: Counter[str] = Counter()
        self._retries: Counter[str] = Counter()
        self.transfers = {
            (direction, kind): Transfers() for direction in ("write", "read") for kind in KINDS
        }
        """How long whole objects took and how large they were, by direction and kind."""
        self._errors: Counter[tuple[str, str]] = Counter()
        self._bytes_written = 0
        self._bytes_read = 0

    def statistics(self) -> StorageStatistics:
        """What was counted so far; does not change any more."""
        return StorageStatistics(
            MappingProxyType(dict(self._requests)),
            MappingProxyType(dict(self._errors)),
            MappingProxyType(dict(self._retries)),
            self._bytes_written,
            self._bytes_read,
        )

    def note_retry(self, error: StorageError) -> None:
        """Remembers why something is tried again, which may be that no answer came."""
        self._retried = (self._now(), error.message)
        self._retries[type(error).__name__] += 1
        self._failing[_ANY] = error.message

    def trouble(self, within_s: float) -> str | None:
        """The latest error of the last ``within_s`` that made us try again, and its age.

        None when there was none. Says nothing of whether another attempt has succeeded since.
        """
        if self._retried is None:
            return None
        at, message = self._retried
        age_s = self._now() - at
        return f"{message} ({age_s:.0f} s ago)" if age_s <= within_s else None

    def failing(self) -> str | None:
        """Why the last request that read, or the last that wrote, did not succeed; else None."""
        return next(iter(self._failing.values()), None)

    @contextmanager
    def request(self, operation: str) -> Iterator[None]:
        """Counts the block as one request, and what it raises."""
        self._requests[operation] += 1
        with self.errors_of(operation):
            yield
        self._answered(_DIRECTIONS.get(operation))

    @contextmanager
    def errors_of(self, operation: str) -> Iterator[None]:
        """Counts what the block raises, as part of a request counted before."""
        try:
            yield
        except StorageError as error:
            self._errors[operation, type(error).__name__] += 1
            direction = _DIRECTIONS.get(operation)
            if isinstance(error, _ANSWERS):
                self._answered(direction)
            elif direction is not None:
                self._failing[direction] = error.message
            raise

    def _answered(self, direction: str | None) -> None:
        self._failing.pop(_ANY, None)
        if direction is not None:
            self._failing.pop(direction, None)

    @contextmanager
    def transfer(self, direction: str, name: str) -> Iterator[Transferred]:
        """Measures the block as the transfer of one object, unless it raises.

        ``name`` is that in the repository; the size is told to what is yielded.
        """
        began, moved = self._now(), Transferred()
        yield moved
        found = self.transfers[direction, object_kind(name.partition("/")[2])]
        found.seconds.note(self._now() - began)
        found.bytes.note(moved.size_bytes)

    def add_written(self, size_bytes: int) -> None:
        """Counts the body of a successful write."""
        self._bytes_written += size_bytes

    def add_read(self, size_bytes: int) -> None:
        """Counts bytes that arrived."""
        self._bytes_read += size_bytes


class ObservedStorage:
    """Another store whose operations are counted in ``counters``."""

    def __init__(self, storage: Storage, counters: StorageCounters) -> None:
        self._storage = storage
        self._counters = counters

    @property
    def url(self) -> str:
        """That of the store."""
        return self._storage.url

    @property
    def capabilities(self) -> Capabilities:
        """Those of the store."""
        return self._storage.capabilities

    async def put(self, name: str, body: Buffer) -> None:
        """See `Storage.put`."""
        with self._counters.transfer("write", name) as moved, self._counters.request("put"):
            await self._storage.put(name, body)
            moved.size_bytes = memoryview(body).nbytes
        self._counters.add_written(moved.size_bytes)

    async def put_stream(self, name: str, chunks: AsyncIterator[Buffer]) -> int:
        """See `Storage.put_stream`."""
        with self._counters.transfer("write", name) as moved, self._counters.request("put_stream"):
            moved.size_bytes = await self._storage.put_stream(name, chunks)
        self._counters.add_written(moved.size_bytes)
        return moved.size_bytes

    @asynccontextmanager
    async def read(
        self, name: str, *, offset: int = 0, length: int | None = None
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        """See `Storage.read`."""
        async with AsyncExitStack() as stack:
            with self._counters.request("read"):
                opened = self._storage.read(name, offset=offset, length=length)
                moved = stack.enter_context(self._counters.transfer("read", name))
                chunks = self._chunks(await stack.enter_async_context(opened), moved)
            stack.push_async_callback(chunks.aclose)
            yield chunks

    async def head(self, name: str) -> ObjectInfo:
        """See `Storage.head`."""
        with self._counters.request("head"):
            return await self._storage.head(name)

    async def list_objects(self, prefix: str, *, after: str = "") -> AsyncIterator[ObjectInfo]:
        """See `Storage.list_objects`; one listing counts once, whatever its length."""
        with self._counters.request("list_objects"):
            async for info in self._storage.list_objects(prefix, after=after):
                yield info

    async def list_pages(
        self, prefix: str, *, after: str = "", names_only: bool = False
    ) -> AsyncIterator[Page]:
        """See `Storage.list_pages`; counts as `list_objects` does."""
        with self._counters.request("list_objects"):
            pages = self._storage.list_pages(prefix, after=after, names_only=names_only)
            async for page in pages:
                yield page

    async def folders(self, prefix: str) -> list[str]:
        """See `Storage.folders`."""
        with self._counters.request("folders"):
            return await self._storage.folders(prefix)

    async def delete(self, name: str) -> None:
        """See `Storage.delete`."""
        with self._counters.request("delete"):
            await self._storage.delete(name)

    async def sync(self, name: str) -> None:
        """See `Storage.sync`."""
        with self._counters.request("sync"):
            await self._storage.sync(name)

    async def probe(self, name: str, body: Buffer) -> Capabilities:
        """See `Storage.probe`."""
        with self._counters.request("probe"):
            return await self._storage.probe(name, body)

    async def aclose(self) -> None:
        """Close the store."""
        await self._storage.aclose()

    async def _chunks(
        self, chunks: AsyncIterator[bytes], moved: Transferred
    ) -> AsyncGenerator[bytes, None]:
        with self._counters.errors_of("read"):
            async for chunk in chunks:
                self._counters.add_read(len(chunk))
                moved.size_bytes += len(chunk)
                yield chunk
