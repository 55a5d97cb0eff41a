"""Timelines: histories first, cut-off segments under their own names, whoever was promoted."""

from __future__ import annotations

from collections.abc import Callable

from tests.fix_archiving import (
    NO_TAIL,
    FileShelf,
    StockTools,
    set_archive_command,
    stored_as,
    wait_archived,
    wake_archiver,
    write_segments,
)
from tests.fix_cli import Installation, MakeInstallation
from tests.fix_postgres import Cluster, Workspace, wait_until

MakeStandby = Callable[..., Cluster]


def beside(
    make_installation: MakeInstallation, first: Installation, cluster: Cluster
) -> Installation:
    """Another host of the same cluster: the same keys, the same repository, its own agent."""
    return make_installation(
        cluster=cluster, url=first.repository.as_uri(), keys=first, more=NO_TAIL
    )


def hook_of(installation: Installation) -> str:
    return f"{installation.program} wal-push --socket {installation.socket} %p"


def current_segment(cluster: Cluster) -> str:
    return cluster.value("SELECT pg_walfile_name(pg_current_wal_lsn())")


def test_after_a_promotion_the_history_arrives_before_the_first_segment_of_its_timeline(
    segments_only: Installation, make_standby: MakeStandby, make_installation: MakeInstallation
) -> None:
    segments_only.start_agent()
    primary = segments_only.cluster
    standby = make_standby(primary)
    other = beside(make_installation, segments_only, standby)
    write_segments(primary, 2)
    wait_archived(segments_only)
    segments_only.stop_agent()
    primary.stop("immediate")
    set_archive_command(standby, hook_of(other))
    standby.promote()
    write_segments(standby, 6)  # a backlog, so that the order is the agent's choice as well
    other.start_agent()
    wait_archived(other)
    shelf = FileShelf(segments_only.repository)
    times = {name: (shelf.root / name).stat().st_mtime_ns for name in shelf.names()}
    (history,) = stored_as(shelf, "00000002.history")
    segments = [name for name in times if "/wal/00000002/" in name]
    assert len(segments) >= 6
    assert times[history] < min(times[name] for name in segments)


def test_a_history_that_came_by_streaming_is_stored_after_the_promotion(
    segments_only: Installation,
    make_standby: MakeStandby,
    make_installation: MakeInstallation,
    stock: StockTools,
) -> None:
    primary = segments_only.cluster
    silent = {"archive_mode": "off", "recovery_target_timeline": "latest"}
    middle = make_standby(primary, settings=silent)
    # Settings of auto.conf count more, and came with the copy.
    last = make_standby(middle)
    last.stop()
    host = beside(make_installation, segments_only, last)
    last.start("-c", f"archive_command={hook_of(host)}")
    primary.stop("immediate")
    middle.promote()
    last.wait_for_log("started streaming WAL from primary at", 30)
    history = "00000002.history"
    wait_until((last.wal_dir / history).exists, "the history to be streamed")
    middle.sql("CREATE TABLE seen ()")
    last.wait_for("SELECT count(*) FROM pg_class WHERE relname = 'seen'", "1")
    assert (last.wal_dir / "archive_status" / f"{history}.done").exists()
    content = (last.wal_dir / history).read_bytes()
    last.promote()
    host.start_agent()
    write_segments(last, 1)
    wait_archived(host)
    shelf = FileShelf(segments_only.repository)
    wait_until(lambda: stored_as(shelf, history) != [], f"{history} to be stored")
    (name,) = stored_as(shelf, history)
    assert stock.open(host, shelf, name) == content
    assert len(stored_as(shelf, "00000003.history")) == 1


def test_two_promotions_from_one_timeline_keep_both_of_their_partial_segments(
    segments_only: Installation,
    make_standby: MakeStandby,
    make_installation: MakeInstallation,
    stock: StockTools,
) -> None:
    segments_only.start_agent()
    primary = segments_only.cluster
    first, second = make_standby(primary), make_standby(primary)
    hosts = {}
    for cluster in (first, second):
        host = beside(make_installation, segments_only, cluster)
        host.start_agent()
        fetch = f"{host.program} wal-fetch --socket {host.socket} %f %p"
        cluster.sql(f"ALTER SYSTEM SET archive_command = '{hook_of(host)}'")
        cluster.sql(f"ALTER SYSTEM SET restore_command = '{fetch}'")
        cluster.sql("ALTER SYSTEM SET recovery_target_timeline = 'current'")
        cluster.restart()
        hosts[cluster.data_dir] = host
    primary.sql("CREATE TABLE one AS SELECT 1 AS x")
    for cluster in (first, second):
        cluster.wait_for("SELECT count(*) FROM pg_class WHERE relname = 'one'", "1")
    old = current_segment(primary)
    first.promote()
    wait_archived(hosts[first.data_dir])
    primary.sql("CREATE TABLE two AS SELECT 2 AS x")
    assert current_segment(primary) == old
    second.wait_for("SELECT count(*) FROM pg_class WHERE relname = 'two'", "1")
    second.promote()
    wait_archived(hosts[second.data_dir])
    shelf = FileShelf(segments_only.repository)
    names = stored_as(shelf, old)
    assert len(names) == 2
    assert all(f"/{old}.partial." in name for name in names)
    kept = {stock.open(segments_only, shelf, name) for name in names}
    assert kept == {
        (cluster.wal_dir / f"{old}.partial").read_bytes() for cluster in (first, second)
    }
    assert len(stored_as(shelf, "00000003.history")) == 1
    # The full name is still free for the segment itself.
    segments_only.archive_now()
    complete = [name for name in stored_as(shelf, old) if name not in names]
    assert [stock.open(segments_only, shelf, name) for name in complete] == [
        (primary.wal_dir / old).read_bytes()
    ]


