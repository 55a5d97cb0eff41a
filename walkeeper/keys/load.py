"""Key files on disk: read, and written once with care. Blocking: callers run it in threads."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from walkeeper.errors import KeyUnavailable, UsageError

MAX_KEY_FILE_BYTES: Final = 64 * 1024
_OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO


@dataclass(frozen=True, slots=True)
class KeyText:
    """What a key file holds; ``exposed`` says that others than its owner can reach it."""

    text: str
    exposed: bool

    def __repr__(self) -> str:
        return f"KeyText(exposed={self.exposed})"


def read_key_file(path: Path) -> KeyText:
    """Read a key file; raises `KeyUnavailable`, naming the path, when that cannot be done."""
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            data = file.read(MAX_KEY_FILE_BYTES + 1)
    except FileNotFoundError:
        raise KeyUnavailable(
            f"{path}: there is no such key file", hint="make one with 'walkeeper keygen'"
        ) from None
    except OSError as error:
        raise KeyUnavailable(f"{path}: the key file cannot be read: {error.strerror}") from None
    return KeyText(decode_key_text(data, str(path)), bool(mode & _OTHERS))


def decode_key_text(data: bytes, source: str) -> str:
    """Key material as text; raises `KeyUnavailable` when it is too long or no text.

    A file that age encrypted is not text behind its first line: what stands there is passed on,
    for `parse_identity_file` says what to do about it.
    """
    if len(data) > MAX_KEY_FILE_BYTES:
        raise KeyUnavailable(f"{source}: more than {MAX_KEY_FILE_BYTES} bytes, not a key file")
    if data.startswith(b"age-encryption.org/"):
        return data.split(b"\n", 1)[0].decode("utf-8", "replace")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        raise KeyUnavailable(f"{source}: not a key file") from None


def require_free(*paths: Path) -> None:
    """Raise `UsageError` when one of the paths is taken: asked before the first key is written."""
    for path in paths:
        if path.exists() or path.is_symlink():
            raise UsageError(
                f"{path} exists, and a key is never overwritten", hint="choose another file"
            )


def create_key_file(path: Path, text: str) -> None:
    """Write a new key file that only its owner can read, durably; never overwrites.

    Raises `UsageError` when the path is taken, and `KeyUnavailable` when it cannot be written;
    then nothing is left behind.
    """
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        raise UsageError(
            f"{path} exists, and a key is never overwritten", hint="choose another file"
        ) from None
    except OSError as error:
        raise KeyUnavailable(f"{path}: cannot be created: {error.strerror}") from None
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            os.fchmod(file.fileno(), 0o600)
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        _sync_directory(path.parent)
    except OSError as error:
        path.unlink(missing_ok=True)
        raise KeyUnavailable(f"{path}: cannot be written: {error.strerror}") from None


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
