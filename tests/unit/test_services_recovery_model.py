"""Whatever is stored of a lineage: a recovery replays its path byte for byte, as far as planned.

The requests are those of a model of PostgreSQL, how far it must come is what the planner says, and
what it must have replayed is cut from the WAL itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fix_archive import ONE_MIB, TestKeys
from tests.fix_fetch import FetchBench, make_bench
from tests.fix_fetch_wal import (
    FIRST,
    MIB,
    Lineage,
    lineage,
    recover,
    recycled,
    tail_pieces,
)
from walkeeper.core.coverage import WalHoldings, reach
from walkeeper.core.layout import (
    CutOffSegment,
    ObjectName,
    TailLink,
    parse_tail_object,
    parse_wal_object,
    wal_object,
)
from walkeeper.core.lsn import Lsn
from walkeeper.core.segment_set import SegmentSet
from walkeeper.core.timeline import TimelineHistory
from walkeeper.core.wal import TimelineHistoryFile, WalSegment
from walkeeper.errors import NoSuchSegment
from walkeeper.services.segment_stand_in import find_fragment
from walkeeper.storage.memory import MemoryStorage

NAMES = ("apart", "together", "siblings")
TAILS = (90_000, 400_001, 800_000)
CUTS = (60_500, 300_000, 950_000)

Bodies = dict[str, bytes]


@dataclass(frozen=True)
class World:
    """Everything that a lineage's servers may have stored, sealed once for all examples."""

    known: Lineage
    histories: Bodies
    complete: dict[WalSegment, Bodies]
    tails: dict[WalSegment, list[Bodies]]
    cut_offs: dict[WalSegment, list[Bodies]]


def seal(bench: FetchBench, name: ObjectName, content: bytes, *frames: bytes) -> Bodies:
    with bench.archive.sealer.seal(name, [content], frames=frames) as sealed:
        return {bench.archive.path(name): bytes(sealed.body())}


