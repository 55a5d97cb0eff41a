"""The clusters that tests are given are what they claim to be."""

import pytest

from tests.fix_postgres import versions_at_hand


@pytest.mark.parametrize("version", versions_at_hand())
@pytest.mark.parametrize("segment_size_mb", [1, 64])
def test_a_cluster_has_the_version_and_segment_size_asked_for(
    make_cluster, version, segment_size_mb
):
    cluster = make_cluster(version=version, segment_size_mb=segment_size_mb, fsync=False)

    assert int(cluster.value("SHOW server_version_num")) // 10000 == version
    assert cluster.value("SHOW wal_segment_size") == f"{segment_size_mb}MB"
    assert cluster.value("SHOW data_checksums") == "on"


def test_a_killed_cluster_recovers_what_was_committed(make_cluster):
    cluster = make_cluster(tablespaces=["fast"])
    cluster.sql("CREATE TABLE t(a int) TABLESPACE fast; INSERT INTO t VALUES (1), (2);")

    cluster.kill9()
    assert not cluster.running
    cluster.start()

    assert cluster.sql("SELECT a, a + 1 FROM t ORDER BY a") == [("1", "2"), ("2", "3")]
    assert cluster.sql("SELECT a FROM t WHERE a > 9; SELECT ''; SELECT E'x\\ny'") == [
        ("",),
        ("x\ny",),
    ]
    assert "database system was not properly shut down" in cluster.log
    assert cluster.control()["Database cluster state"] == "in production"


def test_a_standby_follows_and_can_be_promoted(make_cluster, make_standby):
    primary = make_cluster(fsync=False, tablespaces=["fast"])
    standby = make_standby(primary)

    primary.sql("CREATE TABLE t AS SELECT 7 AS a")
    lsn = primary.value("SELECT pg_current_wal_flush_lsn()")
    standby.wait_for(f"SELECT pg_last_wal_replay_lsn() >= '{lsn}'", "t")
    primary.kill9()
    standby.promote()

    assert standby.value("SELECT a FROM t") == "7"
    assert standby.value("SELECT pg_is_in_recovery()") == "f"
