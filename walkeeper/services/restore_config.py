"""Makes unpacked files a cluster that recovers to where it should, and to nothing else.

Recovery settings and signal file, the mark of a detached copy, links and map of tablespaces, a
configuration where the source kept its own elsewhere, and PostgreSQL's manifest of it all, kept
true. Everything blocks, and everything written is synced before the call returns.
"""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from walkeeper.core import backup_manifest
from walkeeper.core.backup import Manifest, RestoreSettings
from walkeeper.core.backup_label import Tablespace, TablespaceMap
from walkeeper.core.backup_manifest import ManifestFile
from walkeeper.core.plan import RestorePlan
from walkeeper.errors import IntegrityError, RecoveryError
from walkeeper.postgres.control_file import CONTROL_FILE
from walkeeper.postgres.recovery_conf import (
    RECOVERY_SIGNAL,
    STANDBY_SIGNAL,
    RecoveryConf,
    edit_auto_conf,
)
from walkeeper.services.restore_files import HELD_CONTROL_FILE
from walkeeper.services.restore_target import UNFINISHED_FILE, Destination
from walkeeper.services.restore_write import (
    cannot_write,
    make_directory,
    sync_directory,
    write_file,
)
from walkeeper.services.source_rules import DETACHED_FILE

AUTO_CONF: Final = "postgresql.auto.conf"
MAIN_CONF: Final = "postgresql.conf"
HBA_CONF: Final = "pg_hba.conf"
IDENT_CONF: Final = "pg_ident.conf"
_MAP: Final = "tablespace_map"
_MANIFEST: Final = "backup_manifest"
_ARCHIVE_STATUS: Final = "pg_wal/archive_status"

_DETACHED_TEXT: Final = """\
This directory was restored by walkeeper and is a detached copy.

As long as this file is here, walkeeper writes nothing of this cluster into any archive, so that
the copy cannot write into the archive of its source. postgresql.auto.conf also turns archiving off
and starts no logical replication worker (a restored subscriber would take over the replication
slots of its source).

If this cluster takes the place of its source: make sure that the source never comes back, delete
this file, and take these two lines out of postgresql.auto.conf, then restart:

    archive_mode = 'off'
    max_logical_replication_workers = '0'

walkeeper restore --resume-archiving does all of this from the beginning.
"""
_UNFINISHED_TEXT: Final = """\
This directory is being restored by walkeeper, or a restore into it was broken off.
It is not complete and cannot start: pg_control is put in place at the very end.
If no restore is running, remove the directory and restore again.
"""
_OUTSIDE_TEXT: Final = """\
# Written by walkeeper restore. The source kept its configuration outside the data directory, at
# {source}; a copy lies in walkeeper_config/, for reading: its data_directory, hba_file and
# certificates are those of the source, and a server started with it may be the source.
# Copy from there what this server needs, such as shared_preload_libraries.
"""

# Least values that recovery accepts, by setting: field of RestoreSettings, PostgreSQL's default.
_LEAST: Final = {
    "max_connections": ("max_connections", 100),
    "max_worker_processes": ("max_worker_processes", 8),
    "max_wal_senders": ("max_wal_senders", 10),
    "max_prepared_transactions": ("max_prepared_xacts", 0),
    "max_locks_per_transaction": ("max_locks_per_xact", 64),
}
_SET: Final = re.compile(r"^\s*(\w+)\s*=?\s*'?(\d+)'?\s*(?:#.*)?$", re.ASCII)


@dataclass(frozen=True, slots=True)
class Configured:
    """What was written besides the backup's own files; sentences for the operator."""

    notes: tuple[str, ...]


