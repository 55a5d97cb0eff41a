"""A backup exists from its manifest on, and a lost answer of the store changes nothing."""

import hashlib
from datetime import UTC, datetime

import pytest

from tests.fix_archive import TestKeys, archive_keys, make_archive
from walkeeper.codec import signed_json
from walkeeper.core import layout
from walkeeper.core.backup import BackupFacts, BackupStart, Manifest, PartRecord, RestoreSettings
from walkeeper.core.backup_id import BackupId
from walkeeper.core.layout import BackupPart
from walkeeper.errors import (
    BackupError,
    IntegrityError,
    ObjectExists,
    ObjectNotFound,
    StorageUnavailable,
)
from walkeeper.repository.archive import Archive, StoredDigest
from walkeeper.repository.backups import BackupStore
from walkeeper.storage.memory import MemoryStorage

BACKUP = BackupId.parse("20261120T101500Z-full-3fa9c1")
OTHER = BackupId.parse("20261120T111500Z-full-aaaaaa")
MOMENT = datetime(2026, 11, 20, 10, 15, tzinfo=UTC)


class Forgetful(MemoryStorage):
    """Stores a write, loses the answer, and is asked again: as a store behind a bad line."""

    forgets = ""

    def bytes_of(self, name):
        return self._objects[name][0]

    async def put(self, name, body):
        await super().put(name, body)
        if self.forgets and name.endswith(self.forgets):
            await super().put(name, body)

    async def put_stream(self, name, chunks):
        size = await super().put_stream(name, chunks)
        if self.forgets and name.endswith(self.forgets):
            raise ObjectExists(f"{name} exists")
        return size


@pytest.fixture
def storage():
    return Forgetful()


@pytest.fixture
async def store(storage, keys, pool):
    return BackupStore(await make_archive(storage, keys, pool), pool)


def start_of(store, backup=BACKUP, writer="one"):
    archive = store.archive.record.archive
    return BackupStart(
        name=layout.backup_start(backup),
        archive=archive,
        id=str(backup),
        host="db",
        started_at=MOMENT,
        writer=writer,
    )


async def chunks_of(data):
    yield data


async def put(store, name, data):
    digest = StoredDigest(len(data), hashlib.sha256(data).hexdigest())
    await store.put_stream(name, chunks_of(data), lambda: digest)
    return digest


async def store_parts(store, backup=BACKUP, data=b"a sealed part", files=b"a sealed list"):
    """One part with its list; the manifest that goes with them."""
    part = BackupPart(backup, None, 1)
    stored = await put(store, part.data_name, data)
    listed = await put(store, part.files_name, files)
    record = PartRecord(
        number=1,
        stored_bytes=stored.size_bytes,
        stored_sha256=stored.sha256,
        list_name=part.files_name,
        list_bytes=listed.size_bytes,
        list_sha256=listed.sha256,
        size_bytes=100,
        files=1,
    )
    facts = BackupFacts(
        id=str(backup),
        system_identifier=store.archive.record.system_identifier,
        timeline=1,
        start_lsn="0/100028",
        stop_lsn="0/100100",
        checkpoint_lsn="0/100060",
        started_at=MOMENT,
        stopped_at=MOMENT,
        server_version=150018,
        segment_size=1 << 20,
        size_bytes=100,
        stored_bytes=26,
        parts=1,
        files=1,
        data_checksums=True,
        wal_first="000000010000000000000001",
        wal_last="000000010000000000000001",
    )
    settings = RestoreSettings(
        max_connections=100,
        max_worker_processes=8,
        max_wal_senders=10,
        max_prepared_xacts=0,
        max_locks_per_xact=64,
        data_directory_mode=0o700,
    )
    return Manifest(facts=facts, parts=(record,), settings=settings)


async def take(store, backup=BACKUP):
    await store.claim(start_of(store, backup))
    manifest = await store_parts(store, backup)
    await store.commit(await store.prepare(manifest))
    return manifest


async def ids(store):
    return [(one.backup, one.problem) for one in await store.list_backups()]


async def test_a_backup_is_listed_from_its_manifest_on(store):
    await store.claim(start_of(store))
    manifest = await store_parts(store)
    assert await ids(store) == []
    prepared = await store.prepare(manifest)
    assert await ids(store) == []
    assert (await store.find_unfinished(BACKUP)).backup == BACKUP
    await store.commit(prepared)
    assert await ids(store) == [(BACKUP, None)]
    assert await store.find_unfinished(BACKUP) is None
    assert await store.read_manifest(BACKUP) == manifest


@pytest.mark.parametrize(
    "step",
    ["start.json", ".tar.zst.age", ".files.jsonl.zst.age", "summary.json", "manifest.json.zst.age"],
)
async def test_an_answer_lost_by_the_store_does_not_cost_the_backup(store, storage, step):
    storage.forgets = step
    manifest = await take(store)
    assert await store.read_manifest(BACKUP) == manifest


async def test_an_id_that_somebody_else_has_is_refused(store):
    await store.claim(start_of(store, writer="one"))
    with pytest.raises(ObjectExists):
        await store.claim(start_of(store, writer="two"))


async def test_a_part_that_somebody_else_has_written_is_refused(store):
    name = BackupPart(BACKUP, None, 1).data_name
    await put(store, name, b"theirs")
    with pytest.raises(ObjectExists):
        await put(store, name, b"ours")


