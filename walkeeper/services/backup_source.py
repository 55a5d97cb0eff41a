"""What a base backup reads: the entries of the data directory and of each tablespace, shared."""

from __future__ import annotations

import hashlib
import os
import tempfile
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from heapq import heappop, heappush
from pathlib import Path
from typing import BinaryIO, Final

from walkeeper.core.backup import FileEntry, decode_files, encode_files
from walkeeper.core.backup_manifest import ManifestFile
from walkeeper.core.layout import BackupPart
from walkeeper.errors import BackupError
from walkeeper.postgres.control_file import CONTROL_FILE
from walkeeper.postgres.data_dir import DataEntry, EntryKind
from walkeeper.services.backup_part import MAX_FILES

_FILES_AHEAD: Final = 1000
_EPOCH: Final = datetime.fromtimestamp(0, UTC)


class EntrySource:
    """One walk that several readers take from; ``tablespace`` is an oid or None.

    The largest of the next thousand files comes first, so that readers end at about the same time:
    none is left alone with a large one. A directory still comes before what is in it.

    Blocks, in whatever thread it is called. What cannot be copied is told in ``skipped``.
    """

    def __init__(self, tablespace: int | None, entries: Iterator[DataEntry]) -> None:
        self.tablespace = tablespace
        self.skipped: list[str] = []
        self._entries = entries
        self._ahead: list[tuple[int, int, DataEntry]] = []
        self._met = 0
        self._lock = threading.Lock()

    def take(self) -> DataEntry | None:
        """The next entry to copy, None at the end."""
        with self._lock:
            while len(self._ahead) < _FILES_AHEAD and (entry := next(self._entries, None)):
                if entry.kind is EntryKind.DIRECTORY:
                    return entry
                if entry.kind is EntryKind.SKIPPED:
                    self.skipped.append(f"{entry.source}: {entry.reason}")
                    continue
                self._met += 1
                heappush(self._ahead, (-entry.size_bytes, self._met, entry))
            return heappop(self._ahead)[2] if self._ahead else None

    def portion(self, first: DataEntry, limit_bytes: int) -> Iterator[DataEntry]:
        """``first`` and what follows, until about ``limit_bytes``: the entries of one part."""
        size, files = 0, 0
        entry: DataEntry | None = first
        while entry is not None:
            yield entry
            size += entry.size_bytes
            files += 1
            if size >= limit_bytes or files >= MAX_FILES:
                return
            entry = self.take()


class FileSpool:
    """Every file of the backup, for PostgreSQL's own manifest; in an unlinked file, not in memory.

    To be closed. Lines may be added from several threads.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._lines = self.scratch()
        self._lock = threading.Lock()
        self.files = 0
        self.size_bytes = 0

    def add(self, part: BackupPart, entry: FileEntry) -> None:
        """Note a file of a part under the name that it has in the data directory."""
        named = entry
        if part.tablespace is not None:
            named = FileEntry.named(
                b"pg_tblspc/%d/%s" % (part.tablespace, entry.name),
                size_bytes=entry.size_bytes,
                mode=entry.mode,
                sha256=entry.sha256,
                modified_at=entry.modified_at,
            )
        with self._lock:
            try:
                self._lines.writelines(encode_files([named]))
            except OSError as error:
                raise self._cannot_write(error) from error
            self.files += 1
            self.size_bytes += entry.size_bytes

    def manifest_files(self, control: bytes) -> Iterator[ManifestFile]:
        """The files as PostgreSQL's manifest lists them, and last ``pg_control`` as given.

        Not to be iterated while files are added.
        """
        self._lines.seek(0)
        for entry in decode_files(self._lines):
            yield ManifestFile(
                entry.name,
                entry.size_bytes,
                entry.modified_at or _EPOCH,
                bytes.fromhex(entry.sha256),
            )
        digest = hashlib.sha256(control).digest()
        now = datetime.now(UTC).replace(microsecond=0)
        yield ManifestFile(os.fsencode(CONTROL_FILE), len(control), now, digest)
        self._lines.seek(0, os.SEEK_END)

    def scratch(self) -> BinaryIO:
        """A further unlinked file beside it; the caller closes it. Raises BackupError."""
        try:
            return tempfile.TemporaryFile(dir=self._directory)
        except OSError as error:
            raise self._cannot_write(error) from error

    def _cannot_write(self, error: OSError) -> BackupError:
        return BackupError(
            f"the list of the backup's files cannot be kept in {self._directory}: {error.strerror}",
            hint="see [agent] state_dir; some 300 bytes are needed for each file of the cluster",
        )

    def close(self) -> None:
        """Give the space back."""
        self._lines.close()
