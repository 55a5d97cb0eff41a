"""A restored directory recovers to where it was told, on a real server, and says where that was."""

import asyncio
import shlex
import stat
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from tests.fix_postgres import Cluster, copy_whole, find_client_dir, versions_at_hand
from walkeeper.core.lsn import Lsn
from walkeeper.core.target import (
    AtLsn,
    AtName,
    AtTime,
    AtXid,
    Immediate,
    Latest,
    TargetAction,
)
from walkeeper.core.wal import WalSegment
from walkeeper.errors import PostgresError, RecoveryError
from walkeeper.postgres.instance import EndState, Instance
from walkeeper.postgres.private_server import ServerFiles
from walkeeper.postgres.recovery_conf import RecoveryConf, edit_auto_conf, restore_command
from walkeeper.postgres.server import Server

FETCH = """#!/bin/sh
# fetch.sh --timeline N FILE DESTINATION
test -e {archive}/fail && exit "$(cat {archive}/fail)"
test -e {archive}/"$3" || exit 66
cp {archive}/"$3" "$4"
"""


@pytest.fixture
def executor():
    with ThreadPoolExecutor(2) as pool:
        yield pool


@dataclass
class Archive:
    """A backup and its WAL, and what was true at moments in it."""

    cluster: Cluster
    directory: Path
    backup: Path
    fetch: Path
    lsn: Lsn
    xid: int
    at: datetime

    def restore(self, target, *, action=TargetAction.PROMOTE, left_in_conf="", left_in_auto=""):
        """A directory ready to recover, as a restore leaves it."""
        target_dir = self.cluster.workspace.directory("restored")
        self.cluster.run_as_owner(["cp", "-a", f"{self.backup}/.", target_dir])
        command = restore_command([str(self.fetch)], 1, None)
        conf = RecoveryConf(
            major=self.cluster.version,
            restore_command=command,
            timeline=1,
            target=target,
            action=action,
        )
        with (target_dir / "postgresql.conf").open("a") as file:
            file.write(left_in_conf)
        auto = target_dir / "postgresql.auto.conf"
        auto.write_text(edit_auto_conf(auto.read_text() + left_in_auto, conf))
        (target_dir / "recovery.signal").touch()
        return target_dir


@pytest.fixture
def make_archive(make_cluster):
    """A table with the values 1 to 5; the marked moment is when 3 was the last."""

    def make(version=15, **settings):
        cluster = make_cluster(
            version=version,
            segment_size_mb=1,
            archive_mode="on",
            settings={"track_commit_timestamp": True} | settings,
            start=False,
            fsync=False,
        )
        directory = cluster.workspace.directory("archive")
        cluster.configure({"archive_command": copy_whole(directory)})
        cluster.start()
        fetch = directory / "fetch.sh"
        fetch.write_text(FETCH.format(archive=shlex.quote(str(directory))))
        fetch.chmod(0o755)
        cluster.sql("CREATE TABLE t(n int); INSERT INTO t VALUES (1)")
        backup = cluster.workspace.directory("backup")
        argv = [find_client_dir(version) / "pg_basebackup", "-d", cluster.dsn, "-D", backup]
        cluster.run_as_owner([*argv, "-X", "none", "-c", "fast", "-N"])
        cluster.sql("INSERT INTO t VALUES (2)")
        xid = int(cluster.value("INSERT INTO t VALUES (3) RETURNING xmin"))
        at = datetime.fromisoformat(cluster.value(f"SELECT pg_xact_commit_timestamp('{xid}')"))
        lsn = Lsn.parse(cluster.value("SELECT pg_create_restore_point('three')"))
        cluster.sql("SELECT pg_sleep(0.01); INSERT INTO t VALUES (4); INSERT INTO t VALUES (5)")
        last = WalSegment.parse(cluster.value("SELECT pg_walfile_name(pg_current_wal_lsn())"))
        cluster.sql("SELECT pg_switch_wal()")
        cluster.wait_for(f"SELECT last_archived_wal >= '{last}' FROM pg_stat_archiver", "t")
        cluster.stop()
        return Archive(cluster, directory, backup, fetch, lsn, xid, at)

    return make


