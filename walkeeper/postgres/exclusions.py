"""Which files of a data directory a base backup leaves out, by name alone.

The lists are those of src/backend/backup/basebackup.c (excludeDirContents, excludeFiles, sendDir);
what walkeeper leaves out besides is marked.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

# Kept as empty directories, wherever they are: the server empties or rebuilds them at start.
EMPTIED_DIRECTORIES: Final = frozenset(
    {
        "pg_stat_tmp",
        "pg_replslot",
        "pg_dynshmem",
        "pg_notify",
        "pg_serial",
        "pg_snapshots",
        "pg_subtrans",
    }
)
_EXCLUDED_FILES: Final = frozenset(
    {
        "postgresql.auto.conf.tmp",
        "current_logfiles.tmp",
        "backup_label",
        "tablespace_map",
        "backup_manifest",
        "postmaster.pid",
        "postmaster.opts",
    }
)
# pg_internal.init and its temporary files; temporary files and directories of queries.
_EXCLUDED_PREFIXES: Final = ("pg_internal.init", "pgsql_tmp")
# Ours, at the top of the data directory only: signals of an earlier recovery, remains of an
# earlier restore, and what walkeeper itself puts there.
_EXCLUDED_AT_TOP: Final = frozenset(
    {
        "backup_label.old",
        "tablespace_map.old",
        "recovery.signal",
        "standby.signal",
        "walkeeper.detached",
        "walkeeper_config",
    }
)

# src/common/relpath.c: forkNames. Relation numbers have no leading zeros.
_RELATION: Final = re.compile(r"([1-9][0-9]{0,9})(?:_(fsm|vm|init))?(?:\.([1-9][0-9]*))?")
# src/backend/storage/file/fd.c: looks_like_temp_rel_name.
_TEMPORARY_RELATION: Final = re.compile(r"t[0-9]+_[0-9]+(?:_(?:fsm|vm|init))?(?:\.[0-9]+)?")
# Where relations are: base/<database>, <tablespace>/PG_<version>_<catalog>/<database>.
_DATABASE_DIRECTORY: Final = re.compile(r"(?:base|(?:.*/)?PG_[0-9]+_[0-9]+)/[0-9]+")


@dataclass(frozen=True, slots=True)
class RelationFile:
    """The name of a relation's file; ``fork`` is "" for the main one, segments count from 0."""

    number: str
    fork: str
    segment: int


def find_relation_file(name: str) -> RelationFile | None:
    """Take a file name apart; None when it is not that of a permanent or unlogged relation."""
    match = _RELATION.fullmatch(name)
    if match is None:
        return None
    return RelationFile(match[1], match[2] or "", int(match[3] or 0))


def is_temporary_relation(name: str) -> bool:
    """Whether a file in a database's directory belongs to a temporary table."""
    return _TEMPORARY_RELATION.fullmatch(name) is not None


def is_database_directory(path: str) -> bool:
    """Whether relations lie directly in it; relative to data directory or tablespace."""
    return _DATABASE_DIRECTORY.fullmatch(path) is not None


def is_excluded(directory: str, name: str) -> bool:
    """Whether a file or directory stays out wholly; ``directory`` is relative, "" at the top."""
    return (
        name in _EXCLUDED_FILES
        or name.startswith(_EXCLUDED_PREFIXES)
        or (directory == "" and name in _EXCLUDED_AT_TOP)
    )


def find_checksummed_segment(path: str) -> int | None:
    """Which segment of a relation the file is, when its pages carry checksums; else None.

    ``path`` is relative to the data directory or the tablespace. pg_control, pg_filenode.map,
    PG_VERSION and the like have no pages (noChecksumFiles), nor has what extensions add.
    """
    directory, _, name = path.rpartition("/")
    if directory != "global" and not is_database_directory(directory):
        return None
    relation = find_relation_file(name)
    return None if relation is None else relation.segment
