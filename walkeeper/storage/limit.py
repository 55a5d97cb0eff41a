"""A bound on the operations under way on one store."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from walkeeper.storage.base import Buffer, Capabilities, ObjectInfo, Page, Storage


class LimitedStorage:
    """Another store with at most ``max_concurrent`` operations at a time.

    A read counts while it is opened and while a chunk is fetched, not while its reader is busy
    elsewhere, and a listing does not count: whoever reads one may use the store meanwhile. A
    ``put_stream`` counts as one from its first to its last byte.
    """

    def __init__(self, storage: Storage, max_concurrent: int) -> None:
        self._storage = storage
        self._slots = asyncio.Semaphore(max_concurrent)

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
        async with self._slots:
            await self._storage.put(name, body)

    async def put_stream(self, name: str, chunks: AsyncIterator[Buffer]) -> int:
        """See `Storage.put_stream`."""
        async with self._slots:
            return await self._storage.put_stream(name, chunks)

    @asynccontextmanager
    async def read(
        self, name: str, *, offset: int = 0, length: int | None = None
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        """See `Storage.read`."""
        async with AsyncExitStack() as stack:
            async with self._slots:
                opened = self._storage.read(name, offset=offset, length=length)
                chunks = self._chunks(await stack.enter_async_context(opened))
            stack.push_async_callback(chunks.aclose)
            yield chunks

    async def head(self, name: str) -> ObjectInfo:
        """See `Storage.head`."""
        async with self._slots:
            return await self._storage.head(name)

    def list_objects(self, prefix: str, *, after: str = "") -> AsyncIterator[ObjectInfo]:
        """See `Storage.list_objects`."""
        return self._storage.list_objects(prefix, after=after)

    def list_pages(
        self, prefix: str, *, after: str = "", names_only: bool = False
    ) -> AsyncIterator[Page]:
        """See `Storage.list_pages`."""
        return self._storage.list_pages(prefix, after=after, names_only=names_only)

    async def folders(self, prefix: str) -> list[str]:
        """See `Storage.folders`."""
        async with self._slots:
            return await self._storage.folders(prefix)

    async def delete(self, name: str) -> None:
        """See `Storage.delete`."""
        async with self._slots:
            await self._storage.delete(name)

    async def sync(self, name: str) -> None:
        """See `Storage.sync`."""
        async with self._slots:
            await self._storage.sync(name)

    async def probe(self, name: str, body: Buffer) -> Capabilities:
        """See `Storage.probe`."""
        async with self._slots:
            return await self._storage.probe(name, body)

    async def aclose(self) -> None:
        """Close the store."""
        await self._storage.aclose()

    async def _chunks(self, chunks: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
        while True:
            async with self._slots:
                chunk = await anext(chunks, b"")
            if not chunk:
                return
            yield chunk
