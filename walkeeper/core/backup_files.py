"""The lists that lie beside the parts of a backup: one line of JSON for each file."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Annotated, Final, Literal

import msgspec

from walkeeper.errors import IntegrityError

Moment = Annotated[datetime, msgspec.Meta(tz=True)]
"""A point in time with a zone."""
Count = Annotated[int, msgspec.Meta(ge=0)]
"""A number of things or bytes."""
Sha256 = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]
"""A SHA-256 in hex."""

_HEX: Final = re.compile(r"(?:[0-9a-f]{2})+")
_ENCODER: Final = msgspec.json.Encoder()


class FileEntry(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One line of a part's list: a file as it stands in the tar.

    A name that is not UTF-8 is held in hex. ``sha256`` covers the bytes in the tar, padding
    included; ``checksums`` says whether page checksums held, do not apply, or which blocks fail.
    """

    path: str | None = None
    path_hex: str | None = None
    size_bytes: Count
    mode: Annotated[int, msgspec.Meta(ge=0, le=0o7777)]
    sha256: Sha256
    modified_at: Moment | None = None
    checksums: Literal["ok", "none", "bad"] = "none"
    bad_blocks: tuple[Count, ...] = ()

    def __post_init__(self) -> None:
        if (self.path is None) == (self.path_hex is None) or not (self.path or self.path_hex):
            raise ValueError("a file has one name")
        if self.path_hex is not None and not _HEX.fullmatch(self.path_hex):
            raise ValueError(f"not a name in hex: {self.path_hex!r}")
        if (self.checksums == "bad") != bool(self.bad_blocks):
            raise ValueError("blocks are listed exactly when checksums are bad")

    @classmethod
    def named(
        cls,
        name: bytes,
        *,
        size_bytes: int,
        mode: int,
        sha256: str,
        modified_at: datetime | None = None,
        checked: bool = False,
        bad_blocks: Iterable[int] = (),
    ) -> FileEntry:
        """The entry of a file whose name is these bytes; ``checked``: it has page checksums."""
        bad = tuple(bad_blocks)
        checksums: Literal["ok", "none", "bad"] = "bad" if bad else "ok" if checked else "none"
        try:
            path, path_hex = name.decode(), None
        except UnicodeDecodeError:
            path, path_hex = None, name.hex()
        return cls(
            path=path,
            path_hex=path_hex,
            size_bytes=size_bytes,
            mode=mode,
            sha256=sha256,
            modified_at=modified_at,
            checksums=checksums,
            bad_blocks=bad,
        )

    @property
    def name(self) -> bytes:
        """The file's name as the file system has it, relative to the part's root."""
        return str(self.path).encode() if self.path_hex is None else bytes.fromhex(self.path_hex)


def encode_files(entries: Iterable[FileEntry]) -> Iterator[bytes]:
    """The lines of a part's list, one for each entry."""
    for entry in entries:
        yield _ENCODER.encode(entry) + b"\n"


def decode_files(lines: Iterable[bytes]) -> Iterator[FileEntry]:
    """The entries of a part's list; raises IntegrityError at the first line that is none."""
    decoder = msgspec.json.Decoder(FileEntry)
    for number, line in enumerate(lines, start=1):
        try:
            yield decoder.decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise IntegrityError(f"line {number} of a list of files: {error}") from error
