"""The last part of a backup: what makes the files before it a cluster that can be started."""

from __future__ import annotations

import os
import re
import stat
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
from walkeeper.services.backup_read import GivenFile
from walkeeper.services.backup_source import FileSpool

CONFIG_FOLDER: Final = "walkeeper_config"
"""Where a backup keeps configuration that lies outside the data directory, as on Debian."""

# src/backend/utils/misc/guc-file.l; an ident or hba file may include others since 16 (hba.c).
_INCLUDE: Final = re.compile(
    r"^\s*(include(?:_if_exists|_dir)?)\b\s*=?\s*(?:'([^'\n]+)'|\"([^\"\n]+)\"|([^\s#'\"]+))",
    re.IGNORECASE,
)
# A list of databases or users in a file of its own (hba.c, next_field_expand).
_NAMES_FILE: Final = re.compile(r"(?:^|[\s,])@(?:\"([^\"\n]+)\"|([^\s,#\"]+))")
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


def find_outside_files(facts: ServerFacts) -> tuple[list[OutsideFile], list[str]]:
    """The server's configuration files outside the data directory, with what they include.

    Returns also why others were left out: a file that cannot be read is no reason to fail, it is
    not needed to rebuild the cluster. Blocks.
    """
    found: dict[Path, OutsideFile] = {}
    left_out: list[str] = []
    seen: set[Path] = set()
    waiting = [(facts.config_file, False), (facts.hba_file, True), (facts.ident_file, True)]
    while waiting and len(seen) < _FILES_LIMIT:
        named, names = waiting.pop(0)
        path = Path(os.path.normpath(named))  # no ".." in the name of a member
        if path in seen:
            continue
        seen.add(path)
        try:
            content = _read(path)
            waiting += [(one, names) for one in _included(path, content, names=names)]
        except FileNotFoundError:
            continue  # as include_if_exists allows; the server has complained about the others
        except OSError as error:
            left_out.append(f"{path}: {error.strerror or error}")
            continue
        if not path.is_relative_to(facts.data_directory):
            # What is not UTF-8 cannot stand in the manifest: the copy is for reading.
            name = os.fsencode(path).decode("utf-8", "backslashreplace")
            member = f"{CONFIG_FOLDER}/{name.lstrip('/')}"
            found[path] = OutsideFile(SavedConfig(name, member), content)
    return list(found.values()), left_out


def _read(path: Path) -> bytes:
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError("not a regular file")
    with path.open("rb") as file:
        return file.read(_CONFIG_LIMIT)


def _included(path: Path, content: bytes, *, names: bool) -> list[Path]:
    """The files that a file includes; with ``names`` also lists of names (hba and ident files).

    Raises OSError for a directory that may not be read.
    """
    included: list[Path] = []
    for line in os.fsdecode(content).splitlines():
        if match := _INCLUDE.match(line):
            target = path.parent / (match[2] or match[3] or match[4])
            is_folder = match[1].lower() == "include_dir"
            included += _configuration_in(target) if is_folder else [target]
        elif names and not line.lstrip().startswith("#"):
            included += [path.parent / (one or two) for one, two in _NAMES_FILE.findall(line)]
    return included


def _configuration_in(folder: Path) -> list[Path]:
    # guc-file.l, ParseConfigDirectory: names that begin with a dot are passed over.
    try:
        found = [path for path in folder.iterdir() if path.suffix == ".conf"]
    except (FileNotFoundError, NotADirectoryError):
        return []
    return sorted(path for path in found if not path.name.startswith("."))


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
