"""Expiring a real archive: what goes, in which order, and what nothing can push out."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from hashlib import sha256

import msgspec
import pytest

from tests.fix_archive import ONE_MIB, TestKeys
from tests.fix_retention import BEGIN, DAY, HOUR, Bed, MakeBed, facts_of, fill, lsn
from walkeeper.codec import signed_json
from walkeeper.core import layout, layout_holds
from walkeeper.core.backup import BackupSummary
from walkeeper.core.backup_id import BackupId
from walkeeper.core.candidate import candidates
from walkeeper.core.coverage import reach
from walkeeper.core.layout import CutOffSegment, TailLink, tail_object, wal_object
from walkeeper.core.layout_holds import LeaseName, PinName
from walkeeper.core.retention_policy import RetentionPolicy, Rule
from walkeeper.core.target import Immediate, RecoveryRequest
from walkeeper.core.wal import BackupHistoryFile, TimelineHistoryFile, WalSegment
from walkeeper.errors import IntegrityError, KeyUnavailable, StorageDenied, StorageUnavailable
from walkeeper.repository.holds import DrillMark, Holds, PinRecord
from walkeeper.repository.removal import BackupRemoval
from walkeeper.services.lease import hold_lease
from walkeeper.storage.base import Buffer
from walkeeper.storage.memory import MemoryStorage

WEEK = RetentionPolicy(window=7 * DAY)


def seg(number: int, timeline: int = 1) -> WalSegment:
    return WalSegment.numbered(timeline, number, ONE_MIB)


async def require_recoverable(bed: Bed, days: int) -> None:
    """Each backup to consistency, and from the first of the window on to the end of WAL."""
    view = await bed.view()
    for backup in view.backups:
        (found, *_) = candidates(view, RecoveryRequest(Immediate(), backup.timeline), backup.backup)
        assert found.reach.end >= backup.stop
    since = bed.now[0] - days * DAY
    path = view.path_to(max(view.timelines))
    begins = [backup for backup in view.backups if backup.stopped_at <= since]
    first = max(begins or view.backups[:1], key=lambda backup: backup.stop)
    assert reach(view.wal, path, first.start).end == lsn(max(bed.segments(path[-1].timeline)) + 1)


async def test_what_is_older_than_the_window_goes_with_its_wal(old: Bed) -> None:
    await old.stored(
        TimelineHistoryFile(7), CutOffSegment(seg(3), "0" * 16), BackupHistoryFile(seg(4), 40)
    )
    tail = await old.tail(1, 5)
    result = await old.expire(WEEK)
    assert result.denied is None
    assert len(result.backups) == 32
    assert len(await old.ids()) == 8
    assert old.segments() == list(range(4 * 32, 160))
    assert old.names("wal/00000007") == ["wal/00000007.history.zst.age"]
    assert not old.has(tail)
    assert result.wal.count == 4 * 32 + 2
    gone = {str(backup) for backup in result.backups}
    assert not [name for name in old.names("backups/") if name.split("/")[1] in gone]
    assert not old.names("expiring/")
    assert old.slept == [60]
    await require_recoverable(old, 7)


async def test_a_dry_run_says_the_same_and_touches_nothing(old: Bed) -> None:
    before = old.names()
    said = await old.expire(WEEK, dry_run=True)
    assert old.names() == before
    assert old.slept == []
    done = await old.expire(WEEK)
    assert set(said.plan.doomed) == set(done.backups)


async def test_a_second_run_finds_nothing_to_do(old: Bed) -> None:
    await old.expire(WEEK)
    before = old.names()
    again = await old.expire(WEEK)
    assert (again.backups, again.wal.count) == ([], 0)
    assert old.names() == before
    assert old.slept == [60]


async def test_eight_years_on_a_real_layout(make_retention_bed: MakeBed) -> None:
    """A backup each week, an expiry each month, failovers; looked at with the planner's rules."""
    bed = await make_retention_bed()
    policy = RetentionPolicy(window=14 * DAY, weekly=60 * DAY, monthly=8 * 366 * DAY)
    timeline = 1
    for week in range(8 * 52):
        bed.now[0] = BEGIN + week * 7 * DAY
        if week % 104 == 103:
            timeline += 1
            forks = [(tli, 208 * tli - 1.9) for tli in range(1, timeline)]
            await bed.history(timeline, *forks)
        await bed.backup(2 * week + 0.25, timeline=timeline)
        await bed.wal(timeline, 2 * week, 2 * week + 2)
        if week % 4 == 3:
            await bed.expire(policy)
        if week % 24 == 23 or week == 8 * 52 - 1:
            await require_recoverable(bed, 14)
    assert 8 * 12 <= len(await bed.ids()) < 8 * 12 + 14
    assert len(bed.names("wal/")) < 8 * 12 + 50


