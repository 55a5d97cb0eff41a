"""The files that a base backup copies, one after another, while the server changes them.

Nothing here is read and no list is kept: a data directory may hold millions of files. What
vanishes during the walk was dropped, and WAL replay drops it again.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Final

from walkeeper.errors import PostgresError
from walkeeper.postgres.control_file import CONTROL_FILE
from walkeeper.postgres.exclusions import (
    EMPTIED_DIRECTORIES,
    find_relation_file,
    is_database_directory,
    is_excluded,
    is_temporary_relation,
)

_TABLESPACES: Final = "pg_tblspc"
_WAL: Final = "pg_wal"
# pg_wal is kept with the directories that the server expects in it (summaries since 17).
_WAL_DIRECTORIES: Final = ("archive_status", "summaries")


class EntryKind(Enum):
    """What is to be done with an entry; SKIPPED ones are worth a warning."""

    DIRECTORY = "directory"
    FILE = "file"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class DataEntry:
    """A file or directory as it was when the walk passed it.

    ``path`` is relative to the data directory or, where ``tablespace`` is an oid, to the
    tablespace's location; names that are not UTF-8 are surrogate-escaped (``os.fsencode`` undoes
    it). ``source`` is where it lies. ``mode`` is the permission bits. ``reason``
    says why a SKIPPED one is not copied.
    """

    kind: EntryKind
    path: str
    source: str
    tablespace: int | None
    mode: int
    uid: int
    gid: int
    size_bytes: int
    mtime_ns: int
    reason: str = ""


@dataclass(frozen=True, slots=True)
class TablespaceLink:
    """A tablespace outside ``pg_tblspc``: its oid, where its link leads, and the link."""

    oid: int
    location: Path
    link: Path


def list_tablespaces(data_dir: Path) -> list[TablespaceLink]:
    """The tablespaces behind symbolic links in ``pg_tblspc``, by oid. Blocks.

    In-place tablespaces (plain directories) are part of the data directory. Raises PostgresError.
    """
    links = []
    _stat_root(data_dir / _TABLESPACES)
    for entry in _scan(data_dir / _TABLESPACES):
        if entry.name.isdigit() and entry.is_symlink():
            try:
                location = Path(entry.path).readlink()
            except FileNotFoundError:
                continue
            except OSError as error:
                raise _unreadable(entry.path, error) from error
            links.append(TablespaceLink(int(entry.name), location, Path(entry.path)))
    return sorted(links, key=lambda link: link.oid)


def walk_data_directory(data_dir: Path, tablespaces: list[TablespaceLink]) -> Iterator[DataEntry]:
    """Everything of the data directory that belongs into a base backup, lazily. Blocks.

    Left out: what PostgreSQL's own base backup leaves out, the contents of ``tablespaces``, and
    ``pg_control``, which the caller copies last. A directory comes before what is in it. Raises
    PostgresError when a directory cannot be read.
    """
    walk = _Walk(data_dir, None, {_real(link.location) for link in tablespaces})
    return walk.entries("")


def walk_tablespace(link: TablespaceLink, folder: str) -> Iterator[DataEntry]:
    """What this server has in a tablespace, lazily; other versions may share the location.

    ``folder`` is what ``version_directory`` returns. A tablespace that was dropped is empty; one
    whose files are missing while it exists (not mounted?) is a PostgresError.
    """
    try:
        walk = _Walk(link.location, link.oid, set())
        top = walk.entry(folder)
    except PostgresError:
        if link.link.is_symlink():
            raise
        return
    if top is not None:
        yield top
        yield from walk.entries(folder)
    elif link.link.is_symlink():
        raise PostgresError(f"{link.location / folder} of tablespace {link.oid} is missing")


def version_directory(major: int, catalog_version: int) -> str:
    """The name of this server's folder in each tablespace (TABLESPACE_VERSION_DIRECTORY)."""
    return f"PG_{major}_{catalog_version}"


