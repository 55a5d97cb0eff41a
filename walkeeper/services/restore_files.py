"""Unpacks the tar of one part: every member judged, every file written, digested and synced.

Synchronous: it runs in a thread of its own, which waits for the blocks of the part in a
`BlockPipe`. Only regular files and directories with plain relative names are taken; what is
written is compared with the part's list, and a file of the list that did not come is damage.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import queue
import tarfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from walkeeper.core.backup import FileEntry
from walkeeper.errors import IntegrityError, RecoveryError
from walkeeper.postgres.control_file import CONTROL_FILE
from walkeeper.services.restore_target import FileOwner
from walkeeper.services.restore_write import cannot_write, write_all
from walkeeper.services.tar_blocks import TarBlocks
from walkeeper.storage.direct import DIRECT_FROM_BYTES, SequentialWriter, is_on_device, make_stage

HELD_CONTROL_FILE: Final = "global/pg_control.walkeeper"
"""pg_control under another name: without it no server starts."""

_PIPE_BLOCKS: Final = 4
_PERMISSIONS: Final = 0o777
_NOWHERE: Final = frozenset({".", ".."})
_UNSYNCED_FILES: Final = 32
"""Small files that wait to be synced together; as many descriptors for each part under way."""
_NEW_FILE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class BlockPipe:
    """Blocks from the event loop to one thread, which iterates over them; a few at a time."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._free = asyncio.Semaphore(_PIPE_BLOCKS)
        self._blocks: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._broken = False
        self._abandoned = False

    async def write(self, block: bytes) -> bool:
        """Hand a block over, once there is room for it; False when nobody reads any more."""
        await self._free.acquire()
        if self._abandoned:
            self._free.release()
            return False
        self._blocks.put(block)
        return True

    def abandon(self) -> None:
        """In the thread: nothing will be read any more, so nobody need wait for room."""

        def give_up() -> None:
            self._abandoned = True
            self._free.release()

        self._loop.call_soon_threadsafe(give_up)

    def close(self, *, broken: bool = False) -> None:
        """Nothing comes any more; ``broken``: and what came is not all. Idempotent."""
        self._broken = self._broken or broken
        self._blocks.put(None)

    def __iter__(self) -> Iterator[bytes]:
        """In the thread, once: every block. Raises RecoveryError where what came is not all."""
        while (block := self._blocks.get()) is not None:
            self._loop.call_soon_threadsafe(self._free.release)
            yield block
        if self._broken:
            raise RecoveryError("the restore was given up")


@dataclass(frozen=True, slots=True)
class _Expected:
    size_bytes: int
    mode: int
    sha256: bytes


