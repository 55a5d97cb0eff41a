"""The seam to object stores: what every backend and every wrapper must do.

The contract, tested on every backend by ``tests/contract``:

* **Names** are relative and ``/``-separated; a component is 1 to 200 printable ASCII characters
  without blank or backslash and does not begin with a dot; a whole name has at most 900. No name is
  a folder of another. A name that breaks the rules is a mistake of the program: `ValueError`.
  Stored things whose names break them are not ours and are not listed.
* **Writes create, never overwrite.** ``put`` and ``put_stream`` raise `ObjectExists` and change
  nothing when the name is taken, as far as `Capabilities` promises; they return only when the
  object is durable and visible as a whole. A writer that dies leaves nothing visible.
  After any other error the object may or may not exist: the caller asks again, and may then meet
  `ObjectExists` because of its own first try, so it decides by content.
* **Reads** deliver exactly the bytes stored, or raise. A body that ends early raises
  `StorageUnavailable`, never ends quietly.
* **Errors**: `ObjectNotFound` only when the store itself answered that there is no such object; a
  bucket or a mount that is missing is not such an answer. Refused connections, time-outs, 5xx, 429,
  cut bodies and malformed answers are `StorageUnavailable`; 401/403 are `StorageDenied`; quota and
  ENOSPC are `StorageFull`; objects in a cold storage class are `ObjectFrozen`. What the store
  refuses for another reason is a plain `StorageError`.
* **Backends hold no policy**: one attempt, no retry. `walkeeper.storage.retry` adds retries and
  deadlines, for operations that are idempotent by contract (all of them but ``put_stream``, whose
  single requests a backend repeats through the `Retrier` that it is given).
* **Cancellation** is safe at every await: nothing half-written becomes visible, and multipart
  uploads are aborted.
* **Memory**: ``put`` holds its body once or twice and 1 MiB, ``put_stream`` two pieces,
  ``read`` one chunk of at most 256 KiB, a listing one page or the names of one directory.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import groupby, repeat
from typing import Final, Protocol

Buffer = bytes | bytearray | memoryview

READ_CHUNK_BYTES: Final = 256 * 1024
"""The most that one chunk of a read holds."""

MAX_NAME: Final = 900  # S3 allows 1024 for the whole key; the rest is for the prefix in the URL
_MAX_COMPONENT: Final = 200


def is_valid_name(name: str) -> bool:
    """Whether ``name`` may be the name of an object; see the contract."""
    return len(name) <= MAX_NAME and all(map(is_valid_component, name.split("/")))


def is_valid_component(text: str) -> bool:
    """Whether ``text`` may be what stands between two slashes of a name; see the contract."""
    return (
        0 < len(text) <= _MAX_COMPONENT
        and text.isascii()
        and text.isprintable()
        and text[0] != "."
        and not (" " in text or "/" in text or "\\" in text)
    )


def check_name(name: str) -> str:
    """Returns ``name``; raises ValueError when it cannot be the name of an object."""
    if not is_valid_name(name):
        raise ValueError(f"not the name of an object: {name!r}")
    return name


def check_folder(prefix: str) -> str:
    """Returns ``prefix``; raises ValueError unless it is empty or a folder ending in ``/``."""
    if prefix and not (prefix.endswith("/") and is_valid_name(prefix[:-1])):
        raise ValueError(f"not a folder: {prefix!r}")
    return prefix


def check_range(offset: int, length: int | None) -> None:
    """Raises ValueError when a range to read is negative."""
    if offset < 0 or (length is not None and length < 0):
        raise ValueError(f"not a range: offset {offset}, length {length}")


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """What a listing says of one object.

    ``modified_at`` is the store's own clock, in UTC; ``storage_class`` is None where the store has
    none or does not say.
    """

    name: str
    size_bytes: int
    modified_at: datetime
    storage_class: str | None = None


@dataclass(frozen=True, slots=True)
class Page:
    """Some objects of a listing, in its order: a column for each thing that is said of them.

    Where only names were asked for, the other columns may be empty. ``modified_at`` is in seconds
    since 1970; ``storage_classes`` is empty where the store has none.
    """

    names: Sequence[str]
    sizes: Sequence[int] = ()
    modified_at: Sequence[float] = ()
    storage_classes: Sequence[str | None] = ()

    @classmethod
    def of(cls, infos: Sequence[ObjectInfo]) -> Page:
        """The page of these objects."""
        return cls(
            [info.name for info in infos],
            [info.size_bytes for info in infos],
            [info.modified_at.timestamp() for info in infos],
            [info.storage_class for info in infos],
        )

    def by_folder(self) -> Iterator[tuple[str, Page]]:
        """The same, a page for each run of names in one folder, whose name ends in ``/``."""
        begin = 0
        for folder, names in groupby(self.names, lambda name: name[: name.rfind("/") + 1]):
            part = slice(begin, begin := begin + sum(1 for _ in names))
            yield (
                folder,
                Page(
                    self.names[part],
                    self.sizes[part],
                    self.modified_at[part],
                    self.storage_classes[part],
                ),
            )

    def infos(self) -> Iterator[ObjectInfo]:
        """The same, one object at a time; not of a page that has only names."""
        classes = self.storage_classes or repeat(None, len(self.names))
        for name, size, at, one in zip(
            self.names, self.sizes, self.modified_at, classes, strict=True
        ):
            yield ObjectInfo(name, size, datetime.fromtimestamp(at, UTC), one)


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What the store has shown that it enforces; None means not probed yet."""

    conditional_put: bool | None = None
    conditional_multipart: bool | None = None


