"""One archive: sealed objects go in under their names and come out checked.

The archive is a folder of a repository. This module puts names, the container and the store
together; it knows nothing of PostgreSQL's files and nothing of policy.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from enum import Enum
from typing import Final

from walkeeper.codec.opener import ObjectHeader, Opener
from walkeeper.codec.sealed import SealedObject
from walkeeper.codec.sealer import Sealer
from walkeeper.core.layout import ObjectName
from walkeeper.core.wal import SegmentSize
from walkeeper.errors import (
    DifferentContent,
    IntegrityError,
    KeyUnavailable,
    ObjectExists,
    ObjectNotFound,
)
from walkeeper.repository.records import ArchiveRecord
from walkeeper.storage.base import Buffer, ObjectInfo, Page, Storage

HEADER_READ: Final = 4096
"""One read of this many bytes answers what an object is; every header of ours fits."""
_HEADER_MAX: Final = 64 * 1024


class Stored(Enum):
    """How an object came to be durable."""

    CREATED = "created"
    SAME = "same"


@dataclass(frozen=True, slots=True)
class ArchiveKeys:
    """What this process may do with the archive's objects.

    ``sealer`` is None where nothing may be written; ``opener`` checks headers and signatures on
    every host, and opens what is encrypted where it holds an identity.
    """

    sealer: Sealer | None
    opener: Opener


@dataclass(frozen=True, slots=True)
class StoredDigest:
    """What the stored bytes of an object must be: their number and SHA-256 in hex."""

    size_bytes: int
    sha256: str


async def take_header(
    opener: Opener,
    name: ObjectName,
    chunks: AsyncIterator[bytes],
    came: Callable[[], None] | None = None,
) -> tuple[ObjectHeader, memoryview]:
    """The header of an object whose stored bytes begin, and what of its payload came with it.

    ``came`` is called for each chunk. Raises what `Opener.read_header` raises.
    """
    head = b""
    while True:
        chunk = await anext(chunks, b"")
        if came is not None:
            came()
        head += chunk
        header = opener.read_header(name, head, complete=not chunk)
        if header is not None:
            return header, memoryview(head)[header.size_bytes :]


class Content:
    """The blocks of an object's content, to be iterated once.

    They may be used for good only after the iteration has ended without an error: a cut or a
    change is sometimes noticed no earlier than at the end. ``frames`` is filled then.
    """

    def __init__(
        self,
        name: ObjectName,
        chunks: AsyncIterator[bytes],
        opener: Opener,
        pool: ThreadPoolExecutor,
    ) -> None:
        self.frames: tuple[bytes, ...] = ()
        """What was stored behind the content; known at the end."""
        self.header: ObjectHeader | None = None
        """What the object says of itself; known with the first block."""
        self._name = name
        self._opener = opener
        self._pool = pool
        self._blocks = self._read(chunks)

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._blocks

    async def aclose(self) -> None:
        """Stop iterating."""
        await self._blocks.aclose()

    async def _read(self, chunks: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
        loop = asyncio.get_running_loop()
        self.header, rest = await take_header(self._opener, self._name, chunks)
        reader = await loop.run_in_executor(self._pool, self._opener.open, self.header)
        block: bytes | memoryview | None = rest
        while block is not None:
            async for piece in self._pull(reader.feed(block)):
                yield piece
            block = await anext(chunks, None)
        async for piece in self._pull(reader.finish()):
            yield piece
        self.frames = reader.frames

    async def _pull(self, blocks: Iterator[bytes]) -> AsyncIterator[bytes]:
        loop = asyncio.get_running_loop()
        while (piece := await loop.run_in_executor(self._pool, next, blocks, None)) is not None:
            yield piece


class Archive:
    """Reads and writes one archive; shared by everything in a process, safe to use in parallel."""

    def __init__(
        self,
        storage: Storage,
        folder: str,
        record: ArchiveRecord,
        keys: ArchiveKeys,
        pool: ThreadPoolExecutor,
    ) -> None:
        self.storage = storage
        self.folder = folder
        self.record = record
        self.opener = keys.opener
        self._sealer = keys.sealer
        self._pool = pool

    @property
    def segment_size(self) -> SegmentSize:
        """The cluster's WAL segment size."""
        return self.record.wal_segment_size

    @property
    def sealer(self) -> Sealer:
        """Seals objects of this archive; raises KeyUnavailable on a host that may only read."""
        if self._sealer is None:
            raise KeyUnavailable(
                "this host has no writer key, so it cannot write into the archive",
                hint="set [encryption] writer_key_file and recipients",
            )
        return self._sealer

    def path(self, name: str) -> str:
        """The name of an object in the repository."""
        return f"{self.folder}/{name}"

    async def put(self, sealed: SealedObject) -> Stored:
        """Make a sealed object durable under its name.

        Raises DifferentContent, naming both content codes, when the name is taken by something
        else; nothing is overwritten. The same content is success once it has been made durable
        again. Whoever cancels leaves either nothing or the whole object.
        """
        try:
            if sealed.spilled:
                await self.storage.put_stream(self.path(sealed.name), self._blocks(sealed))
            else:
                await self.storage.put(self.path(sealed.name), sealed.body())
        except ObjectExists:
            await self._expect_same(sealed)
            return Stored.SAME
        return Stored.CREATED

    async def holds(self, name: ObjectName) -> bool:
        """Whether there is an object of that name, whatever it is. Raises what storage raises."""
        return await self.find(name) is not None

    async def find(self, name: ObjectName) -> ObjectInfo | None:
        """What the store says of an object, None where there is none. Raises what storage raises.

        The name in it is the one in the repository.
        """
        try:
            return await self.storage.head(self.path(name))
        except ObjectNotFound:
            return None

    async def _blocks(self, sealed: SealedObject) -> AsyncIterator[Buffer]:
        loop = asyncio.get_running_loop()
        blocks = iter(sealed.blocks())
        while (block := await loop.run_in_executor(self._pool, next, blocks, None)) is not None:
            yield block

    async def _expect_same(self, sealed: SealedObject) -> None:
        name = sealed.name
        header = await self.read_header(name)
        info = await self.storage.head(self.path(name))
        if header.content is None or header.content != sealed.content:
            there = "unknown" if header.content is None else header.content.hex()[:16]
            raise DifferentContent(
                f"{name} exists with other content: stored {there}, offered "
                f"{sealed.content.hex()[:16]}; nothing was overwritten",
                hint="two servers may be writing into one archive: compare their histories",
            )
        if info.size_bytes != header.implied_size():
            raise IntegrityError(
                f"{name} is damaged: {info.size_bytes} bytes are stored where its header "
                f"implies {header.implied_size()}"
            )
        await self.storage.sync(self.path(name))

    async def read_header(self, name: ObjectName) -> ObjectHeader:
        """What is stored under a name, by its signed header alone; needs no identity."""
        data = await self.read_range(name, 0, HEADER_READ)
        header = self.opener.read_header(name, data, complete=len(data) < HEADER_READ)
        if header is None:
            data = await self.read_range(name, 0, _HEADER_MAX)
            header = self.opener.read_header(name, data, complete=True)
        assert header is not None  # a header that is not complete by now was refused
        return header

    async def read_range(self, name: ObjectName, offset: int, length: int) -> bytes:
        """Raw stored bytes, fewer at the end of the object."""
        async with self.storage.read(self.path(name), offset=offset, length=length) as chunks:
            return b"".join([chunk async for chunk in chunks])

    @asynccontextmanager
    async def open(
        self, name: ObjectName, *, expected: StoredDigest | None = None
    ) -> AsyncIterator[Content]:
        """The content of an object as it is decrypted and decompressed, in blocks.

        With ``expected`` the stored bytes must have that size and digest. Raises IntegrityError,
        WrongKey, ObjectNotFound and what storage raises, the first of them while iterating too.
        """
        async with self.storage.read(self.path(name)) as chunks:
            checked = chunks if expected is None else self._compared(name, chunks, expected)
            content = Content(name, checked, self.opener, self._pool)
            try:
                yield content
            finally:
                await content.aclose()

    async def _compared(
        self, name: ObjectName, chunks: AsyncIterator[bytes], expected: StoredDigest
    ) -> AsyncIterator[bytes]:
        loop = asyncio.get_running_loop()
        digest = hashlib.sha256()
        size = 0
        async for chunk in chunks:
            size += len(chunk)
            await loop.run_in_executor(self._pool, digest.update, chunk)
            yield chunk
        if (size, digest.hexdigest()) != (expected.size_bytes, expected.sha256):
            raise IntegrityError(f"{name} is not the object that the backup's manifest names")

    async def read(self, name: ObjectName, *, limit_bytes: int, sha256: str | None = None) -> bytes:
        """The whole content of a small object, whose stored bytes are read into memory first.

        ``limit_bytes`` bounds the stored bytes and the content; ``sha256`` is the hex digest that
        the stored bytes must have. Raises IntegrityError where they do not keep to it.
        """
        loop = asyncio.get_running_loop()
        data = await self.read_range(name, 0, limit_bytes + 1)
        if len(data) > limit_bytes:
            raise IntegrityError(f"{name} holds more than {limit_bytes} bytes")
        if sha256 is not None and hashlib.sha256(data).hexdigest() != sha256:
            raise IntegrityError(f"{name} is not the object that was committed")
        opened = await loop.run_in_executor(
            self._pool, lambda: self.opener.open_whole(name, data, limit_bytes=limit_bytes)
        )
        return opened.plaintext

    async def list_objects(self, prefix: str, *, after: str = "") -> AsyncIterator[ObjectInfo]:
        """Objects below a prefix, names relative to the archive, in order."""
        start = self.path(after) if after else ""
        cut = len(self.folder) + 1
        async for info in self.storage.list_objects(self.path(prefix), after=start):
            yield ObjectInfo(info.name[cut:], info.size_bytes, info.modified_at, info.storage_class)

    async def list_pages(self, prefix: str, *, names_only: bool = False) -> AsyncIterator[Page]:
        """The same page by page; see `Storage.list_pages`."""
        cut = len(self.folder) + 1
        async for page in self.storage.list_pages(self.path(prefix), names_only=names_only):
            yield replace(page, names=[name[cut:] for name in page.names])

    async def folders(self, prefix: str) -> list[str]:
        """The folders just below a prefix, names relative to the archive."""
        cut = len(self.folder) + 1
        return [name[cut:] for name in await self.storage.folders(self.path(prefix))]
