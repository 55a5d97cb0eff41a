"""The tail follows the primary: off on a standby, and from its first byte on a new timeline."""

from __future__ import annotations

import os
from collections.abc import Callable

from tests.fix_archiving import FileShelf, stored_as
from tests.fix_cli import Installation, MakeInstallation
from tests.fix_postgres import Cluster, wait_until
from tests.fix_shipping import (
    copy_running,
    make_beside,
    opened,
    tail_objects,
    wait_shipped,
    wait_tail,
)

MakeStandby = Callable[..., Cluster]


def write(cluster: Cluster, rows: int = 100) -> None:
    cluster.sql(f"INSERT INTO t SELECT generate_series(1, {rows})")


def streamed(primary: Cluster, standby: Cluster) -> None:
    """Wait until the standby has written all that the primary has flushed."""
    end = primary.value("SELECT pg_current_wal_flush_lsn()")
    standby.wait_for(f"SELECT pg_last_wal_receive_lsn() >= '{end}'", "t")


def test_the_tail_is_off_on_a_standby_and_begins_at_zero_after_its_promotion(
    shipping: Installation, make_standby: MakeStandby, make_installation: MakeInstallation
) -> None:
    primary = shipping.cluster
    standby = make_standby(primary)
    other = make_beside(make_installation, shipping, standby)
    standby.reload()
    other.start_agent()
    assert "standby" in str(wait_tail(other, "off").reason)
    write(primary)
    streamed(primary, standby)
    old, _ = wait_shipped(shipping)
    before = tail_objects(shipping)
    primary.kill9()
    shipping.stop_agent()

    standby.promote()
    write(standby)
    new, tail = wait_shipped(other, into=shipping)
    assert wait_tail(other, "shipping").reason is None
    assert new == "00000002" + old[8:], "promoted in the middle of a segment"
    assert tail[: 1 << 13] != bytes(1 << 13)
    shelf = FileShelf(shipping.repository)
    (history,) = stored_as(shelf, "00000002.history")
    first = shipping.archive_dir / f"tail/{new}/00000000.zst.age"
    assert (shelf.root / history).stat().st_mtime_ns < first.stat().st_mtime_ns
    assert set(before) <= set(tail_objects(shipping)), "the old timeline's tail is its only copy"


def test_nothing_of_a_new_timeline_is_stored_before_its_history(
    shipping: Installation, make_standby: MakeStandby, make_installation: MakeInstallation
) -> None:
    primary = shipping.cluster
    standby = make_standby(primary)
    other = make_beside(make_installation, shipping, standby)
    standby.reload()
    other.start_agent()
    wait_tail(other, "off")
    write(primary)
    streamed(primary, standby)
    wait_shipped(shipping)
    shipping.stop_agent()
    primary.kill9()
    # Something that cannot be replaced has the history's name: it never becomes durable.
    (blocked,) = shipping.archive_dir.glob("wal/00000001")
    fake = blocked.parent / "00000002.history.zst.age"
    fake.write_bytes(b"not ours")
    os.chown(fake, other.workspace.owner.uid, other.workspace.owner.gid)
    standby.promote()
    write(standby)
    wait_until(
        lambda: "00000002.history" in str(wait_tail(other, "waiting").reason),
        "the tail to wait for the history",
    )
    assert not list(shipping.archive_dir.glob("tail/00000002*"))
    assert not list(shipping.archive_dir.glob("wal/00000002/*"))
    fake.unlink()
    wait_shipped(other, into=shipping)


def test_what_the_primary_had_not_archived_is_sent_by_the_standby_that_took_over(
    shipping: Installation, make_standby: MakeStandby, make_installation: MakeInstallation
) -> None:
    primary = shipping.cluster
    standby = make_standby(primary)
    other = make_beside(make_installation, shipping, standby)
    standby.reload()
    other.start_agent()
    shipping.archive_now()
    shipping.stop_agent()
    behind = []
    for _ in range(3):
        write(primary)
        behind.append(primary.value("SELECT pg_walfile_name(pg_current_wal_lsn())"))
        primary.sql("SELECT pg_switch_wal()")
    write(primary)
    streamed(primary, standby)
    primary.kill9()
    standby.promote()
    write(standby)
    wait_shipped(other, into=shipping)
    shelf = FileShelf(shipping.repository)
    for name in behind:
        (stored,) = stored_as(shelf, name)
        content = opened(shipping.identity_file, shelf.root / stored)
        assert content == (primary.wal_dir / name).read_bytes()


def test_a_copy_that_begins_a_timeline_before_it_writes_is_a_branch_of_the_archive(
    shipping: Installation,
    make_installation: MakeInstallation,
    adopt_cluster: Callable[..., Cluster],
) -> None:
    primary = shipping.cluster
    saved = copy_running(shipping, "saved")
    shipping.archive_now()
    write(primary)
    wait_shipped(shipping)

    cluster = adopt_cluster(saved)
    other = make_beside(make_installation, shipping, cluster)
    other.start_agent()
    fetch = f"{other.program} wal-fetch --socket {other.socket} %f %p"
    only_histories = f"case %f in *.history) {fetch};; *) exit 1;; esac"
    cluster.configure({"restore_command": only_histories})
    (saved / "recovery.signal").touch()
    os.chown(saved / "recovery.signal", other.workspace.owner.uid, other.workspace.owner.gid)
    cluster.start()
    cluster.wait_for("SELECT pg_is_in_recovery()", "f")
    write(cluster)
    name, _ = wait_shipped(other, into=shipping)
    assert name.startswith("00000002")
    write(primary)
    wait_shipped(shipping)
