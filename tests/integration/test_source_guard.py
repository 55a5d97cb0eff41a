"""A server that may not archive yet is asked again when somebody wants to write."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import pytest

from tests.fix_postgres import Cluster, MakeCluster
from walkeeper.errors import PostgresError, PostgresUnavailable
from walkeeper.repository.records import FORMAT_VERSION, SOURCE_POSTGRESQL, ArchiveRecord
from walkeeper.services import source_guard
from walkeeper.services.source_guard import SourceGuard


def record_of(cluster: Cluster) -> ArchiveRecord:
    return ArchiveRecord(
        name="archive.json",
        archive="a" * 32,
        label="x",
        source=SOURCE_POSTGRESQL,
        system_identifier=cluster.value("SELECT system_identifier FROM pg_control_system()"),
        segment_size=int(cluster.value("SELECT bytes_per_wal_segment FROM pg_control_init()")),
        format=FORMAT_VERSION,
        created=datetime(2026, 1, 1, tzinfo=UTC),
    )


async def test_what_was_mended_a_moment_ago_is_no_reason_any_more(
    make_cluster: MakeCluster, pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source_guard, "_POLL_S", 3600.0)
    cluster = make_cluster(fsync=False, settings={"archive_mode": "on"})
    guard = SourceGuard(cluster.dsn, record_of(cluster), pool)
    async with asyncio.TaskGroup() as group:
        asking = group.create_task(guard.run())
        async with asyncio.timeout(60):
            while isinstance(guard.refusal, PostgresUnavailable):
                await asyncio.sleep(0.05)
        with pytest.raises(PostgresError, match="not walkeeper's wal-push"):
            await guard.require(wait_s=0.1)
        cluster.sql("ALTER SYSTEM SET archive_command = 'walkeeper wal-push %p'")
        cluster.reload()
        while cluster.value("SHOW archive_command") == "":
            await asyncio.sleep(0.05)
        assert (await guard.require(wait_s=60)).data_dir == cluster.data_dir
        asking.cancel()