class KilledStorage(MemoryStorage):
    """Lets so many writes and deletes happen, then fails like a process that was killed."""

    left: int | None = None

    def _step(self) -> None:
        if self.left is not None:
            self.left -= 1
            if self.left < 0:
                raise asyncio.CancelledError

    async def put(self, name: str, body: Buffer) -> None:
        self._step()
        await super().put(name, body)

    async def delete(self, name: str) -> None:
        self._step()
        await super().delete(name)


async def test_killed_at_any_step_it_can_be_run_again(make_retention_bed: MakeBed) -> None:
    async def world() -> tuple[Bed, KilledStorage]:
        bed = await make_retention_bed(KilledStorage)
        await fill(bed, 10)
        assert isinstance(bed.storage, KilledStorage)
        return bed, bed.storage

    bed, _ = await world()
    await bed.expire(RetentionPolicy(window=4 * DAY))
    expected = (await _shape(bed), len(bed.segments()))
    step = 0
    while True:
        bed, storage = await world()
        storage.left = step
        try:
            await bed.expire(RetentionPolicy(window=4 * DAY))
        except asyncio.CancelledError:
            pass
        else:
            break
        storage.left = None
        await require_recoverable(bed, 4)
        for listed in await bed.store.list_backups():  # nothing half-deleted is listed
            assert listed.problem is None
        bed.now[0] += timedelta(minutes=10)
        await bed.expire(RetentionPolicy(window=4 * DAY))
        assert (await _shape(bed), len(bed.segments())) == expected
        assert [name for name in bed.names("expiring/") if "clock" not in name] == []
        step += 1
    assert step > 30


async def _shape(bed: Bed) -> int:
    return len(bed.names("backups/"))


async def test_a_restore_that_begins_during_the_wait_is_spared(old: Bed) -> None:
    victim = BackupId.parse(sorted(await old.ids())[5])

    async def restore() -> None:
        lease = LeaseName(victim, old.now[0] + HOUR, "0" * 16)
        await old.put(layout_holds.lease_object(lease), b"unsigned, from a host that only reads")

    result = await old.service(WEEK, during_grace=restore).run()
    assert result.spared == [victim]
    assert str(victim) in await old.ids()
    assert old.segments()[0] == 20  # and all WAL behind it
    assert not old.has(layout_holds.expiring_mark(victim))

    old.now[0] += 49 * HOUR
    later = await old.expire(WEEK)
    assert victim in later.backups
    assert not old.names("leases/")


async def test_a_pin_made_during_the_wait_counts_and_an_unpin_ends_it(old: Bed) -> None:
    holds = Holds(old.archive)
    victim = BackupId.parse(sorted(await old.ids())[5])
    pinning = old.service(WEEK, during_grace=lambda: holds.pin(victim, "audit", old.now[0]))
    assert (await pinning.run()).spared == [victim]
    assert old.segments()[:3] == [20, 21, 128]
    decision = (await old.expire(WEEK)).plan.decisions[0]
    assert decision.reason == "pinned: audit"

    await holds.unpin(victim, old.now[0] - DAY)  # on a host whose clock is late
    assert victim in (await old.expire(WEEK)).backups
    assert not old.names("pins/")


async def test_only_a_signed_word_pins_or_unpins(old: Bed) -> None:
    victim = BackupId.parse(sorted(await old.ids())[5])
    await Holds(old.archive).pin(victim, "audit", old.now[0])
    planted = layout_holds.pin_object(PinName(victim, old.now[0] + DAY, pins=False))
    await old.put(planted, b'{"body":{},"signature":""}')
    result = await old.expire(WEEK)
    assert str(victim) in await old.ids()
    assert any(planted in finding for finding in result.plan.findings)


