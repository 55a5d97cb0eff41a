"""Keys that fit together, and keys that do not."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.fix_archive import TestKeys
from walkeeper.errors import KeyUnavailable, WrongKey
from walkeeper.keys.keyring import Keyring
from walkeeper.services.check_keys import KeysAtHand, check_keys


def keyring(keys: TestKeys, *, identities: TestKeys | None = None) -> Keyring:
    reader = identities or keys
    return Keyring((keys.recipient,), (reader.identity,), (keys.writer,), keys.writer_key)


async def test_keys_of_one_cluster_fit(keys: TestKeys, pool: ThreadPoolExecutor) -> None:
    remark = await check_keys(KeysAtHand(keyring(keys), (keys.writer,)), pool)
    assert "opens it" in remark.text
    assert remark.warning is None


async def test_an_identity_of_another_cluster_is_the_wrong_key(
    keys: TestKeys, pool: ThreadPoolExecutor
) -> None:
    stranger = TestKeys.generate()
    with pytest.raises(WrongKey):
        await check_keys(KeysAtHand(keyring(keys, identities=stranger)), pool)


async def test_a_writer_that_readers_do_not_believe_is_refused(
    keys: TestKeys, pool: ThreadPoolExecutor
) -> None:
    stranger = TestKeys.generate()
    with pytest.raises(KeyUnavailable, match="not among the writers"):
        await check_keys(KeysAtHand(keyring(keys), (stranger.writer,)), pool)


async def test_a_host_may_only_write_or_only_read(keys: TestKeys, pool: ThreadPoolExecutor) -> None:
    writes = Keyring((keys.recipient,), (), (keys.writer,), keys.writer_key)
    assert "cannot read" in (await check_keys(KeysAtHand(writes), pool)).text
    reads = Keyring((), (keys.identity,), (keys.writer,), None)
    assert "only reads" in (await check_keys(KeysAtHand(reads), pool)).text


async def test_a_host_without_any_key_fails(pool: ThreadPoolExecutor) -> None:
    with pytest.raises(KeyUnavailable):
        await check_keys(KeysAtHand(Keyring()), pool)


async def test_key_files_that_others_can_read_are_a_warning(
    keys: TestKeys, pool: ThreadPoolExecutor
) -> None:
    remark = await check_keys(KeysAtHand(keyring(keys), (), (Path("/k/key.txt"),)), pool)
    assert remark.hint == "chmod 600 /k/key.txt"
