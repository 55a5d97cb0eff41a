"""Takes a base backup of a running primary: parts stream into the archive while it works on.

The order is what makes a backup all or nothing: claim, parts with their lists, the last part with
the label and ``pg_control``, the wait until the backup's own WAL is durable, summary, manifest.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, TypeVar

import structlog

from walkeeper.codec.sealer import Sealer
from walkeeper.core import layout
from walkeeper.core.backup import (
    BackupFacts,
    BackupStart,
    Manifest,
)
from walkeeper.core.backup_id import BackupId
from walkeeper.core.wal import WalSegment
from walkeeper.errors import (
    BackupError,
    PostgresError,
    UsageError,
    WalkeeperError,
)
from walkeeper.postgres.backup_mode import backup_mode
from walkeeper.postgres.control_file import (
    read_control_bytes,
)
from walkeeper.postgres.facts import ServerFacts
from walkeeper.postgres.server import Server
from walkeeper.repository.backups import BackupStore
from walkeeper.services.backup_cleanup import clean_up
from walkeeper.services.backup_cluster import BackupSource, make_facts, parse_label
from walkeeper.services.backup_copy import BackupCopy, page_rules
from walkeeper.services.backup_last import StoppedBackup, collect_last_files, find_outside_files
from walkeeper.services.backup_report import BackupProgress, DamagedFile
from walkeeper.services.backup_source import FileSpool
from walkeeper.services.lineage import check_server
from walkeeper.services.source_rules import require_attached, require_source
from walkeeper.services.wal_wait import wait_for_wal
from walkeeper.storage.base import ObjectInfo

T = TypeVar("T")

_DEADLINE_S: Final = 30.0
_ABANDON_S: Final = 30.0
_CHANCE_BYTES: Final = 3
_LABEL_BYTES: Final = 255

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class BackupSettings:
    """How a backup is taken; ``data_dir`` None takes what the server says.

    ``spool_dir`` holds, unlinked, one line for each file. ``wal_patience_s`` is how long the
    archive may stand still while the backup's WAL is waited for. ``accept_gap``: `check_lineage`.
    """

    dsn: str
    data_dir: Path | None
    spool_dir: Path
    run_id: str
    readers: int = 2
    part_bytes: int = 512 << 20
    wal_patience_s: float = 300.0
    accept_gap: WalSegment | None = None


@dataclass(frozen=True, slots=True)
class BackupResult:
    """A committed backup, what was found damaged on the way, and what was left out."""

    facts: BackupFacts
    damaged: tuple[DamagedFile, ...]
    skipped: tuple[str, ...]


class BackupService:
    """Takes base backups of one cluster into one archive.

    Memory: each reader holds a block of a file, two pieces of 4 MiB in the making, what the store
    holds of a stream (two multipart pieces), and the compressed list of its part.
    """

    def __init__(
        self,
        store: BackupStore,
        sealer: Sealer,
        pool: ThreadPoolExecutor,
        settings: BackupSettings,
        progress: Callable[[BackupProgress], None],
    ) -> None:
        self._store = store
        self._sealer = sealer
        self._pool = pool
        self._settings = settings
        self._progress = progress

    async def take(self, label: str, *, fast: bool) -> BackupResult:
        """Take a backup and commit it.

        Whatever raises or cancels before the last write leaves no backup, only objects without a
        manifest, which are removed where that is allowed. Raises UsageError for a label that
        cannot be one, BackupError, PostgresError and what storage raises.
        """
        _check_label(label)
        facts, data_dir, total_bytes = await self._recognise()
        backup = BackupId.create(datetime.now(UTC), os.urandom(_CHANCE_BYTES))
        try:
            claimed = await self._claim(backup)
            await clean_up(self._store, claimed.modified_at)
            async with self._spool() as spool:
                copy = self._copy(backup, spool, total_bytes)
                manifest = await self._copy_cluster(copy, facts, data_dir, label, fast=fast)
            copy.report("wal")
            await self._wait_for_wal(manifest.facts)
            copy.report("commit")
            prepared = await self._store.prepare(manifest)
        except BaseException:
            await self._abandon(backup)
            raise
        # Not to be undone from here on: a manifest whose write failed may still arrive.
        await self._store.commit(prepared)
        copy.report("done")
        stored_bytes = manifest.facts.stored_bytes
        log.info("backup_committed", backup=str(backup), stored_bytes=stored_bytes)
        return BackupResult(manifest.facts, copy.damaged, tuple(copy.skipped))

    async def _recognise(self) -> tuple[ServerFacts, Path, int]:
        async with await Server.connect(self._settings.dsn, deadline_s=_DEADLINE_S) as server:
            facts = await server.facts()
            if facts.in_recovery:
                raise BackupError(
                    "the server is a standby; base backups are taken from a primary",
                    hint="point [cluster] dsn at the primary",
                )
            require_source(facts, self._store.archive.record)
            data_dir = self._settings.data_dir or facts.data_directory
            await server.check_same_server(data_dir, self._pool)
            await self._in_thread(lambda: require_attached(data_dir))
            accepted = self._settings.accept_gap
            await check_server(
                self._store.archive, server, data_dir, self._pool, accept_gap=accepted
            )
            return facts, data_dir, await _estimate(server)

    async def _claim(self, backup: BackupId) -> ObjectInfo:
        return await self._store.claim(
            BackupStart(
                name=layout.backup_start(backup),
                archive=self._store.archive.record.archive,
                id=str(backup),
                host=socket.gethostname(),
                started_at=backup.started_at,
                writer=self._settings.run_id,
            )
        )

    def _copy(self, backup: BackupId, spool: FileSpool, total_bytes: int) -> BackupCopy:
        copy = BackupCopy(
            backup,
            store=self._store,
            sealer=self._sealer,
            pool=self._pool,
            spool=spool,
            progress=self._progress,
        )
        copy.total_bytes = total_bytes
        return copy

    async def _copy_cluster(
        self, copy: BackupCopy, facts: ServerFacts, data_dir: Path, label: str, *, fast: bool
    ) -> Manifest:
        settings = self._settings
        copy.report("checkpoint")
        async with backup_mode(settings.dsn, label, fast=fast, deadline_s=_DEADLINE_S) as mode:
            await mode.check_same_server(data_dir, self._pool)
            # Only now: a tablespace made before would be missing, for its WAL is not replayed.
            source = await self._in_thread(lambda: BackupSource.look_at(facts, data_dir))
            await copy.copy(
                source.entry_sources(),
                page_rules(source.control),
                readers=settings.readers,
                part_bytes=settings.part_bytes,
            )
            # The last file of all, still in backup mode: it is of the backup's own time.
            control = await self._in_thread(lambda: read_control_bytes(data_dir))
            stop = await mode.stop()
        parsed = parse_label(stop)
        outside, left_out = await self._in_thread(lambda: find_outside_files(facts))
        copy.skipped += left_out
        with copy.spool.scratch() as scratch:
            stopped = StoppedBackup(facts, parsed, stop, outside, control)
            await copy.copy_last(collect_last_files(copy.spool, scratch, stopped))
        return Manifest(
            facts=make_facts(copy, source, mode, stop, parsed),
            parts=copy.records,
            settings=source.restore_settings(),
            config_files=tuple(found.saved for found in outside),
        )

    async def _wait_for_wal(self, facts: BackupFacts) -> None:
        first, last = facts.required_wal
        size = facts.wal_segment_size
        needed = [
            WalSegment.numbered(facts.timeline, number, size)
            for number in range(first.number(size), last.number(size) + 1)
        ]
        await wait_for_wal(self._store.archive, needed, patience_s=self._settings.wal_patience_s)

    async def _abandon(self, backup: BackupId) -> None:
        """Remove what was stored of a backup that will not be."""
        try:
            async with asyncio.timeout(_ABANDON_S):
                unfinished = await self._store.find_unfinished(backup)
                if unfinished is not None:
                    await self._store.remove(unfinished)
        except (WalkeeperError, TimeoutError) as error:
            log.warning("backup_remains_left", backup=str(backup), reason=str(error))

    @asynccontextmanager
    async def _spool(self) -> AsyncIterator[FileSpool]:
        spool = await self._in_thread(lambda: FileSpool(self._settings.spool_dir))
        try:
            yield spool
        finally:
            await self._in_thread(spool.close)

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._pool, work)


def _check_label(label: str) -> None:
    # backup_label is made of lines, and MAXPGPATH bounds the label (xlog.c, do_pg_backup_start).
    if not label.isprintable() or not 1 <= len(label.encode()) <= _LABEL_BYTES:
        raise UsageError(f"a label is 1 to {_LABEL_BYTES} bytes of printable characters")


async def _estimate(server: Server) -> int:
    """Bytes in all tablespaces, for progress; 0 where the role may not ask."""
    try:
        row = await server.fetch_row(
            "SELECT coalesce(sum(pg_catalog.pg_tablespace_size(oid)), 0)::bigint"
            " FROM pg_catalog.pg_tablespace",
            doing="estimate the size of the cluster",
        )
    except PostgresError:
        return 0
    return int(row[0])
