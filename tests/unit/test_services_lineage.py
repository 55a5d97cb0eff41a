"""A copy of the server is told from the server, and the true server is never refused."""

from __future__ import annotations

import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fix_archive import TestKeys, make_archive
from tests.fix_tail import SYSTEM, FaultyStorage, Host, join
from walkeeper.core.layout import wal_object
from walkeeper.core.wal import WalSegment
from walkeeper.errors import ForeignCluster, StorageUnavailable
from walkeeper.repository.archive import Archive
from walkeeper.services.lineage import Position, check_lineage
from walkeeper.services.tail_chain import find_chain

MIB = 1 << 20


async def ship(host: Host, archive: Archive, pool: ThreadPoolExecutor) -> None:
    """What an agent does that was just started."""
    shipper = host.shipper(archive, pool)
    await shipper.resume((await host.check(archive, pool)).tail)
    await shipper.ship(host.position)


async def with_gap(host: Host, archive: Archive, pool: ThreadPoolExecutor) -> WalSegment:
    """WAL that is neither stored nor in ``pg_wal``, as with archive_mode = off; what is stored."""
    host.write(MIB + 1000)
    newest = await archived(host, archive, pool)
    host.write(5 * MIB)
    host.recycle(host.segment)
    return newest


async def refused(host: Host, archive: Archive, pool: ThreadPoolExecutor, why: str) -> None:
    with pytest.raises(ForeignCluster, match=why) as caught:
        await host.check(archive, pool)
    assert "[cluster] archive" in str(caught.value.hint)
    assert ("walkeeper restore" in str(caught.value.hint)) == ("ahead" in str(caught.value))


async def test_a_new_archive_begins_with_nothing(
    host: Host, tail_archive: Archive, pool: ThreadPoolExecutor
) -> None:
    host.write(1000)
    chain = (await host.check(tail_archive, pool)).tail
    assert (chain.segment, chain.end) == (host.segment, 0)


async def test_the_server_goes_on_behind_its_own_tail(
    host: Host, tail_archive: Archive, pool: ThreadPoolExecutor
) -> None:
    host.write(70_000)
    await ship(host, tail_archive, pool)
    stored = host.flushed_content()
    host.write(1000)
    chain = (await host.check(tail_archive, pool)).tail
    assert chain.end == 70_000
    assert await join(tail_archive, chain) == stored


async def test_a_snapshot_of_an_earlier_moment_finds_the_archive_ahead(
    host: Host, tail_archive: Archive, pool: ThreadPoolExecutor, tmp_path: Path
) -> None:
    host.write(1000)
    copy = host.copy(tmp_path / "copy")
    host.write(1000)
    await ship(host, tail_archive, pool)
    await refused(copy, tail_archive, pool, "the archive is ahead of this server")


async def test_a_snapshot_finds_later_segments_and_their_tails(
    host: Host, tail_archive: Archive, pool: ThreadPoolExecutor, tmp_path: Path
) -> None:
    host.write(1000)
    copy = host.copy(tmp_path / "copy")
    first = host.segment
    host.write(MIB)
    await ship(host, tail_archive, pool)
    await refused(copy, tail_archive, pool, "holds tail/000000010000000000000004/")
    await host.archive_segment(tail_archive, first)
    await refused(copy, tail_archive, pool, "holds wal/00000001/00000000/000000010000000000000003")


async def test_files_that_were_made_ahead_are_not_taken_for_segments(
    host: Host, tail_archive: Archive, pool: ThreadPoolExecutor, tmp_path: Path
) -> None:
    host.write(1000)
    copy = host.copy(tmp_path / "copy")
    host.write(3 * MIB)
    later = host.segment.previous(host.size)
    await host.archive_segment(tail_archive, later)
    (copy.pg_wal / str(later)).write_bytes(copy.content(copy.segment))  # recycled
    await refused(copy, tail_archive, pool, "the archive is ahead of this server")


async def test_a_copy_that_has_gone_further_than_the_archive_holds_other_bytes_in_the_tail(
    host: Host, tail_archive: Archive, pool: ThreadPoolExecutor, tmp_path: Path
) -> None:
    host.write(1000)
    copy = host.copy(tmp_path / "copy")
    host.write(5000)
    await ship(host, tail_archive, pool)
    copy.write(9000)
    await refused(copy, tail_archive, pool, "holds other bytes than pg_wal/0000000100000000000")
    copy.write(20 * MIB)
    await refused(copy, tail_archive, pool, "holds other bytes than pg_wal/0000000100000000000")