class _Walk:
    """One root and how to describe what is below it."""

    def __init__(self, root: Path, tablespace: int | None, foreign: set[Path]) -> None:
        self._text = os.fspath(root)  # a Path for each question costs more than the question
        self._tablespace = tablespace
        self._foreign = foreign
        self._mode = stat.S_IMODE(_stat_root(root).st_mode)

    def entries(self, directory: str) -> Iterator[DataEntry]:
        """Walk the contents of a directory, given relative to the root."""
        relations = is_database_directory(directory)
        for item in _scan(f"{self._text}/{directory}" if directory else self._text):
            if is_excluded(directory, item.name):
                continue
            if relations and self._is_volatile(directory, item.name):
                continue
            path = f"{directory}/{item.name}" if directory else item.name
            if path == CONTROL_FILE and self._tablespace is None:
                continue
            entry = self.entry(path)
            if entry is not None:
                yield from self._expand(entry, item.name)

    def entry(self, path: str) -> DataEntry | None:
        """Describe one path; None when it has vanished."""
        source = f"{self._text}/{path}"
        try:
            facts = os.lstat(source)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise _unreadable(source, error) from error
        kind, reason = _classify(facts.st_mode)
        return DataEntry(
            kind,
            path,
            source,
            self._tablespace,
            stat.S_IMODE(facts.st_mode),
            facts.st_uid,
            facts.st_gid,
            facts.st_size if kind is EntryKind.FILE else 0,
            facts.st_mtime_ns,
            reason,
        )

    def _expand(self, entry: DataEntry, name: str) -> Iterator[DataEntry]:
        """The entry itself, and what is below it as far as it is copied."""
        if entry.kind is EntryKind.FILE:
            yield entry
        elif entry.path == _WAL and self._tablespace is None:
            yield self._as_directory(entry)
            for below in map(self.entry, (f"{_WAL}/{name}" for name in _WAL_DIRECTORIES)):
                if below is not None:
                    yield self._as_directory(below)
        elif name in EMPTIED_DIRECTORIES:
            yield self._as_directory(entry)
        elif entry.kind is EntryKind.DIRECTORY:
            yield entry
            if not self._is_foreign(entry):
                yield from self.entries(entry.path)
        elif not self._is_tablespace_link(entry.path):
            yield entry

    def _as_directory(self, entry: DataEntry) -> DataEntry:
        """The same as a plain directory: PostgreSQL lets some of them be symbolic links."""
        if entry.kind is EntryKind.DIRECTORY:
            return entry
        return DataEntry(
            EntryKind.DIRECTORY,
            entry.path,
            entry.source,
            entry.tablespace,
            self._mode,  # a link's own mode says nothing
            entry.uid,
            entry.gid,
            0,
            entry.mtime_ns,
        )

    def _is_volatile(self, directory: str, name: str) -> bool:
        """Whether the file is of a temporary relation, or of an unlogged one and not its seed."""
        if is_temporary_relation(name):
            return True
        relation = find_relation_file(name)
        if relation is None or relation.fork == "init":
            return False
        return os.path.lexists(f"{self._text}/{directory}/{relation.number}_init")

    def _is_foreign(self, entry: DataEntry) -> bool:
        """Whether it is a tablespace's location that somebody put inside the data directory."""
        return bool(self._foreign) and _real(entry.source) in self._foreign

    def _is_tablespace_link(self, path: str) -> bool:
        directory, _, name = path.rpartition("/")
        return self._tablespace is None and directory == _TABLESPACES and name.isdigit()


def _classify(mode: int) -> tuple[EntryKind, str]:
    if stat.S_ISREG(mode):
        return EntryKind.FILE, ""
    if stat.S_ISDIR(mode):
        return EntryKind.DIRECTORY, ""
    if stat.S_ISLNK(mode):
        return EntryKind.SKIPPED, "a symbolic link; PostgreSQL follows them in pg_tblspc only"
    return EntryKind.SKIPPED, "neither a file nor a directory"


def _scan(directory: Path | str) -> Iterator[os.DirEntry[str]]:
    try:
        with os.scandir(directory) as items:
            yield from items
    except FileNotFoundError:
        return
    except OSError as error:
        raise _unreadable(directory, error) from error


def _stat_root(root: Path) -> os.stat_result:
    """Facts of a directory that must be there: what is missing below it was dropped, not this."""
    try:
        return root.stat()
    except OSError as error:
        raise _unreadable(root, error) from error


def _real(path: Path | str) -> Path:
    return Path(os.path.realpath(path))


def _unreadable(path: Path | str, error: OSError) -> PostgresError:
    return PostgresError(
        f"cannot read {path}: {error.strerror}",
        hint="backups need a user who may read the whole data directory",
    )
