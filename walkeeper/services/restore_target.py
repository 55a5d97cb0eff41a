"""The directories that a restore fills: whose they become, whether they are free and have room.

Everything here blocks.
"""

from __future__ import annotations

import os
import pwd
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from walkeeper.core.backup import BackupFacts, Manifest
from walkeeper.core.backup_label import Tablespace, TablespaceMap
from walkeeper.errors import RecoveryError, StorageFull, UsageError
from walkeeper.postgres.private_server import ProcessOptions

UNFINISHED_FILE: Final = "walkeeper.restoring"
"""Lies in a data directory while it is being restored, and afterwards if that failed."""

DEFAULT_USER: Final = "postgres"
_WAL_ROOM_BYTES: Final = 1 << 30
"""max_wal_size by default: as much fetched WAL lies in pg_wal before a restartpoint removes it."""


@dataclass(frozen=True, slots=True)
class FileOwner:
    """As whom the restored files are written; None as ids: as ourselves, nothing to change."""

    name: str
    uid: int | None = None
    gid: int | None = None
    groups: tuple[int, ...] = ()

    def take(self, path: Path) -> None:
        """Make a file or directory theirs; a link itself, not what it leads to. OSError."""
        if self.uid is not None and self.gid is not None:
            os.chown(path, self.uid, self.gid, follow_symlinks=False)

    def process_options(self) -> ProcessOptions:
        """Arguments for subprocess that make a child run as them."""
        if self.uid is None or self.gid is None:
            return {}
        return {"user": self.uid, "group": self.gid, "extra_groups": list(self.groups)}


@dataclass(frozen=True, slots=True)
class Volume:
    """One file system that takes restored files, and what it must take; bytes."""

    path: Path
    needed_bytes: int
    free_bytes: int


@dataclass(frozen=True, slots=True)
class Destination:
    """Where a backup goes: the data directory, and each tablespace by oid."""

    data_dir: Path
    tablespaces: Mapping[int, Path]
    owner: FileOwner

    def root(self, tablespace: int | None) -> Path:
        """The directory that the parts of a tablespace are unpacked in; None: of the cluster."""
        return self.data_dir if tablespace is None else self.tablespaces[tablespace]

    @property
    def roots(self) -> tuple[Path, ...]:
        """All of them, the data directory first."""
        return (self.data_dir, *self.tablespaces.values())


def choose_destination(
    data_dir: Path, facts: BackupFacts, mapping: Sequence[tuple[str, str]]
) -> Destination:
    """Where the files go, checked: every directory is absent or empty, none lies in another.

    ``mapping`` moves tablespaces, each given by its location or its oid. Raises UsageError and
    RecoveryError.
    """
    data_dir = data_dir.absolute()
    moved = map_tablespaces(facts, mapping)
    tablespaces = {space.oid: Path(space.location) for space in moved.tablespaces}
    for oid, location in tablespaces.items():
        _refuse_nesting(data_dir, oid, location)
    for root in (data_dir, *tablespaces.values()):
        _require_empty(root)
    return Destination(data_dir, tablespaces, find_file_owner(data_dir))


def map_tablespaces(facts: BackupFacts, mapping: Sequence[tuple[str, str]]) -> TablespaceMap:
    """The tablespaces of a backup at their new places. Raises UsageError."""
    known = {str(space.oid): space.location for space in facts.tablespaces}
    moves: dict[str, str] = {}
    for old, new in mapping:
        location = known.get(old, old)
        if location in moves:
            raise UsageError(f"--tablespace-mapping moves {location!r} twice")
        moves[location] = os.path.normpath(new) if new.startswith("/") else new
    there = TablespaceMap(
        tuple(Tablespace(space.oid, space.location) for space in facts.tablespaces)
    )
    return there.remap(moves)


def find_file_owner(data_dir: Path) -> FileOwner:
    """Whose the files become: as root the directory's owner, else the user postgres.

    Raises RecoveryError when that would be root, as whom PostgreSQL does not run.
    """
    if os.geteuid() != 0:
        return FileOwner(_user_name(os.geteuid()))
    if data_dir.exists() and (facts := data_dir.stat()).st_uid != 0:
        return _owner(facts.st_uid, facts.st_gid)
    try:
        entry = pwd.getpwnam(DEFAULT_USER)
    except KeyError:
        raise RecoveryError(
            f"PostgreSQL does not run as root, and there is no user {DEFAULT_USER}",
            hint=f"make {data_dir} first and give it to the user who will run PostgreSQL",
        ) from None
    return _owner(entry.pw_uid, entry.pw_gid)


def measure_room(destination: Destination, manifest: Manifest, wal_bytes: int) -> list[Volume]:
    """What each file system has to take. Sizes of parts, so a little more than the files."""
    needed: dict[int | None, int] = {None: min(wal_bytes, _WAL_ROOM_BYTES)}
    for part in manifest.parts:
        needed[part.tablespace] = needed.get(part.tablespace, 0) + part.size_bytes
    volumes: dict[int, Volume] = {}
    for tablespace, size in needed.items():
        there = _existing(destination.root(tablespace))
        device, space = there.stat().st_dev, os.statvfs(there)
        before = volumes[device].needed_bytes if device in volumes else 0
        path = volumes[device].path if device in volumes else there
        volumes[device] = Volume(path, before + size, space.f_bavail * space.f_frsize)
    return list(volumes.values())


def require_room(volumes: Sequence[Volume]) -> None:
    """Raises StorageFull for a file system on which the restore does not fit."""
    for volume in volumes:
        if volume.needed_bytes > volume.free_bytes:
            raise StorageFull(
                f"the restore needs {volume.needed_bytes} bytes on the file system of "
                f"{volume.path}, where {volume.free_bytes} are free",
                hint="make room, choose another --target-dir, or move tablespaces elsewhere "
                "with --tablespace-mapping",
            )


def _refuse_nesting(data_dir: Path, oid: int, location: Path) -> None:
    real, data = Path(os.path.realpath(location)), Path(os.path.realpath(data_dir))
    if real.is_relative_to(data) or data.is_relative_to(real):
        raise UsageError(
            f"tablespace {oid} at {location} and the data directory {data_dir} would lie in "
            "each other",
            hint=f"move it: --tablespace-mapping {oid}=NEWDIR",
        )


def _require_empty(root: Path) -> None:
    if not os.path.lexists(root):
        return
    if not root.is_dir():
        raise RecoveryError(f"{root} is not a directory")
    names = sorted(entry.name for entry in os.scandir(root))
    if UNFINISHED_FILE in names:
        raise RecoveryError(
            f"an unfinished restore lies in {root}", hint=f"remove it first: rm -r {root}"
        )
    if names:
        raise RecoveryError(
            f"{root} is not empty: {names[0]} is in it; nothing was written",
            hint="name an empty directory or one that does not exist, "
            "a tablespace with --tablespace-mapping OLD=NEW",
        )


def _existing(path: Path) -> Path:
    """The path, or the nearest directory above it that exists."""
    return next(place for place in (path, *path.parents) if place.exists())


def _owner(uid: int, gid: int) -> FileOwner:
    try:
        entry = pwd.getpwuid(uid)
    except KeyError:
        return FileOwner(str(uid), uid, gid)
    groups = os.getgrouplist(entry.pw_name, entry.pw_gid)
    return FileOwner(entry.pw_name, uid, gid, tuple(groups))


def _user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
