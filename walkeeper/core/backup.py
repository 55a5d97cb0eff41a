"""The documents that describe a stored base backup.

Each is a frozen ``msgspec`` structure of format 1; fields that a later program adds are passed
over. LSNs, ids and system identifiers are strings on the wire (other languages round large
numbers): the fields hold exactly what is stored, the properties of a shorter name hold the value,
and a document whose text is no such value does not decode.
"""

from __future__ import annotations

from typing import Annotated, Literal, TypeVar

import msgspec

from walkeeper.core.backup_files import (
    Count,
    FileEntry,
    Moment,
    Sha256,
    decode_files,
    encode_files,
)
from walkeeper.core.backup_id import BackupId
from walkeeper.core.backup_label import BackupLabel, Tablespace, TablespaceMap
from walkeeper.core.layout import BackupPart
from walkeeper.core.lsn import Lsn
from walkeeper.core.wal import SegmentSize, WalSegment
from walkeeper.errors import IntegrityError

__all__ = [
    "BackupFacts",
    "BackupLabel",
    "BackupStart",
    "BackupSummary",
    "FileEntry",
    "Manifest",
    "PartRecord",
    "RestoreSettings",
    "SavedConfig",
    "Tablespace",
    "TablespaceMap",
    "TablespaceRecord",
    "decode",
    "decode_files",
    "encode",
    "encode_files",
]

Oid = Annotated[int, msgspec.Meta(ge=1, le=0xFFFF_FFFF)]
Decimal = Annotated[str, msgspec.Meta(pattern="^[0-9]{1,20}$")]


class BackupStart(msgspec.Struct, frozen=True, kw_only=True):
    """``start.json``: the claim on a backup's id, written before anything else of it."""

    name: str
    archive: str
    id: str
    host: str
    started_at: Moment
    writer: str

    def __post_init__(self) -> None:
        BackupId.parse(self.id)

    @property
    def backup(self) -> BackupId:
        """Whose claim it is."""
        return BackupId.parse(self.id)


class TablespaceRecord(msgspec.Struct, frozen=True):
    """A tablespace of a backup and where it lay on the source."""

    oid: Oid
    location: str


class BackupFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What a listing, a plan and retention need to know of a backup.

    ``size_bytes`` counts the plain files, ``stored_bytes`` the objects with their lists.
    ``stopped_at`` is the server's clock when the backup had stopped: no earlier moment can be
    recovered from it. ``checksum_findings`` counts damaged pages. ``wal_first`` and ``wal_last``
    name the segments without which the backup is worthless.
    """

    id: str
    kind: Literal["full"] = "full"
    system_identifier: Decimal
    timeline: Annotated[int, msgspec.Meta(ge=1, le=0xFFFF_FFFF)]
    start_lsn: str
    stop_lsn: str
    checkpoint_lsn: str
    started_at: Moment
    stopped_at: Moment
    server_version: Count
    segment_size: int
    label: str = ""
    size_bytes: Count
    stored_bytes: Count
    parts: Count
    files: Count
    checksum_findings: Count = 0
    data_checksums: bool
    tablespaces: tuple[TablespaceRecord, ...] = ()
    wal_first: str
    wal_last: str

    def __post_init__(self) -> None:
        BackupId.parse(self.id)
        if not self.start <= self.checkpoint < self.stop:
            raise ValueError("a backup starts, has its checkpoint, and then stops")
        first, last = self.required_wal
        if (self.wal_first, self.wal_last) != (str(first), str(last)):
            raise ValueError(f"the WAL of this backup is {first} to {last}")

    @property
    def backup(self) -> BackupId:
        """Its name."""
        return BackupId.parse(self.id)

    @property
    def start(self) -> Lsn:
        """Where replay begins."""
        return Lsn.parse(self.start_lsn)

    @property
    def stop(self) -> Lsn:
        """Where the data directory is consistent; nothing before it can be recovered."""
        return Lsn.parse(self.stop_lsn)

    @property
    def checkpoint(self) -> Lsn:
        """Where the record of its checkpoint begins."""
        return Lsn.parse(self.checkpoint_lsn)

    @property
    def wal_segment_size(self) -> SegmentSize:
        """The segment size of its cluster."""
        return SegmentSize(self.segment_size)

    @property
    def required_wal(self) -> tuple[WalSegment, WalSegment]:
        """First and last segment that it needs to become consistent."""
        size = self.wal_segment_size
        return (
            WalSegment.at(self.timeline, self.start, size),
            WalSegment.before(self.timeline, self.stop, size),
        )


class BackupSummary(msgspec.Struct, frozen=True, kw_only=True):
    """``summary.json``: the facts in clear, bound to the manifest by the digest of its object."""

    name: str
    archive: str
    facts: BackupFacts
    manifest_name: str
    manifest_sha256: Sha256


class PartRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One part of a backup: its tar, and the list of the files in it.

    Sizes and digests ``stored_*`` and ``list_*`` are those of the objects as stored, so that they
    can be checked without a key; ``size_bytes`` is the tar before compression.
    """

    tablespace: Oid | None = None
    number: Annotated[int, msgspec.Meta(ge=1, le=99_999)]
    stored_bytes: Count
    stored_sha256: Sha256
    list_name: str
    list_bytes: Count
    list_sha256: Sha256
    size_bytes: Count
    files: Count

    def part_of(self, backup: BackupId) -> BackupPart:
        """Its identity, from which its names follow."""
        return BackupPart(backup, self.tablespace, self.number)


class RestoreSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What a restored server must know before it starts.

    The first five stand in ``pg_control``: a standby refuses to start with less than the primary
    had (src/backend/access/transam/xlogrecovery.c, CheckRequiredParameterValues).
    The files are those of the source, None where they lie in the data directory.
    """

    max_connections: Count
    max_worker_processes: Count
    max_wal_senders: Count
    max_prepared_xacts: Count
    max_locks_per_xact: Count
    data_directory_mode: Annotated[int, msgspec.Meta(ge=0, le=0o7777)]
    config_file: str | None = None
    hba_file: str | None = None
    ident_file: str | None = None


class SavedConfig(msgspec.Struct, frozen=True):
    """A configuration file from outside the data directory, and its member name in the tar."""

    path: str
    member: str


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """``manifest.json``: the commit point of a backup."""

    format: Annotated[int, msgspec.Meta(ge=1)] = 1
    facts: BackupFacts
    parts: tuple[PartRecord, ...]
    settings: RestoreSettings
    config_files: tuple[SavedConfig, ...] = ()

    def __post_init__(self) -> None:
        backup = self.facts.backup
        names = {part.part_of(backup).data_name for part in self.parts}
        if len(names) != len(self.parts) or len(self.parts) != self.facts.parts:
            raise ValueError(f"{len(names)} parts are listed, {self.facts.parts} were written")
        for part in self.parts:
            if part.list_name != part.part_of(backup).files_name:
                raise ValueError(f"{part.list_name!r} is not the list of this part")


Document = TypeVar("Document", BackupStart, BackupSummary, Manifest)


def encode(document: BackupStart | BackupSummary | Manifest) -> bytes:
    """The document as it is stored."""
    return msgspec.json.encode(document)


def decode(data: bytes | msgspec.Raw, kind: type[Document]) -> Document:
    """Read a stored document; raises IntegrityError when it is not what it should be."""
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise IntegrityError(f"not a valid {kind.__name__}: {error}") from error
