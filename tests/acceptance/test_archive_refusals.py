"""What is not this cluster's, or not what its name says, never gets into the archive."""

from __future__ import annotations

import struct
import time
from collections.abc import Callable

import pytest

from tests.fix_archiving import (
    NO_TAIL,
    FileShelf,
    fingerprint,
    planted,
    push,
    wait_archived,
    waiting,
    wake_archiver,
    write_segments,
)
from tests.fix_cli import Installation, MakeInstallation
from tests.fix_postgres import Cluster, MakeCluster, wait_until

# XLogLongPageHeaderData, src/include/access/xlog_internal.h: magic, info, timeline, page address,
# remaining length, padding; system identifier, segment size, block size.
LONG_HEADER = struct.Struct("<HHIQI4xQII")
MAGIC, TIMELINE, ADDRESS, SYSTEM, SEGMENT_SIZE = 0, 2, 3, 5, 6


def changed_header(segment: bytes, field: int, value: int) -> bytes:
    fields = list(LONG_HEADER.unpack_from(segment))
    fields[field] = value
    return LONG_HEADER.pack(*fields) + segment[LONG_HEADER.size :]


def copy_of(source: Cluster, adopt: Callable[..., Cluster], name: str = "clone") -> Cluster:
    """A stray copy of a data directory, made while the server was down; it is not started."""
    was_running = source.running
    source.stop()
    data_dir = source.workspace.directory(name)
    source.run_as_owner(["cp", "-a", f"{source.data_dir}/.", data_dir])
    if was_running:
        source.start()
    return adopt(data_dir, source.version)


def test_a_file_that_is_not_what_its_name_says_is_refused_in_postgresqls_log(
    segments_only: Installation,
) -> None:
    segments_only.start_agent()
    cluster, shelf = segments_only.cluster, FileShelf(segments_only.repository)
    write_segments(cluster, 1)
    wait_archived(segments_only)
    own = (cluster.wal_dir / segments_only.archive_now()).read_bytes()
    address = LONG_HEADER.unpack_from(own)[ADDRESS]
    before = fingerprint(shelf)
    name = "000000010000000000000000"  # the oldest that there can be: next in turn
    at_zero = changed_header(own, ADDRESS, 0)
    foreign = changed_header(at_zero, SYSTEM, 7_000_000_000_000_000_007)
    cases = {
        "comes from the cluster 7000000000000000007": foreign,
        "was written by PostgreSQL 13, not 15": changed_header(at_zero, MAGIC, 0xD106),
        "is a segment of 16777216 bytes": changed_header(at_zero, SEGMENT_SIZE, 16 << 20),
        f"begins at 0/{address:X}, not at 0/0": own,
        "holds WAL of timeline 2": changed_header(at_zero, TIMELINE, 2),
        "has 8192 bytes, a segment 1048576": at_zero[:8192],
        "magic": bytes(len(own)),
    }
    for reason, content in cases.items():
        with planted(cluster, name, content):
            wake_archiver(cluster)
            refused = f"walkeeper: {name} is refused: {name}"
            wait_until(
                lambda reason=reason, refused=refused: any(
                    refused in line and reason in line for line in cluster.log.splitlines()
                ),
                f"{reason!r} in the log:\n{cluster.log[-3000:]}",
            )
            assert push(segments_only, name, cwd=cluster.data_dir).code == 1
    with planted(cluster, "00000002.history", b"no history\n"):
        wake_archiver(cluster)
        cluster.wait_for_log("walkeeper: 00000002.history is refused")
    after = fingerprint(shelf)
    assert before.items() <= after.items()  # the server may have finished a segment of its own
    assert not [one for one in after if name in one or "00000002" in one]
    segments_only.archive_now()


def test_a_hook_from_a_copy_of_the_data_directory_is_refused(
    segments_only: Installation, adopt_cluster: Callable[..., Cluster]
) -> None:
    segments_only.start_agent()
    segments_only.archive_now()
    copy = copy_of(segments_only.cluster, adopt_cluster)
    shelf = FileShelf(segments_only.repository)
    wait_archived(segments_only)
    before = fingerprint(shelf)
    copy.start()
    write_segments(copy, 2)
    copy.wait_for_log("is not in the pg_wal of this agent's cluster")
    assert fingerprint(shelf) == before
    assert waiting(copy) != []
    segments_only.archive_now()


@pytest.mark.parametrize(
    ("detached", "command", "reason"),
    [
        (True, None, "is a restored copy"),
        (False, "test ! -f /nonexistent/%f", "archive_command is not walkeeper's wal-push"),
        (False, "", "archive_command is not walkeeper's wal-push"),
    ],
    ids=["detached", "archived by somebody else", "not archived"],
)
def test_the_agent_of_a_restored_copy_writes_nothing(
    segments_only: Installation,
    make_installation: MakeInstallation,
    adopt_cluster: Callable[..., Cluster],
    detached: bool,
    command: str | None,
    reason: str,
) -> None:
    segments_only.start_agent()
    segments_only.archive_now()
    copy = copy_of(segments_only.cluster, adopt_cluster)
    wait_archived(segments_only)
    shelf = FileShelf(segments_only.repository)
    other = make_installation(
        cluster=copy, url=segments_only.repository.as_uri(), keys=segments_only, more=NO_TAIL
    )
    if detached:
        (copy.data_dir / "walkeeper.detached").touch()
    # It has a history of its own, which an agent stores without having been asked.
    (copy.data_dir / "recovery.signal").touch()
    copy.configure({"restore_command": "false", "recovery_target_timeline": "current"})
    copy.start("-c", f"archive_command={command}") if command is not None else copy.start()
    copy.wait_for("SELECT pg_is_in_recovery()", "f")
    before = fingerprint(shelf)
    other.start_agent()
    write_segments(copy, 2)
    copy.sql("SELECT pg_switch_wal()")
    wait_until(lambda: reason in other.agent_log, f"{reason!r} in {other.agent_log}")
    pushed = push(other, "00000002.history", cwd=copy.data_dir)
    assert pushed.code == 1
    assert reason in pushed.message
    assert fingerprint(shelf) == before