async def test_the_last_backup_that_a_drill_has_proven_stays(old: Bed) -> None:
    ids = sorted(await old.ids())

    async def record(name: str, backup: str, *, proven: bool, signed: bool = True) -> None:
        mark = DrillMark(
            name=name,
            archive=old.archive.record.archive,
            backup=backup,
            proven=proven,
            at=old.now[0],
        )
        if signed:
            await old.sign(name, mark)
        else:
            await old.put(name, msgspec.json.encode({"body": mark, "signature": ""}))

    await record("drills/20260110T030000Z-000001.json", ids[3], proven=True)
    await record("drills/20260111T030000Z-000001.json", ids[4], proven=True)
    await record("drills/20260112T030000Z-000001.json", ids[5], proven=False)
    await record("drills/20990101T030000Z-000001.json", ids[6], proven=True, signed=False)
    await old.expire(WEEK)
    assert set(ids[:32]) & await old.ids() == {ids[4]}


async def test_planted_backups_push_nothing_out(old: Bed) -> None:
    """By somebody who may create objects and knows every format, but holds no key."""
    before = {str(one) for one in (await old.expire(WEEK, dry_run=True)).plan.doomed}
    stranger = TestKeys.generate()
    for chance in range(5):
        facts = facts_of(9000 + chance, 9000.5 + chance, old.now[0] + chance * 400 * DAY)
        forged = BackupSummary(
            name=layout.backup_summary(facts.backup),
            archive=old.archive.record.archive,
            facts=facts,
            manifest_name=layout.backup_manifest(facts.backup),
            manifest_sha256=sha256(b"forged").hexdigest(),
        )
        await old.put(forged.name, signed_json.encode(forged, stranger.signing))
        await old.put(forged.manifest_name, b"forged")
    for real in await old.ids():  # parts that make a backup look other than its summary says
        part = layout.BackupPart(BackupId.parse(real), None, 77)
        await old.put(part.data_name, b"junk")
    await old.put(wal_object(seg(9, timeline=9)), b"junk")
    await old.put(wal_object(TimelineHistoryFile(9)), b"junk")
    await old.put(wal_object(WalSegment(1, 0xFFFFFFFF, 0xFFF)), b"junk")
    await old.put(tail_object(TailLink(WalSegment(2, 0xFFFFFFFF, 0xFFF), 0)), b"junk")

    result = await old.expire(WEEK)

    assert {str(one) for one in result.backups} == before
    assert old.segments()[0] == 4 * 32
    assert len([one for one in result.plan.findings if "cannot be believed" in one]) == 5
    assert old.has(wal_object(seg(9, timeline=9)))


async def test_a_backup_that_was_deleted_and_put_back_pushes_nothing_out(old: Bed) -> None:
    saved = dict(old.storage._objects)
    await old.expire(WEEK)
    kept = await old.ids()
    old.now[0] += HOUR
    for name, (body, _) in saved.items():  # signed and whole, as it once was
        if name not in old.storage._objects:
            await old.storage.put(name, body)
    await old.expire(WEEK)
    assert await old.ids() == kept


@pytest.mark.parametrize("can_read", [True, False])
async def test_damaged_backups_stay_in_their_place_and_push_nothing_out(
    make_retention_bed: MakeBed, can_read: bool
) -> None:
    bed = await make_retention_bed(can_read=can_read)
    made = await fill(bed, 20)
    base = made[12]
    await bed.storage.delete(bed.archive.path(layout.BackupPart(base, None, 1).data_name))
    result = await bed.expire(WEEK)
    assert {made[11], made[12]} <= {BackupId.parse(one) for one in await bed.ids()}
    assert made[10] in result.backups
    assert bed.segments()[0] == 4 * 11
    assert any(str(base) in finding for finding in result.plan.findings)


async def test_a_manifest_that_was_changed_does_not_count(old: Bed) -> None:
    base = BackupId.parse(sorted(await old.ids())[32])
    name = old.archive.path(layout.backup_manifest(base))
    body, at = old.storage._objects[name]
    old.storage._objects[name] = (body[:-1] + bytes([body[-1] ^ 1]), at)
    result = await old.expire(WEEK)
    assert len(result.backups) == 31
    assert old.segments()[0] == 4 * 31


async def test_a_real_backup_whose_summary_is_lost_stops_the_deletion_of_wal(old: Bed) -> None:
    victim = BackupId.parse(sorted(await old.ids())[3])
    await old.storage.delete(old.archive.path(layout.backup_summary(victim)))
    result = await old.expire(WEEK)
    assert len(result.backups) == 31
    assert result.wal.count == 0
    assert old.segments()[0] == 0