async def test_a_copy_that_has_gone_further_than_the_archive_holds_other_bytes_in_a_segment(
    host: Host, tail_archive: Archive, pool: ThreadPoolExecutor, tmp_path: Path
) -> None:
    host.write(1000)
    copy = host.copy(tmp_path / "copy")
    segment = host.segment
    host.write(MIB)
    await host.archive_segment(tail_archive, segment)
    copy.write(20 * MIB)
    await refused(copy, tail_archive, pool, f"other bytes than pg_wal/{segment}")


async def test_what_postgresql_has_removed_since_need_not_be_compared(
    host: Host, tail_archive: Archive, pool: ThreadPoolExecutor
) -> None:
    host.write(1000)
    await ship(host, tail_archive, pool)
    segment = host.segment
    host.write(2 * MIB)
    await host.archive_segment(tail_archive, segment)
    (host.pg_wal / str(segment)).unlink()
    chain = (await host.check(tail_archive, pool)).tail
    assert (chain.segment, chain.end) == (host.segment, 0)


async def archived(host: Host, archive: Archive, pool: ThreadPoolExecutor) -> WalSegment:
    """Let an agent archive all whole segments and ship the tail; the newest of them."""
    await act(host, [("ship", 0)], archive, pool)
    return host.segment.previous(host.size)


async def test_a_server_whose_archived_segments_were_recycled_goes_on(
    host: Host, tail_archive: Archive, pool: ThreadPoolExecutor
) -> None:
    host.write(3 * MIB + 1000)
    await archived(host, tail_archive, pool)
    host.recycle(host.segment)
    await host.check(tail_archive, pool)
    host.write(3 * MIB)  # nobody has archived these yet
    await host.check(tail_archive, pool)


async def test_a_server_that_stands_at_the_begin_of_a_segment_goes_on(
    host: Host, tail_archive: Archive, pool: ThreadPoolExecutor
) -> None:
    """As after pg_switch_wal() on a server that then is idle: the next file is an old one."""
    host.write(1000)
    first = host.segment
    host.flushed = first.end(host.size).value
    await host.archive_segment(tail_archive, first)
    await host.check(tail_archive, pool)


async def test_a_copy_without_the_newest_segment_that_is_stored_is_refused(
    host: Host, tail_archive: Archive, pool: ThreadPoolExecutor, tmp_path: Path
) -> None:
    host.write(1000)
    copy = host.copy(tmp_path / "copy")
    host.write(MIB)
    newest = await archived(host, tail_archive, pool)
    copy.write(5 * MIB)
    copy.recycle(copy.segment)
    await refused(copy, tail_archive, pool, f"pg_wal begins with {copy.segment}")
    (copy.pg_wal / str(newest)).write_bytes(copy.content(copy.segment))  # of another segment
    await refused(copy, tail_archive, pool, f"other bytes than pg_wal/{newest}")


async def test_files_made_ahead_do_not_show_where_the_wal_of_a_server_begins(
    host: Host, tail_archive: Archive, pool: ThreadPoolExecutor, tmp_path: Path
) -> None:
    host.write(1000)
    copy = host.copy(tmp_path / "copy")
    host.write(MIB)
    newest = host.segment.previous(host.size)
    await host.archive_segment(tail_archive, newest)
    copy.write(5 * MIB)
    copy.recycle(copy.segment)
    for behind in (newest.next(host.size), copy.segment.previous(host.size)):
        (copy.pg_wal / str(behind)).write_bytes(copy.content(copy.segment))
    await refused(copy, tail_archive, pool, f"pg_wal begins with {copy.segment}")


async def test_a_copy_without_the_segment_whose_tail_is_stored_is_refused(
    host: Host, tail_archive: Archive, pool: ThreadPoolExecutor, tmp_path: Path
) -> None:
    host.write(1000)
    copy = host.copy(tmp_path / "copy")
    host.write(1000)
    await ship(host, tail_archive, pool)
    copy.write(5 * MIB)
    copy.recycle(copy.segment)
    await refused(copy, tail_archive, pool, f"the tail of {host.segment}")
    await copy.check(tail_archive, pool, accept_gap=host.segment)


async def test_an_accepted_gap_is_that_behind_the_newest_stored_segment_and_no_other(
    host: Host, tail_archive: Archive, pool: ThreadPoolExecutor
) -> None:
    newest = await with_gap(host, tail_archive, pool)
    for wrong in (None, newest, newest.next(host.size).next(host.size)):
        with pytest.raises(ForeignCluster) as caught:
            await host.check(tail_archive, pool, accept_gap=wrong)
        assert f'accept_gap = "{newest.next(host.size)}"' in str(caught.value.hint)
    await host.check(tail_archive, pool, accept_gap=newest.next(host.size))
    host.write(3 * MIB)
    first = host.segment.previous(host.size)
    await host.archive_segment(tail_archive, first)
    host.write(3 * MIB)
    host.recycle(host.segment)
    with pytest.raises(ForeignCluster, match=f"holds {wal_object(first)}"):
        await host.check(tail_archive, pool, accept_gap=newest.next(host.size))