@dataclass(slots=True)
class Configurator:
    """Configures one restored cluster, once; `prepare` first, `finish` last of all."""

    destination: Destination
    manifest: Manifest
    restore_command: str
    plan: RestorePlan
    standby: bool = False
    resume_archiving: bool = False
    _added: list[ManifestFile] = field(default_factory=list)
    _replaced: dict[bytes, ManifestFile] = field(default_factory=dict)
    _notes: list[str] = field(default_factory=list)

    def configure(self) -> Configured:
        """Write settings, signal, marks, links and maps, and bring the manifest up to date."""
        self._directories()
        self._tablespaces()
        self._own_configuration()
        self._auto_conf()
        signal = STANDBY_SIGNAL if self.standby else RECOVERY_SIGNAL
        self._write(signal, b"")
        if not self.resume_archiving:
            self._add(DETACHED_FILE, _DETACHED_TEXT.encode())
        self._rewrite_manifest()
        return Configured(tuple(self._notes))

    def finish(self) -> None:
        """Sync every directory, then put pg_control in place: from now on it can start."""
        data_dir = self.destination.data_dir
        for root in self.destination.roots:
            for directory, _, _ in os.walk(root):
                sync_directory(Path(directory))
            sync_directory(root.parent)
        try:
            (data_dir / HELD_CONTROL_FILE).rename(data_dir / CONTROL_FILE)
            sync_directory((data_dir / CONTROL_FILE).parent)
            (data_dir / UNFINISHED_FILE).unlink()
        except OSError as error:
            raise cannot_write(data_dir / CONTROL_FILE, error) from error
        sync_directory(data_dir)

    def _directories(self) -> None:
        path = self.destination.data_dir
        for name in _ARCHIVE_STATUS.split("/"):
            path /= name
            make_directory(path, self._mode, self.destination.owner)

    @property
    def _mode(self) -> int:
        return directory_mode(self.manifest.settings)

    def _tablespaces(self) -> None:
        """Link each tablespace to its place, and say the same in tablespace_map.

        The server reads the map at its first start and makes the links again (xlogrecovery.c,
        read_tablespace_map); tools such as pg_verifybackup need them before.
        """
        data_dir, moved = self.destination.data_dir, self.destination.tablespaces
        there = self._map_of_backup()
        now = TablespaceMap(
            tuple(Tablespace(space.oid, str(moved[space.oid])) for space in there.tablespaces)
        )
        for space in now.tablespaces:
            link = data_dir / "pg_tblspc" / str(space.oid)
            try:
                link.symlink_to(space.location)
                self.destination.owner.take(link)
            except OSError as error:
                raise cannot_write(link, error) from error
        if now != there:
            text = now.encode().encode("utf-8", "surrogateescape")
            self._write(_MAP, text)
            self._replaced[_MAP.encode()] = _manifest_file(_MAP, text)

    def _map_of_backup(self) -> TablespaceMap:
        content = self._read(_MAP)
        try:
            found = TablespaceMap.parse(content.decode("utf-8", "surrogateescape"))
        except ValueError as error:
            raise IntegrityError(f"{_MAP} of the backup: {error}") from error
        facts = self.manifest.facts
        if {(space.oid, space.location) for space in found.tablespaces} != {
            (space.oid, space.location) for space in facts.tablespaces
        }:
            raise IntegrityError(f"{_MAP} and the manifest of {facts.id} do not say the same")
        return found

    def _own_configuration(self) -> None:
        """Give a cluster whose configuration lay elsewhere one of its own, so that it starts.

        The saved one is not used: it names the source's data directory and files.
        """
        source = self.manifest.settings.config_file
        saved = {found.path: found.member for found in self.manifest.config_files}
        if not self._exists(MAIN_CONF):
            text = _OUTSIDE_TEXT.format(source=source or "an unknown place")
            text += "".join(f"{name} = {value}\n" for name, value in self._least().items())
            self._add(MAIN_CONF, text.encode())
            self._notes.append(
                f"the source's configuration lay outside the data directory, at {source}: a copy "
                f"is in walkeeper_config/, and {MAIN_CONF} has only what recovery needs"
            )
        for name, path, otherwise in (
            (HBA_CONF, self.manifest.settings.hba_file, b"local all all peer\n"),
            (IDENT_CONF, self.manifest.settings.ident_file, b""),
        ):
            if not self._exists(name):
                member = saved.get(path or "")
                self._add(name, otherwise if member is None else self._read(member))

    def _least(self) -> dict[str, int]:
        settings = self.manifest.settings
        return {name: int(getattr(settings, key)) for name, (key, _) in _LEAST.items()}

    def _auto_conf(self) -> None:
        auto = self._read(AUTO_CONF).decode("utf-8", "surrogateescape")
        conf = RecoveryConf(
            major=self.manifest.facts.server_version // 10_000,
            restore_command=self.restore_command,
            timeline=self.plan.timeline,
            target=self.plan.request.target,
            action=self.plan.request.action,
            standby=self.standby,
            detached=not self.resume_archiving,
        )
        main = self._read(MAIN_CONF).decode("utf-8", "surrogateescape")
        raised = too_low(f"{main}\n{auto}", self._least())
        text = auto if not auto or auto.endswith("\n") else auto + "\n"
        text += "".join(f"{name} = '{value}'\n" for name, value in raised.items())
        try:
            edited = edit_auto_conf(text, conf)
        except ValueError as error:
            raise RecoveryError(f"the recovery settings cannot be written: {error}") from error
        self._write(AUTO_CONF, edited.encode("utf-8", "surrogateescape"))
        for name, value in raised.items():
            self._notes.append(f"{name} is raised to {value}, as the source had it when it wrote")

    def _rewrite_manifest(self) -> None:
        if not (self._added or self._replaced):
            return
        path = self.destination.data_dir / _MANIFEST
        try:
            with path.open("rb") as lines:
                edited = backup_manifest.rewrite(lines, replace=self._replaced, add=self._added)
                write_file(path, edited, self.destination.owner)
        except OSError as error:
            raise cannot_write(path, error) from error

    def _exists(self, name: str) -> bool:
        return (self.destination.data_dir / name).exists()

    def _read(self, name: str) -> bytes:
        try:
            return (self.destination.data_dir / name).read_bytes()
        except FileNotFoundError:
            return b""
        except OSError as error:
            raise RecoveryError(f"{name} cannot be read: {error.strerror}") from error

    def _write(self, name: str, content: bytes) -> None:
        write_file(self.destination.data_dir / name, [content], self.destination.owner)

    def _add(self, name: str, content: bytes) -> None:
        self._write(name, content)
        self._added.append(_manifest_file(name, content))


def mark_unfinished(destination: Destination, settings: RestoreSettings) -> None:
    """Make the directories, with a file that says what the data directory is until `finish`."""
    for root in destination.roots:
        make_directory(root, directory_mode(settings), destination.owner)
    path = destination.data_dir / UNFINISHED_FILE
    write_file(path, [_UNFINISHED_TEXT.encode()], destination.owner)


def directory_mode(settings: RestoreSettings) -> int:
    """0700, or 0750 where the source let its group read: PostgreSQL takes no other."""
    return 0o750 if settings.data_directory_mode & 0o050 else 0o700


def too_low(conf: str, least: dict[str, int]) -> dict[str, int]:
    """The settings that this configuration leaves below ``least``; the last of a name counts."""
    written = {name: default for name, (_, default) in _LEAST.items()}
    for line in conf.splitlines():
        match = _SET.match(line)
        if match is not None and match[1].lower() in written:
            written[match[1].lower()] = int(match[2])
    return {name: value for name, value in least.items() if written[name] < value}


def _manifest_file(name: str, content: bytes) -> ManifestFile:
    digest = hashlib.sha256(content).digest()
    return ManifestFile(name.encode(), len(content), datetime.now(UTC), digest)