def make_world(bench: FetchBench, known: Lineage) -> World:
    histories: Bodies = {}
    complete: dict[WalSegment, Bodies] = {}
    tails: dict[WalSegment, list[Bodies]] = {}
    cut_offs: dict[WalSegment, list[Bodies]] = {}
    for timeline, history in known.histories.items():
        if timeline > 1:
            name = wal_object(TimelineHistoryFile(timeline))
            histories |= seal(bench, name, history.encode().encode())
        made = known.segments(timeline)
        for wal in [*made, made[-1].next(ONE_MIB)]:
            content = known.content(wal)
            if wal in made:
                complete[wal] = seal(bench, wal_object(wal), content)
            tails[wal] = []
            for end in TAILS:
                pieces = tail_pieces(wal, content, [end // 2, end])
                sealed: Bodies = {}
                for name, piece, frame in pieces:
                    sealed |= seal(bench, name, piece, frame)
                tails[wal].append(sealed)
            cut_offs[wal] = [
                seal(bench, wal_object(CutOffSegment(wal, f"{code:016x}")), recycled(content, end))
                for code, end in enumerate(CUTS)
            ]
    return World(known, histories, complete, tails, cut_offs)


@st.composite
def stored(draw: st.DrawFn, known: Lineage) -> list[tuple[str, WalSegment, int]]:
    """Mostly complete up to somewhere on each timeline, with exceptions; then fragments."""
    chosen: list[tuple[str, WalSegment, int]] = []
    for timeline in known.wal:
        made = known.segments(timeline)
        count = draw(st.integers(0, len(made)))
        lost = draw(st.sets(st.sampled_from(made), max_size=1))
        chosen += [("complete", wal, 0) for wal in made[:count] if wal not in lost]
        near = [*made, made[-1].next(ONE_MIB)][max(count - 1, 0) : count + 2]
        for wal in near:
            if draw(st.booleans()):
                chosen.append(("tail", wal, draw(st.integers(0, len(TAILS) - 1))))
            for code in draw(st.sets(st.integers(0, len(CUTS) - 1), max_size=2)):
                chosen.append(("cut off", wal, code))
    return chosen


def bodies(world: World, chosen: list[tuple[str, WalSegment, int]]) -> Iterator[Bodies]:
    yield world.histories
    for kind, wal, index in chosen:
        if kind == "complete" and wal in world.complete:
            yield world.complete[wal]
        elif kind == "tail":
            yield world.tails[wal][index]
        elif kind == "cut off":
            yield world.cut_offs[wal][index]


async def holdings(bench: FetchBench) -> WalHoldings:
    """What the planner is told, read back from the archive."""
    complete: dict[int, list[int]] = {}
    others: set[WalSegment] = set()
    async for info in bench.archive.list_objects(""):
        match parse_wal_object(info.name) or parse_tail_object(info.name):
            case WalSegment() as wal:
                complete.setdefault(wal.timeline, []).append(wal.number(ONE_MIB))
            case CutOffSegment(wal) | TailLink(wal):
                others.add(wal)
    ends = {
        wal: await find_fragment(bench.archive, bench.pool, wal, bench.directory) for wal in others
    }
    return WalHoldings(
        ONE_MIB,
        {timeline: SegmentSet.from_ordered(sorted(n)) for timeline, n in complete.items()},
        {wal: end for wal, end in ends.items() if end is not None},
    )


def check_bytes(
    known: Lineage, history: TimelineHistory, begin: int, end: Lsn, replayed: bytearray
) -> None:
    """What was replayed is the path's own history, up to where it ended."""
    offset = (begin - FIRST) * MIB
    length = end.value - begin * MIB
    assert length <= len(replayed) or length == 0
    expected = known.wal[history.timeline].data[offset : offset + length]
    assert bytes(replayed[:length]) == bytes(expected)


@pytest.mark.parametrize("name", NAMES)
def test_a_recovery_replays_its_path_exactly_as_far_as_planned(
    name: str, pool: ThreadPoolExecutor, keys: TestKeys, tmp_path: Path
) -> None:
    known = lineage(name)
    storage = MemoryStorage()
    with asyncio.Runner() as runner:
        bench = runner.run(make_bench(storage, keys, pool, tmp_path, keep=False))
        world = make_world(bench, known)
        record = dict(storage._objects)

        @settings(max_examples=20, deadline=None)
        @given(stored(known), st.sampled_from([1, 2, 3]), st.integers(FIRST, FIRST + 2))
        def check(chosen: list[tuple[str, WalSegment, int]], timeline: int, begin: int) -> None:
            storage._objects.clear()
            storage._objects.update(record)
            for found in bodies(world, chosen):
                at = datetime.now(UTC)
                storage._objects.update({key: (body, at) for key, body in found.items()})
            runner.run(check_recovery(bench, known, timeline, begin))

        check()


async def check_recovery(bench: FetchBench, known: Lineage, timeline: int, begin: int) -> None:
    history = known.histories[timeline]
    held = await holdings(bench)
    way = reach(held, history.legs, Lsn(begin * MIB))

    # As restore prepares it: the planned end is reached, and nothing foreign on the way.
    ends = [record.end for record in known.wal[timeline].records]
    whole = max((end for end in ends if end <= way.end), default=way.start)
    whole = max(whole, way.start)  # a record that runs over the end of what is stored is lost
    found = await recover(bench, history, begin, timeline=timeline, end=way.end)
    assert found.end == whole
    check_bytes(known, history, begin, found.end, found.replayed)

    # Without an end: it stops with an error at a hole, else it ends where the WAL ends.
    told = None if timeline == known.highest else timeline
    try:
        found = await recover(bench, history, begin, timeline=told)
    except NoSuchSegment:
        assert way.stranded
        return
    assert not way.stranded
    assert found.end == whole
    check_bytes(known, history, begin, found.end, found.replayed)

    # In standby mode it gets complete segments only, and these too only along the path.
    if timeline == known.highest:
        found = await recover(bench, history, begin, mode="standby")
        check_bytes(known, history, begin, found.end, found.replayed)
        complete = reach(WalHoldings(ONE_MIB, held.complete), history.legs, Lsn(begin * MIB))
        assert found.end <= max(complete.end, Lsn(begin * MIB))