async def test_a_server_whose_newest_objects_the_archive_has_lost_goes_on(
    host: Host, tail_archive: Archive, pool: ThreadPoolExecutor
) -> None:
    await with_gap(host, tail_archive, pool)
    last = host.segment.previous(host.size)  # acknowledged, and what was before it as well
    await refused(host, tail_archive, pool, "cannot be shown to go on")
    await host.check(tail_archive, pool, lost=last)


async def test_behind_what_the_archive_has_lost_all_wal_must_be_there(
    host: Host, tail_archive: Archive, pool: ThreadPoolExecutor
) -> None:
    newest = await with_gap(host, tail_archive, pool)
    earlier = host.segment.previous(host.size).previous(host.size)
    other_timeline = WalSegment(2, earlier.log, earlier.seg + 1)
    for lost in (earlier, newest, other_timeline):
        with pytest.raises(ForeignCluster, match="cannot be shown to go on"):
            await host.check(tail_archive, pool, lost=lost)


async def test_an_accepted_gap_accepts_neither_other_bytes_nor_an_archive_that_is_ahead(
    host: Host, tail_archive: Archive, pool: ThreadPoolExecutor, tmp_path: Path
) -> None:
    host.write(1000)
    copy = host.copy(tmp_path / "copy")
    host.write(MIB)
    newest = host.segment.previous(host.size)
    await host.archive_segment(tail_archive, newest)
    with pytest.raises(ForeignCluster, match="ahead"):
        await copy.check(tail_archive, pool, accept_gap=newest)
    copy.write(5 * MIB)
    with pytest.raises(ForeignCluster, match="other bytes"):
        await copy.check(tail_archive, pool, accept_gap=newest)


async def test_segments_that_are_archived_and_recycled_meanwhile_are_no_gap(
    host: Host, tail_archive: Archive, pool: ThreadPoolExecutor
) -> None:
    """As on a busy server, looked at again after an hour: asked, archived, listed, recycled."""
    host.write(MIB + 1000)
    await archived(host, tail_archive, pool)
    host.write(2 * MIB)
    asked = 0

    async def where() -> Position:
        nonlocal asked
        asked += 1
        position = host.position
        if asked == 1:
            host.write(5 * MIB)
            await archived(host, tail_archive, pool)
        if asked == 2:
            host.recycle(host.segment)
        return position

    await check_lineage(tail_archive, where, host.pg_wal, pool)
    assert asked == 2


async def test_a_damaged_newest_segment_that_was_recycled_is_no_gap(
    host: Host, tail_archive: Archive, faulty: FaultyStorage, pool: ThreadPoolExecutor
) -> None:
    host.write(3 * MIB + 1000)
    newest = host.segment.previous(host.size)
    await host.archive_segment(tail_archive, newest.previous(host.size))
    await host.archive_segment(tail_archive, newest)
    faulty.spoil(tail_archive.path(wal_object(newest)))
    host.recycle(host.segment)
    await host.check(tail_archive, pool)


async def test_a_segment_that_was_archived_before_its_end_counts_as_flushed_is_not_ahead(
    host: Host, tail_archive: Archive, pool: ThreadPoolExecutor
) -> None:
    """XLogWrite marks a segment ready before it tells others how far it has flushed."""
    host.write(1000)
    said = host.position
    segment = host.segment
    host.write(MIB)
    await host.archive_segment(tail_archive, segment)

    async def where() -> Position:
        return said

    chain = (await check_lineage(tail_archive, where, host.pg_wal, pool)).tail
    assert chain.segment == segment


async def test_a_tail_that_grows_while_it_is_looked_at_is_not_ahead(
    host: Host, tail_archive: Archive, pool: ThreadPoolExecutor
) -> None:
    """As when a backup is taken beside an agent that ships: asked, shipped, listed."""
    shipper = host.shipper(tail_archive, pool)
    host.write(1000)
    asked = 0

    async def where() -> Position:
        nonlocal asked
        asked += 1
        position = host.position
        if asked == 1:
            host.write(5000)
            await shipper.ship(host.position)
        return position

    chain = (await check_lineage(tail_archive, where, host.pg_wal, pool)).tail
    assert chain.end == host.flushed % MIB
    assert asked > 1


async def test_other_timelines_do_not_matter(
    host: Host, tail_archive: Archive, pool: ThreadPoolExecutor, tmp_path: Path
) -> None:
    host.write(1000)
    promoted = host.copy(tmp_path / "promoted")
    host.write(3 * MIB)
    await ship(host, tail_archive, pool)
    path = promoted.pg_wal / str(promoted.segment)
    path.rename(promoted.pg_wal / str(promoted.segment.on(2)))
    promoted.timeline = 2
    promoted.write(1000)
    chain = (await promoted.check(tail_archive, pool)).tail
    assert (chain.segment, chain.end) == (promoted.segment, 0)
    await ship(promoted, tail_archive, pool)
    await ship(host, tail_archive, pool)


