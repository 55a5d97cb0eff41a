"""Backup mode lives exactly as long as its session."""

import asyncio

import pytest

from tests.fix_postgres import versions_at_hand
from walkeeper.core.backup_label import BackupLabel, TablespaceMap
from walkeeper.errors import BackupError, Locked, PostgresError
from walkeeper.postgres.backup_mode import backup_mode


def enter(cluster, **options):
    return backup_mode(cluster.dsn, "a label", fast=True, deadline_s=60, **options)


def sessions(cluster):
    return cluster.value(
        "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'walkeeper'"
    )


@pytest.mark.parametrize("version", versions_at_hand())
async def test_a_backup_gets_its_label_and_tablespace_map_byte_for_byte(make_cluster, version):
    cluster = make_cluster(version=version, tablespaces=["fast"], fsync=False)
    async with enter(cluster) as mode:
        cluster.sql("CREATE TABLE t(a int)")
        stop = await mode.stop()

    label = BackupLabel.parse(stop.backup_label.decode())
    assert b"LABEL: a label\n" in stop.backup_label
    assert stop.backup_label.endswith(b"\n")
    assert label.start == mode.start_lsn < stop.stop_lsn
    (tablespace,) = TablespaceMap.parse(stop.tablespace_map.decode()).tablespaces
    assert tablespace.location == str(cluster.tablespaces["fast"])
    assert mode.started_at < stop.stopped_at


async def test_without_tablespaces_the_map_is_empty(make_cluster):
    cluster = make_cluster(fsync=False)
    async with enter(cluster) as mode:
        stop = await mode.stop()
    assert stop.tablespace_map == b""


async def test_a_database_of_another_encoding_gives_the_same_bytes(make_cluster):
    cluster = make_cluster(fsync=False)
    location = cluster.workspace.directory("größe")
    cluster.sql("CREATE DATABASE latin TEMPLATE template0 ENCODING 'LATIN1'")
    cluster.sql(f"CREATE TABLESPACE odd LOCATION '{location}'")
    dsn = cluster.dsn.replace("/postgres?", "/latin?")
    async with backup_mode(dsn, "x", fast=True, deadline_s=60) as mode:
        stop = await mode.stop()
    assert str(location).encode() in stop.tablespace_map


async def test_a_standby_is_refused(make_cluster, make_standby):
    standby = make_standby(make_cluster(fsync=False))
    with pytest.raises(BackupError, match="standby"):
        async with enter(standby):
            pytest.fail("a standby was taken for a primary")


async def test_a_second_backup_at_the_same_time_is_locked_out(make_cluster):
    cluster = make_cluster(fsync=False)
    async with enter(cluster):
        with pytest.raises(Locked, match="already being taken"):
            async with enter(cluster):
                pytest.fail("two at once")
    async with enter(cluster) as mode:
        assert await mode.stop()


async def test_leaving_without_stop_ends_the_session_and_so_the_backup(make_cluster):
    cluster = make_cluster(fsync=False)
    with pytest.raises(ZeroDivisionError):
        async with enter(cluster):
            assert sessions(cluster) == "1"
            raise ZeroDivisionError
    await asyncio.to_thread(
        cluster.wait_for,
        "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'walkeeper'",
        "0",
    )
    assert not (cluster.data_dir / "backup_label").exists()


async def test_a_lost_session_interrupts_the_work_and_voids_the_backup(make_cluster):
    cluster = make_cluster(fsync=False)
    with pytest.raises(BackupError, match="lost"):
        async with enter(cluster, ping_interval_s=0.05):
            cluster.sql(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE application_name = 'walkeeper'"
            )
            await asyncio.sleep(30)
            pytest.fail("the work was not interrupted")


async def test_a_session_lost_unnoticed_cannot_be_stopped_as_if_it_lived(make_cluster):
    cluster = make_cluster(fsync=False)
    with pytest.raises(BackupError, match="void"):
        async with enter(cluster) as mode:
            cluster.sql(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE application_name = 'walkeeper'"
            )
            await mode.stop()


@pytest.mark.parametrize("version", versions_at_hand())
async def test_no_timeout_of_the_role_can_end_the_session(make_cluster, version):
    cluster = make_cluster(version=version, fsync=False)
    names = ["statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout"]
    names += ["idle_session_timeout"] if version >= 14 else []
    names += ["transaction_timeout"] if version >= 17 else []
    # In one session: they hold for the next ones, which take their time on a busy machine.
    cluster.sql(";".join(f"ALTER ROLE postgres SET {name} = '6s'" for name in names))

    async with enter(cluster) as mode:
        await asyncio.sleep(7)
        stop = await mode.stop()
    assert stop.backup_label


async def test_cancelling_the_work_leaves_no_session(make_cluster):
    cluster = make_cluster(fsync=False)
    inside = asyncio.Event()

    async def work():
        async with enter(cluster):
            inside.set()
            await asyncio.sleep(60)

    task = asyncio.create_task(work())
    await inside.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.to_thread(
        cluster.wait_for,
        "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'walkeeper'",
        "0",
    )


async def test_a_role_without_rights_is_told_what_to_grant(make_cluster):
    cluster = make_cluster(fsync=False)
    cluster.sql("CREATE ROLE poor LOGIN")
    dsn = cluster.dsn.replace("postgres@", "poor@")
    with pytest.raises(PostgresError, match="permission denied") as caught:
        async with backup_mode(dsn, "x", fast=True, deadline_s=60):
            pytest.fail("anybody may take a backup")
    assert "pg_backup_start" in caught.value.hint
