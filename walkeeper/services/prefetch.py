"""Segments fetched ahead of a recovery that reads one after the other.

A recovery asks for one segment at a time and waits; while it replays, the next ones are fetched in
parallel. How many doubles with each one that was used, from one to the configured number, and
falls back to one where something was not there: a standby at the end of the archive costs little.
A recovery that was prepared begins with all of them, maybe before PostgreSQL is started.
Only complete segments are fetched, nothing negative is remembered, and each is handed out once.
They are written where the client wants them in the end, if that is possible: then handing one out
is a matter of its name.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Final

import structlog

from walkeeper.core.wal import WalSegment
from walkeeper.errors import WalkeeperError
from walkeeper.repository.archive import Archive
from walkeeper.services.ahead import Ahead, AheadSource, Wishes
from walkeeper.services.fetch_rules import ClientIdentity
from walkeeper.services.patience import patient

_IDLE_S: Final = 300.0
"""After this long without a request what was fetched ahead for a client is dropped."""
_SWEEP_S: Final = 30.0
_REREADS: Final = 2
"""A recovery that ends asks for its last segment again: once in search of more (xlogrecovery.c,
WaitForWALToBecomeAvailable), and once for its last record (FinishWalRecovery)."""
_SPARE: Final = 4
"""So many times the room that all segments ahead take must be free where a client wishes them."""
_GIVE_WAY_S: Final = 0.003
"""What made room for one more has still to be answered: a recovery waits for that, not for this."""
_PATIENCE_S: Final = 10.0
"""A download to which nothing comes for so long is given up: whoever needs it asks for it, and in
standby mode may not be kept waiting for it."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefetchSettings:
    """``count`` segments and ``limit_bytes`` of disk at most for all clients; 0 turns it off.

    ``parallel`` downloads run at once; each needs a few MiB of memory.
    """

    count: int = 8
    limit_bytes: int = 512 << 20
    parallel: int = 4


@dataclass(slots=True)
class _Client:
    """What is known of one recovery: ``last`` is the number of the segment it was served last.

    ``again`` is the last one of all, once it was served, and ``rereads`` how often it was fetched
    once more.
    """

    timeline: int | None
    last: int
    seen_at: float
    wishes: Wishes
    window: int = 1
    again: WalSegment | None = None
    rereads: int = 0
    ahead: dict[WalSegment, asyncio.Task[Ahead | None]] = field(default_factory=dict)


