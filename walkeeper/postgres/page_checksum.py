"""Data checksums: telling damaged pages of relation files from pages caught while written.

The algorithm is that of src/include/storage/checksum_impl.h: an FNV-1a variant over 32 columns of
32-bit words, computed here for many pages at once.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Words = NDArray[np.uint32]

_COLUMNS: Final = 32  # N_SUMS
_PRIME: Final = 16777619  # FNV_PRIME
_OFFSETS: Final = (  # checksumBaseOffsets
    *(0x5B1F36E9, 0xB8525960, 0x02AB50AA, 0x1DE66D2A, 0x79FF467A, 0x9BB9F8A3, 0x217E7CD2),
    *(0x83E13D2C, 0xF8D4474F, 0xE39EB970, 0x42C6AE16, 0x993216FA, 0x7B093B5D, 0x98DAFF3C),
    *(0xF718902A, 0x0B1C9CDB, 0xE58F764B, 0x187636BC, 0x5D7B3BB1, 0xE73DE7DE, 0x92BEC979),
    *(0xCCA6C0B2, 0x304A0979, 0x85AA43D4, 0x783125BB, 0x6CA8EAA2, 0xE407EAC6, 0x4B5CFC3E),
    *(0x9FBF8C76, 0x15CA20BE, 0xF2CA9FD3, 0x959BD756),
)
# src/include/storage/bufpage.h, PageHeaderData, counted in 16-bit words: pd_lsn takes four.
_PD_CHECKSUM: Final = 4
_PD_UPPER: Final = 7

_BATCH_PAGES: Final = 256  # 2 MiB, what a reader has at once: numpy gives the lock away each call
_REREADS: Final = 10
_PAUSE_S: Final = 0.05


@dataclass(frozen=True, slots=True)
class PageRules:
    """How relation files are verified; None of it where the cluster has no data checksums."""

    block_size: int
    blocks_per_file: int

    def verifier(self, segment: int, file: int, sleep: Callable[[float], None]) -> PageVerifier:
        """For this segment of a relation, whose pages are read again from the descriptor."""
        return PageVerifier(
            segment,
            lambda offset, size: os.pread(file, size, offset),
            block_size=self.block_size,
            blocks_per_file=self.blocks_per_file,
            sleep=sleep,
        )


class PageVerifier:
    """Verifies one segment file of a relation while it is copied, block after block.

    ``reread(offset, size_bytes)`` reads the file again (``os.pread`` on the open file); it may
    return less at the end. ``segment_number`` is the N of ``<relation>.N``, 0 for the first file.

    A page that fails is read again after a pause, and again as long as it changes: the server
    writes pages while we read, so a page can be caught half written. What stays the same and still
    fails is damaged. PostgreSQL's own base backup instead trusts the page's LSN and passes over
    pages that claim to be newer than the backup's start; but a torn page may show the old LSN, and
    a damaged header shows any, most of them far in the future.
    """

    def __init__(
        self,
        segment_number: int,
        reread: Callable[[int, int], bytes],
        *,
        block_size: int = 8192,
        blocks_per_file: int = 131_072,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._first_block = segment_number * blocks_per_file
        self._reread = reread
        self._block_size = block_size
        self._sleep = sleep

    def feed(self, offset: int, block: bytes | bytearray | memoryview) -> list[int]:
        """Verify the pages in ``block``, which was read at ``offset`` (a multiple of a page).

        Returns the damaged blocks, counted within this file. A part of a page at the end is
        passed over: the file is being extended. Blocks, some 50 ms when pages fail, however many.
        """
        view = memoryview(block)
        first = offset // self._block_size
        pages = len(view) // self._block_size
        block_number = self._first_block + first
        bad = find_bad_pages(
            view[: pages * self._block_size],
            range(block_number, block_number + pages),
            self._block_size,
        )
        suspects = {first + index: bytes(self._page(view, index)) for index in bad}
        damaged: list[int] = []
        for _ in range(_REREADS):
            if not suspects:
                break
            self._sleep(_PAUSE_S)
            suspects = self._ask_again(suspects, damaged)
        return sorted(damaged)  # what is written all the time is alive; its WAL restores it

    def _page(self, view: memoryview, index: int) -> memoryview:
        return view[index * self._block_size : (index + 1) * self._block_size]

    def _ask_again(self, suspects: dict[int, bytes], damaged: list[int]) -> dict[int, bytes]:
        """Read suspects again; those that rest are ``damaged``, those still written are returned.

        A page that was cut off meanwhile is neither: replay cuts it off again.
        """
        moving = {}
        for number, page in suspects.items():
            again = self._reread(number * self._block_size, self._block_size)
            if len(again) < self._block_size or not find_bad_pages(
                memoryview(again), [self._first_block + number], self._block_size
            ):
                continue
            if again == page:
                damaged.append(number)
            else:
                moving[number] = again
        return moving


def find_bad_pages(pages: memoryview, blocks: Sequence[int], block_size: int = 8192) -> list[int]:
    """Which of these whole pages fail, counted from 0; ``blocks`` are their block numbers.

    A number counts through all segment files of the fork. A page of zeros is new and passes; one
    whose header says new while it holds something fails, as it does in the server
    (src/backend/storage/page/bufpage.c, PageIsVerified).
    """
    import numpy as np

    rows = block_size // 4 // _COLUMNS
    words = np.frombuffer(pages, dtype=np.uint32).reshape(-1, rows, _COLUMNS)
    numbers = np.array(blocks, dtype=np.uint32)
    bad: list[int] = []
    for begin in range(0, len(words), _BATCH_PAGES):
        batch = words[begin : begin + _BATCH_PAGES]
        headers = batch[:, 0].copy()
        shorts = headers.view(np.uint16)
        stored = shorts[:, _PD_CHECKSUM].copy()
        new = shorts[:, _PD_UPPER] == 0
        shorts[:, _PD_CHECKSUM] = 0
        checksums = _checksums(headers, batch, numbers[begin : begin + _BATCH_PAGES])
        failed = (checksums != stored) | new
        bad += [
            begin + int(index)
            for index in np.flatnonzero(failed)
            if not new[index] or batch[index].any()
        ]
    return bad


def _checksums(headers: Words, batch: Words, numbers: Words) -> Words:
    """pg_checksum_page of each page; ``headers`` are the first rows with pd_checksum zeroed.

    A call costs as much as its work on so few pages: the arrays are passed by position, and the
    constants as arrays, so that none is made on the way.
    """
    import numpy as np

    multiply, shift, xor = np.multiply, np.right_shift, np.bitwise_xor
    prime, bits = np.array(_PRIME, dtype=np.uint32), np.array(17, dtype=np.uint32)
    sums = np.empty((len(batch), _COLUMNS), dtype=np.uint32)
    sums[:] = np.array(_OFFSETS, dtype=np.uint32)
    mixed = np.empty_like(sums)
    rows = iter(batch.transpose(1, 0, 2))
    next(rows)  # the headers stand in for it
    for row in chain((headers,), rows):
        xor(sums, row, sums)
        shift(sums, bits, mixed)  # CHECKSUM_COMP, after the exclusive or with the value
        multiply(sums, prime, sums)
        xor(sums, mixed, sums)
    for _ in range(2):  # two rounds of zeroes
        shift(sums, bits, mixed)
        multiply(sums, prime, sums)
        xor(sums, mixed, sums)
    folded: Words = xor.reduce(sums, axis=1) ^ numbers
    checksums: Words = folded % np.uint32(65535) + np.uint32(1)
    return checksums
