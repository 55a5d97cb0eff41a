"""A repository in a directory: ``file:///path``.

An object is a file of that name below the root. The root itself is never created: a missing mount
must not be replaced by an empty directory. Temporary files of writers that died are removed by
listings when nobody has written to them for a day.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

from walkeeper.errors import DifferentContent, ObjectExists, ObjectNotFound
from walkeeper.storage.base import (
    Buffer,
    Capabilities,
    ObjectInfo,
    Page,
    check_folder,
    check_name,
    check_range,
)
from walkeeper.storage.direct import Stages
from walkeeper.storage.durable import Draft, os_errors, prune_folders, sync_file, sync_folders
from walkeeper.storage.folder import FileReader, FolderReader, stat_file
from walkeeper.storage.root import RootGuard

T = TypeVar("T")

_ENFORCED: Final = Capabilities(conditional_put=True, conditional_multipart=True)
_WRITE_BYTES: Final = 1024 * 1024
_STAT_BATCH: Final = 500


class FilesystemStorage:
    """Objects as files below ``root``; all file work runs in ``executor``, which stays the
    caller's."""

    def __init__(self, root: Path, executor: ThreadPoolExecutor) -> None:
        self._root = root
        self._executor = executor
        self._guard = RootGuard(root)
        self._stages = Stages()

    @property
    def url(self) -> str:
        """The root as a URL."""
        return self._root.as_uri()

    @property
    def capabilities(self) -> Capabilities:
        """link(2) never replaces; where a file system has nothing like it, writes fail."""
        return _ENFORCED

    async def put(self, name: str, body: Buffer) -> None:
        """See `Storage.put`."""
        path = self._path(name)

        def write() -> None:
            self._guard.check()
            _refuse_existing(path)
            draft = Draft(self._root, path, self._stages)
            try:
                draft.write(body)
                draft.publish()
            finally:
                draft.discard()
            self._guard.written(name)

        await self._run(write)

    async def put_stream(self, name: str, chunks: AsyncIterator[Buffer]) -> int:
        """See `Storage.put_stream`."""
        path = self._path(name)

        def begin() -> Draft:
            self._guard.check()
            _refuse_existing(path)
            return Draft(self._root, path, self._stages)

        draft = await self._acquire(begin, Draft.discard)
        try:
            size_bytes = 0
            async for batch in _in_batches(chunks):
                await self._run(partial(draft.write, batch))
                size_bytes += memoryview(batch).nbytes
            await self._run(draft.publish)
            await self._run(partial(self._guard.written, name))
        finally:
            await asyncio.shield(asyncio.wrap_future(self._executor.submit(draft.discard)))
        return size_bytes

    @asynccontextmanager
    async def read(
        self, name: str, *, offset: int = 0, length: int | None = None
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        """See `Storage.read`."""
        check_range(offset, length)
        path = self._path(name)
        reader = await self._acquire(
            lambda: self._asked(path, lambda: FileReader(path, offset, length)), FileReader.close
        )
        chunks = self._chunks(reader)
        try:
            yield chunks
        finally:
            await chunks.aclose()
            self._executor.submit(reader.close)

    async def head(self, name: str) -> ObjectInfo:
        """See `Storage.head`."""
        path = self._path(name)
        return await self._run(lambda: self._asked(path, lambda: _info(name, stat_file(path))))

    async def list_objects(self, prefix: str, *, after: str = "") -> AsyncIterator[ObjectInfo]:
        """See `Storage.list_objects`; removes abandoned temporary files on its way."""
        async for page in self.list_pages(prefix, after=after):
            for info in page.infos():
                yield info

    async def list_pages(
        self, prefix: str, *, after: str = "", names_only: bool = False
    ) -> AsyncIterator[Page]:
        """See `Storage.list_pages`; removes abandoned temporary files on its way."""
        await self._run(self._guard.check)
        folder = check_folder(prefix[: prefix.rfind("/") + 1])
        reader = FolderReader(self._root, prefix, after, now=time.time)
        pending = await self._run(partial(self._entries, reader, folder))
        while pending:
            if pending[-1].endswith("/"):
                below = pending.pop()
                pending += await self._run(partial(self._entries, reader, below))
                continue
            page = Page(_take_files(pending))
            if not names_only:
                page = await self._run(partial(self._page, reader, page.names))
            if page.names:
                yield page

    async def folders(self, prefix: str) -> list[str]:
        """See `Storage.folders`."""
        check_folder(prefix)
        reader = FolderReader(self._root, prefix, "", now=time.time)

        def search() -> list[str]:
            self._guard.check()
            below = [name for name in reader.entries(prefix) if name.endswith("/")]
            found = sorted(name for name in below if reader.holds_object(name))
            self._guard.check()
            return found

        return await self._run(search)

    async def delete(self, name: str) -> None:
        """See `Storage.delete`; the removal is durable, and empty folders go as well."""
        path = self._path(name)

        def remove() -> None:
            self._guard.check()
            missing = suppress(FileNotFoundError, NotADirectoryError)
            with os_errors("delete", path), missing:
                path.unlink()
                sync_folders(path.parent, path.parent)
                prune_folders(self._root, path.parent)
            self._guard.deleted(name)

        await self._run(remove)

    async def sync(self, name: str) -> None:
        """See `Storage.sync`: the file and every directory up to the root."""
        path = self._path(name)

        def harden() -> None:
            stat_file(path)
            sync_file(path)
            sync_folders(self._root, path.parent)

        await self._run(lambda: self._asked(path, harden))

    async def probe(self, name: str, body: Buffer) -> Capabilities:
        """See `Storage.probe`: one more file is written, and must be refused its name."""
        async with self.read(name, length=len(body) + 1) as chunks:
            if b"".join([chunk async for chunk in chunks]) != bytes(body):
                raise DifferentContent(f"{self._path(name)} holds other bytes than expected")
        path = self._path(name)

        def try_to_replace() -> None:
            draft = Draft(self._root, path, self._stages)
            try:
                draft.write(body)
                draft.publish()
            finally:
                draft.discard()

        with suppress(ObjectExists):
            await self._run(try_to_replace)
        return _ENFORCED

    async def aclose(self) -> None:
        """Nothing to release."""

    def _path(self, name: str) -> Path:
        return self._root / check_name(name)

    def _asked(self, path: Path, question: Callable[[], T]) -> T:
        """The answer, or `ObjectNotFound` when the file system itself denies that there is one."""
        self._guard.check()
        with os_errors("read", path):
            try:
                answer = question()
            except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
                self._guard.check()
                raise ObjectNotFound(f"{path} does not exist") from None
        self._guard.used()
        return answer

    def _entries(self, reader: FolderReader, folder: str) -> list[str]:
        entries = reader.entries(folder)
        self._guard.check()  # a folder that is missing is empty only if its root is there
        if any(not name.endswith("/") for name in entries):
            self._guard.used()
        return entries

    def _page(self, reader: FolderReader, names: Sequence[str]) -> Page:
        page = reader.stat(names)
        self._guard.check()
        return page

    async def _chunks(self, reader: FileReader) -> AsyncGenerator[bytes, None]:
        while chunk := await self._run(reader.read):
            yield chunk

    async def _run(self, job: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._executor, job)

    async def _acquire(self, job: Callable[[], T], release: Callable[[T], None]) -> T:
        """What ``job`` returns; released when we are cancelled before it could be handed over."""
        future = self._executor.submit(job)

        def let_go(done: Future[T]) -> None:
            if not done.cancelled() and done.exception() is None:
                release(done.result())

        try:
            return await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            future.add_done_callback(let_go)
            raise


def _refuse_existing(path: Path) -> None:
    # Cheaper than writing everything and being refused its name; the name decides all the same.
    if os.path.lexists(path):
        raise ObjectExists(f"{path} exists")


def _info(name: str, found: os.stat_result) -> ObjectInfo:
    return ObjectInfo(name, found.st_size, datetime.fromtimestamp(found.st_mtime, UTC))


def _take_files(pending: list[str]) -> list[str]:
    """The next files of a stack, whose top is one, as many as are asked about at once."""
    files: list[str] = []
    while pending and not pending[-1].endswith("/") and len(files) < _STAT_BATCH:
        files.append(pending.pop())
    return files


async def _in_batches(chunks: AsyncIterator[Buffer]) -> AsyncGenerator[Buffer, None]:
    """The same bytes in pieces worth a thread's while; a chunk that is one is not copied."""
    batch = bytearray()
    async for chunk in chunks:
        if not batch and memoryview(chunk).nbytes >= _WRITE_BYTES:
            yield chunk
            continue
        batch += chunk
        if len(batch) >= _WRITE_BYTES:
            yield batch
            batch = bytearray()
    if batch:
        yield batch
