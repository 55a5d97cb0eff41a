"""Checks one stored object: by its signed header, or by reading it to its end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from enum import Enum
from typing import ParamSpec

from walkeeper.codec.opener import ObjectHeader
from walkeeper.core.layout import ObjectName
from walkeeper.core.read_cycle import Sample
from walkeeper.errors import (
    IntegrityError,
    ObjectFrozen,
    ObjectNotFound,
    WrongKey,
    unwrapped,
)
from walkeeper.repository.archive import Archive, StoredDigest
from walkeeper.services.verify_report import Notebook, Problem, Subject
from walkeeper.storage.base import ObjectInfo

P = ParamSpec("P")

Take = Callable[[bytes], Awaitable[None]]
"""Is given the blocks of an object's content, in order."""


class Trouble(Enum):
    """Why nothing can be said of what an object holds."""

    DAMAGED = "damaged"
    GONE = "gone"
    """Deleted since it was listed."""
    FROZEN = "frozen"
    """In a cold storage class: it was not looked at."""


@dataclass(frozen=True, slots=True)
class Whole:
    """An object that was found as it was written; ``frames`` is empty where it was not read."""

    header: ObjectHeader
    was_read: bool
    frames: tuple[bytes, ...] = ()


class ObjectCheck:
    """Checks objects of one archive, several at a time.

    ``sample`` None reads no content at all.
    """

    def __init__(self, archive: Archive, book: Notebook, sample: Sample | None) -> None:
        self.archive = archive
        self.book = book
        self.sample = sample if archive.opener.can_open else None

    def reads(self, name: str) -> bool:
        """Whether this round reads the object to its end."""
        return self.sample is not None and name in self.sample

    async def check(
        self,
        info: ObjectInfo,
        subject: Subject = None,
        *,
        read: bool,
        expected: StoredDigest | None = None,
        take: Take | None = None,
    ) -> Whole | Trouble:
        """Check one; what is wrong with it goes into the notebook.

        What ``take`` raises as IntegrityError is a problem of the object.
        """
        name = ObjectName(info.name)
        self.book.checked.objects += 1
        try:
            return await (self._read(info, expected, take) if read else self._header(info))
        except (IntegrityError, WrongKey) as error:
            self.book.report_error(name, error, subject)
            return Trouble.DAMAGED
        except ObjectFrozen:
            self.book.cold += 1
            return Trouble.FROZEN
        except ObjectNotFound:
            self.book.note(f"{name} was deleted since it was listed")
            return Trouble.GONE
        finally:
            self.book.tell()

    async def _header(self, info: ObjectInfo) -> Whole:
        header = await self.archive.read_header(ObjectName(info.name))
        require_size(header, info)
        return Whole(header, was_read=False)

    async def _read(
        self, info: ObjectInfo, expected: StoredDigest | None, take: Take | None
    ) -> Whole:
        counts = self.book.checked
        name = ObjectName(info.name)
        async with self.archive.open(name, expected=expected) as content:
            checked_size = False
            async for block in content:
                if not checked_size and content.header is not None:
                    require_size(content.header, info)
                    checked_size = True
                if take is not None:
                    await take(block)
                self.book.tell()
        header = content.header
        assert header is not None  # without one the iteration has failed
        require_size(header, info)
        counts.read += 1
        counts.bytes += info.size_bytes
        return Whole(header, was_read=True, frames=content.frames)

    def missing(self, name: str, what: str, subject: Subject = None) -> None:
        """Keep that an object is not there."""
        self.book.report(Problem(name, "missing", what, subject))


def require_size(header: ObjectHeader, info: ObjectInfo) -> None:
    """Raise IntegrityError unless as much is stored as the header implies."""
    implied = header.implied_size()
    if implied is not None and implied != info.size_bytes:
        how = "it was cut" if info.size_bytes < implied else "something was added"
        raise IntegrityError(
            f"{info.size_bytes} bytes are stored where its header implies {implied}: {how}"
        )


class Crew:
    """Runs checks in the order in which they are started, at most so many at once."""

    def __init__(self, group: asyncio.TaskGroup, most: int) -> None:
        self._group = group
        self._free = asyncio.Semaphore(most)

    async def start(
        self, work: Callable[P, Awaitable[object]], *args: P.args, **kwargs: P.kwargs
    ) -> None:
        """Begin as soon as there is room."""
        await self._free.acquire()
        self._group.create_task(self._run(work, *args, **kwargs))

    async def _run(
        self, work: Callable[P, Awaitable[object]], *args: P.args, **kwargs: P.kwargs
    ) -> None:
        try:
            await work(*args, **kwargs)
        finally:
            self._free.release()


@asynccontextmanager
async def crew(most: int) -> AsyncIterator[Crew]:
    """A crew whose work has ended when the context is left."""
    with unwrapped():
        async with asyncio.TaskGroup() as group:
            yield Crew(group, most)
