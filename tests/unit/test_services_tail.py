"""The tail is a chain without a gap of what is flushed, whatever happens while it is shipped."""

from __future__ import annotations

import tempfile
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fix_archive import TestKeys, make_archive
from tests.fix_tail import SYSTEM, FaultyStorage, Host, join
from walkeeper.core.layout import parse_tail_object
from walkeeper.core.lsn import Lsn
from walkeeper.core.wal import SegmentSize
from walkeeper.errors import ForeignCluster, IntegrityError, StorageUnavailable
from walkeeper.repository.archive import Archive
from walkeeper.services.tail_chain import find_chain


async def test_what_was_flushed_since_the_last_time_becomes_one_object(
    host: Host, tail_archive: Archive, faulty: FaultyStorage, pool: ThreadPoolExecutor
) -> None:
    shipper = host.shipper(tail_archive, pool)
    host.write(1000)
    await shipper.ship(host.position)
    host.write(50_000)
    await shipper.ship(host.position)
    folder = f"{tail_archive.folder}/tail/000000010000000000000003"
    assert faulty.names() == [f"{folder}/00000000.zst.age", f"{folder}/000003E8.zst.age"]
    chain = await find_chain(tail_archive, host.segment)
    assert await join(tail_archive, chain) == host.flushed_content()
    assert shipper.statistics.shipped == Lsn(host.flushed)


async def test_nothing_is_asked_of_the_store_while_nothing_changes(
    host: Host, tail_archive: Archive, faulty: FaultyStorage, pool: ThreadPoolExecutor
) -> None:
    shipper = host.shipper(tail_archive, pool)
    host.write(1000)
    await shipper.ship(host.position)
    assert len(faulty.requests) == shipper.statistics.requests == 1
    for _ in range(10):
        await shipper.ship(host.position)
    assert len(faulty.requests) == 1


async def test_a_segment_that_is_left_is_told_and_the_next_begins_at_zero(
    host: Host, tail_archive: Archive, faulty: FaultyStorage, pool: ThreadPoolExecutor
) -> None:
    shipper = host.shipper(tail_archive, pool)
    host.write(1000)
    await shipper.ship(host.position)
    left = host.segment
    host.write(1 << 20)
    await shipper.ship(host.position)
    assert host.left == [left]
    assert faulty.names()[-1].endswith("/tail/000000010000000000000004/00000000.zst.age")


async def test_the_rpo_learns_what_is_stored(
    host: Host, tail_archive: Archive, faulty: FaultyStorage, pool: ThreadPoolExecutor
) -> None:
    shipper = host.shipper(tail_archive, pool)
    host.rpo.store(host.position.flushed)
    host.rpo.flush(host.position.flushed, 0.0)
    host.write(1000)
    host.rpo.flush(host.position.flushed, 1.0)
    faulty.down = True
    with pytest.raises(StorageUnavailable):
        await shipper.ship(host.position)
    assert host.rpo.rpo_s(60.0) == 60.0
    faulty.down = False
    await shipper.ship(host.position)
    assert host.rpo.rpo_s(61.0) == 0.0


async def test_a_link_that_arrived_although_it_timed_out_is_adopted_when_more_was_flushed_since(
    host: Host, tail_archive: Archive, faulty: FaultyStorage, pool: ThreadPoolExecutor
) -> None:
    shipper = host.shipper(tail_archive, pool)
    host.write(1000)
    faulty.fail_puts = ["lost"]
    with pytest.raises(StorageUnavailable):
        await shipper.ship(host.position)
    host.write(700)
    await shipper.ship(host.position)
    chain = await find_chain(tail_archive, host.segment)
    assert [(piece.begin, piece.end) for piece in chain.pieces] == [(0, 1000), (1000, 1700)]
    assert await join(tail_archive, chain) == host.flushed_content()


@pytest.mark.parametrize("more", [0, 500], ids=["as many bytes", "more bytes"])
async def test_another_writer_of_the_same_timeline_is_met_at_the_first_link(
    host: Host,
    tail_archive: Archive,
    faulty: FaultyStorage,
    pool: ThreadPoolExecutor,
    tmp_path: Path,
    more: int,
) -> None:
    other = host.copy(tmp_path / "other")
    other.write(1000 + more)
    await other.shipper(tail_archive, pool).ship(other.position)
    stored = faulty.names()
    host.write(1000)
    with pytest.raises(ForeignCluster, match="another server writes this timeline") as caught:
        await host.shipper(tail_archive, pool).ship(host.position)
    assert "archive of its own" in str(caught.value.hint)
    assert faulty.names() == stored


