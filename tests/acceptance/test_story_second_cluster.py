"""Somebody copies a configuration to another host: the archive stays that of its own cluster."""

from __future__ import annotations

from tests.fix_archiving import NO_TAIL, FileShelf, fingerprint, waiting
from tests.fix_cli import Installation, MakeInstallation


def test_a_second_cluster_writes_nothing_into_the_archive_of_the_first(
    segments_only: Installation, make_installation: MakeInstallation
) -> None:
    first = segments_only
    first.start_agent()
    first.wait_recognised()
    first.archive_now()
    second = make_installation(
        url=first.repository.as_uri(), keys=first, more=NO_TAIL, archive_mode="on"
    )
    second.environment["WALKEEPER_CLUSTER_ARCHIVE"] = first.archive_dir.name
    command = f"{second.program} wal-push --socket {second.socket} %p"
    second.cluster.sql(f"ALTER SYSTEM SET archive_command = '{command}'")
    second.cluster.reload()
    before = fingerprint(FileShelf(first.repository))

    second.start_agent()
    second.cluster.sql("CREATE TABLE t ()")
    second.cluster.sql("SELECT pg_switch_wal()")
    # Until the agent knows the server a hook fails too, for another reason.
    second.cluster.wait_for_log("the archive belongs to the cluster")
    second.cluster.wait_for("SELECT failed_count > 0 FROM pg_stat_archiver", "t")
    through_agent = second.run("backup", code=15)
    second.stop_agent()
    alone = second.run("backup", code=15)

    for refused in (second.cluster.log, through_agent.stderr, alone.stderr):
        assert "the archive belongs to the cluster" in refused
    assert waiting(second.cluster)
    assert fingerprint(FileShelf(first.repository)) == before
    first.archive_now()