@dataclass(slots=True)
class PartFiles:
    """Writes the files of one part below a root; ``directory_mode`` is that of the cluster."""

    name: str
    root: Path
    directory_mode: int
    owner: FileOwner
    files: int = 0
    size_bytes: int = 0
    taken_bytes: int = 0
    """How far the tar has come; read by others while it grows."""
    _expected: dict[bytes, _Expected] = field(default_factory=dict)
    _stage: memoryview = field(default_factory=make_stage)
    _made: set[str] = field(default_factory=set)
    _open: list[tuple[str, int]] = field(default_factory=list)
    """Path and descriptor of files that are written and not synced yet."""

    def expect(self, entries: Iterable[FileEntry]) -> None:
        """Take the part's list, before its files come."""
        for entry in entries:
            if entry.name in self._expected:
                raise IntegrityError(f"the list of {self.name} names {entry.name!r} twice")
            expected = _Expected(entry.size_bytes, entry.mode, bytes.fromhex(entry.sha256))
            self._expected[entry.name] = expected

    def unpack(
        self, pipe: BlockPipe, decode: Callable[[Iterable[bytes]], Iterable[bytes]] = iter
    ) -> None:
        """Write all files of the tar that the pipe brings, in the shape that ``decode`` undoes.

        Raises what ``decode`` raises, IntegrityError for a member that may not be, a file that is
        not as listed and one that is missing; StorageFull, RecoveryError where a file cannot be
        written. Whoever writes into the pipe is then told that nobody reads any more.
        """
        try:
            self._unpack(TarBlocks(self._counted(decode(pipe))))
        except BaseException:
            pipe.abandon()
            raise
        finally:
            self._let_go()

    def _counted(self, blocks: Iterable[bytes]) -> Iterator[bytes]:
        for block in blocks:
            self.taken_bytes += len(block)
            yield block

    def _unpack(self, tar: TarBlocks) -> None:
        try:
            for member in tar.members():
                self._member(tar, member)
        except tarfile.TarError as error:
            raise IntegrityError(f"{self.name} is not a tar archive: {error}") from error
        self._sync()
        tar.drain()
        if self._expected:
            missing = min(self._expected)
            raise IntegrityError(
                f"{self.name} lacks {os.fsdecode(missing)}, which its list names"
                + (f" ({len(self._expected)} files in all)" if len(self._expected) > 1 else "")
            )

    def _member(self, tar: TarBlocks, member: tarfile.TarInfo) -> None:
        self._require_inside(member.name)
        if member.isdir():
            self._make_directory(self.root / member.name)
            return
        if not member.isreg() or member.issparse():
            raise IntegrityError(f"{self.name} holds {member.name!r}, which is no regular file")
        expected = self._expected.pop(os.fsencode(member.name), None)
        if expected is None:
            raise IntegrityError(f"{self.name} holds {member.name!r}, which its list lacks")
        directory = member.name.rpartition("/")[0]
        if directory not in self._made:  # a question for each file would cost more than a file
            self._make_directory(self.root / directory)
            self._made.add(directory)
        name = HELD_CONTROL_FILE if member.name == CONTROL_FILE else member.name
        digest = self._write(f"{self.root}/{name}", member.size, tar.content(member), expected)
        if member.size != expected.size_bytes or digest != expected.sha256:
            raise IntegrityError(f"{member.name} in {self.name} is not as its list says")
        self.files += 1
        self.size_bytes += member.size

    def _require_inside(self, name: str) -> None:
        if name.startswith("/") or "\0" in name or not _NOWHERE.isdisjoint(name.split("/")):
            raise IntegrityError(f"{self.name} holds a member outside its place: {name!r}")

    def _make_directory(self, path: Path) -> None:
        if path == self.root or path.is_dir():
            return
        self._make_directory(path.parent)
        try:
            path.mkdir(self.directory_mode)
            path.chmod(self.directory_mode)  # the umask must not narrow it
            self.owner.take(path)
        except FileExistsError:
            if not path.is_dir():  # parts run in parallel: another one may have made it
                raise IntegrityError(f"{path} is a file and a directory") from None
        except OSError as error:
            raise cannot_write(path, error) from error

    def _write(
        self, path: str, size: int, content: Iterable[memoryview], expected: _Expected
    ) -> bytes:
        """Write a file, which is durable at the next `_sync`; returns its digest."""
        try:
            file = os.open(path, _NEW_FILE, 0o600)
        except FileExistsError:
            raise IntegrityError(f"{path} comes twice in the backup") from None
        except OSError as error:
            raise cannot_write(Path(path), error) from error
        self._open.append((path, file))
        is_small = size < DIRECT_FROM_BYTES
        try:
            digest = _copy_small(file, content) if is_small else self._copy(file, content)
            os.fchmod(file, expected.mode & _PERMISSIONS)
            if self.owner.uid is not None and self.owner.gid is not None:
                os.fchown(file, self.owner.uid, self.owner.gid)
            # The kernel begins to write now, so that fsync(2) finds little left to wait for.
            os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
        except OSError as error:
            raise cannot_write(Path(path), error) from error
        if not is_small or len(self._open) >= _UNSYNCED_FILES:
            self._sync()
        return digest

    def _copy(self, file: int, content: Iterable[memoryview]) -> bytes:
        digest = hashlib.sha256()
        writer = SequentialWriter(file, self._stage, direct=is_on_device(file))
        for block in content:
            digest.update(block)
            writer.write(block)
        writer.finish()
        return digest.digest()

    def _sync(self) -> None:
        """Make what was written durable, and let go of it.

        The first of several small files waits for the file system's journal, which has the others
        too by then.
        """
        for path, file in self._open:
            try:
                # Each file by itself: only then is its own write error certain to be reported here.
                os.fsync(file)
            except OSError as error:
                raise cannot_write(Path(path), error) from error
        self._let_go()

    def _let_go(self) -> None:
        while self._open:
            os.close(self._open.pop()[1])


def _copy_small(file: int, content: Iterable[memoryview]) -> bytes:
    data = b"".join(content)
    write_all(file, data)
    return hashlib.sha256(data).digest()
