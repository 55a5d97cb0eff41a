"""How long to wait for a store that does not answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from walkeeper.errors import StorageUnavailable


@asynccontextmanager
async def patient(limit_s: float | None, what: str) -> AsyncIterator[Callable[[], None]]:
    """Give up what stands in the block once nothing has come for ``limit_s``; None: never.

    What is yielded is to be called whenever something comes: what is slow goes on, what stands
    still ends with StorageUnavailable.
    """
    loop = asyncio.get_running_loop()
    scope = asyncio.timeout(limit_s)

    def came() -> None:
        if limit_s is not None and not scope.expired():
            scope.reschedule(loop.time() + limit_s)

    try:
        async with scope:
            yield came
    except TimeoutError as error:
        if not scope.expired():
            raise
        raise StorageUnavailable(f"{what}: nothing came for {limit_s:g} s") from error