class Storage(Protocol):
    """One place that holds archives; see the module's docstring for the contract."""

    @property
    def url(self) -> str:
        """Where it is, without credentials: for messages."""
        ...

    @property
    def capabilities(self) -> Capabilities:
        """What is known of the store's conditional create."""
        ...

    async def put(self, name: str, body: Buffer) -> None:
        """Create a durable object of ``body``; raises `ObjectExists` when the name is taken."""
        ...

    async def put_stream(self, name: str, chunks: AsyncIterator[Buffer]) -> int:
        """Create a durable object of a stream of unknown length; returns its size in bytes.

        Chunks may be of any size and are not kept after the next one is asked for. The caller owns
        ``chunks``: what it raises passes through unchanged, and nothing becomes visible. Raises
        `ObjectExists` when the name is taken, at the latest at the end.
        """
        ...

    def read(
        self, name: str, *, offset: int = 0, length: int | None = None
    ) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        """Open an object, or the part of it from ``offset``; yields its bytes in chunks.

        Raises `ObjectNotFound` on entering. Asking beyond the end yields what there is. Leaving the
        context early closes the stream; chunks are never empty.
        """
        ...

    async def head(self, name: str) -> ObjectInfo:
        """Size and time of one object."""
        ...

    def list_objects(self, prefix: str, *, after: str = "") -> AsyncIterator[ObjectInfo]:
        """Every object whose name begins with ``prefix`` and sorts after ``after``, in order of
        their names' bytes. Uploads under way are not shown."""
        ...

    def list_pages(
        self, prefix: str, *, after: str = "", names_only: bool = False
    ) -> AsyncIterator[Page]:
        """What `list_objects` yields, as it comes from the store: a listing of a million objects
        costs a tenth of the time. A page is never empty.

        ``names_only`` spares a directory the look at each file, and so what was deleted since its
        name was read is still listed.
        """
        ...

    async def folders(self, prefix: str) -> list[str]:
        """The distinct names up to the next ``/`` below ``prefix``, each ending in ``/``, sorted.

        ``prefix`` is empty or ends in ``/``.
        """
        ...

    async def delete(self, name: str) -> None:
        """Remove an object; a name that is not there is success."""
        ...

    async def sync(self, name: str) -> None:
        """Make an object that exists durable once more (file systems: the file and every directory
        above it; object stores: nothing to do). Raises `ObjectNotFound`."""
        ...

    async def probe(self, name: str, body: Buffer) -> Capabilities:
        """Find out whether creates are conditional, by writing an object again that exists with
        these very bytes; remembers and returns the answer.

        Harmless: the object is compared with ``body`` first. A versioned bucket that does not
        enforce conditions may keep further versions with the same bytes. Raises `ObjectNotFound`,
        and `DifferentContent` when other bytes are stored under that name.
        """
        ...

    async def aclose(self) -> None:
        """Release connections; idempotent."""
        ...
