"""A store in memory, for tests of the layers above: it passes the contract and forgets."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Final

from walkeeper.errors import DifferentContent, ObjectExists, ObjectNotFound
from walkeeper.storage.base import (
    READ_CHUNK_BYTES,
    Buffer,
    Capabilities,
    ObjectInfo,
    Page,
    check_folder,
    check_name,
    check_range,
)

_ENFORCED: Final = Capabilities(conditional_put=True, conditional_multipart=True)


class MemoryStorage:
    """Objects in a dictionary; creates are conditional. ``clock`` is the store's own."""

    def __init__(
        self, url: str = "memory:", *, clock: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        self._url = url
        self._clock = clock
        self._objects: dict[str, tuple[bytes, datetime]] = {}

    @property
    def url(self) -> str:
        """Where it is: nowhere."""
        return self._url

    @property
    def capabilities(self) -> Capabilities:
        """Everything is enforced."""
        return _ENFORCED

    async def put(self, name: str, body: Buffer) -> None:
        """See `Storage.put`."""
        self._create(check_name(name), bytes(body))

    async def put_stream(self, name: str, chunks: AsyncIterator[Buffer]) -> int:
        """See `Storage.put_stream`; the whole object is held in memory, naturally."""
        check_name(name)
        body = bytearray()
        async for chunk in chunks:
            body += chunk
        self._create(name, bytes(body))
        return len(body)

    @asynccontextmanager
    async def read(
        self, name: str, *, offset: int = 0, length: int | None = None
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        """See `Storage.read`."""
        check_range(offset, length)
        body, _ = self._find(name)
        end = len(body) if length is None else offset + length
        chunks = _in_chunks(body[offset:end])
        try:
            yield chunks
        finally:
            await chunks.aclose()

    async def head(self, name: str) -> ObjectInfo:
        """See `Storage.head`."""
        body, modified_at = self._find(name)
        return ObjectInfo(name, len(body), modified_at)

    async def list_objects(self, prefix: str, *, after: str = "") -> AsyncIterator[ObjectInfo]:
        """See `Storage.list_objects`; shows what was there when it began."""
        for name in sorted(self._objects):
            if name.startswith(prefix) and name > after and name in self._objects:
                yield await self.head(name)

    async def list_pages(
        self,
        prefix: str,
        *,
        after: str = "",
        names_only: bool = False,  # noqa: ARG002 - the rest is at hand
    ) -> AsyncIterator[Page]:
        """See `Storage.list_pages`; each object is a page of its own."""
        async for info in self.list_objects(prefix, after=after):
            yield Page.of([info])

    async def folders(self, prefix: str) -> list[str]:
        """See `Storage.folders`."""
        check_folder(prefix)
        below = (name[len(prefix) :] for name in self._objects if name.startswith(prefix))
        return sorted({prefix + rest.split("/")[0] + "/" for rest in below if "/" in rest})

    async def delete(self, name: str) -> None:
        """See `Storage.delete`."""
        self._objects.pop(check_name(name), None)

    async def sync(self, name: str) -> None:
        """See `Storage.sync`."""
        self._find(name)

    async def probe(self, name: str, body: Buffer) -> Capabilities:
        """See `Storage.probe`."""
        if self._find(name)[0] != bytes(body):
            raise DifferentContent(f"{self._url}/{name} holds other bytes than expected")
        return _ENFORCED

    async def aclose(self) -> None:
        """Nothing to release; the objects stay."""

    def _create(self, name: str, body: bytes) -> None:
        if name in self._objects:
            raise ObjectExists(f"{self._url}/{name} exists")
        self._objects[name] = (body, self._clock())

    def _find(self, name: str) -> tuple[bytes, datetime]:
        try:
            return self._objects[check_name(name)]
        except KeyError:
            raise ObjectNotFound(f"{self._url}/{name} does not exist") from None


async def _in_chunks(body: bytes) -> AsyncGenerator[bytes, None]:
    for begin in range(0, len(body), READ_CHUNK_BYTES):
        yield body[begin : begin + READ_CHUNK_BYTES]
