"""The scan sees what a real archiver sees."""

import pytest

from tests.fix_postgres import versions_at_hand
from walkeeper.core.wal import TimelineHistoryFile, WalSegment
from walkeeper.postgres.wal_dir import scan_wal_directory


@pytest.mark.parametrize("version", versions_at_hand())
def test_what_the_archiver_is_offered_next_is_first(make_cluster, make_standby, version):
    primary = make_cluster(version=version, segment_size_mb=1, fsync=False)
    standby = make_standby(
        primary, settings={"archive_mode": "on", "archive_command": "echo asked for %f >&2; false"}
    )
    primary.kill9()
    standby.promote()
    for _ in range(3):
        standby.sql("CREATE TABLE t(a int); DROP TABLE t; SELECT pg_switch_wal()")

    scan = scan_wal_directory(standby.wal_dir)

    assert scan.ready[0] == TimelineHistoryFile(2)
    assert scan.history == (TimelineHistoryFile(2),)
    segments = [file for file in scan.ready if isinstance(file, WalSegment)]
    assert len(segments) >= 3
    assert scan.strange == ()
    standby.wait_for_log("asked for 00000002.history")
