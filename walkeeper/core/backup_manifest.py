"""PostgreSQL's own ``backup_manifest``, written and rewritten line by line.

The format is that of src/backend/backup/backup_manifest.c, which ``pg_verifybackup`` and
``pg_combinebackup`` read: version 1 for PostgreSQL 13 to 16, version 2 with the system identifier
from 17. Files may be millions, so nothing here holds more than one of them.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

import msgspec

from walkeeper.core.lsn import Lsn
from walkeeper.errors import IntegrityError

_FIRST_MAJOR_OF_VERSION_2: Final = 17
_CHECKSUM: Final = b'"Manifest-Checksum": "'
_END_OF_FILES: Final = b"],\n"

# src/backend/utils/adt/json.c: escape_json.
_ESCAPES: Final = {
    '"': '\\"',
    "\\": "\\\\",
    "\b": "\\b",
    "\f": "\\f",
    "\n": "\\n",
    "\r": "\\r",
    "\t": "\\t",
} | {chr(code): f"\\u{code:04x}" for code in range(32) if chr(code) not in "\b\f\n\r\t"}
_NEEDS_ESCAPE: Final = re.compile(r'["\\\x00-\x1f]')


@dataclass(frozen=True, slots=True)
class ManifestFile:
    """A file of a backup; ``path`` is relative to the data directory, in its own bytes.

    A file in a tablespace lies under ``pg_tblspc/<oid>/``. ``sha256`` is the digest itself.
    """

    path: bytes
    size_bytes: int
    modified_at: datetime
    sha256: bytes


@dataclass(frozen=True, slots=True)
class WalRange:
    """WAL that recovery of the backup needs, from ``begin`` to just before ``end``."""

    timeline: int
    begin: Lsn
    end: Lsn


class _Path(msgspec.Struct):
    path: str | None = msgspec.field(name="Path", default=None)
    encoded: str | None = msgspec.field(name="Encoded-Path", default=None)


_PATH_OF: Final = msgspec.json.Decoder(_Path)


def write(
    files: Iterable[ManifestFile],
    wal: Sequence[WalRange],
    *,
    server_major: int,
    system_identifier: int,
) -> Iterator[bytes]:
    """The lines of a manifest, its own checksum in the last one."""
    digest = hashlib.sha256()
    for line in _unsigned(files, wal, server_major, system_identifier):
        digest.update(line)
        yield line
    yield _checksum_line(digest.hexdigest())


def rewrite(
    lines: Iterable[bytes],
    *,
    replace: Mapping[bytes, ManifestFile] | None = None,
    add: Iterable[ManifestFile] = (),
    remove: Collection[bytes] = (),
) -> Iterator[bytes]:
    """A manifest made by ``write`` with some of its files replaced, removed or added.

    Each of ``lines`` ends in its newline. Raises IntegrityError when they are not such a manifest,
    do not match their checksum, or lack a file that was to be replaced or removed: whatever was
    yielded until then must be thrown away.
    """
    before, after = hashlib.sha256(), hashlib.sha256()
    for line in _edited(_Source(lines, before), dict(replace or {}), add, set(remove)):
        after.update(line)
        yield line
    yield _checksum_line(after.hexdigest())


def _unsigned(
    files: Iterable[ManifestFile],
    wal: Sequence[WalRange],
    server_major: int,
    system_identifier: int,
) -> Iterator[bytes]:
    if server_major >= _FIRST_MAJOR_OF_VERSION_2:
        yield b'{ "PostgreSQL-Backup-Manifest-Version": 2,\n'
        yield f'"System-Identifier": {system_identifier},\n'.encode()
    else:
        yield b'{ "PostgreSQL-Backup-Manifest-Version": 1,\n'
    yield b'"Files": [\n'
    yield from _separated(_file_entry(file) for file in files)
    yield _END_OF_FILES
    yield b'"WAL-Ranges": [\n'
    yield from _separated(_wal_entry(leg) for leg in wal)
    yield b"],\n"


def _separated(entries: Iterable[bytes]) -> Iterator[bytes]:
    """One line for each entry: a comma ends all but the last."""
    previous: bytes | None = None
    for entry in entries:
        if previous is not None:
            yield previous + b",\n"
        previous = entry
    if previous is not None:
        yield previous + b"\n"


def _file_entry(file: ManifestFile) -> bytes:
    try:
        text = file.path.decode()
        name = '"Path": "' + _NEEDS_ESCAPE.sub(lambda found: _ESCAPES[found[0]], text) + '"'
    except UnicodeDecodeError:
        name = f'"Encoded-Path": "{file.path.hex()}"'
    modified = file.modified_at.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S GMT")
    return (
        f'{{ {name}, "Size": {file.size_bytes}, "Last-Modified": "{modified}", '
        f'"Checksum-Algorithm": "SHA256", "Checksum": "{file.sha256.hex()}" }}'
    ).encode()


def _wal_entry(leg: WalRange) -> bytes:
    return (
        f'{{ "Timeline": {leg.timeline}, "Start-LSN": "{leg.begin}", "End-LSN": "{leg.end}" }}'
    ).encode()


def _checksum_line(hexdigest: str) -> bytes:
    # Not covered by the checksum: it ends at the newline before this line (SendBackupManifest).
    return _CHECKSUM + hexdigest.encode() + b'"}\n'


class _Source:
    """The lines of a manifest up to its checksum, which is checked when they end."""

    def __init__(self, lines: Iterable[bytes], digest: hashlib._Hash) -> None:
        self._lines = iter(lines)
        self._digest = digest

    def __iter__(self) -> Iterator[bytes]:
        for line in self._lines:
            if line.startswith(_CHECKSUM):
                if line != _checksum_line(self._digest.hexdigest()):
                    raise IntegrityError("the backup_manifest does not match its own checksum")
                if next(self._lines, None) is not None:
                    raise IntegrityError("the backup_manifest goes on after its end")
                return
            self._digest.update(line)
            yield line
        raise IntegrityError("the backup_manifest has no end")


def _edited(
    source: _Source,
    replace: dict[bytes, ManifestFile],
    add: Iterable[ManifestFile],
    remove: set[bytes],
) -> Iterator[bytes]:
    lines = iter(source)
    for line in lines:
        yield line
        if line == b'"Files": [\n':
            break
    else:
        raise IntegrityError("the backup_manifest lists no files")
    yield from _separated(_edited_files(lines, replace, add, remove))
    yield _END_OF_FILES
    yield from lines


def _edited_files(
    lines: Iterator[bytes],
    replace: dict[bytes, ManifestFile],
    add: Iterable[ManifestFile],
    remove: set[bytes],
) -> Iterator[bytes]:
    for line in lines:
        if line == _END_OF_FILES:
            break
        entry = line.removesuffix(b"\n").removesuffix(b",")
        path = _path_of(entry)
        if path in remove:
            remove.discard(path)
        elif path in replace:
            yield _file_entry(replace.pop(path))
        else:
            yield entry
    else:
        raise IntegrityError("the list of files in the backup_manifest has no end")
    missing = sorted(remove | replace.keys())
    if missing:
        raise IntegrityError(f"the backup_manifest does not list {missing[0]!r}")
    for file in add:
        yield _file_entry(file)


def _path_of(entry: bytes) -> bytes:
    try:
        name = _PATH_OF.decode(entry)
        if name.encoded is not None:
            return bytes.fromhex(name.encoded)
    except (msgspec.DecodeError, ValueError) as error:
        raise IntegrityError(f"a line of the backup_manifest is not a file: {error}") from error
    if name.path is None:
        raise IntegrityError("a line of the backup_manifest has no path")
    return name.path.encode()
