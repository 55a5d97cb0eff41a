"""The cluster that a base backup is taken of, and what its manifest tells of both."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from walkeeper.core.backup import BackupFacts, BackupLabel, RestoreSettings, TablespaceRecord
from walkeeper.core.wal import WalSegment
from walkeeper.errors import IntegrityError
from walkeeper.postgres.backup_mode import BackupMode, BackupStop
from walkeeper.postgres.control_file import ControlFile, parse_control_file, read_control_bytes
from walkeeper.postgres.data_dir import (
    TablespaceLink,
    list_tablespaces,
    version_directory,
    walk_data_directory,
    walk_tablespace,
)
from walkeeper.postgres.facts import ServerFacts
from walkeeper.services.backup_copy import BackupCopy
from walkeeper.services.backup_source import EntrySource


@dataclass(frozen=True, slots=True)
class BackupSource:
    """The cluster as it was just after the backup had begun; ``mode`` is its directory's."""

    facts: ServerFacts
    data_dir: Path
    control: ControlFile
    tablespaces: list[TablespaceLink]
    mode: int

    @classmethod
    def look_at(cls, facts: ServerFacts, data_dir: Path) -> Self:
        """Look now; blocks. Raises PostgresError where something cannot be read."""
        return cls(
            facts,
            data_dir,
            parse_control_file(read_control_bytes(data_dir)),
            list_tablespaces(data_dir),
            data_dir.stat().st_mode & 0o7777,
        )

    def entry_sources(self) -> list[EntrySource]:
        """What is to be copied: the data directory and each tablespace."""
        folder = version_directory(self.facts.major, self.control.catalog_version)
        return [
            EntrySource(None, walk_data_directory(self.data_dir, self.tablespaces)),
            *(EntrySource(link.oid, walk_tablespace(link, folder)) for link in self.tablespaces),
        ]

    def tablespace_records(self) -> tuple[TablespaceRecord, ...]:
        """For the manifest: where each tablespace lies."""
        return tuple(TablespaceRecord(link.oid, _text(link.location)) for link in self.tablespaces)

    def restore_settings(self) -> RestoreSettings:
        """What a server that is restored from it must have at least, and where its files were."""
        standby, facts = self.control.standby_settings, self.facts

        def outside(path: Path) -> str | None:
            return None if path.is_relative_to(facts.data_directory) else str(path)

        return RestoreSettings(
            max_connections=standby.max_connections,
            max_worker_processes=standby.max_worker_processes,
            max_wal_senders=standby.max_wal_senders,
            max_prepared_xacts=standby.max_prepared_transactions,
            max_locks_per_xact=standby.max_locks_per_transaction,
            data_directory_mode=self.mode,
            config_file=outside(facts.config_file),
            hba_file=outside(facts.hba_file),
            ident_file=outside(facts.ident_file),
        )


def parse_label(stop: BackupStop) -> BackupLabel:
    """The label that the server handed out at the end; raises IntegrityError for a strange one."""
    try:
        return BackupLabel.parse(stop.backup_label.decode("utf-8", "replace"))
    except ValueError as error:
        raise IntegrityError(f"the server's backup label is not understood: {error}") from error


def make_facts(
    copy: BackupCopy, source: BackupSource, mode: BackupMode, stop: BackupStop, label: BackupLabel
) -> BackupFacts:
    """The facts of a backup that was copied and stopped."""
    size = source.facts.segment_size
    return BackupFacts(
        id=str(copy.backup),
        system_identifier=str(source.facts.system_identifier),
        timeline=label.timeline,
        start_lsn=str(label.start),
        stop_lsn=str(stop.stop_lsn),
        checkpoint_lsn=str(label.checkpoint),
        started_at=mode.started_at,
        stopped_at=stop.stopped_at,
        server_version=source.facts.version_num,
        segment_size=size.bytes,
        label=label.label,
        size_bytes=copy.spool.size_bytes,
        stored_bytes=copy.stored_bytes,
        parts=len(copy.records),
        files=copy.spool.files,
        checksum_findings=sum(found.count for found in copy.damaged),
        data_checksums=source.control.data_checksums,
        tablespaces=source.tablespace_records(),
        wal_first=str(WalSegment.at(label.timeline, label.start, size)),
        wal_last=str(WalSegment.before(label.timeline, stop.stop_lsn, size)),
    )


def _text(path: Path) -> str:
    """A path for JSON, which knows no bytes that are not UTF-8."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")
