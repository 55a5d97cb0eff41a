"""Our reading of pg_control agrees with PostgreSQL's own."""

from datetime import UTC, datetime

import pytest

from tests.fix_postgres import versions_at_hand
from walkeeper.core.lsn import Lsn
from walkeeper.postgres.control_file import ClusterState, read_control_file

STATES = {
    "in production": ClusterState.IN_PRODUCTION,
    "shut down": ClusterState.SHUT_DOWN,
    "in archive recovery": ClusterState.IN_ARCHIVE_RECOVERY,
    "shut down in recovery": ClusterState.SHUT_DOWN_IN_RECOVERY,
}


def assert_agrees(cluster):
    ours = read_control_file(cluster.data_dir)
    theirs = cluster.control()

    def moment(label):
        return datetime.strptime(theirs[label], "%a %b %d %H:%M:%S %Y").replace(tzinfo=UTC)

    assert ours.system_identifier == int(theirs["Database system identifier"])
    assert ours.control_version == int(theirs["pg_control version number"])
    assert ours.catalog_version == int(theirs["Catalog version number"])
    assert ours.state is STATES[theirs["Database cluster state"]]
    assert ours.updated_at == moment("pg_control last modified")
    assert ours.checkpoint_at == moment("Time of latest checkpoint")
    assert ours.checkpoint == Lsn.parse(theirs["Latest checkpoint location"])
    assert ours.redo == Lsn.parse(theirs["Latest checkpoint's REDO location"])
    assert ours.timeline == int(theirs["Latest checkpoint's TimeLineID"])
    assert ours.previous_timeline == int(theirs["Latest checkpoint's PrevTimeLineID"])
    assert ours.min_recovery_point == Lsn.parse(theirs["Minimum recovery ending location"])
    assert ours.min_recovery_timeline == int(theirs["Min recovery ending loc's timeline"])
    assert ours.backup_start == Lsn.parse(theirs["Backup start location"])
    assert ours.backup_end == Lsn.parse(theirs["Backup end location"])
    assert ours.backup_end_required == (theirs["End-of-backup record required"] == "yes")
    settings = ours.standby_settings
    assert settings.max_connections == int(theirs["max_connections setting"])
    assert settings.max_worker_processes == int(theirs["max_worker_processes setting"])
    assert settings.max_wal_senders == int(theirs["max_wal_senders setting"])
    assert settings.max_prepared_transactions == int(theirs["max_prepared_xacts setting"])
    assert settings.max_locks_per_transaction == int(theirs["max_locks_per_xact setting"])
    assert ours.block_size == int(theirs["Database block size"])
    assert ours.blocks_per_file == int(theirs["Blocks per segment of large relation"])
    assert ours.wal_block_size == int(theirs["WAL block size"])
    assert ours.segment_size.bytes == int(theirs["Bytes per WAL segment"])
    assert ours.data_checksums == (theirs["Data page checksum version"] != "0")


@pytest.mark.parametrize("version", versions_at_hand())
@pytest.mark.parametrize("checksums", [False, True])
def test_a_running_and_a_stopped_primary_read_as_pg_controldata_says(
    make_cluster, version, checksums
):
    cluster = make_cluster(
        version=version,
        segment_size_mb=1,
        checksums=checksums,
        fsync=False,
        settings={"max_connections": 37, "max_prepared_transactions": 5, "max_wal_senders": 11},
    )
    assert_agrees(cluster)
    cluster.stop()
    assert_agrees(cluster)


@pytest.mark.parametrize("version", versions_at_hand())
def test_a_standby_shows_how_far_it_must_recover(make_cluster, make_standby, version):
    primary = make_cluster(version=version, segment_size_mb=1, fsync=False)
    standby = make_standby(primary)
    primary.sql("CREATE TABLE t AS SELECT generate_series(1, 1000); CHECKPOINT;")
    lsn = primary.value("SELECT pg_current_wal_flush_lsn()")
    standby.wait_for(f"SELECT pg_last_wal_replay_lsn() >= '{lsn}'", "t")
    assert_agrees(standby)

    standby.stop()

    assert_agrees(standby)
    assert read_control_file(standby.data_dir).min_recovery_point >= Lsn.parse(lsn)
