"""Whose objects a host believes, and what it may write."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.fix_archive import TestKeys, make_archive
from walkeeper.agent.compose import open_workshop
from walkeeper.agent.keyring import load_keyring
from walkeeper.config import Config, EncryptionConfig, RepositoryConfig
from walkeeper.core.keyring import Writer, WriterKey
from walkeeper.errors import ConfigError
from walkeeper.keys.files import format_identity_file, format_writer_key_file
from walkeeper.keys.load import create_key_file

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def configure(
    folder: Path, keys: TestKeys, *, key: tuple[WriterKey, Writer], writers: tuple[str, ...] = ()
) -> EncryptionConfig:
    """A host with the cluster's identity file and this writer key."""
    identity, writer_key = folder / "key.txt", folder / "key.txt.writer"
    create_key_file(identity, format_identity_file(keys.identity, keys.recipient, keys.writer, NOW))
    create_key_file(writer_key, format_writer_key_file(*key, NOW))
    return EncryptionConfig(
        recipients=(str(keys.recipient),),
        identity_file=identity,
        writer_key_file=writer_key,
        writers=writers,
    )


def test_the_writer_of_the_identity_file_is_believed_and_no_other(
    tmp_path: Path, keys: TestKeys
) -> None:
    stranger = TestKeys.generate()
    config = configure(tmp_path, keys, key=(stranger.writer_key, stranger.writer))
    assert load_keyring(config).writers == (keys.writer,)


def test_configured_writers_come_before_those_of_files(tmp_path: Path, keys: TestKeys) -> None:
    other = TestKeys.generate().writer
    config = configure(tmp_path, keys, key=(keys.writer_key, keys.writer), writers=(str(other),))
    assert load_keyring(config).writers == (other,)


def test_without_an_identity_the_own_writer_key_is_believed(tmp_path: Path, keys: TestKeys) -> None:
    path = tmp_path / "writer"
    create_key_file(path, format_writer_key_file(keys.writer_key, keys.writer, NOW))
    config = EncryptionConfig(recipients=(str(keys.recipient),), writer_key_file=path)
    assert load_keyring(config).writers == (keys.writer,)


async def test_a_writer_key_that_readers_do_not_believe_may_read_and_not_write(
    tmp_path: Path, keys: TestKeys
) -> None:
    stranger = TestKeys.generate()
    encryption = configure(tmp_path, keys, key=(stranger.writer_key, stranger.writer))
    (tmp_path / "repository").mkdir()
    config = Config(
        repositories=(RepositoryConfig(url=(tmp_path / "repository").as_uri()),),
        encryption=encryption,
    )
    async with open_workshop(config) as shop:
        made = await make_archive(shop.storage, keys, shop.pool)
        found = await shop.archive()
        assert found.record == made.record
        with pytest.raises(ConfigError, match="do not believe"):
            shop.sealer(found.record, level=1)