def test_a_segment_cut_off_by_a_timeline_switch_never_takes_the_full_name(
    segments_only: Installation,
    make_standby: MakeStandby,
    make_installation: MakeInstallation,
    stock: StockTools,
) -> None:
    primary = segments_only.cluster
    middle = make_standby(primary)
    middle.sql("ALTER SYSTEM SET archive_mode = off")
    middle.restart()
    last = make_standby(middle)
    last.stop()
    host = beside(make_installation, segments_only, last)
    host.start_agent(wait=True)
    last.start("-c", "archive_mode=always", "-c", f"archive_command={hook_of(host)}")
    primary.sql("CREATE TABLE one AS SELECT 1 AS x")
    last.wait_for("SELECT count(*) FROM pg_class WHERE relname = 'one'", "1")
    old = current_segment(primary)
    middle.promote()
    middle.sql("CREATE TABLE two AS SELECT 2 AS x")
    last.wait_for("SELECT count(*) FROM pg_class WHERE relname = 'two'", "1")
    done = last.wal_dir / "archive_status" / f"{old}.done"

    def is_acknowledged() -> bool:
        wake_archiver(last)  # it pauses for a minute where the agent had yet to recognise it
        return done.exists()

    wait_until(is_acknowledged, f"{old}, cut off, to be acknowledged; {last.log[-2000:]}")
    shelf = FileShelf(segments_only.repository)
    (cut_off,) = stored_as(shelf, old)
    assert f"/{old}.partial." in cut_off
    assert stock.open(host, shelf, cut_off) == (last.wal_dir / old).read_bytes()
    primary.sql("CREATE TABLE three AS SELECT 3 AS x")
    segments_only.start_agent()
    segments_only.archive_now()
    names = stored_as(shelf, old)
    assert len(names) == 2
    whole = min(names, key=len)
    assert stock.open(segments_only, shelf, whole) == (primary.wal_dir / old).read_bytes()


def test_a_padded_tail_that_was_restored_never_takes_the_full_name(
    segments_only: Installation,
    make_installation: MakeInstallation,
    adopt_cluster: Callable[..., Cluster],
    workspace: Workspace,
    stock: StockTools,
) -> None:
    primary = segments_only.cluster
    primary.stop()
    data_dir = workspace.directory("copy")
    primary.run_as_owner(["cp", "-a", f"{primary.data_dir}/.", data_dir])
    primary.start()
    primary.sql("CREATE TABLE one AS SELECT 1 AS x")
    old = current_segment(primary)
    end = primary.value("SELECT pg_walfile_name_offset(pg_current_wal_flush_lsn())")
    offset = int(end.strip("()").split(",")[1])
    elsewhere = workspace.directory("elsewhere")
    padded = (primary.wal_dir / old).read_bytes()[:offset].ljust(1 << 20, b"\0")
    (elsewhere / old).write_bytes(padded)
    (elsewhere / old).chmod(0o644)
    copy = adopt_cluster(data_dir)
    copy.run_as_owner(["sh", "-c", f"rm -rf {data_dir}/pg_wal/0* {data_dir}/pg_wal/arch*/*"])
    host = beside(make_installation, segments_only, copy)
    copy.run_as_owner(["touch", data_dir / "recovery.signal"])
    copy.configure({"restore_command": f"cp {elsewhere}/%f %p", "hot_standby": True})
    host.start_agent()
    copy.start("-c", "archive_mode=always", "-c", f"archive_command={hook_of(host)}")
    copy.wait_for("SELECT pg_is_in_recovery()", "f")
    wait_archived(host)
    shelf = FileShelf(segments_only.repository)
    names = stored_as(shelf, old)
    assert names
    assert all(f"/{old}.partial." in name for name in names)
    assert padded in {stock.open(host, shelf, name) for name in names}
    segments_only.start_agent()
    segments_only.archive_now()
    (whole,) = set(stored_as(shelf, old)) - set(names)
    assert stock.open(segments_only, shelf, whole) == (primary.wal_dir / old).read_bytes()