async def test_orphans_and_replaced_tails_go_after_a_day(make_retention_bed: MakeBed) -> None:
    bed = await make_retention_bed()
    await fill(bed, 2)
    aborted = BackupId.create(bed.now[0], b"abc")
    await bed.put(layout.BackupPart(aborted, None, 1).data_name, b"x")
    await bed.put(layout.backup_prefix(aborted) + "not-ours", b"x")
    replaced, needed, blocked = [await bed.tail(1, number) for number in (20, 21, 22)]
    with bed.archive.sealer.seal(wal_object(seg(20)), [b"complete"]) as sealed:
        await bed.archive.put(sealed)
    await bed.put(wal_object(seg(22)), b"planted where a segment is still to come")

    bed.now[0] += 23 * HOUR
    await bed.expire(WEEK)
    assert bed.has(replaced)
    assert bed.has(layout.BackupPart(aborted, None, 1).data_name)

    bed.now[0] += 2 * HOUR
    result = await bed.expire(WEEK)
    assert result.orphans == [aborted]
    assert bed.names(f"backups/{aborted}/") == [f"backups/{aborted}/not-ours"]
    assert not bed.has(replaced)
    assert bed.has(needed)
    assert bed.has(blocked)


async def test_a_planted_mark_does_not_make_a_running_backup_an_orphan(
    make_retention_bed: MakeBed,
) -> None:
    bed = await make_retention_bed()
    await fill(bed, 2)
    running = BackupId.create(bed.now[0], b"abc")
    part = layout.BackupPart(running, None, 1).data_name
    await bed.put(part, b"x")
    await bed.put(layout_holds.expiring_mark(running), b'{"body":{},"signature":""}')
    await bed.expire(WEEK)
    assert bed.has(part)
    # A true mark says that the manifest was deleted by us: no need to wait.
    ended = BackupId.create(bed.now[0], b"abd")
    await bed.put(layout.BackupPart(ended, None, 1).data_name, b"x")
    await BackupRemoval(bed.archive).mark(ended, bed.now[0])
    await bed.expire(WEEK)
    assert not bed.names(f"backups/{ended}/")


async def test_a_backup_that_is_wanted_again_loses_its_mark(old: Bed) -> None:
    victim = BackupId.parse(sorted(await old.ids())[5])
    await BackupRemoval(old.archive).mark(victim, old.now[0])
    await Holds(old.archive).pin(victim, "again", old.now[0])
    await old.expire(WEEK)
    assert not old.has(layout_holds.expiring_mark(victim))


class DenyingStorage(MemoryStorage):
    """A store whose credentials may do this and not that."""

    denied: str = ""

    async def put(self, name: str, body: Buffer) -> None:
        if self.denied == "put":
            raise StorageDenied(f"{name}: 403")
        await super().put(name, body)

    async def delete(self, name: str) -> None:
        if self.denied == "delete" or (self.denied == "manifests" and "manifest" in name):
            raise StorageDenied(f"{name}: 403")
        await super().delete(name)


@pytest.mark.parametrize("denied", ["put", "delete", "manifests"])
async def test_a_store_that_denies_it_is_said_with_what_would_go(
    make_retention_bed: MakeBed, denied: str
) -> None:
    bed = await make_retention_bed(DenyingStorage)
    await fill(bed, 12)
    assert isinstance(bed.storage, DenyingStorage)
    bed.storage.denied = denied
    result = await bed.expire(WEEK)
    assert result.denied is not None
    assert len(result.plan.doomed) == 4
    assert len(await bed.ids()) == 12
    assert len(bed.segments()) == 48


class BrokenStorage(MemoryStorage):
    """Cannot tell."""

    broken = ""

    async def list_objects(self, prefix: str, *, after: str = "") -> AsyncIterator[object]:  # type: ignore[override]
        if self.broken and prefix.endswith(self.broken):
            raise StorageUnavailable("no answer")
        async for info in super().list_objects(prefix, after=after):
            yield info


@pytest.mark.parametrize("broken", ["wal/", "tail/", "pins/", "leases/", "drills/", "expiring/"])
async def test_what_cannot_be_told_deletes_nothing(
    make_retention_bed: MakeBed, broken: str
) -> None:
    bed = await make_retention_bed(BrokenStorage)
    await fill(bed, 12)
    assert isinstance(bed.storage, BrokenStorage)
    bed.storage.broken = broken
    with pytest.raises(StorageUnavailable):
        await bed.expire(WEEK)
    assert len(bed.segments()) == 48
    assert len(await bed.ids()) == 12


