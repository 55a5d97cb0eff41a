"""The seam to object stores: what every backend and every wrapper must do.

The contract, tested on every backend by ``tests/contract``:

* **Names** are relative, ``/``-separated, ASCII, without empty, ``.`` or ``..`` components.
* **Writes create, never overwrite.** ``put`` and ``put_stream`` raise `ObjectExists` and change
  nothing when the name is taken, as far as `Capabilities` promises; they return only when the
  object is durable and visible as a whole. A writer that dies leaves nothing visible.
  After any other error the object may or may not exist: the caller asks again.
* **Reads** deliver exactly the bytes stored, or raise. A body that ends early raises
  `StorageUnavailable`, never ends quietly.
* **Errors**: `ObjectNotFound` only when the store itself answered that there is no such object.
  Refused connections, time-outs, 5xx, 429, cut bodies and malformed answers are
  `StorageUnavailable`; 401/403 are `StorageDenied`; quota and ENOSPC are `StorageFull`.
* **Backends hold no policy**: one attempt, no retry. `walkeeper.storage.retry` adds retries and
  deadlines, for operations that are idempotent by contract (all of them but ``put_stream``).
* **Cancellation** is safe at every await: nothing half-written becomes visible, and multipart
  uploads are aborted.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

Buffer = bytes | bytearray | memoryview


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

        Chunks may be of any size; at most two multipart pieces are held in memory. Raises
        `ObjectExists` when the name is taken, at the latest at the end.
        """
        ...

    def read(
        self, name: str, *, offset: int = 0, length: int | None = None
    ) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        """Open an object, or the part of it from ``offset``; yields its bytes in chunks.

        Asking beyond the end yields what there is. Leaving the context early closes the stream.
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
        these very bytes; remembers and returns the answer. Harmless: what is stored stays."""
        ...

    async def aclose(self) -> None:
        """Release connections; idempotent."""
        ...
