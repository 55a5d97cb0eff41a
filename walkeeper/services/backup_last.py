"""The last part of a backup: what makes the files before it a cluster that can be started."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from walkeeper.core import backup_manifest
from walkeeper.core.backup import BackupLabel, SavedConfig
from walkeeper.core.backup_manifest import WalRange
from walkeeper.errors import BackupError
from walkeeper.postgres.backup_mode import BackupStop
from walkeeper.postgres.control_file import CONTROL_FILE
from walkeeper.postgres.facts import ServerFacts
from walkeeper.services.backup_part import GivenFile
from walkeeper.services.backup_source import FileSpool

CONFIG_FOLDER: Final = "walkeeper_config"
"""Where a backup keeps configuration that lies outside the data directory, as on Debian."""

# src/backend/utils/misc/guc-file.l; an ident or hba file may include others since 16 (hba.c).
_INCLUDE: Final = re.compile(
    r"^\s*@?(include(?:_if_exists|_dir)?)\s*=?\s*'?([^'#\n]+?)'?\s*(?:#.*)?$", re.IGNORECASE
)
_CONFIG_LIMIT: Final = 4 << 20
_FILES_LIMIT: Final = 500


@dataclass(frozen=True, slots=True)
class StoppedBackup:
    """What is known when backup mode has ended; ``control`` is pg_control, read before."""

    server: ServerFacts
    label: BackupLabel
    stop: BackupStop
    outside: list[OutsideFile]
    control: bytes


@dataclass(frozen=True, slots=True)
class OutsideFile:
    """A configuration file outside the data directory, and where the backup keeps it."""

    saved: SavedConfig
    content: bytes


def find_outside_files(facts: ServerFacts) -> list[OutsideFile]:
    """The server's configuration files outside the data directory, with what they include.

    Blocks. A file that cannot be read is left out: it is not needed to rebuild the cluster.
    """
    found: dict[Path, OutsideFile] = {}
    waiting = [facts.config_file, facts.hba_file, facts.ident_file]
    while waiting and len(found) < _FILES_LIMIT:
        path = waiting.pop(0)
        if path in found:
            continue
        content = _read(path)
        if content is None:
            continue
        waiting += _includes(path, content)
        if not path.is_relative_to(facts.data_directory):
            member = f"{CONFIG_FOLDER}{path}" if path.is_absolute() else f"{CONFIG_FOLDER}/{path}"
            found[path] = OutsideFile(SavedConfig(str(path), member), content)
    return list(found.values())


def _read(path: Path) -> bytes | None:
    try:
        with path.open("rb") as file:
            return file.read(_CONFIG_LIMIT)
    except OSError:
        return None


def _includes(path: Path, content: bytes) -> Iterator[Path]:
    for line in content.decode("utf-8", "replace").splitlines():
        match = _INCLUDE.match(line)
        if match is None:
            continue
        target = path.parent / match[2].strip().strip('"')
        if match[1].lower() != "include_dir":
            yield target
        elif target.is_dir():
            yield from sorted(target.glob("*.conf"))


def collect_last_files(
    spool: FileSpool, scratch: BinaryIO, stopped: StoppedBackup
) -> Iterator[GivenFile]:
    """The files of the last part, in order; lazily, for each is in the manifest of the next.

    ``scratch`` takes PostgreSQL's own manifest, which lists everything that the spool has seen.
    """
    yield GivenFile.of("backup_label", stopped.stop.backup_label)
    if stopped.stop.tablespace_map:
        yield GivenFile.of("tablespace_map", stopped.stop.tablespace_map)
    for found in stopped.outside:
        yield GivenFile.of(found.saved.member, found.content)
    yield _manifest(spool, scratch, stopped)
    yield GivenFile.of(CONTROL_FILE, stopped.control)


def _manifest(spool: FileSpool, scratch: BinaryIO, stopped: StoppedBackup) -> GivenFile:
    label = stopped.label
    lines = backup_manifest.write(
        spool.manifest_files(stopped.control),
        [WalRange(label.timeline, label.start, stopped.stop.stop_lsn)],
        server_major=stopped.server.major,
        system_identifier=stopped.server.system_identifier,
    )
    try:
        scratch.writelines(lines)
        size = scratch.tell()
    except OSError as error:
        raise BackupError(f"the backup's manifest cannot be written: {error.strerror}") from error
    return GivenFile("backup_manifest", scratch, size)