async def test_timelines_whose_history_is_lost_or_unreadable_stop_everything(
    make_retention_bed: MakeBed,
) -> None:
    bed = await make_retention_bed()
    await fill(bed, 12)
    with bed.archive.sealer.seal(wal_object(seg(48, timeline=2)), [b"real"]) as sealed:
        await bed.archive.put(sealed)
    with pytest.raises(IntegrityError, match="no history of timeline 2"):
        await bed.expire(WEEK)
    await bed.history(2, (1, 47.5))
    result = await bed.expire(WEEK)
    assert len(result.backups) == 4

    blind = await make_retention_bed(can_read=False)
    await fill(blind, 12)
    await blind.history(2, (1, 47.5))
    with pytest.raises(KeyUnavailable, match="only an identity opens"):
        await blind.expire(WEEK)


async def test_the_clock_of_the_store_counts_and_not_that_of_the_host(old: Bed) -> None:
    service = old.service(WEEK)
    service._clock = lambda: old.now[0] + 9999 * DAY
    result = await service.run()
    assert result.plan.catalog.now == old.now[0]
    assert len(await old.ids()) == 8


async def test_a_lease_is_renewed_and_given_back(old: Bed) -> None:
    backup = BackupId.parse(min(await old.ids()))
    renewed = asyncio.Event()
    naps: list[float] = []

    async def sleep(seconds: float) -> None:
        naps.append(seconds)
        if len(naps) > 2:
            renewed.set()
            await asyncio.Event().wait()
        old.now[0] += timedelta(seconds=seconds)

    async with hold_lease(
        old.archive, backup, "restore", clock=lambda: old.now[0], sleep=sleep
    ) as lease:
        await renewed.wait()
        assert lease.notes == []
        (name,) = old.names("leases/")  # the one before was taken back
        found = layout_holds.parse_lease_object(name)
        assert found is not None
        assert found.expires_at == old.now[0] + 2 * HOUR
        decision = (await old.expire(WEEK, dry_run=True)).plan.decisions
        held = {one.backup.facts.id: one.holds for one in decision}[str(backup)]
        assert [hold.rule for hold in held] == [Rule.LEASED]
    assert old.names("leases/") == []


async def test_a_lease_stays_for_the_recovery_that_comes_later(old: Bed) -> None:
    backup = BackupId.parse(min(await old.ids()))
    async with hold_lease(old.archive, backup, "restore", clock=lambda: old.now[0]) as lease:
        await lease.keep_afterwards()
    (name,) = old.names("leases/")
    found = layout_holds.parse_lease_object(name)
    assert found is not None
    assert found.expires_at == old.now[0] + 24 * HOUR


async def test_a_restore_goes_on_where_no_lease_can_be_written(
    make_retention_bed: MakeBed,
) -> None:
    bed = await make_retention_bed(DenyingStorage)
    (backup, *_) = await fill(bed, 1)
    assert isinstance(bed.storage, DenyingStorage)
    bed.storage.denied = "put"
    async with hold_lease(bed.archive, backup, "restore", clock=lambda: bed.now[0]) as lease:
        assert "no lease protects backup" in lease.notes[0]


async def test_what_the_holder_of_a_lease_raises_comes_out_unchanged(old: Bed) -> None:
    backup = BackupId.parse(min(await old.ids()))
    with pytest.raises(ZeroDivisionError):
        async with hold_lease(old.archive, backup, "restore"):
            raise ZeroDivisionError
    assert old.names("leases/") == []


async def test_a_pin_record_cannot_be_moved_to_another_backup(old: Bed) -> None:
    ids = [BackupId.parse(one) for one in sorted(await old.ids())]
    holds = Holds(old.archive)
    await holds.pin(ids[0], "mine", old.now[0])
    (name,) = old.names("pins/")
    body, _ = old.storage._objects[old.archive.path(name)]
    await old.put(name.replace(str(ids[0]), str(ids[1])), body)
    pins = await holds.pins()
    assert pins.reasons == {ids[0]: "mine"}
    assert len(pins.ignored) == 1
    assert PinRecord.__struct_fields__[0] == "name"
