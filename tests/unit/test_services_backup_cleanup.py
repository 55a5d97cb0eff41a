"""What dead backups left is removed, and nothing else ever."""

import os
from datetime import UTC, datetime, timedelta

import pytest

from tests.fix_archive import make_archive
from walkeeper.errors import StorageDenied, StorageUnavailable
from walkeeper.repository.backups import BackupStore
from walkeeper.services.backup_cleanup import clean_up
from walkeeper.storage.filesystem import FilesystemStorage

NOW = datetime.now(UTC)
DEAD = "20261101T101500Z-full-aaaaaa"
HALF = ("start.json", "data/00001.tar.zst.age", "data/16400/00001.tar.zst.age", "summary.json")


@pytest.fixture
async def store(tmp_path, keys, pool):
    return BackupStore(await make_archive(FilesystemStorage(tmp_path, pool), keys, pool), pool)


@pytest.fixture
def folder(tmp_path, store):
    return tmp_path / store.archive.folder / "backups"


def make(folder, backup, names, *, hours):
    """Objects of a backup, last written to so many hours ago."""
    for name in names:
        path = folder / backup / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"something")
        at = NOW.timestamp() - hours * 3600
        os.utime(path, (at, at))


def left(folder):
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


async def test_an_old_folder_without_a_manifest_goes_as_a_whole(store, folder):
    make(folder, DEAD, HALF, hours=25)
    await clean_up(store, NOW)
    assert not folder.exists() or left(folder) == set()


async def test_a_folder_with_a_manifest_stays_however_old(store, folder):
    make(folder, DEAD, [*HALF, "manifest.json.zst.age"], hours=9999)
    before = left(folder)
    await clean_up(store, NOW)
    assert left(folder) == before


async def test_one_young_object_protects_its_folder(store, folder):
    make(folder, DEAD, HALF, hours=9999)
    make(folder, DEAD, ["data/00002.tar.zst.age"], hours=23.9)
    before = left(folder)
    await clean_up(store, NOW)
    assert left(folder) == before


async def test_the_clock_is_that_of_the_store(store, folder):
    """The host that cleans up may be years off: only times of the store are compared."""
    make(folder, DEAD, HALF, hours=1)
    await clean_up(store, NOW)
    assert len(left(folder)) == len(HALF)
    await clean_up(store, NOW + timedelta(hours=24))
    assert not folder.exists() or left(folder) == set()


async def test_names_that_are_not_ours_are_never_deleted(store, folder):
    strange = {
        f"{DEAD}/notes.txt",
        f"{DEAD}/data/1.tar.zst.age",
        f"{DEAD}/data/00000.tar.zst.age",
        f"{DEAD}/data/016400/00001.tar.zst.age",
        "somebody/start.json",
        f"{DEAD}x/start.json",
        "20261101T101500Z-incr-aaaaaa/start.json",
        "20261399T101500Z-full-aaaaaa/start.json",
    }
    for name in strange:
        backup, _, rest = name.partition("/")
        make(folder, backup, [rest], hours=9999)
    make(folder, DEAD, HALF, hours=9999)
    await clean_up(store, NOW)
    assert left(folder) == strange


@pytest.mark.parametrize("error", [StorageDenied, StorageUnavailable])
@pytest.mark.parametrize("operation", ["delete", "head", "folders"])
async def test_what_the_store_refuses_is_only_a_warning(
    store, folder, monkeypatch, capsys, error, operation
):
    make(folder, DEAD, HALF, hours=9999)

    async def refused(name):
        raise error("the store says no")

    monkeypatch.setattr(store.archive.storage, operation, refused)
    await clean_up(store, NOW)
    assert len(left(folder)) == len(HALF)
    said = capsys.readouterr()
    assert "unfinished_backups_left" in said.out + said.err
