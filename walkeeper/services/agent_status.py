"""What a running agent says of itself: the answer to the control request ``status``."""

from __future__ import annotations

from datetime import datetime
from typing import Final, Literal

import msgspec

from walkeeper.errors import IntegrityError


class SourceStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The server that the agent archives; while it is not ``verified``, ``reason`` says why.

    ``connected`` is false while nobody can be asked: the last answer then still holds.
    """

    verified: bool
    connected: bool = True
    reason: str | None = None
    hint: str | None = None
    data_directory: str | None = None
    system_identifier: str | None = None
    server_version: int | None = None
    timeline: int | None = None
    flush_lsn: str | None = None


class ArchivingStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The archiver; counters are since the agent's start, ``backlog`` counts files now and
    ``backlog_bytes`` those of their segments, before compression.

    ``rpo_s`` is the age of the oldest flushed byte that is not durable, now; ``rpo_max_s`` and
    ``rpo_p99_s`` are those of the last hour. ``lost`` is the object that was acknowledged last,
    where the archive does not hold it any more.
    """

    backlog: int
    oldest_waiting: str | None
    archived: int
    failed: int
    last_archived: str | None
    last_archived_age_s: float | None
    last_error: str | None
    rpo_s: float
    rpo_max_s: float = 0.0
    rpo_p99_s: float = 0.0
    backlog_bytes: int = 0
    archived_bytes: int = 0
    lost: str | None = None


class TailStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The tail; ``state`` is "shipping", "waiting", "off" or "stopped", all but the first with why.

    ``shipped_lsn`` is the position up to which it is stored; counters are since the agent's start,
    ``requests`` without deletes.
    """

    state: str
    reason: str | None
    interval_s: float
    shipped_lsn: str | None
    links: int
    merged: int
    stored_bytes: int
    requests: int


class FetchStatus(msgspec.Struct, frozen=True, kw_only=True):
    """What was served to restore_command since the agent's start."""

    fetched: int
    from_prefetch: int
    absent: int
    holes: int
    errors: int
    last_error: str | None


class StoreStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The store as the agent has seen it; None where it has not been probed."""

    conditional_put: bool | None
    conditional_multipart: bool | None
    requests: int
    errors: int
    bytes_written: int
    bytes_read: int


class HttpStatus(msgspec.Struct, frozen=True, kw_only=True):
    """Where the agent answers over HTTP, None while ``problem`` keeps it from doing so."""

    address: str | None
    problem: str | None = None


HEARTBEAT: Final = "heartbeat"
"""The name of the one among the sinks that is told nothing but that all is well."""


class SinkStatus(msgspec.Struct, frozen=True, kw_only=True):
    """Somebody who is told of alerts, or the heartbeat; counters are since the agent's start.

    ``problem`` says why the last attempt failed, None when it did not.
    """

    name: str
    told: int = 0
    failed: int = 0
    problem: str | None = None
    hint: str | None = None


JobOutcome = Literal["done", "findings", "failed", "skipped", "interrupted"]
"""How a scheduled run ended."""


class JobStatus(msgspec.Struct, frozen=True, kw_only=True):
    """A scheduled job. ``next_at`` has its jitter in it; in the past it is being made up for.

    ``overdue_since`` is when it should have begun, where that is too long ago, also while the run
    before still goes on; ``last_*`` tell of the run under way or of the last one, and
    ``last_done_at`` when one last ended well.
    """

    name: str
    expression: str
    timezone: str
    next_at: datetime
    running: bool
    overdue_since: datetime | None
    last_started_at: datetime | None
    last_ended_at: datetime | None
    last_outcome: JobOutcome | None
    last_detail: str
    last_done_at: datetime | None = None


class ExpiryStatus(msgspec.Struct, frozen=True, kw_only=True):
    """Something that lets the agent in until ``ends_at``: ``name`` is "ca_file", "endpoint",
    "credentials" or "role".

    ``left_s`` is below zero when it has ended; ``soon`` says that somebody should know.
    """

    name: str
    what: str
    ends_at: datetime
    left_s: int
    soon: bool
    hint: str


class KeyFileStatus(msgspec.Struct, frozen=True, kw_only=True):
    """A file with a key or a secret, by its option; ``problem`` says why it is of no use now."""

    name: str
    problem: str | None = None


class AgentStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The agent's own facts; ``archiving`` and ``tail`` are None until it knew the server once.

    ``http`` is None where it is turned off; ``alerting`` is empty where nobody is told of anything.
    ``expiring`` lacks what could not be asked yet unless ``expiring_known``; ``key_files`` is None
    before they were read again for the first time.
    """

    version: str
    pid: int
    uptime_s: float
    repository: str
    folder: str
    archive: str
    source: SourceStatus
    archiving: ArchivingStatus | None
    fetch: FetchStatus
    store: StoreStatus
    schedule: tuple[JobStatus, ...] = ()
    tail: TailStatus | None = None
    http: HttpStatus | None = None
    alerting: tuple[SinkStatus, ...] = ()
    expiring: tuple[ExpiryStatus, ...] = ()
    expiring_known: bool = False
    key_files: tuple[KeyFileStatus, ...] | None = None


def decode_agent_status(document: str) -> AgentStatus:
    """Read the agent's answer; raises IntegrityError for what is none, as of another version."""
    try:
        return msgspec.json.decode(document.encode(), type=AgentStatus)
    except msgspec.DecodeError as error:
        raise IntegrityError(
            f"the agent's answer was not understood: {error}",
            hint="restart the agent: it may be of another version",
        ) from error
