"""Retries and deadlines: the only place that decides to try again.

`RetryingStorage` repeats whole operations; a backend that must repeat single requests inside one
operation (the pieces of a multipart upload) is given the same `Retrier`. A caller who wants less
time than the policy gives puts `asyncio.timeout` around the call.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Final, TypeVar

from walkeeper.errors import StorageError, StorageUnavailable
from walkeeper.storage.base import Buffer, Capabilities, ObjectInfo, Page, Storage, check_range

T = TypeVar("T")

_SLOWEST_BYTES_PER_S: Final = 256 * 1024
"""Time limits grow with the body by what it takes at this rate."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """How long to try: ``attempt_timeout_s`` for one attempt, ``deadline_s`` for all of them and
    the pauses between; pauses double from ``first_pause_s`` to ``longest_pause_s``."""

    attempt_timeout_s: float = 30.0
    deadline_s: float = 120.0
    first_pause_s: float = 0.1
    longest_pause_s: float = 10.0


class Retrier:
    """Repeats what failed with a retryable error, until the policy's deadline.

    Pauses are random between half and all of their nominal length, so that many clients do not come
    back together, and never shorter than the store asked for (Retry-After). ``on_retry`` is told of
    each error that is tried again: whoever cannot wait for the end learns from it what is wrong.
    """

    def __init__(
        self,
        policy: RetryPolicy,
        *,
        clock: Callable[[], float] | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        chance: Callable[[], float] = random.random,
        on_retry: Callable[[StorageError], None] | None = None,
    ) -> None:
        self._policy = policy
        self._on_retry = on_retry
        self._clock = clock
        self._sleep = sleep
        self._chance = chance

    async def call(
        self, operation: str, attempt: Callable[[], Awaitable[T]], *, size_bytes: int = 0
    ) -> T:
        """The result of the first attempt that succeeds; ``size_bytes`` go over the wire in each.

        Raises what is not retryable at once, the last error when the next attempt would begin after
        the deadline, and `StorageUnavailable` for an attempt that took too long. One that the
        deadline cut short says nothing of the store: then the error before it is the last.
        """
        clock = self._clock or asyncio.get_running_loop().time
        allowance_s = size_bytes / _SLOWEST_BYTES_PER_S
        ends_at = clock() + self._policy.deadline_s + allowance_s
        nominal_s = self._policy.first_pause_s
        longest_s = self._policy.attempt_timeout_s + allowance_s
        last: StorageError | None = None
        while True:
            limit_s = min(longest_s, max(0.0, ends_at - clock()))
            known = last if limit_s < longest_s else None
            try:
                return await _within(limit_s, operation, attempt, known)
            except StorageError as error:
                last = error
                pause_s = nominal_s * (1 + self._chance()) / 2
                if isinstance(error, StorageUnavailable) and error.retry_after_s is not None:
                    pause_s = max(pause_s, error.retry_after_s)
                if not error.retryable or clock() + pause_s >= ends_at:
                    raise
                if self._on_retry is not None:
                    self._on_retry(error)
            await self._sleep(pause_s)
            nominal_s = min(nominal_s * 2, self._policy.longest_pause_s)


async def _within(
    limit_s: float,
    operation: str,
    attempt: Callable[[], Awaitable[T]],
    known: StorageError | None,
) -> T:
    limit = asyncio.timeout(limit_s)
    try:
        async with limit:
            return await attempt()
    except TimeoutError as error:
        if not limit.expired():
            raise
        if known is not None:
            raise known from known.__cause__
        raise StorageUnavailable(f"{operation}: no answer within {limit_s:.3g} s") from error


class RetryingStorage:
    """Another store with retries and deadlines; ``put_stream`` passes through.

    A `put` whose first attempt succeeded without our learning of it ends in `ObjectExists`: the
    caller decides by content. A read that is cut goes on where it stopped, a listing after the last
    name; each step forward has a deadline of its own.
    """

    def __init__(self, storage: Storage, retrier: Retrier) -> None:
        self._storage = storage
        self._retrier = retrier

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
        size = memoryview(body).nbytes
        attempt = partial(self._storage.put, name, body)
        await self._retrier.call(self._what("put", name), attempt, size_bytes=size)

    async def put_stream(self, name: str, chunks: AsyncIterator[Buffer]) -> int:
        """See `Storage.put_stream`: a stream cannot be repeated, its backend repeats requests."""
        return await self._storage.put_stream(name, chunks)

    @asynccontextmanager
    async def read(
        self, name: str, *, offset: int = 0, length: int | None = None
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        """See `Storage.read`."""
        check_range(offset, length)
        async with AsyncExitStack() as stack:
            body = _ResumedBody(self._storage, name, offset, length)
            stack.push_async_callback(body.close)
            await self._retrier.call(self._what("read", name), body.open)
            chunks = self._chunks(body, name)
            stack.push_async_callback(chunks.aclose)
            yield chunks

    async def head(self, name: str) -> ObjectInfo:
        """See `Storage.head`."""
        return await self._retrier.call(self._what("head", name), partial(self._storage.head, name))

    async def list_objects(self, prefix: str, *, after: str = "") -> AsyncIterator[ObjectInfo]:
        """See `Storage.list_objects`."""
        async for page in self.list_pages(prefix, after=after):
            for info in page.infos():
                yield info

    async def list_pages(
        self, prefix: str, *, after: str = "", names_only: bool = False
    ) -> AsyncIterator[Page]:
        """See `Storage.list_pages`."""
        listing = _ResumedListing(
            partial(self._storage.list_pages, prefix, names_only=names_only), after
        )
        operation = self._what("list", prefix)
        try:
            while (page := await self._retrier.call(operation, listing.next)) is not None:
                yield page
        finally:
            await listing.close()

    async def folders(self, prefix: str) -> list[str]:
        """See `Storage.folders`."""
        return await self._retrier.call(
            self._what("list", prefix), partial(self._storage.folders, prefix)
        )

    async def delete(self, name: str) -> None:
        """See `Storage.delete`."""
        await self._retrier.call(self._what("delete", name), partial(self._storage.delete, name))

    async def sync(self, name: str) -> None:
        """See `Storage.sync`."""
        await self._retrier.call(self._what("sync", name), partial(self._storage.sync, name))

    async def probe(self, name: str, body: Buffer) -> Capabilities:
        """See `Storage.probe`."""
        return await self._retrier.call(
            self._what("probe", name), partial(self._storage.probe, name, body)
        )

    async def aclose(self) -> None:
        """Close the store."""
        await self._storage.aclose()

    def _what(self, operation: str, name: str) -> str:
        return f"{operation} {self._storage.url}/{name}"

    async def _chunks(self, body: _ResumedBody, name: str) -> AsyncGenerator[bytes, None]:
        operation = self._what("read", name)
        while chunk := await self._retrier.call(operation, body.next):
            yield chunk


class _ResumedBody:
    """An object being read, opened again from where it stopped."""

    def __init__(self, storage: Storage, name: str, offset: int, length: int | None) -> None:
        self._storage = storage
        self._name = name
        self._offset = offset
        self._length = length
        self._stack = AsyncExitStack()
        self._chunks: AsyncIterator[bytes] | None = None

    async def open(self) -> AsyncIterator[bytes]:
        await self.close()
        opened = self._storage.read(self._name, offset=self._offset, length=self._length)
        self._chunks = await self._stack.enter_async_context(opened)
        return self._chunks

    async def next(self) -> bytes:
        """The next chunk; empty at the end. After an error the next call opens it again."""
        chunks = self._chunks if self._chunks is not None else await self.open()
        try:
            chunk = await anext(chunks, b"")
        except BaseException:
            self._chunks = None
            raise
        self._offset += len(chunk)
        if self._length is not None:
            self._length -= len(chunk)
        return chunk

    async def close(self) -> None:
        self._chunks = None
        await self._stack.aclose()


class _ResumedListing:
    """A listing, begun again after the last name that was seen."""

    def __init__(self, begin: Callable[..., AsyncIterator[Page]], after: str) -> None:
        self._begin = begin
        self._after = after
        self._found: AsyncIterator[Page] | None = None

    async def next(self) -> Page | None:
        if self._found is None:
            self._found = self._begin(after=self._after)
        try:
            page = await anext(self._found, None)
        except BaseException:
            await self.close()
            raise
        if page is not None:
            self._after = page.names[-1]
        return page

    async def close(self) -> None:
        found, self._found = self._found, None
        if isinstance(found, AsyncGenerator):
            await found.aclose()
