"""The names of all metrics, in one list: what is exported, alerted on and drawn.

Prometheus' conventions: base units, ``_total`` for counters. The values of each label are a fixed
small set, so that the number of series never grows with the archive.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric as it is exported; a counter's ``name`` ends with ``_total``."""

    name: str
    kind: Literal["gauge", "counter", "histogram"]
    about: str
    labels: tuple[str, ...] = ()

    @property
    def series(self) -> tuple[str, ...]:
        """The names under which its values can be asked for."""
        if self.kind == "histogram":
            return tuple(f"{self.name}{suffix}" for suffix in ("_bucket", "_sum", "_count"))
        return (self.name,)


def _gauge(name: str, about: str, *labels: str) -> Metric:
    return Metric(f"walkeeper_{name}", "gauge", about, labels)


def _counter(name: str, about: str, *labels: str) -> Metric:
    return Metric(f"walkeeper_{name}_total", "counter", about, labels)


def _histogram(name: str, about: str, *labels: str) -> Metric:
    return Metric(f"walkeeper_{name}", "histogram", about, labels)


BUILD: Final = _gauge("build_info", "Always 1; the version is a label.", "version", "python")
UPTIME: Final = _gauge("uptime_seconds", "Since the agent's start.")
FINDINGS: Final = _gauge("findings", "What needs attention, as walkeeper status counts it.")
POSTGRES_UP: Final = _gauge("postgres_up", "1 while the server is recognised and answers.")
STORE_UP: Final = _gauge(
    "store_up", "1 unless the last look at the repository, or request, failed."
)
LOOKED_AT: Final = _gauge(
    "look_timestamp_seconds", "When the repository was last looked at with success."
)

RPO: Final = _gauge("rpo_seconds", "Age of the oldest flushed WAL byte that is not durable, now.")
RPO_MAX: Final = _gauge("rpo_hour_max_seconds", "The highest RPO of the last hour.")
BACKLOG_FILES: Final = _gauge("backlog_files", "WAL files that are ready and not yet durable.")
BACKLOG_BYTES: Final = _gauge("backlog_bytes", "Their segments, before compression.")
ARCHIVED: Final = _counter("wal_archived_files", "WAL files that became durable.")
ARCHIVED_BYTES: Final = _counter("wal_archived_bytes", "Their segments, before compression.")
ARCHIVE_FAILED: Final = _counter("wal_archive_failures", "Attempts to archive a file that failed.")
FLUSHED: Final = _counter(
    "wal_flushed_bytes", "The server's flush position, as bytes since the cluster's first."
)
TAIL_UP: Final = _gauge("tail_shipping", "1 while the growing segment is shipped.")
TAIL_BYTES: Final = _counter("tail_stored_bytes", "Bytes stored for the tail.")
DISK_SIZE: Final = _gauge("pg_wal_disk_bytes", "Size of the file system of pg_wal.")
DISK_FREE: Final = _gauge("pg_wal_disk_free_bytes", "What is free of it for PostgreSQL.")

WINDOWS: Final = _gauge("recoverable_windows", "Windows in which every moment is recoverable.")
WINDOW_BEGIN: Final = _gauge(
    "recoverable_begin_timestamp_seconds", "The earliest moment of the newest window."
)
WINDOW_END: Final = _gauge("recoverable_end_timestamp_seconds", "The latest moment of it.")
GAPS: Final = _gauge(
    "wal_gaps", "Windows that end at missing WAL; healed where a later backup reaches on.", "state"
)
BACKUPS: Final = _gauge("backups", "Committed base backups.")
BACKUP_OLDEST: Final = _gauge("backup_oldest_timestamp_seconds", "When the oldest had stopped.")
BACKUP_NEWEST: Final = _gauge("backup_newest_timestamp_seconds", "When the newest had stopped.")
BACKUP_BYTES: Final = _gauge("backup_newest_bytes", "Files of the newest, before compression.")
BACKUP_STORED: Final = _gauge("backup_newest_stored_bytes", "Objects of the newest.")
RTO: Final = _gauge("drill_rto_seconds", "What a restore took in the last drill that proved it.")

JOB_DONE: Final = _gauge(
    "job_last_success_timestamp_seconds",
    "When it last ended well; backups and drills by hand count.",
    "task",
)
JOB_AGE: Final = _gauge("job_last_success_age_seconds", "How long ago that was.", "task")
JOB_SCHEDULED: Final = _gauge("job_scheduled", "1 where the agent runs it by itself.", "task")
JOB_RUNNING: Final = _gauge("job_running", "1 while a scheduled run goes on.", "task")
JOB_OVERDUE: Final = _gauge("job_overdue", "1 while a run is overdue.", "task")
JOB_FAILED: Final = _gauge("job_failed", "1 if the last run failed or had findings.", "task")

REQUESTS: Final = _counter("store_requests", "Requests to the store, each attempt.", "operation")
RETRIES: Final = _counter("store_retries", "Attempts that failed and were repeated.", "error")
ERRORS: Final = _counter(
    "store_errors", "Requests that failed; not found and exists are answers.", "error"
)
WRITE_S: Final = _histogram("object_write_seconds", "How long an object took to write.", "kind")
WRITE_BYTES: Final = _histogram("object_write_bytes", "How large it was, as stored.", "kind")
READ_S: Final = _histogram("object_read_seconds", "How long a read of an object took.", "kind")
READ_BYTES: Final = _histogram("object_read_bytes", "How much was read.", "kind")
FETCHED: Final = _counter("wal_fetched_files", "WAL files served to restore_command.")
FETCH_ERRORS: Final = _counter("wal_fetch_errors", "Requests for WAL that failed.")

EXPIRY: Final = _gauge(
    "expiry_timestamp_seconds", "When what lets the agent in ends, where that is known.", "access"
)
KEY_FILE: Final = _gauge(
    "key_file_usable", "1 while a file with a key or a secret could be read again.", "option"
)

NOTIFIED: Final = _counter(
    "notifications",
    "Alerts, and heartbeats, that were told and that were not.",
    "sink_kind",
    "outcome",
)

ALL: Final = tuple(value for value in list(globals().values()) if isinstance(value, Metric))
"""Every metric of our own; the process_* ones of the client library come beside them."""
PROCESS: Final = (
    "process_virtual_memory_bytes",
    "process_resident_memory_bytes",
    "process_start_time_seconds",
    "process_cpu_seconds_total",
    "process_open_fds",
    "process_max_fds",
)
"""What ``prometheus_client.ProcessCollector`` tells on Linux."""
