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

import re
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Protocol

Buffer = bytes | bytearray | memoryview

READ_CHUNK_BYTES: Final = 256 * 1024
"""The most that one chunk of a read holds."""

_MAX_NAME: Final = 900  # S3 allows 1024 for the whole key; the rest is for the prefix in the URL
_CHARACTER: Final = r"[!-.0-\[\]-~]"  # printable ASCII without blank, slash and backslash
_NAME: Final = re.compile(rf"(?!\.){_CHARACTER}{{1,200}}(?:/(?!\.){_CHARACTER}{{1,200}})*")


def is_valid_name(name: str) -> bool:
    """Whether ``name`` may be the name of an object; see the contract."""
    return len(name) <= _MAX_NAME and _NAME.fullmatch(name) is not None


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
