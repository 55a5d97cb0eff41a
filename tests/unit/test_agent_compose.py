"""What a workshop's parts share, and what they must not."""

from __future__ import annotations

import threading
from pathlib import Path

from tests.fix_archive import TestKeys
from walkeeper.agent.compose import open_workshop
from walkeeper.config import Config, EncryptionConfig, RepositoryConfig

WORKERS = 100  # more than any pool here has


async def test_the_store_works_while_all_other_threads_are_held_up(
    tmp_path: Path, keys: TestKeys
) -> None:
    config = Config(
        repositories=(RepositoryConfig(url=tmp_path.as_uri()),),
        encryption=EncryptionConfig(recipients=(str(keys.recipient),)),
    )
    freed = threading.Event()
    async with open_workshop(config, patience_s=30) as shop:
        try:
            for _ in range(WORKERS):
                shop.pool.submit(freed.wait)
            await shop.storage.put("folder/one", b"1")
            assert (await shop.storage.head("folder/one")).size_bytes == 1
        finally:
            freed.set()