def wait_said(installation: Installation, reason: str) -> None:
    """Wait until the agent that was started last has found this: before, it only waits."""
    wait_until(
        lambda: reason in installation.agent_log[installation.agent_log_begin :],
        f"{reason!r} in {installation.agent_log}",
    )


def test_a_dsn_that_leads_to_another_server_writes_nothing(
    segments_only: Installation, make_standby: Callable[..., Cluster], make_cluster: MakeCluster
) -> None:
    cluster = segments_only.cluster
    standby = make_standby(cluster)
    shelf = FileShelf(segments_only.repository)
    before = fingerprint(shelf)
    stranger = make_cluster(segment_size_mb=1, fsync=False)
    segments_only.environment["WALKEEPER_CLUSTER_DSN"] = standby.dsn
    segments_only.environment["WALKEEPER_CLUSTER_DATA_DIRECTORY"] = str(cluster.data_dir)
    segments_only.start_agent()
    file = cluster.value("SELECT pg_walfile_name(pg_switch_wal())")
    wait_said(segments_only, "its data directory is")
    pushed = push(segments_only, file, cwd=cluster.data_dir)
    assert pushed.code == 1
    assert "its data directory is" in pushed.message
    segments_only.kill_agent()
    segments_only.environment["WALKEEPER_CLUSTER_DSN"] = stranger.dsn
    del segments_only.environment["WALKEEPER_CLUSTER_DATA_DIRECTORY"]
    segments_only.environment["WALKEEPER_CLUSTER_ARCHIVE"] = segments_only.archive_dir.name
    segments_only.start_agent()
    wait_said(segments_only, "the archive belongs to the cluster")
    pushed = push(segments_only, file, cwd=cluster.data_dir)
    assert pushed.code == 1
    assert "the archive belongs to the cluster" in pushed.message
    assert fingerprint(shelf) == before
    assert file in waiting(cluster)


def test_the_same_content_again_is_success_and_changes_nothing(segments_only: Installation) -> None:
    segments_only.start_agent()
    file = segments_only.archive_now()
    shelf = FileShelf(segments_only.repository)
    before = fingerprint(shelf)
    assert push(segments_only, file, cwd=segments_only.cluster.data_dir).code == 0
    segments_only.stop_agent()
    segments_only.start_agent()
    segments_only.wait_recognised()
    assert push(segments_only, file, cwd=segments_only.cluster.data_dir).code == 0
    assert fingerprint(shelf) == before


def test_a_clone_that_diverged_is_told_both_contents_and_overwrites_nothing(
    segments_only: Installation,
    make_installation: MakeInstallation,
    adopt_cluster: Callable[..., Cluster],
) -> None:
    copy = copy_of(segments_only.cluster, adopt_cluster)
    shelf = FileShelf(segments_only.repository)
    other = make_installation(
        cluster=copy, url=segments_only.repository.as_uri(), keys=segments_only, more=NO_TAIL
    )
    hook = segments_only.cluster.value("SHOW archive_command")
    hook = hook.replace(str(segments_only.socket), str(other.socket))
    copy.start("-c", f"archive_command={hook}")
    segments_only.start_agent()
    other.start_agent()  # nothing tells the two apart, so far
    wait_until(lambda: "source_verified" in other.agent_log, "the clone to be recognised")
    file = segments_only.archive_now()
    before = fingerprint(shelf)
    assert copy.value("SELECT pg_walfile_name(pg_current_wal_lsn())") == file
    copy.sql("SELECT pg_logical_emit_message(true, 'test', 'another history')")
    copy.sql("SELECT pg_switch_wal()")
    # Whoever was first, the hook or what goes ahead of it, is told both contents; from then on
    # the clone is refused as a whole.
    both = "exists with other content: stored "
    wait_until(lambda: both in other.agent_log, f"the refusal in {other.agent_log}")
    wait_until(
        lambda: both in copy.log or "this server's WAL differs from the archive's" in copy.log,
        f"the refusal in {copy.log}",
    )
    line = next(line for line in other.agent_log.splitlines() if both in line)
    codes = line.partition(both)[2].partition(";")[0].split(", offered ")
    assert [len(code) for code in codes] == [16, 16]
    assert codes[0] != codes[1]
    assert "nothing was overwritten" in line
    assert fingerprint(shelf) == before
    assert file in waiting(copy)


def test_an_agent_stops_writing_when_its_data_directory_becomes_a_copy(
    segments_only: Installation,
) -> None:
    segments_only.start_agent()
    segments_only.archive_now()
    cluster, shelf = segments_only.cluster, FileShelf(segments_only.repository)
    cluster.stop()
    before = fingerprint(shelf)
    (cluster.data_dir / "walkeeper.detached").touch()
    # Histories are stored unasked; a server that was verified and has gone is no permission.
    with planted(cluster, "00000002.history", b"1\t0/800000\tno recovery target specified\n"):
        time.sleep(1.5)  # the agent has looked by now
        pushed = push(segments_only, "00000002.history", cwd=cluster.data_dir)
    assert pushed.code == 1
    assert fingerprint(shelf) == before
