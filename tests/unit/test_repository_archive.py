"""An archive keeps what it was given, refuses what it was not, and never overwrites."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.fix_archive import TestKeys, archive_keys, make_archive
from walkeeper.codec.opener import Opener
from walkeeper.core.layout import ObjectName, wal_object
from walkeeper.core.wal import WalSegment
from walkeeper.errors import (
    AmbiguousArchive,
    DifferentContent,
    ForeignCluster,
    FormatTooNew,
    IntegrityError,
    KeyUnavailable,
    NotInitialised,
    UsageError,
    WrongKey,
)
from walkeeper.repository.archive import Archive, ArchiveKeys, Stored
from walkeeper.repository.identity import Trust, find_archive, load_record, require_record
from walkeeper.storage.memory import MemoryStorage

NAME = wal_object(WalSegment(1, 0, 3))
CONTENT = b"a record of the write-ahead log" * 1000


async def drain(archive: Archive) -> None:
    async with archive.open(NAME) as blocks:
        async for _ in blocks:
            pass


async def test_what_was_put_is_read_back(pool: ThreadPoolExecutor, keys: TestKeys) -> None:
    archive = await make_archive(MemoryStorage(), keys, pool)
    with archive.sealer.seal(NAME, [CONTENT]) as sealed:
        assert await archive.put(sealed) is Stored.CREATED
    assert await archive.read(NAME, limit_bytes=1 << 20) == CONTENT
    async with archive.open(NAME) as blocks:
        assert b"".join([block async for block in blocks]) == CONTENT


async def test_the_same_content_is_success_though_its_ciphertext_differs(
    pool: ThreadPoolExecutor, keys: TestKeys
) -> None:
    archive = await make_archive(MemoryStorage(), keys, pool)
    with archive.sealer.seal(NAME, [CONTENT]) as sealed:
        await archive.put(sealed)
    with archive.sealer.seal(NAME, [CONTENT]) as again:
        assert await archive.put(again) is Stored.SAME


async def test_other_content_is_refused_naming_both_and_nothing_is_overwritten(
    pool: ThreadPoolExecutor, keys: TestKeys
) -> None:
    archive = await make_archive(MemoryStorage(), keys, pool)
    with archive.sealer.seal(NAME, [CONTENT]) as first:
        await archive.put(first)
    with (
        archive.sealer.seal(NAME, [CONTENT + b"!"]) as other,
        pytest.raises(DifferentContent) as refused,
    ):
        await archive.put(other)
    assert first.content.hex()[:16] in str(refused.value)
    assert other.content.hex()[:16] in str(refused.value)
    assert await archive.read(NAME, limit_bytes=1 << 20) == CONTENT


async def test_a_host_without_an_identity_writes_and_compares_but_cannot_read(
    pool: ThreadPoolExecutor, keys: TestKeys
) -> None:
    archive = await make_archive(MemoryStorage(), keys, pool, can_read=False)
    for outcome in (Stored.CREATED, Stored.SAME):
        with archive.sealer.seal(NAME, [CONTENT]) as sealed:
            assert await archive.put(sealed) is outcome
    with pytest.raises(KeyUnavailable):
        await archive.read(NAME, limit_bytes=1 << 20)


async def test_a_stored_object_that_was_cut_is_not_taken_for_the_same(
    pool: ThreadPoolExecutor, keys: TestKeys
) -> None:
    storage = MemoryStorage()
    archive = await make_archive(storage, keys, pool)
    with archive.sealer.seal(NAME, [CONTENT]) as sealed:
        await storage.put(archive.path(NAME), bytes(sealed.body())[:-1])
        with pytest.raises(IntegrityError, match="damaged"):
            await archive.put(sealed)


async def test_an_object_planted_without_the_writer_key_is_refused(
    pool: ThreadPoolExecutor, keys: TestKeys
) -> None:
    storage = MemoryStorage()
    archive = await make_archive(storage, keys, pool)
    forger = TestKeys(keys.identity, keys.recipient, TestKeys.generate().writer_key, keys.writer)
    forging = Archive(
        storage, archive.folder, archive.record, archive_keys(archive.record, forger), pool
    )
    with forging.sealer.seal(NAME, [CONTENT]) as sealed:
        await storage.put(archive.path(NAME), sealed.body())
    with pytest.raises(IntegrityError) as refused:
        await archive.read(NAME, limit_bytes=1 << 20)
    assert NAME in str(refused.value)
    with archive.sealer.seal(NAME, [CONTENT]) as own, pytest.raises(IntegrityError):
        await archive.put(own)


async def test_an_object_moved_to_another_name_is_refused(
    pool: ThreadPoolExecutor, keys: TestKeys
) -> None:
    storage = MemoryStorage()
    archive = await make_archive(storage, keys, pool)
    other = wal_object(WalSegment(1, 0, 4))
    with archive.sealer.seal(NAME, [CONTENT]) as sealed:
        await storage.put(archive.path(other), sealed.body())
    with pytest.raises(IntegrityError, match="moved or swapped"):
        await archive.read(other, limit_bytes=1 << 20)


async def test_an_object_of_another_archive_is_refused(
    pool: ThreadPoolExecutor, keys: TestKeys
) -> None:
    storage = MemoryStorage()
    archive = await make_archive(storage, keys, pool)
    twin = await make_archive(storage, keys, pool, folder="twin")
    with twin.sealer.seal(NAME, [CONTENT]) as sealed:
        await storage.put(archive.path(NAME), sealed.body())
    with pytest.raises(IntegrityError, match="another archive"):
        await archive.read(NAME, limit_bytes=1 << 20)


async def test_the_wrong_identity_is_told_from_damage(
    pool: ThreadPoolExecutor, keys: TestKeys
) -> None:
    storage = MemoryStorage()
    archive = await make_archive(storage, keys, pool)
    with archive.sealer.seal(NAME, [CONTENT]) as sealed:
        await archive.put(sealed)
    stranger = TestKeys(TestKeys.generate().identity, keys.recipient, keys.writer_key, keys.writer)
    reading = Archive(
        storage, archive.folder, archive.record, archive_keys(archive.record, stranger), pool
    )
    with pytest.raises(WrongKey):
        await reading.read(NAME, limit_bytes=1 << 20)


async def test_a_truncated_stream_fails_before_its_end_is_believed(
    pool: ThreadPoolExecutor, keys: TestKeys
) -> None:
    storage = MemoryStorage()
    archive = await make_archive(storage, keys, pool)
    with archive.sealer.seal(NAME, [CONTENT]) as sealed:
        await storage.put(archive.path(NAME), bytes(sealed.body())[:-40])
    with pytest.raises(IntegrityError):
        await drain(archive)


async def test_an_archive_of_another_cluster_is_refused(
    pool: ThreadPoolExecutor, keys: TestKeys
) -> None:
    storage = MemoryStorage()
    await make_archive(storage, keys, pool, folder="main", system_identifier=1)
    with pytest.raises(ForeignCluster):
        await make_archive(storage, keys, pool, folder="main", system_identifier=2)


async def test_creating_an_archive_again_finds_the_first_one(
    pool: ThreadPoolExecutor, keys: TestKeys
) -> None:
    storage = MemoryStorage()
    first = await make_archive(storage, keys, pool)
    second = await make_archive(storage, keys, pool)
    assert second.record == first.record


async def test_one_archive_is_found_and_several_must_be_named(
    pool: ThreadPoolExecutor, keys: TestKeys
) -> None:
    storage = MemoryStorage()
    with pytest.raises(NotInitialised):
        await find_archive(storage, None)
    await make_archive(storage, keys, pool, folder="one")
    assert await find_archive(storage, None) == "one"
    await make_archive(storage, keys, pool, folder="two")
    with pytest.raises(AmbiguousArchive, match="one, two"):
        await find_archive(storage, None)
    assert await find_archive(storage, "two") == "two"
    with pytest.raises(UsageError):
        await find_archive(storage, "../two")


async def test_a_marker_of_a_newer_format_makes_the_archive_too_new(
    pool: ThreadPoolExecutor, keys: TestKeys
) -> None:
    storage = MemoryStorage()
    archive = await make_archive(storage, keys, pool)
    await storage.put(archive.path("format/2.json"), b"{}")
    with pytest.raises(FormatTooNew):
        await load_record(storage, archive.folder, Trust((keys.writer,)))


async def test_a_record_signed_by_a_stranger_is_refused(
    pool: ThreadPoolExecutor, keys: TestKeys
) -> None:
    storage = MemoryStorage()
    archive = await make_archive(storage, keys, pool)
    with pytest.raises(IntegrityError):
        await load_record(storage, archive.folder, Trust((TestKeys.generate().writer,)))


async def test_names_are_listed_relative_to_the_archive(
    pool: ThreadPoolExecutor, keys: TestKeys
) -> None:
    archive = await make_archive(MemoryStorage(), keys, pool)
    names = [wal_object(WalSegment(1, 0, number)) for number in (1, 2, 3)]
    for name in names:
        with archive.sealer.seal(name, [CONTENT]) as sealed:
            await archive.put(sealed)
    found = [info.name async for info in archive.list_objects("wal/", after=names[0])]
    assert found == names[1:]
    assert await archive.folders("wal/") == ["wal/00000001/"]
    assert isinstance(ObjectName(found[0]), str)


async def test_an_archive_that_was_replaced_by_another_one_is_noticed(
    pool: ThreadPoolExecutor, keys: TestKeys
) -> None:
    storage = MemoryStorage()
    archive = await make_archive(storage, keys, pool)
    trust = Trust((keys.writer,))
    await require_record(archive, trust)
    await storage.delete(archive.path("archive.json"))
    with pytest.raises(NotInitialised):
        await require_record(archive, trust)
    await make_archive(storage, keys, pool)
    with pytest.raises(ForeignCluster, match="another one"):
        await require_record(archive, trust)


async def test_what_another_believed_writer_signed_can_be_read(
    pool: ThreadPoolExecutor, keys: TestKeys
) -> None:
    """Its content code was made with a key that is not at hand, so it says nothing here."""
    storage = MemoryStorage()
    archive = await make_archive(storage, keys, pool)
    with archive.sealer.seal(NAME, [CONTENT]) as sealed:
        await archive.put(sealed)
    second = TestKeys.generate()
    opener = Opener(
        archive=archive.record.archive,
        system_identifier=archive.record.system_identifier,
        writers=[second.writer, keys.writer],
        identities=[keys.identity],
        signing=second.signing,
    )
    reading = Archive(storage, archive.folder, archive.record, ArchiveKeys(None, opener), pool)
    assert await reading.read(NAME, limit_bytes=1 << 20) == CONTENT
