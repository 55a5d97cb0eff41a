"""Ready WAL files into the archive: what a hook asks for, and several files ahead of it.

``archive_status/*.ready`` is the truth. A scan is woken by file system events, by hooks and by
time; it only ever looks, PostgreSQL's archiver is the one who renames. Timeline history files go
first and alone, all that are in ``pg_wal``, ready or done; then segments from the oldest on,
several at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Final

import structlog

from walkeeper.core.wal import SegmentSize, TimelineHistoryFile, WalFile, WalSegment
from walkeeper.errors import PostgresError, WalkeeperError, WalRefused
from walkeeper.postgres.wal_dir import FileIdentity, WalDirectory

_RESCAN_S: Final = 10.0
"""How long a missed event can go unnoticed; a hook wakes the scan at once anyway."""
_REST_S: Final = 5.0
"""How long a file that failed ahead of its hook is left alone; a hook tries it at once."""
_LOOK_SHARE: Final = 10
"""A look is not repeated before so many times what it took: with 10,000 files ready it takes 50 ms,
and every segment that is done or offered asks for one."""
_LONGEST_PAUSE_S: Final = 1.0
"""Between two looks, and while there is no room for another upload anyway."""

Upload = Callable[[WalFile, FileIdentity], Awaitable[None]]
"""Makes one file durable in every required repository, or raises."""

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class ArchiverStatistics:
    """Counters since the start; ``last_error`` is None when the last upload succeeded.

    ``archived_bytes`` are those of segments, before compression.
    """

    archived: int = 0
    archived_bytes: int = 0
    failed: int = 0
    answered_from_memory: int = 0
    last_archived: str | None = None
    last_archived_at: float | None = None
    last_error: str | None = None


@dataclass(slots=True)
class _Job:
    wal: WalFile
    identity: FileIdentity
    done: asyncio.Future[None]


class Archiver:
    """Keeps the archive up with ``archive_status``; one for each cluster.

    At most ``uploads`` files are on their way ahead of the hook. What is durable is remembered by
    the file's identity (device, inode, size, time) as long as it stays ready, so that the hook for
    it is answered at once, and never for another file of the same name. ``allowed`` says whether
    this process may write into the archive at all.
    """

    def __init__(
        self,
        wal_dir: WalDirectory,
        upload: Upload,
        *,
        size: SegmentSize,
        uploads: int,
        allowed: Callable[[], Awaitable[bool]],
        now: Callable[[], float],
    ) -> None:
        self._wal_dir = wal_dir
        self._upload = upload
        self._size = size
        self._uploads = uploads
        self._allowed = allowed
        self._now = now
        self._jobs: dict[str, _Job] = {}
        self._durable: dict[str, FileIdentity] = {}
        self._failed_at: dict[str, float] = {}
        self._ready: tuple[WalFile, ...] = ()
        self._files: list[WalFile] = []  # what was to be archived at the last look, in order
        self._looked_at = float("-inf")
        self._pause_s = 0.0
        self._alarm: asyncio.TimerHandle | None = None
        self._strange: tuple[str, ...] = ()
        self._expected: frozenset[WalFile] = frozenset()
        self._wake = asyncio.Event()
        self._draining = False
        self._group: asyncio.TaskGroup | None = None
        self.statistics = ArchiverStatistics()

    async def run(self) -> None:
        """Serve until `drain` is called and what is under way has ended, or until cancelled."""
        async with asyncio.TaskGroup() as group:
            self._group = group
            watcher = group.create_task(self._watch())
            try:
                await self._scan()
            finally:
                watcher.cancel()
                self._group = None

    def drain(self) -> None:
        """Start nothing more; `run` returns when what is under way is done."""
        self._draining = True
        self._wake.set()

    async def push(self, wal: WalFile, identity: FileIdentity) -> None:
        """Return when the file is durable; raises why it is not.

        Tries at once, even if the file failed a moment ago. A caller that gives up does not stop
        the upload: the next hook finds it done.
        """
        name = str(wal)
        if self._durable.get(name) == identity:
            self.statistics.answered_from_memory += 1
            return
        job = self._jobs.get(name)
        if job is None or job.identity != identity:
            job = self._start(wal, identity)
        self._wake.set()
        await asyncio.shield(job.done)

    def waiting(self) -> list[WalFile]:
        """What was ready at the last look and is not yet durable, in the archiver's order."""
        return [wal for wal in self._ready if str(wal) not in self._durable]

    def expect(self, segments: Iterable[WalSegment]) -> None:
        """Take segments for ready that PostgreSQL has not marked so, as long as they are there."""
        self._expected |= frozenset(segments)
        self._wake.set()

    async def find_unsettled(self, segment: WalSegment) -> WalFile | None:
        """The oldest file that must be durable before anything of a segment is, by a look now.

        A history first, else the earliest segment of any timeline; None when all are durable. A
        segment that PostgreSQL has finished is marked ready before its end counts as flushed
        (xlog.c, XLogWrite), so a position that was asked for before this look hides none. Only a
        crash in between leaves it without a mark, until a checkpoint finds it: it is sent now.
        """
        scan = await self._wal_dir.scan()
        for history in scan.history:
            if str(history) not in self._durable:
                self._wake.set()
                return history
        await self._expect_unmarked(segment, {*scan.ready, *scan.done})
        earlier = [
            wal
            for wal in {*scan.ready, *self._expected}
            if isinstance(wal, WalSegment)
            and (wal.log, wal.seg) < (segment.log, segment.seg)
            and str(wal) not in self._durable
        ]
        if earlier:
            self._wake.set()
        return min(earlier, key=lambda wal: (wal.log, wal.seg), default=None)

    async def _expect_unmarked(self, segment: WalSegment, marked: set[WalFile]) -> None:
        try:
            previous = segment.previous(self._size)
        except ValueError:
            return
        if previous not in marked and await self._wal_dir.find_identity(previous) is not None:
            self.expect([previous])

    def _start(self, wal: WalFile, identity: FileIdentity) -> _Job:
        if self._group is None or self._draining:
            raise WalkeeperError("the agent is stopping", hint="PostgreSQL will ask again")
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        # Nobody may be waiting for a file sent ahead: its error then lives in the statistics.
        done.add_done_callback(lambda future: future.cancelled() or future.exception())
        job = _Job(wal, identity, done)
        self._jobs[str(wal)] = job
        self._group.create_task(self._process(job))
        return job

    async def _watch(self) -> None:
        async with aclosing(self._wal_dir.watch(poll_interval_s=_RESCAN_S)) as changes:
            async for _ in changes:
                self._wake.set()

    async def _scan(self) -> None:
        while not self._draining:
            self._wake.clear()
            if await self._allowed():
                await self._try_look_ahead()
            await self._wake.wait()

    async def _try_look_ahead(self) -> None:
        try:
            await self._look_ahead()
        except PostgresError as error:
            # Nothing is lost: hooks still come, and the next look may succeed.
            log.warning("archive_status_unreadable", reason=str(error), hint=error.hint)

    async def _look_ahead(self) -> None:
        full = len(self._jobs) >= self._uploads
        pause_s = _LONGEST_PAUSE_S if full else self._pause_s
        rest_s = self._looked_at + pause_s - self._now()
        if rest_s <= 0:
            await self._look()
        elif full:
            return  # the end of each of them wakes us
        elif self._alarm is None:
            self._alarm = asyncio.get_running_loop().call_later(rest_s, self._ring)
        histories_wait = False
        for wal in self._files:
            is_history = isinstance(wal, TimelineHistoryFile)
            if len(self._jobs) >= self._uploads or (histories_wait and not is_history):
                break
            settled = await self._settled(wal)
            histories_wait |= is_history and not settled

    async def _look(self) -> None:
        began = self._now()
        scan = await self._wal_dir.scan()
        if scan.strange != self._strange:
            self._strange = scan.strange
            log.warning("archive_status_strange", names=list(scan.strange[:10]))
        self._ready = scan.ready
        expected = self._expected
        sent = [wal for wal in (*scan.history, *scan.ready) if str(wal) in self._durable]
        found = await self._wal_dir.find_identities([*expected, *sent])
        self._expected -= expected - found.keys()  # more may be expected meanwhile
        # A history file that a standby received by streaming is .done and was never archived.
        files = (*scan.history, *sorted(self._expected, key=str), *scan.ready)
        self._files = list(dict.fromkeys(files))
        self._forget({str(wal) for wal in self._files})
        for wal, identity in found.items():  # another file than the one that was sent is sent too
            if self._durable.get(str(wal), identity) != identity:
                del self._durable[str(wal)]
        self._looked_at = self._now()
        self._pause_s = min(_LOOK_SHARE * (self._looked_at - began), _LONGEST_PAUSE_S)

    def _ring(self) -> None:
        self._alarm = None
        self._wake.set()

    async def _settled(self, wal: WalFile) -> bool:
        """Whether a ready file is durable, or gone; starts it where it is not."""
        name = str(wal)
        if name in self._durable:
            return True
        if name in self._jobs or self._resting(name):
            return False
        identity = await self._wal_dir.find_identity(wal)
        if identity is None or self._durable.get(name) == identity:  # a hook came meanwhile
            return True
        if name not in self._jobs and not self._draining:  # a hook may have come meanwhile
            self._start(wal, identity)
        return False

    def _forget(self, present: set[str]) -> None:
        # A segment that is .done is PostgreSQL's to recycle: nothing about it may be believed.
        self._durable = {name: seen for name, seen in self._durable.items() if name in present}
        self._failed_at = {name: at for name, at in self._failed_at.items() if name in present}

    def _resting(self, name: str) -> bool:
        failed_at = self._failed_at.get(name)
        return failed_at is not None and self._now() - failed_at < _REST_S

    async def _process(self, job: _Job) -> None:
        name = str(job.wal)
        try:
            await self._upload(job.wal, job.identity)
        except asyncio.CancelledError:
            job.done.cancel()
            raise
        except Exception as error:  # noqa: BLE001 - the outermost frame of a task: the hook is told
            self._fail(job, error)
        else:
            self._durable[name] = job.identity
            self._failed_at.pop(name, None)
            self.statistics.archived += 1
            if isinstance(job.wal, WalSegment):
                self.statistics.archived_bytes += self._size.bytes
            self.statistics.last_archived = name
            self.statistics.last_archived_at = self._now()
            self.statistics.last_error = None
            job.done.set_result(None)
        finally:
            if self._jobs.get(name) is job:
                del self._jobs[name]
            self._wake.set()

    def _fail(self, job: _Job, error: Exception) -> None:
        name = str(job.wal)
        known = isinstance(error, WalkeeperError)
        self._failed_at[name] = self._now()
        self.statistics.failed += 1
        self.statistics.last_error = f"{name}: {error if known else type(error).__name__}"
        if not known:
            log.error("wal_upload_broke", file=name, exc_info=error)
        if isinstance(error, WalRefused) and job.wal in self._expected:
            # PostgreSQL does not ask for it, so a tail that waited for it would wait for ever.
            log.warning("unmarked_wal_refused", file=name, reason=str(error))
            self._expected -= {job.wal}
        job.done.set_exception(error)
