"""Small documents in ``state_dir`` that are replaced whole: good to have, and not missed."""

from __future__ import annotations

import asyncio
import contextlib
import os
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import msgspec
import structlog

T = TypeVar("T", bound=msgspec.Struct)

log = structlog.get_logger(__name__)


def read_state(path: Path, kind: type[T]) -> T | None:
    """The document, or None where there is none that can be used. Blocks."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        log.warning("state_not_read", file=str(path), reason=str(error))
        return None


async def keep_state(pool: ThreadPoolExecutor, path: Path, document: msgspec.Struct) -> bool:
    """`write_state` in a thread, over when that is, also where the caller is cancelled.

    A thread goes on then: who writes again afterwards would else be overtaken by the older one.
    """
    loop = asyncio.get_running_loop()
    writing = loop.run_in_executor(pool, write_state, path, document)
    try:
        return await asyncio.shield(writing)
    finally:
        await asyncio.wait({writing})


def write_state(path: Path, document: msgspec.Struct) -> bool:
    """Put the document in the place of what is there, durably; False when it cannot be. Blocks.

    Who dies on the way leaves the old one or the new one. Written by root, it belongs to whom the
    directory above belongs: a command must not take the agent's files from it.
    """
    try:
        owner = _make_folder(path.parent)
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(descriptor, "wb") as file:
                os.fchown(file.fileno(), *owner)
                file.write(msgspec.json.encode(document))
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)  # noqa: PTH105 - blocks either way
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)  # noqa: PTH108
            raise
        _sync_folder(path.parent)
    except OSError as error:
        log.warning("state_not_written", file=str(path), reason=error.strerror)
        return False
    return True


def _make_folder(folder: Path) -> tuple[int, int]:
    """Make it and those above; returns its owner, which is theirs (-1: whoever we are)."""
    if folder.is_dir():
        facts = folder.stat()
        return (facts.st_uid, facts.st_gid) if os.geteuid() == 0 else (-1, -1)
    owner = _make_folder(folder.parent)
    folder.mkdir(mode=0o700, exist_ok=True)
    os.chown(folder, *owner)
    return owner


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
