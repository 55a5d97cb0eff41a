"""The values of all metrics at a moment: from what the agent and its observer know already."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Final

from walkeeper import __version__, metrics
from walkeeper.agent.observer import Observer
from walkeeper.core.histogram import HistogramCounts
from walkeeper.core.layout import KINDS
from walkeeper.core.lsn import Lsn
from walkeeper.errors import StorageError
from walkeeper.metrics import Metric
from walkeeper.services.agent_status import AgentStatus
from walkeeper.services.look import Look
from walkeeper.services.status_findings import find_gaps, is_made_up_for
from walkeeper.storage.observe import StorageCounters

JOBS: Final = ("backup", "verify", "drill", "expire")
OPERATIONS: Final = (
    "put",
    "put_stream",
    "read",
    "head",
    "list_objects",
    "folders",
    "delete",
    "sync",
    "probe",
)
"""The methods of `walkeeper.storage.base.Storage` that ask it something."""
ERRORS: Final = (StorageError.__name__, *(kind.__name__ for kind in StorageError.__subclasses__()))
"""The classes that an error of a store can be of."""
SINK_KINDS: Final = ("webhook", "mail", "command", "heartbeat")
"""The first words of the names of sinks."""
_WORRYING: Final = frozenset({"failed", "interrupted", "findings"})

Value = tuple[Metric, tuple[str, ...], float | HistogramCounts]
"""A metric, the values of its labels, its own."""


def measure(observer: Observer, counters: StorageCounters, now: datetime) -> Iterator[Value]:
    """Every value that is known at ``now``; what is not is left out, never 0."""
    agent = observer.agent()
    yield metrics.BUILD, (__version__, platform.python_version()), 1
    yield metrics.UPTIME, (), agent.uptime_s
    yield metrics.FINDINGS, (), len(observer.findings())
    yield metrics.POSTGRES_UP, (), agent.source.verified and agent.source.connected
    failed = observer.look.error is not None or counters.failing() is not None
    yield metrics.STORE_UP, (), not failed
    yield from _archiving(agent)
    disk = observer.samples[-1].disk if observer.samples else None
    if disk is not None:
        yield metrics.DISK_SIZE, (), disk.size_bytes
        yield metrics.DISK_FREE, (), disk.free_bytes
    yield from _archive(observer.last_good, agent, now)
    yield from _jobs(observer.last_good, agent, now)
    yield from _store(counters)
    yield metrics.FETCHED, (), agent.fetch.fetched
    yield metrics.FETCH_ERRORS, (), agent.fetch.errors
    for ending in agent.expiring:
        yield metrics.EXPIRY, (ending.name,), ending.ends_at.timestamp()
    for file in agent.key_files or ():
        yield metrics.KEY_FILE, (file.name,), file.problem is None
    for kind in SINK_KINDS:
        sinks = [one for one in agent.alerting if one.name.partition(" ")[0] == kind]
        yield metrics.NOTIFIED, (kind, "told"), sum(one.told for one in sinks)
        yield metrics.NOTIFIED, (kind, "failed"), sum(one.failed for one in sinks)


def _archiving(agent: AgentStatus) -> Iterator[Value]:
    archiving, tail, flushed = agent.archiving, agent.tail, agent.source.flush_lsn
    if archiving is not None:
        yield metrics.RPO, (), archiving.rpo_s
        yield metrics.RPO_MAX, (), archiving.rpo_max_s
        yield metrics.BACKLOG_FILES, (), archiving.backlog
        yield metrics.BACKLOG_BYTES, (), archiving.backlog_bytes
        yield metrics.ARCHIVED, (), archiving.archived
        yield metrics.ARCHIVED_BYTES, (), archiving.archived_bytes
        yield metrics.ARCHIVE_FAILED, (), archiving.failed
    if flushed is not None:
        yield metrics.FLUSHED, (), Lsn.parse(flushed).value
    if tail is not None and tail.state != "off":
        yield metrics.TAIL_UP, (), tail.state == "shipping"
        yield metrics.TAIL_BYTES, (), tail.stored_bytes


def _archive(look: Look, agent: AgentStatus, now: datetime) -> Iterator[Value]:
    """What the archive held when it was last seen: an outage does not make it unknown."""
    health = look.health
    if look.at is None or health is None:
        return
    yield metrics.LOOKED_AT, (), look.at.timestamp()
    yield metrics.WINDOWS, (), len(health.windows)
    if health.windows:
        newest = health.windows[-1]
        yield metrics.WINDOW_BEGIN, (), newest.begin_at.timestamp()
        end_at = newest.stored_at if newest.missing else _durable_at(agent, now) or newest.stored_at
        if end_at is not None:
            yield metrics.WINDOW_END, (), end_at.timestamp()
    gaps = find_gaps(health, agent)
    healed = sum(is_made_up_for(window, health) for window in gaps)
    yield metrics.GAPS, ("open",), len(gaps) - healed
    yield metrics.GAPS, ("healed",), healed
    yield metrics.BACKUPS, (), len(health.backups)
    if health.backups:
        newest_backup = health.backups[-1]
        oldest_at = min(facts.stopped_at for facts in health.backups)
        yield metrics.BACKUP_OLDEST, (), oldest_at.timestamp()
        yield metrics.BACKUP_NEWEST, (), newest_backup.stopped_at.timestamp()
        yield metrics.BACKUP_BYTES, (), newest_backup.size_bytes
        yield metrics.BACKUP_STORED, (), newest_backup.stored_bytes
    if look.drills.last_proven is not None:
        yield metrics.RTO, (), look.drills.last_proven.rto_s


def _durable_at(agent: AgentStatus, now: datetime) -> datetime | None:
    """Up to when everything is durable, where the server could be asked."""
    if agent.archiving is None or not (agent.source.verified and agent.source.connected):
        return None
    return now - timedelta(seconds=agent.archiving.rpo_s)


def _jobs(look: Look, agent: AgentStatus, now: datetime) -> Iterator[Value]:
    scheduled = {job.name: job for job in agent.schedule}
    by_hand = {
        "backup": look.health.backups[-1].stopped_at
        if look.health is not None and look.health.backups
        else None,
        "drill": look.drills.last_proven.at if look.drills.last_proven is not None else None,
    }
    for name in JOBS:
        job = scheduled.get(name)
        ends = (None if job is None else job.last_done_at, by_hand.get(name))
        done_at = max((end for end in ends if end is not None), default=None)
        if done_at is not None:
            yield metrics.JOB_DONE, (name,), done_at.timestamp()
            yield metrics.JOB_AGE, (name,), (now - done_at).total_seconds()
        yield metrics.JOB_SCHEDULED, (name,), job is not None
        yield metrics.JOB_RUNNING, (name,), job is not None and job.running
        yield metrics.JOB_OVERDUE, (name,), job is not None and job.overdue_since is not None
        yield metrics.JOB_FAILED, (name,), job is not None and job.last_outcome in _WORRYING


def _store(counters: StorageCounters) -> Iterator[Value]:
    counted = counters.statistics()
    for operation in OPERATIONS:
        yield metrics.REQUESTS, (operation,), counted.requests.get(operation, 0)
    for error in ERRORS:
        failed = sum(count for (_, name), count in counted.errors.items() if name == error)
        yield metrics.ERRORS, (error,), failed
        yield metrics.RETRIES, (error,), counted.retries.get(error, 0)
    for kind in KINDS:
        written, read = counters.transfers["write", kind], counters.transfers["read", kind]
        yield metrics.WRITE_S, (kind,), written.seconds.counts()
        yield metrics.WRITE_BYTES, (kind,), written.bytes.counts()
        yield metrics.READ_S, (kind,), read.seconds.counts()
        yield metrics.READ_BYTES, (kind,), read.bytes.counts()
