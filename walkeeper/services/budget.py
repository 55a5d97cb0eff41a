"""A bound on the bytes that uploads may hold in memory at the same time."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Grant:
    """Bytes taken from a budget; may shrink once the true need is known."""

    def __init__(self, budget: ByteBudget, size_bytes: int) -> None:
        self._budget = budget
        self.size_bytes = size_bytes

    def shrink(self, size_bytes: int) -> None:
        """Give back what is not needed; growing is not possible and ignored."""
        if size_bytes < self.size_bytes:
            self._budget._give(self.size_bytes - size_bytes)  # noqa: SLF001
            self.size_bytes = size_bytes


class ByteBudget:
    """Admits work by the bytes it may hold, first come, first served.

    What is larger than the whole budget is admitted alone, so nothing waits for ever.
    """

    def __init__(self, limit_bytes: int) -> None:
        self._limit = limit_bytes
        self._free = limit_bytes
        self._waiters: deque[tuple[int, asyncio.Future[None]]] = deque()

    @property
    def used_bytes(self) -> int:
        """What is taken at this moment."""
        return self._limit - self._free

    @asynccontextmanager
    async def take(self, size_bytes: int) -> AsyncIterator[Grant]:
        """Wait until ``size_bytes`` fit, hold them for the block."""
        grant = Grant(self, min(size_bytes, self._limit))
        await self._acquire(grant.size_bytes)
        try:
            yield grant
        finally:
            self._give(grant.size_bytes)

    async def _acquire(self, size_bytes: int) -> None:
        if not self._waiters and size_bytes <= self._free:
            self._free -= size_bytes
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        entry = (size_bytes, future)
        self._waiters.append(entry)
        try:
            await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled():
                self._give(size_bytes)  # admitted and cancelled in the same turn of the loop
            else:
                self._waiters.remove(entry)
                self._wake()
            raise

    def _give(self, size_bytes: int) -> None:
        self._free += size_bytes
        self._wake()

    def _wake(self) -> None:
        while self._waiters and self._waiters[0][0] <= self._free:
            size_bytes, future = self._waiters.popleft()
            if not future.done():
                self._free -= size_bytes
                future.set_result(None)
