"""Under load every WAL file arrives, durable before it is acknowledged, at one PUT each."""

from __future__ import annotations

import signal
import statistics
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from tests.fix_archive import ONE_MIB
from tests.fix_archiving import (
    FileShelf,
    MakeS3Archiving,
    StockTools,
    push,
    set_archive_command,
    stored_as,
    wait_archived,
    waiting,
    watch_archiving,
    write_segments,
)
from tests.fix_ceph import Ceph
from tests.fix_cli import MakeInstallation
from tests.fix_postgres import Cluster, find_client_dir, wait_until
from walkeeper.core.wal import WalSegment


def test_under_load_every_file_arrives_at_the_price_of_one_put(
    make_s3_archiving: MakeS3Archiving, stock: StockTools
) -> None:
    # Autovacuum would finish segments at moments of its own.
    archiving = make_s3_archiving(settings={"autovacuum": False})
    installation, cluster = archiving.installation, archiving.installation.cluster
    witness = watch_archiving(installation)
    cluster.pgbench("-i", "-q", "-s", "3")
    installation.start_agent()
    wait_archived(installation)
    archiving.proxy.forget()
    before = set(witness.acknowledged)

    cluster.sql("CHECKPOINT")  # from here on each page is written whole the first time
    cluster.pgbench("-c", "4", "-t", "1500")
    take_base_backup(cluster)
    cluster.sql("SELECT pg_switch_wal()")
    wait_archived(installation)

    offered = set(witness.acknowledged) - before
    assert len(offered) > 8
    assert any(file.endswith(".backup") for file in offered)
    assert archiving.proxy.counts == Counter(PUT=len(offered))
    for file in witness.acknowledged:
        (name,) = stored_as(archiving.shelf, file)
        assert stock.open(installation, archiving.shelf, name) == witness.content(file), file


def take_base_backup(cluster: Cluster) -> None:
    """PostgreSQL's own base backup, for its backup history file."""
    argv = [find_client_dir(cluster.version) / "pg_basebackup", "-d", cluster.dsn]
    argv += ["-D", cluster.workspace.directory("copy"), "-X", "none", "-c", "fast", "-N"]
    cluster.run_as_owner(argv)


def test_several_segments_are_on_their_way_at_once_and_none_is_acknowledged_before_it_is_durable(
    make_s3_archiving: MakeS3Archiving, ceph_cluster: Ceph, stock: StockTools
) -> None:
    archiving = make_s3_archiving()
    installation, cluster = archiving.installation, archiving.installation.cluster
    witness = watch_archiving(installation)
    write_segments(cluster, 6)
    installation.start_agent()
    wait_archived(installation)
    before = witness.acknowledged
    archiving.proxy.forget()
    ceph_cluster.freeze()
    try:
        write_segments(cluster, 6)
        wait_until(lambda: archiving.proxy.counts["PUT"] >= 4, "four uploads at once")
        time.sleep(1)
        assert archiving.proxy.counts == Counter(PUT=4)
        assert witness.acknowledged == before
    finally:
        ceph_cluster.thaw()
    wait_archived(installation)
    assert len(witness.acknowledged) >= len(before) + 6
    for file in witness.acknowledged:
        (name,) = stored_as(archiving.shelf, file)
        assert stock.open(installation, archiving.shelf, name) == witness.content(file)


@pytest.mark.parametrize("megabytes", [16, 64])
def test_segments_of_other_sizes_arrive(
    make_s3_archiving: MakeS3Archiving, stock: StockTools, megabytes: int
) -> None:
    archiving = make_s3_archiving(segment_size_mb=megabytes, settings={"max_wal_size": "1GB"})
    installation = archiving.installation
    witness = watch_archiving(installation)
    installation.start_agent()
    write_segments(installation.cluster, 1)
    wait_archived(installation)
    last = installation.archive_now()
    assert last in witness.acknowledged
    sizes = {len(witness.content(file)) for file in witness.acknowledged}
    assert sizes == {megabytes << 20}
    for file in witness.acknowledged:
        (name,) = stored_as(archiving.shelf, file)
        assert stock.open(installation, archiving.shelf, name) == witness.content(file)


def test_a_shutdown_archives_the_last_segment_although_nobody_can_connect_any_more(
    make_s3_archiving: MakeS3Archiving, ceph_cluster: Ceph, stock: StockTools
) -> None:
    archiving = make_s3_archiving()
    installation, cluster = archiving.installation, archiving.installation.cluster
    witness = watch_archiving(installation)
    installation.start_agent()
    write_segments(cluster, 3)
    wait_archived(installation)
    ceph_cluster.freeze()
    try:
        write_segments(cluster, 3)
        assert cluster.process is not None
        cluster.process.send_signal(signal.SIGINT)
        cluster.wait_for_log("received fast shutdown request")
        time.sleep(7)  # the agent has asked the server again by now, and was turned away
        assert cluster.running
    finally:
        ceph_cluster.thaw()
    cluster.wait_stopped()
    assert waiting(cluster) == []
    # PostgreSQL switches the segment first; only its shutdown checkpoint lies behind (xlog.c).
    checkpoint = WalSegment.parse(cluster.control()["Latest checkpoint's REDO WAL file"])
    assert checkpoint == WalSegment.parse(witness.acknowledged[-1]).next(ONE_MIB)
    for file in witness.acknowledged:
        (name,) = stored_as(archiving.shelf, file)
        assert stock.open(installation, archiving.shelf, name) == witness.content(file)


def test_a_host_without_an_identity_archives_and_cannot_read(
    make_installation: MakeInstallation, stock: StockTools
) -> None:
    installation = make_installation(can_read=False)
    cluster = installation.cluster
    installation.initialise()
    witness = watch_archiving(installation)
    installation.start_agent()
    file = installation.archive_now()
    shelf = FileShelf(installation.repository)
    (name,) = stored_as(shelf, file)
    assert stock.open(installation, shelf, name) == witness.content(file)
    fetched = installation.workspace.run(
        [
            installation.program,
            "wal-fetch",
            "--socket",
            installation.socket,
            file,
            "pg_wal/FETCHED",
        ],
        check=False,
        cwd=cluster.data_dir,
    )
    assert fetched.returncode == 126
    assert "identity" in fetched.stderr
    assert not (cluster.wal_dir / "FETCHED").exists()


def test_how_long_a_hook_takes_for_a_segment_that_is_durable_already(
    make_installation: MakeInstallation,
) -> None:
    """A measurement: nothing is required of the figures."""
    installation = make_installation(segment_size_mb=16)
    cluster = installation.cluster
    installation.initialise()
    set_archive_command(cluster, "exit 1 # instead of walkeeper wal-push")
    installation.start_agent()
    file = cluster.value("SELECT pg_walfile_name(pg_switch_wal())")
    shelf = FileShelf(installation.repository)
    wait_until(lambda: stored_as(shelf, file) != [], "the segment to be sent ahead")
    pushed = [push(installation, file, cwd=cluster.data_dir) for _ in range(15)]
    assert {one.code for one in pushed} == {0}
    python = [time_of([sys.executable, "-I", "-S", "-c", "pass"]) for _ in range(15)]
    shell = [time_of(["sh", "-c", ":"]) for _ in range(15)]
    for what, times in (
        ("wal-push", [one.elapsed_s for one in pushed]),
        ("python -I -S -c pass", python),
        ("sh -c :", shell),
    ):
        print(f"{what}: median {statistics.median(times) * 1000:.1f} ms")


def time_of(argv: list[str]) -> float:
    begin = time.perf_counter()
    subprocess.run(argv, check=True, cwd=Path("/"))
    return time.perf_counter() - begin
