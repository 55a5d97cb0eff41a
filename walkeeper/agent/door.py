"""What the side doors share: a FIFO at which hooks ask that are a shell and nothing more."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

_CAPACITY: Final = 64 * 1024
"""Of a pipe, pipe(7): read at once, no line is cut, as each of up to 4096 bytes came at once."""


class Questions:
    """The agent's end of such a FIFO, from `open_questions`."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self._changed = asyncio.Event()
        self._stopped = False
        asyncio.get_running_loop().add_reader(descriptor, self._changed.set)

    async def read(self) -> bytes:
        """What has been asked, one line for each question; empty once stopped and all is read."""
        while True:
            self._changed.clear()
            with contextlib.suppress(BlockingIOError):
                return os.read(self.descriptor, _CAPACITY)
            if self._stopped:
                return b""
            await self._changed.wait()

    def stop(self) -> None:
        """Let `read` return."""
        self._stopped = True
        self._changed.set()

    def close(self) -> None:
        """Nothing is read any more."""
        asyncio.get_running_loop().remove_reader(self.descriptor)
        os.close(self.descriptor)


@contextmanager
def open_questions(path: Path) -> Iterator[Questions]:
    """Listen on a new FIFO there, mode 0600, in place of one that was left.

    At the end it is removed, unless the next one to listen there has done so.
    """
    remove(path)
    os.mkfifo(path, 0o600)
    # Open for both, so that it never ends while nobody asks.
    questions = Questions(os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC))
    try:
        yield questions
    finally:
        with contextlib.suppress(OSError):
            if os.path.samestat(os.fstat(questions.descriptor), path.stat()):
                path.unlink()
        questions.close()


def remove(path: Path) -> None:
    """Remove a file of that name if there is one."""
    with contextlib.suppress(OSError):
        path.unlink()