def start(archive, data_dir, executor, **settings):
    return Instance(
        data_dir,
        archive.cluster.bin_dir,
        ServerFiles(data_dir / "postgresql.conf", data_dir / "pg_ident.conf"),
        executor,
        role="postgres",
        settings=settings,
    )


async def last_number(instance):
    """The highest value in the table, which lies in the database postgres."""
    dsn = instance.dsn.replace("/template1?", "/postgres?")
    async with await Server.connect(dsn, deadline_s=10) as server:
        return (await server.fetch_row("SELECT max(n) FROM t", doing="count"))[0]


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("latest", 5),
        ("immediate", 1),
        ("name", 3),
        ("lsn", 3),
        ("xid", 3),
        ("xid exclusive", 2),
        ("time", 3),
        ("time exclusive", 2),
    ],
)
@pytest.mark.parametrize("version", versions_at_hand())
async def test_every_kind_of_target_is_reached_whatever_was_left_behind(
    make_archive, executor, version, kind, expected
):
    archive = await asyncio.to_thread(make_archive, version)
    inclusive = "exclusive" not in kind
    target = {
        "latest": Latest(),
        "immediate": Immediate(),
        "name": AtName("three"),
        "lsn": AtLsn(archive.lsn, inclusive=False),
        "xid": AtXid(archive.xid, inclusive),
        "time": AtTime(archive.at, inclusive),
    }[kind.split()[0]]
    data_dir = archive.restore(
        target,
        left_in_conf="recovery_target_time = '2001-01-01 00:00:00+00'\n"
        "recovery_end_command = 'touch /nowhere/at/all'\n"
        "primary_conninfo = 'host=/nowhere'\n",
        left_in_auto="recovery_target_name = 'old'\nrecovery_target_action = 'pause'\n",
    )

    async with start(archive, data_dir, executor) as instance:
        end = await instance.wait_recovered(deadline_s=60)
        assert await last_number(instance) == expected

    assert end.state is EndState.PROMOTED
    assert end.timeline == 2
    if kind in {"name", "lsn", "xid", "time"}:
        assert end.last_commit_at == archive.at
    if kind == "lsn":
        assert end.lsn == archive.lsn
    assert end.elapsed_s > 0


async def test_a_pause_is_an_end_and_shows_how_far_it_came(make_archive, executor):
    archive = await asyncio.to_thread(make_archive)
    data_dir = archive.restore(AtName("three"), action=TargetAction.PAUSE)
    async with start(archive, data_dir, executor) as instance:
        end = await instance.wait_recovered(deadline_s=60)
        assert await last_number(instance) == 3
    assert (end.state, end.lsn, end.timeline) == (EndState.PAUSED, archive.lsn, 1)
    assert (data_dir / "recovery.signal").exists()


@pytest.mark.parametrize("version", versions_at_hand())
async def test_a_shutdown_at_the_target_is_an_end(make_archive, executor, version):
    archive = await asyncio.to_thread(make_archive, version)
    data_dir = archive.restore(AtName("three"), action=TargetAction.SHUTDOWN)
    async with start(archive, data_dir, executor) as instance:
        end = await instance.wait_recovered(deadline_s=60)
    assert (end.state, end.lsn, end.timeline) == (EndState.SHUT_DOWN, archive.lsn, 1)


async def test_an_outage_stops_the_server_instead_of_ending_recovery(make_archive, executor):
    archive = await asyncio.to_thread(make_archive)
    data_dir = archive.restore(Latest())
    (archive.directory / "fail").write_text("2")
    async with start(archive, data_dir, executor) as instance:
        with pytest.raises(RecoveryError, match="could not restore file") as caught:
            await instance.wait_recovered(deadline_s=60)
    # That is what PostgreSQL makes of 126 (src/common/wait_error.c).
    assert "command not executable" in str(caught.value)

    (archive.directory / "fail").unlink()
    async with start(archive, data_dir, executor) as instance:
        end = await instance.wait_recovered(deadline_s=60)
        assert await last_number(instance) == 5
    assert end.timeline == 2


async def test_a_target_that_is_never_reached_is_an_error(make_archive, executor):
    archive = await asyncio.to_thread(make_archive)
    data_dir = archive.restore(AtName("never"))
    async with start(archive, data_dir, executor) as instance:
        with pytest.raises(RecoveryError, match="recovery target was reached"):
            await instance.wait_recovered(deadline_s=60)


