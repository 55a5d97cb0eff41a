"""Whose archive it is: creating, finding and recognising one."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from walkeeper.codec import signed_json
from walkeeper.codec.writer import SigningKey
from walkeeper.core.keyring import Writer
from walkeeper.core.layout import (
    ARCHIVE_NAME,
    ARCHIVE_RECORD,
    FORMAT_PREFIX,
    parse_format_marker,
)
from walkeeper.errors import (
    AmbiguousArchive,
    ForeignCluster,
    FormatTooNew,
    IntegrityError,
    NotInitialised,
    ObjectExists,
    ObjectNotFound,
    UsageError,
)
from walkeeper.repository.archive import Archive
from walkeeper.repository.records import FORMAT_VERSION, ArchiveRecord
from walkeeper.storage.base import Capabilities, Storage

_RECORD_LIMIT = 64 * 1024


@dataclass(frozen=True, slots=True)
class Trust:
    """Whose signatures count: the pinned writers, or everybody's with ``allow_unsigned``."""

    writers: tuple[Writer, ...]
    allow_unsigned: bool = False


async def create_archive(
    storage: Storage, folder: str, record: ArchiveRecord, signing: SigningKey, trust: Trust
) -> tuple[ArchiveRecord, bool]:
    """Create the archive's folder, or find that it exists already.

    Returns the record that is stored and whether it was created now. Raises ForeignCluster when
    the folder belongs to another cluster, UsageError for a name that cannot be a folder.
    """
    require_archive_name(folder)
    try:
        await storage.put(f"{folder}/{ARCHIVE_RECORD}", signed_json.encode(record, signing))
    except ObjectExists:
        existing = await load_record(storage, folder, trust)
        require_cluster(existing, record.system_identifier, folder)
        return existing, False
    return record, True


def require_archive_name(folder: str) -> None:
    """Raise UsageError unless the name can be the folder of an archive."""
    if ARCHIVE_NAME.fullmatch(folder) is None:
        raise UsageError(
            f"{folder!r} cannot be the name of an archive",
            hint="use up to 63 lower-case letters, digits and hyphens",
        )


def require_cluster(record: ArchiveRecord, system_identifier: str, folder: str) -> None:
    """Raise ForeignCluster unless the archive belongs to this cluster."""
    if record.system_identifier != system_identifier:
        raise ForeignCluster(
            f"the archive {folder} belongs to the cluster {record.system_identifier}, this one is "
            f"{system_identifier}",
            hint="a major upgrade begins a new archive: choose another [cluster] archive",
        )


async def load_record(storage: Storage, folder: str, trust: Trust) -> ArchiveRecord:
    """Read and check ``archive.json``; refuses formats that are newer than this program.

    Raises NotInitialised, IntegrityError, FormatTooNew and what storage raises.
    """
    name = f"{folder}/{ARCHIVE_RECORD}"
    try:
        data = await _read_small(storage, name)
    except ObjectNotFound as error:
        raise NotInitialised(
            f"{storage.url} holds no archive {folder}", hint="create it: walkeeper init"
        ) from error
    record = decode_record(data, trust)
    if record.format > FORMAT_VERSION:
        raise _too_new(folder, record.format)
    async for info in storage.list_objects(f"{folder}/{FORMAT_PREFIX}"):
        version = parse_format_marker(info.name.removeprefix(f"{folder}/"))
        if version is not None and version > FORMAT_VERSION:
            raise _too_new(folder, version)
    return record


async def require_record(archive: Archive, trust: Trust) -> None:
    """Raise unless the archive is still the one that was opened.

    Somebody may have removed it, and created another one in its place: what is sealed for the old
    one could not be read there. Raises NotInitialised, ForeignCluster and what storage raises.
    """
    record = await load_record(archive.storage, archive.folder, trust)
    if record.archive != archive.record.archive:
        raise ForeignCluster(
            f"the archive {archive.folder} is another one than when it was opened: "
            f"{record.archive}, before {archive.record.archive}",
            hint="restart the agent if that was meant",
        )


def decode_record(data: bytes, trust: Trust) -> ArchiveRecord:
    """``archive.json`` from its bytes; it names its own id, so any archive's is accepted here."""
    record = signed_json.decode(
        data,
        ArchiveRecord,
        writers=trust.writers,
        name=ARCHIVE_RECORD,
        archive=None,
        allow_unsigned=trust.allow_unsigned,
    )
    try:
        record.wal_segment_size  # noqa: B018 - checks the value
    except ValueError as error:
        raise IntegrityError(f"{ARCHIVE_RECORD} is damaged: {error}") from error
    return record


def _too_new(folder: str, version: int) -> FormatTooNew:
    return FormatTooNew(
        f"the archive {folder} holds objects of format {version}; this program knows "
        f"{FORMAT_VERSION}",
        hint="upgrade walkeeper on this host",
    )


async def _read_small(storage: Storage, name: str) -> bytes:
    data = b""
    async with storage.read(name, length=_RECORD_LIMIT) as chunks:
        async for chunk in chunks:
            data += chunk
    return data


async def find_archive(storage: Storage, named: str | None) -> str:
    """The folder of the archive that is meant: the one named, or the only one there is.

    Raises AmbiguousArchive with the list, or NotInitialised.
    """
    if named is not None:
        require_archive_name(named)
        return named
    archives = await list_archives(storage)
    if not archives:
        raise NotInitialised(f"{storage.url} holds no archive", hint="create it: walkeeper init")
    if len(archives) > 1:
        raise AmbiguousArchive(
            f"{storage.url} holds {len(archives)} archives: {', '.join(archives)}",
            hint="choose one with --archive NAME",
        )
    return archives[0]


async def list_archives(storage: Storage) -> list[str]:
    """Every folder of the repository that holds an ``archive.json``, sorted."""
    found = []
    for folder in await storage.folders(""):
        name = folder.removesuffix("/")
        if ARCHIVE_NAME.fullmatch(name) is None:
            continue
        try:
            await storage.head(f"{name}/{ARCHIVE_RECORD}")
        except ObjectNotFound:
            continue
        found.append(name)
    return found


async def probe_archive(storage: Storage, folder: str) -> Capabilities:
    """Find out whether the store's creates are conditional, by writing ``archive.json`` again.

    Its own bytes are written, so nothing changes whatever the answer is.
    """
    name = f"{folder}/{ARCHIVE_RECORD}"
    return await storage.probe(name, await _read_small(storage, name))


def describe(record: ArchiveRecord) -> dict[str, object]:
    """The record as a reporting command shows it, with stable keys."""
    facts = msgspec.to_builtins(record)
    return {key: facts[key] for key in facts if key != "name"}
