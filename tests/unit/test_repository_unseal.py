"""What a thread unseals for itself is what the archive would have read for it."""

from __future__ import annotations

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.fix_archive import TestKeys, make_archive
from walkeeper.core.layout import wal_object
from walkeeper.core.wal import WalSegment
from walkeeper.errors import IntegrityError
from walkeeper.repository.archive import StoredDigest
from walkeeper.repository.unseal import unseal
from walkeeper.storage.memory import MemoryStorage

NAME = wal_object(WalSegment(1, 0, 3))
CONTENT = os.urandom(300_000) + bytes(2_000_000)


@pytest.mark.parametrize("step", [100, 65_552, 256 << 10, 1 << 20])
async def test_content_comes_back_however_its_bytes_arrive(
    step: int, pool: ThreadPoolExecutor, keys: TestKeys
) -> None:
    archive = await make_archive(MemoryStorage(), keys, pool)
    with archive.sealer.seal(NAME, [CONTENT]) as sealed:
        stored = bytes(sealed.body())
    expected = StoredDigest(len(stored), hashlib.sha256(stored).hexdigest())
    chunks = (stored[begin : begin + step] for begin in range(0, len(stored), step))
    assert b"".join(unseal(archive.opener, NAME, chunks, expected=expected)) == CONTENT


@pytest.mark.parametrize("length", [0, 300, 1000, 200_000, -1])
async def test_bytes_that_are_not_all_are_refused(
    length: int, pool: ThreadPoolExecutor, keys: TestKeys
) -> None:
    archive = await make_archive(MemoryStorage(), keys, pool)
    with archive.sealer.seal(NAME, [CONTENT]) as sealed:
        stored = bytes(sealed.body())
    expected = StoredDigest(len(stored), hashlib.sha256(stored).hexdigest())
    with pytest.raises(IntegrityError, match="is not the object"):
        list(unseal(archive.opener, NAME, [stored[:length]], expected=expected))


@pytest.mark.parametrize("length", [0, 300, 200_000, -1])
async def test_an_object_that_was_cut_before_it_was_named_is_refused(
    length: int, pool: ThreadPoolExecutor, keys: TestKeys
) -> None:
    archive = await make_archive(MemoryStorage(), keys, pool)
    with archive.sealer.seal(NAME, [CONTENT]) as sealed:
        stored = bytes(sealed.body())[:length]
    expected = StoredDigest(len(stored), hashlib.sha256(stored).hexdigest())
    with pytest.raises(IntegrityError):
        list(unseal(archive.opener, NAME, [stored], expected=expected))
