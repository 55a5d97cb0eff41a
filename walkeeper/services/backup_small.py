"""Small files of a base backup, read one behind the other and verified all at once.

Numpy's calls cost the same for one page as for a hundred, and most files have one page or few.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from walkeeper.errors import BackupError
from walkeeper.postgres.data_dir import DataEntry
from walkeeper.postgres.exclusions import find_checksummed_segment
from walkeeper.postgres.page_checksum import PageRules, find_bad_pages

SMALL_BYTES: Final = 64 << 10
"""The largest file that is small."""
_MAX_FILES: Final = 128


@dataclass(frozen=True, slots=True)
class SmallFile:
    """A file as it was read. ``content`` holds until further files are read; zeros stand at its
    end where it had shrunk. ``checked``: its pages have checksums; ``bad`` are damaged ones."""

    entry: DataEntry
    facts: os.stat_result
    content: memoryview
    checked: bool
    bad: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class _Read:
    """Where a file's content begins, how much was read, which segment of a relation it is."""

    entry: DataEntry
    facts: os.stat_result
    begin: int
    got: int
    segment: int | None


def open_source(source: str) -> int | None:
    """A descriptor of a file of the cluster; None where it was dropped meanwhile: replay drops it
    again. Raises BackupError."""
    try:
        return os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise BackupError(
            f"{source} cannot be read: {error.strerror}",
            hint="backups need a user who may read the whole data directory",
        ) from error


class SmallFiles:
    """Reads small files into the caller's buffer, which holds at least one of them.

    ``pages`` is None where there are no checksums; ``sleep`` as for `PageVerifier`.
    """

    def __init__(
        self, buffer: memoryview, pages: PageRules | None, sleep: Callable[[float], None]
    ) -> None:
        self._buffer = buffer
        self._pages = pages
        self._sleep = sleep
        self._read: list[_Read] = []
        self._end = 0

    @property
    def full(self) -> bool:
        """Whether there may be no room for one more."""
        return len(self._read) >= _MAX_FILES or self._end > len(self._buffer) - SMALL_BYTES

    def read(self, entry: DataEntry, file: int, facts: os.stat_result) -> None:
        """Read a file of ``facts.st_size`` bytes, at most `SMALL_BYTES`. Raises OSError."""
        begin, size = self._end, facts.st_size
        got = 0
        while got < size and (step := os.readv(file, [self._buffer[begin + got : begin + size]])):
            got += step
        if got < size:
            self._buffer[begin + got : begin + size] = bytes(size - got)
        segment = find_checksummed_segment(entry.path) if self._pages is not None else None
        self._read.append(_Read(entry, facts, begin, got, segment))
        end = begin + size
        self._end = end if self._pages is None else end + -end % self._pages.block_size

    def settle(self) -> Iterator[SmallFile]:
        """All that were read since the last time, in their order, verified."""
        read, self._read = self._read, []
        suspects = self._find_suspects(read) if self._pages is not None else set()
        self._end = 0
        for one in read:
            content = self._buffer[one.begin : one.begin + one.facts.st_size]
            bad: list[int] = []
            if one.begin in suspects:
                bad = self._look_closer(one, content[: one.got])
            yield SmallFile(one.entry, one.facts, content, one.segment is not None, tuple(bad))

    def _find_suspects(self, read: list[_Read]) -> set[int]:
        """Where files begin that have a page which fails, caught half written or not."""
        assert self._pages is not None
        size, per_file = self._pages.block_size, self._pages.blocks_per_file
        numbers, owners = [0] * (self._end // size), [-1] * (self._end // size)
        for one in read:
            if one.segment is None:
                continue
            first, count = one.begin // size, one.got // size
            block = one.segment * per_file
            numbers[first : first + count] = range(block, block + count)
            owners[first : first + count] = [one.begin] * count
        if not any(owner >= 0 for owner in owners):
            return set()
        bad = find_bad_pages(self._buffer[: self._end], numbers, size)
        return {owners[page] for page in bad} - {-1}

    def _look_closer(self, one: _Read, content: memoryview) -> list[int]:
        assert self._pages is not None
        assert one.segment is not None
        source = one.entry.source
        file = open_source(source)
        if file is None:
            return []
        try:
            return self._pages.verifier(one.segment, file, self._sleep).feed(0, content)
        except OSError as error:
            raise BackupError(f"{source} cannot be read: {error.strerror}") from error
        finally:
            os.close(file)