class Prefetcher:
    """Fetches ahead for the recoveries of one archive; without `run` it does nothing.

    The files have no names: they are gone with this process, however it ends.
    """

    def __init__(
        self,
        archive: Archive,
        pool: ThreadPoolExecutor,
        directory: Path,
        settings: PrefetchSettings,
        *,
        now: Callable[[], float],
    ) -> None:
        self._archive = archive
        self._pool = pool
        self._count = min(settings.count, settings.limit_bytes // archive.segment_size.bytes)
        room = _SPARE * self._count * archive.segment_size.bytes
        self._source = AheadSource(archive, pool, directory, room)
        self._slots = asyncio.Semaphore(settings.parallel)
        self._now = now
        self._clients: dict[ClientIdentity, _Client] = {}
        self._group: asyncio.TaskGroup | None = None
        self._running = asyncio.Event()

    @property
    def held(self) -> int:
        """How many segments are there or under way."""
        return sum(len(client.ahead) for client in self._clients.values())

    def is_ahead(self, identity: ClientIdentity, segment: WalSegment) -> bool:
        """Whether this client's segment is there or under way."""
        client = self._clients.get(identity)
        return client is not None and segment in client.ahead

    async def run(self) -> None:
        """Allow fetching ahead until cancelled; then everything is dropped."""
        try:
            async with asyncio.TaskGroup() as group:
                self._group = group
                self._running.set()
                while True:
                    await asyncio.sleep(_SWEEP_S)
                    self._sweep()
        finally:
            self._group = None
            self._running.clear()
            for identity in list(self._clients):
                self._forget(identity)

    async def wait_running(self) -> None:
        """Return when `run` allows fetching ahead."""
        await self._running.wait()

    async def take(
        self, identity: ClientIdentity, timeline: int | None, segment: WalSegment
    ) -> Ahead | None:
        """The segment if it was fetched ahead for this client, waiting for it if it is under way.

        The caller closes the file. What this request shows to be of no use is dropped: a client
        that jumps, goes back or takes another path gets nothing old.
        """
        client = self._clients.get(identity)
        if client is None:
            return None
        client.seen_at = self._now()
        number = segment.number(self._archive.segment_size)
        task = client.ahead.pop(segment, None)
        on_another = any(self._number(other) == number for other in client.ahead)
        expected = client.last + (0 if task is not None and segment == client.again else 1)
        if client.timeline != timeline or number != expected or on_another:
            self._forget(identity)
            if task is not None:
                self._drop(task)
            return None
        if task is None:
            return None
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError:
            self._drop(task)
            raise
        return None if task.cancelled() else task.result()

    def advance(
        self,
        identity: ClientIdentity,
        timeline: int | None,
        served: WalSegment,
        following: Iterator[WalSegment],
        wishes: Wishes,
        *,
        hit: bool,
    ) -> None:
        """Go on fetching behind a segment that was just served; ``following`` are the next ones.

        ``hit`` says that it had been fetched ahead.
        """
        if self._group is None or self._count == 0:
            return
        last = self._number(served)
        client = self._clients.setdefault(identity, _Client(timeline, last, self._now(), wishes))
        client.last = last
        client.wishes = wishes
        if wishes.many:
            client.window = self._count
        if hit:
            client.window *= 2
        client.window = min(client.window, self._count)
        of_use = list(islice(following, self._count))
        if wishes.many and not of_use and client.rereads < _REREADS:
            client.again = served
            client.rereads += 1
            of_use.append(served)
        for segment in client.ahead.keys() - set(of_use):
            self._drop(client.ahead.pop(segment))
        for segment in of_use[: client.window]:
            if segment not in client.ahead and self._has_room(client):
                download_task = self._group.create_task(self._fetch(client, segment))
                client.ahead[segment] = download_task

    def _has_room(self, client: _Client) -> bool:
        """Whether one more may be fetched: each client has its share, whoever came first."""
        share = max(1, self._count // len(self._clients))
        return len(client.ahead) < share and self.held < self._count

    def _number(self, segment: WalSegment) -> int:
        return segment.number(self._archive.segment_size)

    async def _fetch(self, client: _Client, segment: WalSegment) -> Ahead | None:
        """The outermost frame of a task: what goes wrong here is met again when it is asked for."""
        ahead: Ahead | None = None
        await asyncio.sleep(_GIVE_WAY_S)
        try:
            async with self._slots, patient(_PATIENCE_S, str(segment)) as came:
                ahead = await self._source.fetch(segment, client.wishes, came)
        except Exception as error:
            self._close(ahead)
            if not isinstance(error, WalkeeperError):
                log.warning("prefetch_broke", segment=str(segment), exc_info=error)
            self._give_up(client, segment)
            return None
        except BaseException:
            self._close(ahead)
            raise
        return ahead

    def _give_up(self, client: _Client, segment: WalSegment) -> None:
        """Begin anew behind a segment that was not to be had, with those that are there."""
        client.window = 1
        if client.ahead.get(segment) is asyncio.current_task():
            del client.ahead[segment]
        number = self._number(segment)
        for later in [other for other in client.ahead if self._number(other) > number]:
            if not client.ahead[later].done():
                self._drop(client.ahead.pop(later))

    def _sweep(self) -> None:
        for identity, client in list(self._clients.items()):
            if self._now() - client.seen_at > _IDLE_S:
                self._forget(identity)

    def _forget(self, identity: ClientIdentity) -> None:
        client = self._clients.pop(identity, None)
        if client is not None:
            for task in client.ahead.values():
                self._drop(task)
            client.ahead.clear()

    def _drop(self, task: asyncio.Task[Ahead | None]) -> None:
        if task.done():
            self._close_result(task)
        else:
            task.cancel()
            task.add_done_callback(self._close_result)

    def _close_result(self, task: asyncio.Task[Ahead | None]) -> None:
        self._close(None if task.cancelled() else task.result())

    def _close(self, ahead: Ahead | None) -> None:
        if ahead is not None:
            self._pool.submit(ahead.file.close)
