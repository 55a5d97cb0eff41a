"""Archives to write into and read from, with keys of their own."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime

import pytest

from walkeeper.codec.keygen import generate_identity, generate_writer_key
from walkeeper.codec.opener import Opener
from walkeeper.codec.sealer import Sealer
from walkeeper.codec.stanza import ObjectContext
from walkeeper.codec.writer import SigningKey
from walkeeper.core.keyring import Identity, Recipient, Writer, WriterKey
from walkeeper.core.wal import SegmentSize
from walkeeper.repository.archive import Archive, ArchiveKeys
from walkeeper.repository.identity import Trust, create_archive
from walkeeper.repository.records import FORMAT_VERSION, SOURCE_POSTGRESQL, ArchiveRecord
from walkeeper.storage.base import Storage

ONE_MIB = SegmentSize(1 << 20)


@dataclass(frozen=True)
class TestKeys:
    """A full set of keys; each test has its own."""

    __test__ = False

    identity: Identity
    recipient: Recipient
    writer_key: WriterKey
    writer: Writer

    @classmethod
    def generate(cls) -> TestKeys:
        return cls(*generate_identity(), *generate_writer_key())

    @property
    def signing(self) -> SigningKey:
        return SigningKey.derive(self.writer_key)


def archive_keys(record: ArchiveRecord, keys: TestKeys, *, can_read: bool = True) -> ArchiveKeys:
    """What a host with these keys may do; without ``can_read`` it has no identity."""
    context = ObjectContext(
        archive=record.archive,
        system_identifier=record.system_identifier,
        writer=secrets.token_hex(8),
    )
    return ArchiveKeys(
        sealer=Sealer([keys.recipient], keys.signing, context),
        opener=Opener(
            archive=record.archive,
            system_identifier=record.system_identifier,
            writers=[keys.writer],
            identities=[keys.identity] if can_read else [],
            signing=keys.signing,
        ),
    )


async def make_archive(
    storage: Storage,
    keys: TestKeys,
    pool: ThreadPoolExecutor,
    *,
    system_identifier: int = 7_000_000_000_000_000_001,
    segment_size: SegmentSize = ONE_MIB,
    folder: str | None = None,
    can_read: bool = True,
) -> Archive:
    """Create (or find) an archive and open it."""
    name = folder or str(system_identifier)
    record = ArchiveRecord(
        name="archive.json",
        archive=secrets.token_hex(16),
        label=name,
        source=SOURCE_POSTGRESQL,
        system_identifier=str(system_identifier),
        segment_size=segment_size.bytes,
        format=FORMAT_VERSION,
        created=datetime.now(UTC),
    )
    stored, _ = await create_archive(storage, name, record, keys.signing, Trust((keys.writer,)))
    return Archive(storage, name, stored, archive_keys(stored, keys, can_read=can_read), pool)


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    """The bounded pool that the composition root would make."""
    with ThreadPoolExecutor(max_workers=4, thread_name_prefix="test") as executor:
        yield executor


@pytest.fixture
def keys() -> TestKeys:
    """A fresh set of keys."""
    return TestKeys.generate()
