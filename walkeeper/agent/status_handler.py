"""Answers ``status``: the agent's own facts, none of which asks the store or the server."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Final

import msgspec

from walkeeper import __version__
from walkeeper.agent.access import AccessWatch
from walkeeper.agent.cluster import ClusterService
from walkeeper.agent.compose import Workshop
from walkeeper.agent.control_request import Reply, Request
from walkeeper.agent.http import HttpServer
from walkeeper.agent.scheduler import Scheduler
from walkeeper.core.wal import WalSegment
from walkeeper.repository.archive import Archive
from walkeeper.services.agent_status import (
    AgentStatus,
    ArchivingStatus,
    FetchStatus,
    SinkStatus,
    SourceStatus,
    StoreStatus,
    TailStatus,
)
from walkeeper.services.fetcher import Fetcher

_MAX_TEXT: Final = 500
"""Characters of a message of somebody else; the whole answer must fit into one reply."""
_MAX_DOCUMENT: Final = 5 * 1024
"""What a reply holds, see `Reply`."""
_SHORTER: Final = (250, 120, 60)


class StatusHandler:
    """Made when the agent starts: its uptime counts from there."""

    def __init__(
        self,
        shop: Workshop,
        archive: Archive,
        cluster: ClusterService,
        fetcher: Fetcher,
        scheduler: Scheduler,
        *,
        access: AccessWatch,
        http: HttpServer | None = None,
        told: Callable[[], tuple[SinkStatus, ...]] = tuple,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._shop = shop
        self._archive = archive
        self._cluster = cluster
        self._fetcher = fetcher
        self._scheduler = scheduler
        self._access = access
        self._http = http
        self._told = told
        self._now = now
        self._started_at = now()

    async def __call__(self, request: Request) -> Reply:  # noqa: ARG002 - it has no fields
        """One JSON document, an `AgentStatus`."""
        return Reply.ok(encode_status(self.status()))

    def status(self) -> AgentStatus:
        """The agent's own facts, now; cheap."""
        return AgentStatus(
            version=__version__,
            pid=os.getpid(),
            uptime_s=round(self._now() - self._started_at, 1),
            repository=self._shop.storage.url,
            folder=self._archive.folder,
            archive=self._archive.record.archive,
            source=self._source(),
            archiving=self._archiving(),
            fetch=self._fetch(),
            store=self._store(),
            tail=self._tail(),
            schedule=self._scheduler.statuses(),
            http=None if self._http is None else self._http.status,
            alerting=self._told(),
            expiring=self._access.expiring(),
            expiring_known=self._access.is_complete,
            key_files=self._access.key_files,
        )

    def _source(self) -> SourceStatus:
        guard = self._cluster.guard
        refusal, verified = guard.refusal, guard.verified
        if refusal is not None or verified is None:
            return SourceStatus(
                verified=False,
                connected=guard.session is not None,
                reason=_short(refusal.message if refusal else "the server is being asked"),
                hint=_short(refusal.hint) if refusal else None,
            )
        facts = verified.facts
        return SourceStatus(
            verified=True,
            connected=guard.session is not None,
            data_directory=str(verified.data_dir),
            system_identifier=str(facts.system_identifier),
            server_version=facts.version_num,
            timeline=facts.timeline,
            flush_lsn=None if guard.flush_lsn is None else str(guard.flush_lsn),
        )

    def _archiving(self) -> ArchivingStatus | None:
        archiver = self._cluster.archiver
        if archiver is None:
            return None
        counted = archiver.statistics
        waiting = archiver.waiting()
        oldest = next((wal for wal in waiting if isinstance(wal, WalSegment)), None)
        last_at = counted.last_archived_at
        rpo_s = self._cluster.rpo.rpo_s(self._now())  # newer than what is noted once a second
        return ArchivingStatus(
            backlog=len(waiting),
            backlog_bytes=self._archive.segment_size.bytes
            * sum(isinstance(wal, WalSegment) for wal in waiting),
            oldest_waiting=None if oldest is None else str(oldest),
            archived=counted.archived,
            archived_bytes=counted.archived_bytes,
            failed=counted.failed,
            last_archived=counted.last_archived,
            last_archived_age_s=None if last_at is None else round(self._now() - last_at, 1),
            last_error=_short(counted.last_error),
            rpo_s=round(rpo_s, 1),
            rpo_max_s=round(max(rpo_s, self._cluster.rpo_hour.maximum_s()), 1),
            rpo_p99_s=round(self._cluster.rpo_hour.quantile_s(0.99), 1),
            lost=self._cluster.acknowledged.lost,
        )

    def _tail(self) -> TailStatus | None:
        tail = self._cluster.tail
        if tail is None:
            return None
        counted, state = tail.statistics, tail.state
        return TailStatus(
            state=state.state,
            reason=_short(state.reason),
            interval_s=tail.interval_s,
            shipped_lsn=None if counted.shipped is None else str(counted.shipped),
            links=counted.links,
            merged=counted.merged,
            stored_bytes=counted.stored_bytes,
            requests=tail.requests,
        )

    def _fetch(self) -> FetchStatus:
        counted = self._fetcher.statistics
        return FetchStatus(
            fetched=counted.fetched,
            from_prefetch=counted.from_prefetch,
            absent=counted.absent,
            holes=counted.holes,
            errors=counted.errors,
            last_error=_short(counted.last_error),
        )

    def _store(self) -> StoreStatus:
        capabilities = self._shop.storage.capabilities
        counted = self._shop.counters.statistics()
        return StoreStatus(
            conditional_put=capabilities.conditional_put,
            conditional_multipart=capabilities.conditional_multipart,
            requests=sum(counted.requests.values()),
            errors=sum(counted.errors.values()),
            bytes_written=counted.bytes_written,
            bytes_read=counted.bytes_read,
        )


def encode_status(status: AgentStatus) -> str:
    """The document; where it would not fit into a reply its longest texts are cut."""
    document = msgspec.json.encode(status)
    for limit in _SHORTER:
        if len(document) <= _MAX_DOCUMENT:
            break
        document = msgspec.json.encode(_shortened(msgspec.to_builtins(status), limit))
    return document.decode()


def _shortened(value: object, limit: int) -> object:
    match value:
        case dict():
            return {key: _shortened(inner, limit) for key, inner in value.items()}
        case list() | tuple():
            return [_shortened(inner, limit) for inner in value]
        case str() if len(value) > limit:
            return value[: limit - 3] + "..."
        case _:
            return value


def _short(text: str | None) -> str | None:
    return text if text is None or len(text) <= _MAX_TEXT else text[: _MAX_TEXT - 3] + "..."