async def test_what_is_missing_or_cut_is_not_committed(store, storage):
    manifest = await store_parts(store)
    name = store.archive.path(manifest.parts[0].part_of(BACKUP).data_name)
    await storage.delete(name)
    with pytest.raises(BackupError, match="not stored as written"):
        await store.prepare(manifest)
    await storage.put(name, b"a sealed par")
    with pytest.raises(BackupError, match="not stored as written"):
        await store.prepare(manifest)
    assert await ids(store) == []


async def test_removal_takes_summary_data_and_claim_in_this_order(store, storage):
    await store.claim(start_of(store))
    await store.prepare(await store_parts(store))
    stranger = store.archive.path(f"backups/{BACKUP}/data/notes.txt")
    await storage.put(stranger, b"not ours")
    deleted = []
    delete = storage.delete

    async def noting(name):
        deleted.append(name.rpartition("/")[2])
        await delete(name)

    storage.delete = noting
    await store.remove(await store.find_unfinished(BACKUP))
    assert deleted == [
        "summary.json",
        "00001.tar.files.jsonl.zst.age",
        "00001.tar.zst.age",
        "start.json",
    ]
    assert (await storage.head(stranger)).size_bytes == 8


async def test_a_manifest_that_came_meanwhile_protects_its_backup(store):
    await store.claim(start_of(store))
    prepared = await store.prepare(await store_parts(store))
    unfinished = await store.find_unfinished(BACKUP)
    await store.commit(prepared)
    await store.remove(unfinished)
    assert await ids(store) == [(BACKUP, None)]
    assert len([info async for info in store.archive.list_objects("backups/")]) == 5


async def test_could_not_tell_is_no_unfinished_backup(store, storage):
    await take(store)

    async def silent(name):
        raise StorageUnavailable("no answer")

    storage.head = silent
    with pytest.raises(StorageUnavailable):
        await store.find_unfinished(BACKUP)
    with pytest.raises(StorageUnavailable):
        await store.list_backups()


async def test_a_backup_forged_with_the_public_recipient_alone_is_not_believed(
    store, storage, keys, pool
):
    """Somebody who may write into the bucket has the recipient, which is public, and no more."""
    stranger = TestKeys.generate()
    forger_keys = TestKeys(keys.identity, keys.recipient, stranger.writer_key, stranger.writer)
    archive = store.archive
    forger = BackupStore(
        Archive(
            storage, archive.folder, archive.record, archive_keys(archive.record, forger_keys), pool
        ),
        pool,
    )
    await take(store)
    await take(forger, OTHER)
    genuine, forged = await store.list_backups()
    assert (genuine.backup, genuine.problem) == (BACKUP, None)
    assert (forged.backup, forged.facts) == (OTHER, None)
    assert "sign" in forged.problem
    with pytest.raises(IntegrityError):
        await store.read_manifest(OTHER)


async def test_a_genuine_summary_moved_to_another_backup_is_not_believed(store, storage):
    await take(store)
    for name in ("summary.json", "manifest.json.zst.age"):
        content = storage.bytes_of(store.archive.path(f"backups/{BACKUP}/{name}"))
        await storage.put(store.archive.path(f"backups/{OTHER}/{name}"), content)
    (_, moved) = await store.list_backups()
    assert (moved.backup, moved.facts) == (OTHER, None)


async def test_a_manifest_in_place_of_another_is_refused_by_its_digest(store, storage):
    await take(store)
    other = await take(store, OTHER)
    name = store.archive.path(layout.backup_manifest(BACKUP))
    stolen = storage.bytes_of(store.archive.path(layout.backup_manifest(OTHER)))
    await storage.delete(name)
    await storage.put(name, stolen)
    with pytest.raises(IntegrityError):
        await store.read_manifest(BACKUP)
    assert await store.read_manifest(OTHER) == other


async def test_parts_swapped_between_backups_do_not_have_the_digests_of_the_manifest(store):
    await store_parts(store, BACKUP)
    manifest = await store_parts(store, OTHER, data=b"b sealed part")
    name = BackupPart(BACKUP, None, 1).data_name
    part = manifest.parts[0]
    expected = StoredDigest(part.stored_bytes, part.stored_sha256)
    with pytest.raises(IntegrityError):
        async with store.archive.open(name, expected=expected) as blocks:
            async for _ in blocks:
                pass


async def test_the_claim_is_signed_and_says_when_the_store_took_it(store, keys):
    before = datetime.now(UTC)
    claimed = await store.claim(start_of(store))
    assert claimed.modified_at >= before.replace(microsecond=0)
    data = await store.archive.read_range(layout.backup_start(BACKUP), 0, 10_000)
    start = signed_json.decode(
        data,
        BackupStart,
        writers=[keys.writer],
        name=layout.backup_start(BACKUP),
        archive=store.archive.record.archive,
    )
    assert start == start_of(store)


async def test_removing_leaves_a_name_free(store, storage):
    await store.claim(start_of(store))
    await store.remove(await store.find_unfinished(BACKUP))
    with pytest.raises(ObjectNotFound):
        await storage.head(store.archive.path(layout.backup_start(BACKUP)))
