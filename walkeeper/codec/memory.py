"""Memory for payloads, used again: the page faults of fresh memory cost as much as the cipher."""

from __future__ import annotations

import mmap
import threading
import weakref
from typing import Final

STEP_BYTES: Final = 1 << 20
"""By how much a piece begins, grows and shrinks."""
_KEPT_BYTES: Final = 20 << 20
"""Kept for the next payloads while others are in memory: a segment that does not compress."""


class PayloadMemory:
    """Pieces of anonymous memory that payloads borrow. Safe to share between threads.

    A piece may be grown and shrunk by whoever has it. When none is out, none is kept.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._free: list[mmap.mmap] = []
        self._out: weakref.WeakSet[mmap.mmap] = weakref.WeakSet()

    def take(self) -> mmap.mmap:
        """A piece with whatever is in it; to be given back, or it is freed with its last user."""
        with self._lock:
            piece = self._free.pop() if self._free else _map(STEP_BYTES)
            self._out.add(piece)
            return piece

    def give(self, piece: mmap.mmap) -> None:
        """Take a piece back; where someone still reads it, it goes when the last one lets go."""
        with self._lock:
            self._out.discard(piece)
            if not self._out:
                self._free.clear()
            elif sum(map(len, self._free)) + len(piece) <= _KEPT_BYTES and not _is_read(piece):
                self._free.append(piece)


def round_up(size_bytes: int) -> int:
    """The size of a piece that holds so much."""
    return -(-size_bytes // STEP_BYTES) * STEP_BYTES


def _map(size_bytes: int) -> mmap.mmap:
    return mmap.mmap(-1, size_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)


def _is_read(piece: mmap.mmap) -> bool:
    # A writer whose task was cancelled goes on in its thread, and what it reads must not change.
    try:
        piece.resize(len(piece))  # is refused while there is a view
    except BufferError:
        return True
    return False