async def test_settings_are_raised_to_those_of_the_source(make_archive, executor):
    archive = await asyncio.to_thread(
        lambda: make_archive(max_connections=150, max_prepared_transactions=5)
    )
    data_dir = archive.restore(
        Latest(), left_in_conf="max_connections = 20\nmax_prepared_transactions = 0\n"
    )
    async with start(archive, data_dir, executor) as instance:
        await instance.wait_recovered(deadline_s=60)
        async with await instance.connect() as server:
            row = await server.fetch_row(
                "SELECT current_setting('max_connections'),"
                " current_setting('max_prepared_transactions'), current_setting('max_wal_senders')",
                doing="ask",
            )
    assert tuple(row) == ("150", "5", "10")


async def test_a_configuration_outside_never_starts_the_source(make_archive, executor):
    archive = await asyncio.to_thread(make_archive)
    data_dir = archive.restore(Latest())
    etc = archive.cluster.workspace.directory("etc")
    for name in ("postgresql.conf", "pg_ident.conf", "pg_hba.conf"):
        (data_dir / name).rename(etc / name)
    with (etc / "postgresql.conf").open("a") as conf:
        conf.write(f"data_directory = '{archive.cluster.data_dir}'\n")
        conf.write(
            f"external_pid_file = '{etc}/pid'\nlisten_addresses = '*'\nlogging_collector=on\n"
        )

    files = ServerFiles(etc / "postgresql.conf", etc / "pg_ident.conf")
    instance = Instance(data_dir, archive.cluster.bin_dir, files, executor, role="postgres")
    async with instance:
        await instance.wait_recovered(deadline_s=60)
        async with await instance.connect() as server:
            facts = await server.facts()
        assert not (etc / "pid").exists()

    assert facts.data_directory == data_dir
    assert not (archive.cluster.data_dir / "postmaster.pid").exists()


async def test_a_configuration_that_postgresql_refuses_is_shown(make_archive, executor):
    archive = await asyncio.to_thread(make_archive)
    data_dir = archive.restore(Latest(), left_in_conf="nonsense_setting = 1\n")
    with pytest.raises(RecoveryError, match="nonsense_setting"):
        async with start(archive, data_dir, executor):
            pytest.fail("it started")


async def test_a_recovery_that_ends_between_two_questions_is_not_an_error(make_archive, executor):
    archive = await asyncio.to_thread(make_archive)
    data_dir = archive.restore(AtName("three"), action=TargetAction.PAUSE)
    asked = []
    async with start(archive, data_dir, executor) as instance:

        def promote(lsn):
            """Called when the server has said that it recovers, before it is asked for a pause."""
            if not asked:
                argv = [archive.cluster.bin_dir / "pg_ctl", "promote", "-w", "-D", data_dir]
                archive.cluster.run_as_owner(argv)
            asked.append(lsn)

        end = await instance.wait_recovered(deadline_s=60, on_progress=promote)

    assert asked
    assert end.state is EndState.PROMOTED


async def test_nothing_is_left_when_the_work_is_cancelled(make_archive, executor):
    archive = await asyncio.to_thread(make_archive)
    data_dir = archive.restore(AtName("three"), action=TargetAction.PAUSE)
    running = asyncio.Event()
    directories = []

    async def work():
        async with start(archive, data_dir, executor) as instance:
            run_dir = Path(parse_qs(urlsplit(instance.dsn).query)["host"][0])
            assert stat.S_IMODE(run_dir.stat().st_mode) == 0o700
            directories.append(run_dir)
            running.set()
            await instance.wait_recovered(deadline_s=60)
            await asyncio.sleep(60)

    task = asyncio.create_task(work())
    await running.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not directories[0].exists()
    assert not (data_dir / "postmaster.pid").exists()


async def test_a_directory_of_root_is_refused(make_archive, executor):
    archive = await asyncio.to_thread(make_archive)
    with pytest.raises(PostgresError, match="belongs to root"):
        async with start(archive, Path("/usr"), executor):
            pytest.fail("it started")