async def test_a_damaged_link_does_not_stop_the_archiving(
    host: Host, tail_archive: Archive, faulty: FaultyStorage, pool: ThreadPoolExecutor
) -> None:
    host.write(1000)
    await ship(host, tail_archive, pool)
    faulty.cut(faulty.names()[0])
    chain = (await host.check(tail_archive, pool)).tail
    assert chain.damaged is not None
    assert chain.end == 0


async def test_a_store_that_does_not_answer_is_not_an_answer(
    host: Host, tail_archive: Archive, faulty: FaultyStorage, pool: ThreadPoolExecutor
) -> None:
    host.write(1000)
    await ship(host, tail_archive, pool)
    faulty.down = True
    with pytest.raises(StorageUnavailable):
        await host.check(tail_archive, pool)


STEPS = st.lists(
    st.sampled_from(
        [("write", n) for n in (1, 3000, 300_000, MIB)] + [("ship", 0), ("archive", 0)]
    ),
    max_size=12,
)


@settings(max_examples=40, deadline=None)
@given(before=STEPS, true=STEPS, copied=STEPS)
async def test_whatever_both_write_the_copy_is_refused_and_the_server_never(
    before: list[tuple[str, int]], true: list[tuple[str, int]], copied: list[tuple[str, int]]
) -> None:
    """A copy is refused once the server has stored anything that it wrote after the copy was made.

    The copy stores nothing: it has no agent, or one that is refused.
    """
    storage, keys = FaultyStorage(), TestKeys.generate()
    with (
        tempfile.TemporaryDirectory() as directory,
        ThreadPoolExecutor(max_workers=2) as pool,
    ):
        path = Path(directory) / "host"
        path.mkdir()
        host = Host(path)
        archive = await make_archive(storage, keys, pool, system_identifier=SYSTEM)
        await act(host, [("write", 100), *before], archive, pool)
        copy = host.copy(Path(directory) / "copy")
        apart = host.flushed
        await act(host, true, archive, pool)
        for what, size in copied:
            if what == "write":
                copy.write(size)
        await host.check(archive, pool)
        if await stored_end(storage, archive) > apart:
            with pytest.raises(ForeignCluster):
                await copy.check(archive, pool)


async def act(
    host: Host, steps: list[tuple[str, int]], archive: Archive, pool: ThreadPoolExecutor
) -> None:
    """Do what is asked as an agent would: segments in order, the tail behind them."""
    first = WalSegment(1, 0, 3)
    for what, size in steps:
        if what == "write":
            host.write(size)
            continue
        segment = first
        while segment < host.segment:
            await host.archive_segment(archive, segment)
            segment = segment.next(host.size)
        if what == "ship":
            await ship(host, archive, pool)


async def stored_end(storage: FaultyStorage, archive: Archive) -> int:
    """The position of the last byte that the archive holds."""
    size = archive.segment_size
    segments = [WalSegment.parse(name.rpartition("/")[2][:24]) for name in storage.names("/wal/")]
    ends = [0, *(segment.end(size).value for segment in segments)]
    for name in storage.names("/tail/"):
        segment = WalSegment.parse(name.split("/")[2])
        ends.append(segment.begin(size).value + (await find_chain(archive, segment)).end)
    return max(ends)


async def test_a_damaged_segment_does_not_stop_the_archiving_and_an_older_one_is_compared(
    host: Host,
    tail_archive: Archive,
    faulty: FaultyStorage,
    pool: ThreadPoolExecutor,
    tmp_path: Path,
) -> None:
    host.write(1000)
    copy = host.copy(tmp_path / "copy")
    signed = host.segment
    host.write(MIB)
    await host.archive_segment(tail_archive, signed)
    planted = WalSegment(signed.timeline, signed.log + 1, signed.seg)
    await faulty.put(tail_archive.path(wal_object(planted)), b"garbage")
    await host.check(tail_archive, pool)
    copy.write(20 * MIB)
    await refused(copy, tail_archive, pool, f"other bytes than pg_wal/{signed}")


async def test_nothing_but_damaged_segments_is_nothing_to_compare(
    host: Host, tail_archive: Archive, faulty: FaultyStorage, pool: ThreadPoolExecutor
) -> None:
    host.write(1000)
    for number in range(100, 140):
        name = wal_object(WalSegment.numbered(1, number, host.size))
        await faulty.put(tail_archive.path(name), b"garbage")
    faulty.requests.clear()
    await host.check(tail_archive, pool)
    assert len([one for one in faulty.requests if one.startswith("GET")]) == 16
