"""From the configuration to the objects that do the work: for the agent and for commands alike."""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Final

from walkeeper.agent.keyring import load_keyring
from walkeeper.codec.opener import Opener
from walkeeper.codec.sealer import Sealer
from walkeeper.codec.stanza import ObjectContext
from walkeeper.codec.writer import SigningKey
from walkeeper.config import Config, RepositoryConfig
from walkeeper.errors import ConfigError
from walkeeper.keys.keyring import Keyring
from walkeeper.keys.load import read_key_file
from walkeeper.log import register_secret
from walkeeper.repository.archive import Archive, ArchiveKeys
from walkeeper.repository.backups import BackupStore
from walkeeper.repository.identity import Trust, find_archive, load_record, probe_archive
from walkeeper.repository.records import ArchiveRecord
from walkeeper.storage.base import Storage
from walkeeper.storage.observe import StorageCounters
from walkeeper.storage.open import open_storage
from walkeeper.storage.settings import Secret, StorageSettings

_STORE_THREADS: Final = 8
"""As many operations as are let through at once with the default number of uploads."""


@dataclass(frozen=True, slots=True)
class Workshop:
    """What everything else is built from; lives as long as the command or the agent.

    ``run_id`` is random for each start and stands in the header of each object as its writer.
    ``mail_pool`` is for those who are told: a server that hangs keeps its only thread.
    """

    config: Config
    pool: ThreadPoolExecutor
    mail_pool: ThreadPoolExecutor
    keyring: Keyring
    storage: Storage
    counters: StorageCounters
    allow_unsigned: bool = False
    run_id: str = field(default_factory=lambda: secrets.token_hex(8))

    @property
    def trust(self) -> Trust:
        """Whose signatures count here."""
        return Trust(self.keyring.writers, self.allow_unsigned)

    async def archive(self, named: str | None = None, *, probe: bool = False) -> Archive:
        """The archive that ``named``, the configuration, or the repository itself decides on.

        ``probe`` finds out whether creates are conditional, which whoever writes must know.
        Raises NotInitialised, AmbiguousArchive, IntegrityError, FormatTooNew.
        """
        folder = await find_archive(self.storage, named or self.config.cluster.archive)
        record = await load_record(self.storage, folder, self.trust)
        if probe:
            await probe_archive(self.storage, folder)
        return Archive(self.storage, folder, record, self._archive_keys(record), self.pool)

    def backups(self, archive: Archive) -> BackupStore:
        """The base backups of an archive."""
        return BackupStore(archive, self.pool)

    def signing(self) -> SigningKey | None:
        """The signing key, where this host has the writer key."""
        key = self.keyring.writer_key
        return None if key is None else SigningKey.derive(key)

    def sealer(self, record: ArchiveRecord, *, level: int) -> Sealer:
        """Seals objects of an archive; raises KeyUnavailable on a host that may only read."""
        context = ObjectContext(
            archive=record.archive,
            system_identifier=record.system_identifier,
            writer=self.run_id,
        )
        signing = SigningKey.derive(self.keyring.require_writer_key())
        if signing.writer not in self.keyring.writers:
            raise ConfigError(
                f"the writer key at hand is {signing.writer}, which readers do not believe: what "
                "it signed could not be restored",
                hint="use the cluster's own writer key: one file for all of its hosts",
            )
        return Sealer(self.keyring.require_recipients(), signing, context, level=level)

    def _archive_keys(self, record: ArchiveRecord) -> ArchiveKeys:
        key = self.keyring.writer_key
        # A host with a strange writer key may still read; whoever writes is told by `sealer`.
        own = key is not None and SigningKey.derive(key).writer in self.keyring.writers
        can_write = own and bool(self.keyring.recipients)
        opener = Opener(
            archive=record.archive,
            system_identifier=record.system_identifier,
            writers=self.keyring.writers,
            identities=self.keyring.identities,
            signing=self.signing(),
            allow_unsigned=self.allow_unsigned,
        )
        level = self.config.archive.level
        return ArchiveKeys(self.sealer(record, level=level) if can_write else None, opener)


@asynccontextmanager
async def open_workshop(
    config: Config, *, allow_unsigned: bool = False, patience_s: float | None = None
) -> AsyncIterator[Workshop]:
    """Load the keys, open the store, and close everything at the end.

    One pool does all CPU and file work: its threads bound how much of it happens at once. The store
    has threads of its own: a mount that hangs keeps them, and hooks still get their answers. So has
    mail, for the same reason.
    ``patience_s`` is how long an operation on the store is tried again at most, where somebody
    waits for the answer; None leaves it at what is configured.
    """
    workers = 4 + 2 * (os.cpu_count() or 1)
    with (
        ThreadPoolExecutor(max_workers=workers, thread_name_prefix="walkeeper") as pool,
        ThreadPoolExecutor(_STORE_THREADS, thread_name_prefix="walkeeper-store") as store_pool,
        ThreadPoolExecutor(1, thread_name_prefix="walkeeper-mail") as mail_pool,
    ):
        loop = asyncio.get_running_loop()
        keyring = await loop.run_in_executor(pool, load_keyring, config.encryption)
        settings = await loop.run_in_executor(pool, storage_settings, config)
        if patience_s is not None:
            settings = replace(settings, deadline_s=min(patience_s, settings.deadline_s))
        counters = StorageCounters()
        storage = open_storage(settings, store_pool, counters)
        try:
            yield Workshop(config, pool, mail_pool, keyring, storage, counters, allow_unsigned)
        finally:
            await storage.aclose()


def storage_settings(config: Config) -> StorageSettings:
    """The settings of the repository; reads credential files, so it blocks."""
    repository = config.repository
    key_id, secret = _credentials(repository)
    return StorageSettings(
        url=repository.url,
        endpoint_url=repository.endpoint_url,
        region=repository.region,
        addressing_style=repository.addressing_style,
        ca_file=repository.ca_file,
        access_key_id=key_id,
        secret_access_key=secret,
        connect_timeout_s=repository.connect_timeout,
        read_timeout_s=repository.read_timeout,
        deadline_s=repository.deadline,
        max_concurrent=max(8, 2 * config.archive.uploads),
    )


def _credentials(repository: RepositoryConfig) -> tuple[str | None, Secret | None]:
    key_file, secret_file = repository.access_key_id_file, repository.secret_access_key_file
    if key_file is None or secret_file is None:
        return None, None
    key_id = read_key_file(key_file).text.strip()
    secret = read_key_file(secret_file).text.strip()
    if not key_id or not secret:
        raise ConfigError("[[repository]] access_key_id_file or secret_access_key_file is empty")
    register_secret(secret)
    return key_id, Secret(secret)
