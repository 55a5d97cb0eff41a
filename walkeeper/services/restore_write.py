"""Writes single files and directories durably, as whoever will run the server."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable
from pathlib import Path

from walkeeper.errors import RecoveryError, StorageFull
from walkeeper.services.restore_target import FileOwner


def make_directory(path: Path, mode: int, owner: FileOwner) -> None:
    """Make a directory with this mode and owner, or give them to one that is there."""
    try:
        path.mkdir(mode, parents=True, exist_ok=True)
        path.chmod(mode)
        owner.take(path)
    except OSError as error:
        raise cannot_write(path, error) from error


def write_file(path: Path, blocks: Iterable[bytes], owner: FileOwner) -> None:
    """Put a small file in place as a whole, synced; one of that name is replaced.

    Raises StorageFull and RecoveryError; what ``blocks`` raises leaves the old file.
    """
    draft = path.with_name(path.name + ".walkeeper")
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        file = os.open(draft, flags, 0o600)
        try:
            for block in blocks:
                write_all(file, block)
            os.fsync(file)
        finally:
            os.close(file)
        owner.take(draft)
        draft.rename(path)
    except OSError as error:
        raise cannot_write(path, error) from error


def sync_directory(path: Path) -> None:
    """Make the entries of a directory durable."""
    try:
        directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    except OSError as error:
        raise cannot_write(path, error) from error


def write_all(file: int, data: bytes | memoryview) -> None:
    """Write a whole block. Raises OSError."""
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(file, rest) :]


def cannot_write(path: Path, error: OSError) -> StorageFull | RecoveryError:
    """The error that says what could not be written and why."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StorageFull(f"{path} cannot be written: {error.strerror}")
    return RecoveryError(f"{path} cannot be written: {error.strerror}")
