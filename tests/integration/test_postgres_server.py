"""A session tells what the server is, and whether it is the right one."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from tests.fix_postgres import versions_at_hand
from walkeeper.core.lsn import Lsn
from walkeeper.errors import PostgresError, PostgresUnavailable, WrongServer
from walkeeper.postgres.same_server import find_difference
from walkeeper.postgres.server import Server


@pytest.fixture
def executor():
    with ThreadPoolExecutor(2) as pool:
        yield pool


def connect(cluster, dsn=None):
    return Server.connect(dsn or cluster.dsn, deadline_s=60)


@pytest.mark.parametrize("version", versions_at_hand())
async def test_facts_are_those_of_the_server(make_cluster, version):
    cluster = make_cluster(
        version=version,
        segment_size_mb=1,
        archive_mode="on",
        archive_command="exit 1",
        settings={"archive_timeout": "2min"},
        fsync=False,
    )
    async with await connect(cluster) as server:
        facts = await server.facts()

    assert facts.major == server.major == version
    assert str(facts.system_identifier) == cluster.control()["Database system identifier"]
    assert facts.data_directory == cluster.data_dir
    assert facts.config_file == cluster.data_dir / "postgresql.conf"
    assert facts.hba_file == cluster.data_dir / "pg_hba.conf"
    assert facts.ident_file == cluster.data_dir / "pg_ident.conf"
    assert not facts.in_recovery
    assert facts.timeline == 1
    assert (facts.archive_mode, facts.archive_command, facts.archive_library) == (
        "on",
        "exit 1",
        "",
    )
    assert facts.archive_timeout == timedelta(minutes=2)
    assert facts.segment_size.bytes == 1 << 20
    assert facts.block_size == 8192
    assert facts.data_checksums
    assert facts.wal_level == "replica"
    assert facts.max_wal_senders == 10
    assert datetime.now(UTC) - facts.postmaster_started_at < timedelta(minutes=1)


async def test_the_timeline_is_the_new_one_right_after_a_promotion(make_cluster, make_standby):
    primary = make_cluster(fsync=False)
    standby = make_standby(primary, settings={"checkpoint_timeout": "1h"})
    async with await connect(standby) as server:
        facts = await server.facts()
        assert (facts.in_recovery, facts.timeline) == (True, 1)
        with pytest.raises(PostgresError, match="recovery is in progress"):
            await server.flush_lsn()

        standby.promote()
        facts = await server.facts()
        assert (facts.in_recovery, facts.timeline) == (False, 2)


async def test_positions_in_the_wal_only_grow(make_cluster):
    cluster = make_cluster(segment_size_mb=1, fsync=False)
    async with await connect(cluster) as server:
        first = await server.flush_lsn()
        point = await server.create_restore_point("before")
        switched = await server.switch_wal()
        cluster.sql("CREATE TABLE t(a int)")
        last = await server.flush_lsn()
    assert first < point <= switched < last
    assert isinstance(first, Lsn)


async def test_the_archivers_failures_are_counted(make_cluster):
    cluster = make_cluster(
        segment_size_mb=1, archive_mode="on", archive_command="exit 1", fsync=False
    )
    async with await connect(cluster) as server:
        before = await server.archiver_statistics()
        assert before.last_archived_wal is None
        segment = cluster.value("SELECT pg_walfile_name(pg_current_wal_lsn())")
        cluster.sql("CREATE TABLE t(a int)")
        await server.switch_wal()
        await asyncio.to_thread(
            cluster.wait_for, "SELECT failed_count > 0 FROM pg_stat_archiver", "t"
        )
        after = await server.archiver_statistics()
    assert after.failed_count > before.failed_count
    assert after.last_failed_wal == segment
    assert after.last_failed_at is not None


async def test_the_last_commit_is_known_where_the_server_tracks_it(make_cluster):
    cluster = make_cluster(fsync=False)
    async with await connect(cluster) as server:
        assert await server.find_last_commit() is None
    cluster.configure({"track_commit_timestamp": True})
    cluster.restart()
    cluster.sql("CREATE TABLE t(a int)")
    async with await connect(cluster) as server:
        last = await server.find_last_commit()
    assert last is not None
    assert datetime.now(UTC) - last < timedelta(minutes=1)


async def test_a_role_without_rights_is_told_what_to_grant(make_cluster):
    cluster = make_cluster(fsync=False)
    cluster.sql("CREATE ROLE poor LOGIN")
    dsn = cluster.dsn.replace("postgres@", "poor@")

    async with await connect(cluster, dsn) as server:
        with pytest.raises(PostgresError, match=r"data_directory|config_file") as caught:
            await server.facts()
        assert "pg_monitor" in caught.value.hint
        with pytest.raises(PostgresError, match="permission denied") as caught:
            await server.switch_wal()
        assert "pg_switch_wal" in caught.value.hint

    cluster.sql("GRANT pg_monitor TO poor")
    async with await connect(cluster, dsn) as server:
        assert (await server.facts()).data_directory == cluster.data_dir


async def test_a_server_that_is_not_there_is_unavailable(workspace):
    with pytest.raises(PostgresUnavailable):
        await Server.connect(f"postgresql://postgres@/postgres?host={workspace.root}", deadline_s=5)


async def test_a_killed_server_is_unavailable_and_closes_quietly(make_cluster):
    cluster = make_cluster(fsync=False)
    async with await connect(cluster) as server:
        cluster.kill9()
        with pytest.raises(PostgresUnavailable):
            await server.flush_lsn()


async def test_a_server_that_hangs_is_unavailable_at_the_deadline(make_cluster):
    cluster = make_cluster(fsync=False)
    async with await connect(cluster) as server:
        hurried = Server(server._connection, 0.5)  # to connect may take longer
        with pytest.raises(PostgresUnavailable, match="in time"):
            await hurried.fetch_row("SELECT pg_sleep(300)", doing="wait")


async def test_two_callers_share_a_session(make_cluster):
    cluster = make_cluster(fsync=False)
    async with await connect(cluster) as server, asyncio.TaskGroup() as group:
        tasks = [group.create_task(server.flush_lsn()) for _ in range(10)]
    assert len({task.result() for task in tasks}) >= 1


@pytest.mark.parametrize("version", versions_at_hand())
async def test_the_server_on_the_local_files_is_recognised(make_cluster, executor, version):
    cluster = make_cluster(version=version, fsync=False)
    link = cluster.workspace.root / "link"
    link.symlink_to(cluster.data_dir)
    async with await connect(cluster) as server:
        await server.check_same_server(cluster.data_dir, executor)
        await server.check_same_server(link, executor)


@pytest.mark.parametrize("version", versions_at_hand())
async def test_a_server_whose_clock_was_set_while_it_started_is_the_local_one(
    make_cluster, make_standby, executor, version
):
    primary = make_cluster(version=version, fsync=False)
    standby = make_standby(primary)
    primary.sql("CREATE ROLE walker LOGIN; GRANT pg_read_all_settings TO walker")
    for cluster in (primary, standby):
        path = cluster.data_dir / "postmaster.pid"
        lines = path.read_text().split("\n")
        lines[2] = str(int(lines[2]) - 3600)
        path.write_text("\n".join(lines))
        async with await connect(cluster) as server:
            await server.check_same_server(cluster.data_dir, executor)
    async with await connect(primary) as server:
        await server.execute("SET ROLE walker", doing="be nobody")
        assert await server.writes_into(primary.data_dir, executor)
        assert not await server.writes_into(standby.data_dir, executor)


async def test_another_server_is_not_the_local_one(make_cluster, make_standby, executor):
    primary = make_cluster(fsync=False)
    standby = make_standby(primary)
    async with await connect(primary) as server:
        with pytest.raises(WrongServer, match="data directory") as caught:
            await server.check_same_server(standby.data_dir, executor)
        assert caught.value.exit_code == 15
        facts = await server.facts()

    def difference(**changes):
        return find_difference(replace(facts, **changes), primary.data_dir)

    assert difference() is None
    assert "system identifier" in difference(system_identifier=facts.system_identifier + 1)
    day = timedelta(days=1)
    assert "started" in difference(postmaster_started_at=facts.postmaster_started_at + day)
    assert "started" in difference(postmaster_started_at=facts.postmaster_started_at - day)
    assert "standby" in difference(in_recovery=True)

    primary.stop()
    assert find_difference(facts, primary.data_dir) == "no server runs there"
