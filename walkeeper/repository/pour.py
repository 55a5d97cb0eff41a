"""Stored objects to content in threads of the pool, one hop for each chunk of the store."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

from walkeeper.codec.compress import SMALL_STEP_BYTES
from walkeeper.codec.reader import ObjectReader
from walkeeper.core.layout import ObjectName
from walkeeper.repository.archive import Archive, take_header
from walkeeper.repository.unseal import feed_in_slices
from walkeeper.storage.base import Buffer

Take = Callable[[bytes], None]
"""Takes a block in a thread; it is to be let go before the next one comes."""


async def pour(
    archive: Archive,
    name: ObjectName,
    take: Take,
    pool: ThreadPoolExecutor,
    *,
    came: Callable[[], None] | None = None,
) -> None:
    """Give the content of an object to ``take``, block by block.

    All that a chunk of the store makes readable goes in one turn of a thread, in blocks that use
    the same memory: `Archive.open` takes a turn, and fresh memory, for each block. What was taken
    is whole only when this returns; a thread may be taking one still when this is cancelled.
    ``came`` is called for each chunk. Raises what `Archive.open` raises and what ``take`` raises.
    """
    loop = asyncio.get_running_loop()
    async with archive.storage.read(archive.path(name)) as chunks:
        header, rest = await take_header(archive.opener, name, chunks, came)
        reader = await loop.run_in_executor(
            pool, lambda: archive.opener.open(header, step_bytes=SMALL_STEP_BYTES)
        )
        chunk: Buffer | None = rest
        while chunk is not None:
            await loop.run_in_executor(pool, _feed, reader, chunk, take)
            chunk = await anext(chunks, None)
            if came is not None:
                came()
        await loop.run_in_executor(pool, _pass_on, reader.finish(), take)


def _feed(reader: ObjectReader, chunk: Buffer, take: Take) -> None:
    _pass_on(feed_in_slices(reader, chunk), take)


def _pass_on(blocks: Iterator[bytes], take: Take) -> None:
    for block in blocks:
        take(block)