async def test_a_damaged_link_ends_the_tail_of_its_segment_only(
    host: Host, tail_archive: Archive, faulty: FaultyStorage, pool: ThreadPoolExecutor
) -> None:
    shipper = host.shipper(tail_archive, pool)
    host.write(1000)
    faulty.fail_puts = ["lost"]
    with pytest.raises(StorageUnavailable):
        await shipper.ship(host.position)
    faulty.cut(faulty.names()[0])
    with pytest.raises(IntegrityError, match="damaged"):
        await shipper.ship(host.position)
    asked = len(faulty.requests)
    host.write(1000)
    with pytest.raises(IntegrityError, match="cannot go on"):
        await shipper.ship(host.position)
    assert len(faulty.requests) == asked, "it must not send the same again and again"
    host.write(1 << 20)
    await shipper.ship(host.position)
    chain = await find_chain(tail_archive, host.segment)
    assert await join(tail_archive, chain) == host.flushed_content()


async def test_everything_so_far_is_merged_after_64_links(
    host: Host, tail_archive: Archive, faulty: FaultyStorage, pool: ThreadPoolExecutor
) -> None:
    shipper = host.shipper(tail_archive, pool)
    for _ in range(150):
        host.write(90)
        await shipper.ship(host.position)
    merged = [name for name in faulty.names() if "merged" in name]
    assert [name[-16:-8] for name in merged] == [f"{64 * 90:08X}", f"{128 * 90:08X}"]
    faulty.requests.clear()
    chain = await find_chain(tail_archive, host.segment)
    assert len(chain.pieces) == 1 + 150 - 128
    assert len([one for one in faulty.requests if one.startswith("GET")]) == len(chain.pieces)
    assert await join(tail_archive, chain) == host.flushed_content()


async def test_a_segment_of_64_mib_goes_in_links_of_at_most_16_and_in_little_memory(
    host: Host, faulty: FaultyStorage, keys: TestKeys, pool: ThreadPoolExecutor
) -> None:
    host.size = SegmentSize(64 << 20)
    host.flushed = 64 << 20
    archive = await make_archive(
        faulty, keys, pool, system_identifier=SYSTEM, segment_size=host.size
    )
    shipper = host.shipper(archive, pool)
    host.write(50 << 20)
    tracemalloc.start()
    try:
        await shipper.ship(host.position)
        await shipper.resume((await host.check(archive, pool)).tail)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    begins = [parse_tail_object(name.partition("/")[2]).begin for name in faulty.names()]  # type: ignore[union-attr]
    assert begins == [0, 16 << 20, 32 << 20, 48 << 20]
    assert peak < 48 << 20, f"{peak >> 20} MiB"


async def test_a_link_behind_a_gap_is_no_part_of_the_chain_and_in_nobodys_way(
    host: Host, tail_archive: Archive, faulty: FaultyStorage, pool: ThreadPoolExecutor
) -> None:
    shipper = host.shipper(tail_archive, pool)
    for _ in range(3):
        host.write(100)
        await shipper.ship(host.position)
    await faulty.delete(faulty.names()[1])
    chain = await find_chain(tail_archive, host.segment)
    assert chain.end == 100
    assert [name[-16:] for name in chain.stranded] == ["000000C8.zst.age"]
    shipper = host.shipper(tail_archive, pool)
    await shipper.resume((await host.check(tail_archive, pool)).tail)
    host.write(100)
    await shipper.ship(host.position)
    chain = await find_chain(tail_archive, host.segment)
    assert await join(tail_archive, chain) == host.flushed_content()


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["ship", "ship", "ship", "lost", "down", "restart"]),
        st.sampled_from([0, 1, 24, 189, 8191, 8192, 30_000, 400_000]),
    ),
    max_size=25,
)


@settings(max_examples=25, deadline=None)
@given(STEPS)
async def test_lost_answers_outages_and_restarts_leave_a_chain_without_a_gap(
    steps: list[tuple[str, int]],
) -> None:
    storage, keys = FaultyStorage(), TestKeys.generate()
    with (
        tempfile.TemporaryDirectory() as directory,
        ThreadPoolExecutor(max_workers=2) as pool,
    ):
        host = Host(Path(directory), seed=len(steps))
        archive = await make_archive(storage, keys, pool, system_identifier=SYSTEM)
        shipper = host.shipper(archive, pool)
        for what, size in [*steps, ("ship", 1)]:
            host.write(size)
            storage.fail_puts = [what] if what in {"lost", "down"} and size else []
            if what == "restart":
                shipper = host.shipper(archive, pool)
                await shipper.resume((await host.check(archive, pool)).tail)
            try:
                await shipper.ship(host.position)
            except StorageUnavailable:
                assert what in {"lost", "down"}
            chain = await find_chain(archive, host.segment)
            joined = await join(archive, chain)
            assert host.flushed_content().startswith(joined)
            assert not chain.stranded
        assert joined == host.flushed_content()


async def test_a_segment_that_is_left_while_the_server_is_recognised_is_told_of(
    host: Host, tail_archive: Archive, pool: ThreadPoolExecutor
) -> None:
    shipper = host.shipper(tail_archive, pool)
    host.write(100)
    await shipper.ship(host.position)
    left = host.segment
    await shipper.resume((await host.check(tail_archive, pool)).tail)
    assert host.left == []
    host.write(1 << 20)
    await shipper.resume((await host.check(tail_archive, pool)).tail)
    assert host.left == [left]
