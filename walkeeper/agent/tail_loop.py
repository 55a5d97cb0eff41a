"""Asks the server where its WAL ends, measures the RPO, and has the tail shipped up to there."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

import structlog

from walkeeper.core.lsn import Lsn
from walkeeper.core.rpo import RpoMeter
from walkeeper.core.wal import WalSegment
from walkeeper.errors import DifferentContent, ForeignCluster, PostgresError, WalkeeperError
from walkeeper.repository.archive import Archive
from walkeeper.services.archiver import Archiver
from walkeeper.services.lineage import Position
from walkeeper.services.source_guard import Checked, SourceGuard
from walkeeper.services.tail import TailShipper, TailStatistics
from walkeeper.services.tail_cleanup import TailCleaner

_MEASURE_S: Final = 1.0
_FIRST_MINOR: Final = {13: 130_005, 14: 140_001}

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class TailState:
    """What the tail does: "shipping", "waiting", "off" or "stopped", all but the first with why.

    It waits for older WAL, or for a store that does not answer; it is stopped by another history.
    """

    state: str
    reason: str | None = None


class TailLoop:
    """Measures how far the archive is behind one server, and ships its tail.

    It looks every second, more often with a shorter interval, also while a link is on its way.
    With ``interval_s`` 0 it only measures.
    """

    def __init__(
        self,
        archive: Archive,
        pg_wal: Path,
        pool: ThreadPoolExecutor,
        *,
        guard: SourceGuard,
        archiver: Archiver,
        rpo: RpoMeter,
        interval_s: float,
        spool: Callable[[], BinaryIO],
    ) -> None:
        self._size = archive.segment_size
        self._cleaner = TailCleaner(archive)
        self._shipper = TailShipper(
            archive, pg_wal, pool, rpo=rpo, spool=spool, leave=self._cleaner.leave
        )
        self._guard = guard
        self._archiver = archiver
        self._rpo = rpo
        self._interval_s = interval_s
        self._timeline: int | None = None
        self._settled: WalSegment | None = None
        self._expected: Checked | None = None
        self._resumed: Checked | None = None
        self.state = TailState("waiting", "the server has not been asked yet")

    @property
    def interval_s(self) -> float:
        """How often the tail is shipped; 0 means never."""
        return self._interval_s

    @property
    def statistics(self) -> TailStatistics:
        """What has been shipped since the start."""
        return self._shipper.statistics

    @property
    def requests(self) -> int:
        """What has been asked of the store; neither retries nor deletes count."""
        return self._shipper.statistics.requests + self._cleaner.requests

    async def run(self) -> None:
        """Serve until cancelled."""
        pause_s = min(self._interval_s or _MEASURE_S, _MEASURE_S)
        due_at = 0.0
        shipping: asyncio.Task[None] | None = None
        async with asyncio.TaskGroup() as group:
            group.create_task(self._cleaner.run())
            while True:
                began = time.monotonic()
                position = await self._measure()
                if shipping is None or shipping.done():
                    checked = self._find_permission(position)
                    due = began > due_at - pause_s / 2
                    if position is not None and checked is not None and due:
                        shipping = group.create_task(self._ship(checked, position))
                        due_at = began + self._interval_s
                await asyncio.sleep(max(0.0, pause_s - (time.monotonic() - began)))

    async def _measure(self) -> Position | None:
        """Where the server is, None on a standby or when it cannot be asked; tells the RPO."""
        session = self._guard.session
        if session is None:
            return None
        try:
            found = await session.wal_position()
            if found is None:
                self._enter(None)
                return None
            position = Position(*found)
            self._enter(position.timeline)
            self._expect(self._guard.checked)
            self._rpo.flush(position.flushed, time.monotonic())
            await self._settle(position)
        except PostgresError as error:
            self._say("waiting", str(error))
            self._guard.ask_now()
            return None
        return position

    def _enter(self, timeline: int | None) -> None:
        if timeline != self._timeline:
            self._rpo.restart(Lsn(0))
            self._timeline = timeline
            self._settled = None

    def _expect(self, checked: Checked | None) -> None:
        if checked is not None and checked is not self._expected:
            self._archiver.expect(checked.lineage.missing)
            self._expected = checked
            self._settled = None

    async def _settle(self, position: Position) -> None:
        """Find out whether everything before the current segment is durable."""
        segment = position.segment(self._size)
        if segment == self._settled:
            return
        behind = await self._archiver.find_unsettled(segment)
        if behind is None:
            self._settled = segment
            self._rpo.store(segment.begin(self._size))
            return
        if isinstance(behind, WalSegment):
            self._rpo.store(behind.begin(self._size))
        self._say("waiting", f"{behind} is not durable yet")

    def _find_permission(self, position: Position | None) -> Checked | None:
        """What was found of the archive's tail, when it may go on from there now."""
        guard, checked = self._guard, self._guard.checked
        verified, refusal = guard.verified, guard.refusal
        if refusal is not None or verified is None:
            foreign = isinstance(refusal, ForeignCluster | DifferentContent)
            self._say("stopped" if foreign else "off", str(refusal))
        elif self._interval_s == 0:
            self._say("off", '[tail] interval is "0s"')
        elif position is None:
            self._say_why_unknown(in_recovery=verified.facts.in_recovery)
        elif is_too_old(verified.facts.version_num):
            self._say("off", f"PostgreSQL {verified.facts.version_num} is too old for it: update")
        elif checked is None or (checked.session, checked.timeline) != (
            guard.session,
            position.timeline,
        ):
            guard.ask_now()
            self._say("waiting", f"timeline {position.timeline} is being recognised")
        elif checked is self._expected and position.segment(self._size) == self._settled:
            return checked
        return None

    def _say_why_unknown(self, *, in_recovery: bool) -> None:
        if in_recovery:
            self._say("off", "the server is a standby: its primary ships the tail")
        elif self._guard.session is None:
            self._say("waiting", "the server cannot be asked")

    async def _ship(self, checked: Checked, position: Position) -> None:
        try:
            if self._resumed is not checked:
                await self._shipper.resume(checked.lineage.tail)
                self._resumed = checked
            await self._shipper.ship(position)
        except ForeignCluster as error:
            self._guard.doubt(error)
            self._say("stopped", str(error))
        except WalkeeperError as error:
            self._fail(str(error), error.hint)
        except Exception as error:  # the outermost frame: whole segments still go
            log.exception("tail_broke")
            self._fail(f"{type(error).__name__}, see the agent's log", None)
        else:
            self._say("shipping")

    def _fail(self, reason: str, hint: str | None) -> None:
        if self.state.reason != reason:
            log.warning("tail_not_shipped", reason=reason, hint=hint)
        self._say("waiting", reason)

    def _say(self, state: str, reason: str | None = None) -> None:
        if state != self.state.state:
            emit = {"stopped": log.error, "waiting": log.debug}.get(state, log.info)
            emit("tail_state", state=state, reason=reason)
        self.state = TailState(state, reason)


def is_too_old(version_num: int) -> bool:
    """Whether a crash of this PostgreSQL could change bytes that it had flushed.

    Before 13.5 and 14.1 a record that was flushed in part was overwritten (their release notes:
    XLP_FIRST_IS_OVERWRITE_CONTRECORD).
    """
    return version_num < _FIRST_MINOR.get(version_num // 10_000, 0)
