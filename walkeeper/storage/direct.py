"""Writes past the page cache: what is written once and not read again should push nothing out.

An archive's objects and the files of a restore would displace PostgreSQL's own data, and filling
fresh pages of the cache costs most of the CPU of writing. With O_DIRECT (open(2)) the device takes
the bytes from our memory; it asks for memory, offset and length in whole blocks of the device.
Synchronous: callers run it in threads.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import threading
from typing import Final

from walkeeper.storage.base import Buffer

STAGE_BYTES: Final = 1 << 20
"""What one write takes: larger ones are no faster, and this stays in a core's cache."""
DIRECT_FROM_BYTES: Final = 128 << 10
"""Files below this go through the page cache: a wait for the device costs more than the copy."""
ALIGNMENT: Final = 4096
"""The largest block that common devices have; where one has larger ones the cache is used."""


def is_on_device(fd: int) -> bool:
    """Whether a file lies on a block device of its own, where O_DIRECT saves work.

    Elsewhere it costs some: over NFS each write would wait for a COMMIT, where fsync needs one for
    all. Such file systems, tmpfs, overlays and those that span devices have no major number.
    """
    return os.major(os.fstat(fd).st_dev) != 0


def make_stage() -> memoryview:
    """Page-aligned memory of `STAGE_BYTES` for a `SequentialWriter`; pages come as it is filled."""
    return memoryview(mmap.mmap(-1, STAGE_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))


class Stages:
    """Page-aligned memory that writers borrow: as many pieces as were ever out at once.

    When none is out, none is kept. Safe to share between threads.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._out = 0
        self._free: list[memoryview] = []

    def take(self) -> memoryview:
        """A piece of `STAGE_BYTES`, to be given back by `give`."""
        with self._lock:
            self._out += 1
            if self._free:
                return self._free.pop()
        return make_stage()

    def give(self, stage: memoryview) -> None:
        """Take a piece back."""
        with self._lock:
            self._out -= 1
            self._free.append(stage)
            if not self._out:
                self._free.clear()


class SequentialWriter:
    """Writes a new file from its beginning: past the page cache once it is large enough.

    ``stage`` is page-aligned memory, from `Stages`, that is the writer's own until the end. Without
    ``direct``, see `is_on_device`, and where O_DIRECT is refused, all goes through the cache. The
    descriptor remains the caller's, and so does fsync(2), which stays necessary: it hardens the
    size and the device's own cache. Raises OSError; after one the file is of no use.
    """

    def __init__(self, fd: int, stage: memoryview, *, direct: bool) -> None:
        self._fd = fd
        self._stage = stage
        self._filled = 0
        self._direct = False
        self._refused = not direct

    def write(self, data: Buffer) -> None:
        """Append ``data``, which is copied: it may change afterwards."""
        with memoryview(data) as given, given.cast("B") as rest:
            at = 0
            while at < len(rest):
                step = min(len(rest) - at, len(self._stage) - self._filled)
                self._stage[self._filled : self._filled + step] = rest[at : at + step]
                self._filled += step
                at += step
                if self._filled == len(self._stage):
                    self._write_blocks(self._filled)
                    self._filled = 0

    def finish(self) -> None:
        """Write what is held back; the file has all bytes then, and is not synced."""
        whole = self._filled - self._filled % ALIGNMENT
        if self._filled < DIRECT_FROM_BYTES and not self._direct:
            whole = 0
        self._write_blocks(whole)
        # The last bytes are no whole block. Through the cache they go as they are: padding would
        # have to be cut off again, and a file would be longer than its content meanwhile.
        self._use_cache()
        self._write_out(whole, self._filled)
        self._filled = 0

    def _write_blocks(self, end: int) -> None:
        if end and not self._direct and not self._refused:
            self._direct = self._set_direct(on=True)
            self._refused = not self._direct
        self._write_out(0, end)

    def _write_out(self, begin: int, end: int) -> None:
        while begin < end:
            try:
                begin += os.write(self._fd, self._stage[begin:end])
            except OSError as error:
                # Some file systems refuse only the write; and after a short one the offset may be
                # no whole block.
                if error.errno != errno.EINVAL or not self._direct:
                    raise
                self._use_cache()
                self._refused = True

    def _use_cache(self) -> None:
        if self._direct:
            self._set_direct(on=False)
            self._direct = False

    def _set_direct(self, *, on: bool) -> bool:
        """Whether the file system took it; to turn it off is never refused."""
        flags = fcntl.fcntl(self._fd, fcntl.F_GETFL)
        wanted = flags | os.O_DIRECT if on else flags & ~os.O_DIRECT
        try:
            fcntl.fcntl(self._fd, fcntl.F_SETFL, wanted)
        except OSError as error:
            if not on or error.errno != errno.EINVAL:
                raise
            return False
        return True
