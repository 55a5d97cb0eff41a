"""Timelines with real WAL in them, what may be stored of it, and a PostgreSQL that asks for it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache

from tests.fix_archive import ONE_MIB
from tests.fix_fetch import FetchBench, segment
from tests.fix_wal import WalWriter, main_data
from walkeeper.core.layout import (
    CutOffSegment,
    MergedTail,
    ObjectName,
    StoredTail,
    TailLink,
    tail_object,
    wal_object,
)
from walkeeper.core.lsn import Lsn
from walkeeper.core.timeline import TimelineHistory, TimelineSwitch
from walkeeper.core.wal import WalSegment
from walkeeper.core.walrecord import scan_segment
from walkeeper.repository.archive import Archive

FIRST = 3
"""The number of the segment in which every lineage begins."""
MIB = ONE_MIB.bytes
_BODY = main_data(bytes(30_000))  # 34 records and a bit in a segment


@dataclass(frozen=True)
class Lineage:
    """Timelines by number; ``wal`` holds each one's whole path from segment `FIRST` on."""

    histories: dict[int, TimelineHistory]
    wal: dict[int, WalWriter]

    @property
    def highest(self) -> int:
        return max(self.histories)

    def content(self, wal: WalSegment) -> bytes:
        """The segment as its server had it: its ancestors' bytes, its own, then zeros."""
        begin = (wal.number(ONE_MIB) - FIRST) * MIB
        return bytes(self.wal[wal.timeline].data[begin : begin + MIB]).ljust(MIB, b"\0")

    def segments(self, timeline: int) -> list[WalSegment]:
        """The complete ones that the server of a timeline made."""
        history = self.histories[timeline]
        first = history.switches[-1].at.value // MIB if history.switches else FIRST
        after = FIRST + len(self.wal[timeline].data) // MIB
        return [segment(timeline, number) for number in range(first, after)]

    def whole_until(self, wal: WalSegment, offset: int) -> Lsn:
        """Where the last record ends that ends in the first ``offset`` bytes of a segment."""
        limit = wal.begin(ONE_MIB).value + offset
        ends = [record.end.value for record in self.wal[wal.timeline].records]
        return Lsn(max((end for end in ends if end <= limit), default=0))


def grow(writer: WalWriter, until: float) -> WalWriter:
    """Write records until so many segments are full; each has an xid of its own."""
    while len(writer.data) < (until - FIRST) * MIB:
        writer.append(_BODY, xid=writer.timeline * 10_000 + len(writer.records))
    return writer


def switch(parent: WalWriter, records: int) -> TimelineSwitch:
    return TimelineSwitch(parent.timeline, parent.records[records - 1].end)


@cache
def lineage(name: str) -> Lineage:
    """``apart``: forks in different segments. ``together``: two forks in one segment.
    ``siblings``: 2 and 3 both left 1, so 2 is a dead branch."""
    one = grow(WalWriter(segment(1, FIRST)), 7.2)
    forks = {"apart": (50, 90), "together": (50, 60), "siblings": (90, 50)}[name]
    two = grow(one.branch(2, forks[0]), 7.3)
    parent = one if name == "siblings" else two
    three = grow(parent.branch(3, forks[1]), 7.4)
    first = switch(one, forks[0])
    switches = (switch(one, forks[1]),) if name == "siblings" else (first, switch(two, forks[1]))
    histories = {
        1: TimelineHistory(1),
        2: TimelineHistory(2, (first,)),
        3: TimelineHistory(3, switches),
    }
    return Lineage(histories, {1: one, 2: two, 3: three})


def tail_pieces(
    wal: WalSegment, content: bytes, ends: Sequence[int], merged: int | None = None
) -> Iterator[tuple[ObjectName, bytes, bytes]]:
    """Name, content and frame of the pieces of a tail; ``ends`` are the ends of its links."""
    begin = 0
    pieces: list[tuple[StoredTail, int, int]] = []
    for end in ends:
        pieces.append((TailLink(wal, begin), begin, end))
        begin = end
    if merged is not None:
        pieces.append((MergedTail(wal, merged), 0, merged))
    for tail, begin, end in pieces:
        yield tail_object(tail), content[begin:end], hashlib.sha256(content[:end]).digest()


async def put_tail(
    archive: Archive,
    wal: WalSegment,
    content: bytes,
    ends: Sequence[int],
    merged: int | None = None,
) -> list[ObjectName]:
    """Store the beginning of a segment as its tail."""
    names = []
    for name, piece, frame in tail_pieces(wal, content, ends, merged):
        with archive.sealer.seal(name, [piece], frames=[frame]) as sealed:
            await archive.put(sealed)
        names.append(name)
    return names


def recycled(content: bytes, offset: int) -> bytes:
    """A file cut off at an offset: behind it stands what an older segment left there."""
    return content[:offset] + content[:8192] * ((MIB - offset) // 8192) + bytes(-offset % 8192)


async def put_cut_off(archive: Archive, wal: WalSegment, content: bytes, code: str = "0") -> None:
    name = wal_object(CutOffSegment(wal, code * 16))
    with archive.sealer.seal(name, [content]) as sealed:
        await archive.put(sealed)


@dataclass
class Recovered:
    """What a recovery replayed: bytes from the begin of the first segment asked for to ``end``."""

    end: Lsn
    replayed: bytearray = field(default_factory=bytearray)
    asked: list[WalSegment] = field(default_factory=list)


async def recover(
    bench: FetchBench, history: TimelineHistory, number: int, **facts: object
) -> Recovered:
    """Ask and replay as PostgreSQL does in archive recovery, from a segment's begin on.

    src/backend/access/transam/xlogrecovery.c, XLogFileReadAnyTLI: the newest timeline first that
    began by then, none older than the file before; a file fetched once stays in pg_wal.
    """
    begins = [Lsn(0), *(switch.at for switch in history.switches)]
    known = [*(switch.parent for switch in history.switches), history.timeline]
    kept: dict[WalSegment, bytes] = {}
    found = Recovered(Lsn(number * MIB))
    timeline, carry = 0, None

    mode = str(facts.pop("mode", "recovery"))

    async def ask(number: int) -> WalSegment | None:
        for candidate, begin in zip(reversed(known), reversed(begins), strict=True):
            wal = segment(candidate, number)
            if candidate < timeline:
                break
            if begin.value // MIB > number:
                continue
            found.asked.append(wal)
            content = await bench.fetch(wal, mode, present=wal in kept, **facts)
            if content is not None:
                kept[wal] = content
            if wal in kept:
                return wal
        return None

    while (wal := await ask(number)) is not None:
        assert len(kept[wal]) == MIB
        scan = scan_segment(wal, ONE_MIB, kept[wal], carry)
        found.replayed += kept[wal]
        found.end = max(found.end, scan.valid_end)
        timeline, carry = wal.timeline, scan.carry
        if carry is None:
            break
        number += 1
    # The end of recovery reads the last record again (xlogrecovery.c, FinishWalRecovery).
    begin = Lsn(number * MIB) if wal is not None else Lsn((number - 1) * MIB)
    if kept:
        again = await ask(begin.value // MIB)
        assert again is not None
    return found
