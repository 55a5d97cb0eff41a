"""Damage of every kind, planted anywhere in a small archive, is found and named."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest

from tests.fix_archive import TestKeys, archive_keys
from tests.fix_verify import (
    FORK,
    SmallArchive,
    cut_segment_bytes,
    history,
    make_small_archive,
    put_backup,
    segment_bytes,
)
from tests.fix_wal import MIB
from walkeeper.core.backup_id import BackupId
from walkeeper.core.layout import ObjectName, TailLink, tail_object, wal_object
from walkeeper.core.lsn import Lsn
from walkeeper.core.wal import TimelineHistoryFile, WalSegment
from walkeeper.errors import ObjectFrozen, StorageUnavailable
from walkeeper.repository.archive import Archive
from walkeeper.storage.base import ObjectInfo

HISTORY = wal_object(TimelineHistoryFile(2))


@pytest.fixture
async def small(keys: TestKeys, pool: ThreadPoolExecutor) -> SmallArchive:
    return await make_small_archive(keys, pool)


def wal(timeline: int, number: int) -> str:
    return wal_object(WalSegment.numbered(timeline, number, MIB))


def lsn(segments: float) -> str:
    return str(Lsn(int(segments * MIB.bytes)))


async def test_a_clean_archive_has_no_findings(small: SmallArchive) -> None:
    report = (await small.verify()).report
    assert report.findings == ()
    assert report.clean
    assert (report.unchecked, report.notes) == ((), ())
    assert report.checked.backups == 2
    assert report.checked.objects == len(small.names()) - 2  # summaries count as their backups
    assert report.complete_since == report.started_at
    assert small.events[-1].phase == "continuity"


async def test_one_flipped_bit_anywhere_is_found_and_named(small: SmallArchive) -> None:
    chance = random.Random(20261120)
    for name in small.names():
        whole = small.read(name)
        for at in (chance.randrange(1200 * 8), chance.randrange(8 * len(whole)), -8 * 9):
            small.flip(name, at % (8 * len(whole)))
            found = await small.findings()
            assert name in found, (name, at)
            assert found[name].kind in {"damaged", "wrong-key"}
            small.replace(name, whole)
    assert await small.findings() == {}


async def test_an_object_cut_or_grown_anywhere_is_found_and_named(small: SmallArchive) -> None:
    for name in small.names():
        whole = small.read(name)
        for body in (whole[:-1], whole[: len(whole) // 2], b"", whole + b"\0"):
            small.replace(name, body)
            assert name in await small.findings(), (name, len(body))
        small.replace(name, whole)


async def test_a_swapped_pair_is_found_and_both_are_named(small: SmallArchive) -> None:
    names = small.names()
    for one, other in itertools.pairwise(names):
        bodies = small.read(one), small.read(other)
        small.replace(one, bodies[1])
        small.replace(other, bodies[0])
        assert {one, other} <= set(await small.findings()), (one, other)
        small.replace(one, bodies[0])
        small.replace(other, bodies[1])


async def test_whatever_is_missing_and_needed_is_found_and_named(small: SmallArchive) -> None:
    small.later = timedelta(hours=2)
    # Nothing tells that these were there, or something else stands in for them.
    not_needed = {
        name
        for name in small.names()
        if ".backup." in name or ".partial." in name or "merged-" in name
    }
    not_needed |= {f"tail/00000002000000000000000B/{n:08X}.zst.age" for n in (0, 40, 1000, 5000)}
    for name in small.names():
        whole = small.read(name)
        small.remove(name)
        found = await small.findings()
        if name in not_needed:
            assert found == {}, name
        else:
            assert name in found
            assert found[name].kind == "missing"
        small.replace(name, whole)
    assert len(not_needed) == 7


async def test_a_gap_says_which_backups_and_moments_it_costs(small: SmallArchive) -> None:
    small.remove(wal(1, 4))
    small.remove(wal(1, 5))
    (gap,) = (await small.findings()).values()
    assert "2 segments are missing: 000000010000000000000004 to" in gap.what
    assert gap.backups == ()
    (lost,) = gap.moments
    assert (lost.timeline, lost.begin_lsn, lost.end_lsn) == (1, lsn(4), lsn(8.75))
    assert lost.until_backup == str(small.late)


async def test_a_segment_of_a_backup_costs_the_backup(small: SmallArchive) -> None:
    small.flip(wal(1, 3), 5000)
    (found,) = (await small.findings()).values()
    assert found.backups == (str(small.early),)
    assert found.moments[0].begin_lsn == lsn(3.75)
    small.replace(wal(1, 3), small.seal(ObjectName(wal(1, 3)), segment_bytes(1, 3)))
    small.remove(wal(2, 8))
    (found,) = (await small.findings()).values()
    assert found.backups == (str(small.late),)
    (lost,) = found.moments
    assert (lost.begin_lsn, lost.end_lsn, lost.until_backup) == (lsn(8), None, None)


async def test_a_damaged_last_segment_costs_what_comes_after_it(small: SmallArchive) -> None:
    for name in small.names():
        if name.startswith("tail/"):
            small.remove(name)
    small.flip(wal(2, 10), -80)
    (found,) = (await small.findings()).values()
    assert found.backups == ()
    assert found.moments[0].begin_lsn == lsn(10)


async def test_a_broken_backup_costs_only_itself_where_an_earlier_one_leads(
    small: SmallArchive,
) -> None:
    part = f"backups/{small.late}/data/00001.tar.zst.age"
    small.flip(part, -100)
    (found,) = (await small.findings()).values()
    assert (found.backups, found.moments) == ((str(small.late),), ())
    small.remove(wal(2, 7))
    both = await small.findings()
    assert both[part].moments[0].begin_lsn == lsn(8.75)
    assert both[wal(2, 7)].moments[0].end_lsn is None  # the late backup is of no use either


async def test_the_segment_of_a_fork_may_come_from_either_timeline(small: SmallArchive) -> None:
    small.put(ObjectName(wal(1, 6)), segment_bytes(1, 6))
    assert await small.findings() == {}
    small.flip(wal(1, 6), -80)
    (found,) = (await small.findings()).values()
    assert found.backups == ()
    assert {lost.timeline for lost in found.moments} == {1}, "of a branch that nobody follows"


async def test_all_wal_of_the_only_backup_missing_is_found(small: SmallArchive) -> None:
    for name in small.names():
        if name.startswith(("wal/", "tail/", f"backups/{small.late}/")):
            small.remove(name)
    (found,) = (await small.findings()).values()
    assert found.object == wal(1, 2)
    assert found.backups == (str(small.early),)


async def test_a_missing_history_costs_its_timeline_unless_a_later_one_has_it(
    small: SmallArchive,
) -> None:
    small.remove(HISTORY)
    found = (await small.findings())[HISTORY]
    assert found.backups == (str(small.late),)
    assert found.moments[0].timeline == 2
    later = history() + b"\n2\t0/B000000\tno reason\n"
    small.put(wal_object(TimelineHistoryFile(3)), later)
    found = (await small.findings())[HISTORY]
    assert "can be rebuilt" in found.what
    assert (found.backups, found.moments) == ((), ())


async def test_histories_that_contradict_each_other_are_found(small: SmallArchive) -> None:
    name = wal_object(TimelineHistoryFile(3))
    small.put(name, history(at=FORK + 8) + b"\n2\t0/B000000\tno reason\n")
    found = await small.findings()
    assert "contradicts 00000002.history" in found[name].what


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (cut_segment_bytes(1, 4), "not a complete segment"),
        (segment_bytes(1, 5), "is not this segment"),
        (segment_bytes(1, 4)[:-8192], "a segment has"),
    ],
)
async def test_wal_that_was_sealed_well_and_is_none_is_found(
    small: SmallArchive, content: bytes, said: str
) -> None:
    small.put(ObjectName(wal(1, 4)), content)
    found = (await small.findings())[wal(1, 4)]
    assert said in found.what
    assert found.moments


async def test_a_link_that_was_sealed_well_and_follows_other_bytes_is_found(
    small: SmallArchive,
) -> None:
    name = next(name for name in small.names() if name.endswith("/00000028.zst.age"))
    small.put(ObjectName(name), bytes(960), [bytes(32)])
    found = (await small.findings())[name]
    assert "the bytes before it" in found.what


async def test_a_forged_backup_is_named_and_takes_nothing_with_it(
    small: SmallArchive, pool: ThreadPoolExecutor
) -> None:
    thief = TestKeys.generate()
    record = small.archive.record
    archive = Archive(
        small.storage, small.archive.folder, record, archive_keys(record, thief), pool
    )
    forged = SmallArchive(small.storage, archive, thief, pool, small.early, small.late)
    planted = BackupId.create(datetime(2030, 1, 1, tzinfo=UTC), b"\1\2\3")
    await put_backup(forged, planted, 2, 9.25, 9.75)
    every = await small.findings()
    assert set(every) == {f"backups/{planted}/{name}.json" for name in ("start", "summary")}
    found = every[f"backups/{planted}/summary.json"]
    assert "forged" in found.what
    assert found.backups == (str(planted),)


async def test_headers_alone_find_what_is_missing_cut_or_swapped(small: SmallArchive) -> None:
    assert await small.findings(quick=True) == {}
    small.remove(wal(1, 4))
    small.replace(wal(2, 9), small.read(wal(2, 9))[:-1])
    part = f"backups/{small.early}/data/16400/00001.tar.zst.age"
    small.replace(part, small.read(f"backups/{small.late}/data/16400/00001.tar.zst.age"))
    inside = wal(2, 7)
    small.flip(inside, -80)
    found = await small.findings(quick=True)
    assert set(found) == {wal(1, 4), wal(2, 9), part}
    assert inside in await small.findings()


async def test_without_an_identity_what_can_be_seen_is_checked_and_the_rest_is_said(
    small: SmallArchive,
) -> None:
    blind = small.without_identity()
    report = (await blind.verify()).report
    assert report.findings == ()
    assert report.read == "headers"
    assert len(report.unchecked) == 2
    small.remove(wal(1, 4))
    small.remove(f"backups/{small.early}/data/00002.tar.zst.age")
    for name in (f"backups/{small.late}/manifest.json.zst.age", HISTORY):
        small.flip(name, 4000)
    small.replace(wal(2, 9), small.read(wal(2, 9)) + b"\0")
    found = await blind.findings()
    assert set(found) == {
        wal(1, 4),
        wal(2, 9),
        f"backups/{small.early}/data/",
        f"backups/{small.early}/data/00002.tar.zst.age",
        f"backups/{small.late}/manifest.json.zst.age",
        HISTORY,
    }


async def test_a_whole_part_gone_is_noticed_without_an_identity(small: SmallArchive) -> None:
    for name in small.names():
        if name.startswith(f"backups/{small.early}/data/00002."):
            small.remove(name)
    (found,) = (await small.without_identity().findings()).values()
    assert (found.kind, found.backups) == ("missing", (str(small.early),))
    assert "2 parts" in found.what


async def test_samples_reach_everything_in_one_cycle_and_remember_damage(
    small: SmallArchive,
) -> None:
    damaged = [wal(1, 5), wal(2, 9), f"backups/{small.late}/data/00001.tar.zst.age"]
    for name in damaged:
        small.flip(name, -80)
    found: set[str] = set()
    for round_number in range(1, 11):
        report = (await small.verify(share=0.1)).report
        names = {one.object for one in report.findings}
        assert found <= names, "what was damaged is looked at again"
        found |= names
        assert report.read == "sample"
        assert (report.complete_since is not None) == (round_number == 10)
    assert found == set(damaged)


async def test_what_could_not_be_read_is_no_finding(small: SmallArchive) -> None:
    storage = Faulty(small, StorageUnavailable("timed out"), wal(1, 4))
    with pytest.raises(StorageUnavailable):
        await storage.small.verify()


async def test_frozen_objects_are_counted_as_unchecked(small: SmallArchive) -> None:
    faulty = Faulty(small, ObjectFrozen("in GLACIER"), wal(1, 4))
    report = (await faulty.small.verify()).report
    assert report.findings == ()
    assert report.unchecked == ("1 objects in cold storage could not be looked at",)


async def test_what_comes_while_it_is_listed_is_not_missing(small: SmallArchive) -> None:
    faulty = Faulty(small, None, "")
    faulty.hidden = wal(2, 9)
    assert await faulty.small.findings() == {}
    small.flip(wal(2, 9), -80)
    assert set(await faulty.small.findings()) == {wal(2, 9)}


async def test_a_backup_deleted_meanwhile_takes_its_wal_with_it_and_is_no_finding(
    small: SmallArchive,
) -> None:
    late = f"backups/{small.late}/"
    gone = {name for name in small.names() if name.startswith(late)} | {wal(2, 8)}

    def expire() -> None:
        for name in gone:
            small.remove(name)

    faulty = Faulty(small, None, "")
    faulty.before_wal = expire
    report = (await faulty.small.verify()).report
    assert [one.object for one in report.findings] == [wal(2, 8)], "the early one needs it too"
    assert report.findings[0].backups == ()
    assert any(str(small.late) in note for note in report.notes)


@pytest.mark.parametrize("is_whole", [True, False])
async def test_a_tail_of_which_some_is_deleted_already_is_no_finding(
    small: SmallArchive, is_whole: bool
) -> None:
    segment = WalSegment.numbered(2, 11, MIB)

    def delete() -> None:
        if is_whole:  # by the agent, else because nobody needs it any more
            small.put(wal_object(segment), segment_bytes(2, 11))
        small.remove(tail_object(TailLink(segment, 1008)))

    faulty = Faulty(small, None, "")
    faulty.behind_tail = delete
    report = (await faulty.small.verify()).report
    assert report.findings == ()
    assert f"the tail of {segment} was deleted since it was listed" in report.notes


async def test_a_tail_that_is_listed_while_it_is_deleted_is_no_finding(
    small: SmallArchive,
) -> None:
    segment = WalSegment.numbered(2, 11, MIB)
    small.remove(tail_object(TailLink(segment, 1008)))
    assert len(await small.findings()) == 1
    faulty = Faulty(small, None, "")
    faulty.behind_tail = lambda: small.put(wal_object(segment), segment_bytes(2, 11))
    assert await faulty.small.findings() == {}


async def test_foreign_names_are_notes(small: SmallArchive) -> None:
    for name in ("README", "stuff/one", "wal/one", "backups/mine/x", "tail/x"):
        small.replace(name, b"x")
    stray = f"backups/{small.late}/data/00003.tar.zst.age"
    small.replace(stray, b"x")
    report = (await small.verify()).report
    assert report.clean
    assert [note.split()[0] for note in report.notes] == [
        "README",
        stray,
        "backups/mine/",
        "stuff/",
        "tail/x",
        "wal/one",
    ]


async def test_a_backup_under_way_is_a_note(small: SmallArchive) -> None:
    small.remove(f"backups/{small.late}/manifest.json.zst.age")
    report = (await small.verify()).report
    assert report.clean
    assert "under way" in report.notes[0]


class Faulty:
    """The store of a small archive with one object that cannot be read or is not listed."""

    def __init__(self, small: SmallArchive, error: Exception | None, name: str) -> None:
        self._storage, self._error, self._name = small.storage, error, name
        self.hidden = "nothing"
        self.before_wal = lambda: None
        self.behind_tail = lambda: None
        keys = archive_keys(small.archive.record, small.keys)
        folder = small.archive.folder
        archive = Archive(self, folder, small.archive.record, keys, small.pool)  # type: ignore[arg-type]
        self.small = SmallArchive(
            small.storage, archive, small.keys, small.pool, small.early, small.late
        )

    def __getattr__(self, name: str) -> object:
        return getattr(self._storage, name)

    def read(self, name: str, *, offset: int = 0, length: int | None = None) -> object:
        if self._error is not None and name.endswith(self._name):
            raise self._error
        return self._storage.read(name, offset=offset, length=length)

    async def list_objects(self, prefix: str, *, after: str = "") -> AsyncIterator[ObjectInfo]:
        if prefix.endswith("/wal/"):
            self.before_wal()
        listed = [info async for info in self._storage.list_objects(prefix, after=after)]
        if prefix.endswith("/tail/"):
            self.behind_tail()
        for info in listed:
            if not info.name.endswith(self.hidden):
                yield info
            await asyncio.sleep(0)
