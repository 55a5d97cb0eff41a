"""What a workshop's parts share, and what they must not."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

from tests.fix_archive import TestKeys
from tests.fix_sinks import ORIGIN, make_notice, odd_server
from walkeeper.agent.compose import open_workshop
from walkeeper.agent.watching import open_sinks
from walkeeper.config import Config, EncryptionConfig, RepositoryConfig
from walkeeper.config_alerts import AlertsConfig, MailConfig

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


async def test_mail_servers_that_hang_hold_up_nothing_but_mail(tmp_path: Path) -> None:
    reached = asyncio.Event()

    async def say_nothing(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        reached.set()
        await reader.read()

    async with odd_server(say_nothing) as port:
        mail = MailConfig(server="127.0.0.1", port=port, security="none", sender="a@b", to=("c@d",))
        config = Config(
            repositories=(RepositoryConfig(url=tmp_path.as_uri()),), alerts=AlertsConfig(mail=mail)
        )
        async with open_workshop(config) as shop, asyncio.timeout(50):  # a mail may take 60 s
            sinks = await open_sinks(shop)
            assert sinks is not None
            telling = [
                asyncio.create_task(sinks[0].tell(make_notice(), ORIGIN)) for _ in range(WORKERS)
            ]
            await reached.wait()
            await asyncio.get_running_loop().run_in_executor(shop.pool, int)
            await shop.storage.put("folder/one", b"1")
            assert not any(task.done() for task in telling)
            for tasks in (telling[1:], telling[:1]):  # those first who have no connection yet
                for task in tasks:
                    task.cancel()
                await asyncio.wait(tasks)
