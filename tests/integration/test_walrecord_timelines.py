"""Timelines of real servers: what a promotion leaves behind, as the archive sees it."""

from __future__ import annotations

from pathlib import Path

from tests.fix_postgres import Cluster, MakeCluster, copy_whole, wait_until
from walkeeper.core.lsn import Lsn
from walkeeper.core.timeline import Leg, TimelineHistory
from walkeeper.core.wal import PartialSegment, SegmentSize, WalSegment, parse_wal_file
from walkeeper.core.walcheck import Complete, CutOff, SegmentCheck, Verdict
from walkeeper.core.walfacts import TimelineChange
from walkeeper.core.walrecord import scan_segment

SIZE = SegmentSize(1 << 20)


def judge(system: int, path: Path) -> Verdict:
    wal = parse_wal_file(path.name)
    assert isinstance(wal, WalSegment | PartialSegment)
    check = SegmentCheck(wal, SIZE, system, 15)
    check.feed(path.read_bytes())
    return check.finish()


def history(archive: Path, timeline: int) -> TimelineHistory:
    path = archive / f"{timeline:08X}.history"
    wait_until(path.exists, f"{path.name} in the archive")
    return TimelineHistory.parse(timeline, path.read_text())


def recover(copy: Cluster, settings: dict[str, str]) -> None:
    copy.configure(settings | {"recovery_target_action": "promote"})
    (copy.data_dir / "recovery.signal").touch()
    copy.start()
    copy.wait_for("SELECT pg_is_in_recovery()", "f")


def test_forks_are_read_as_postgresql_made_them(make_cluster: MakeCluster, adopt_cluster):
    probe = make_cluster(segment_size_mb=1, fsync=False, start=False)
    archive = probe.workspace.directory("archive")
    probe.configure(
        {
            "archive_mode": True,
            "archive_command": copy_whole(archive),
            "restore_command": f"cp {archive}/%f %p",
            "max_wal_senders": 4,
        }
    )
    probe.start()
    copies = []
    for name in ("second", "third"):
        target = probe.workspace.directory(name)
        argv = [probe.bin_dir / "pg_basebackup", "-h", probe.socket_dir, "-U", "postgres"]
        probe.run_as_owner([*argv, "-D", target, "-c", "fast", "-X", "none"])
        copies.append(adopt_cluster(target))
    probe.sql("CREATE TABLE t (x int)")
    early = probe.value("INSERT INTO t VALUES (1) RETURNING pg_current_wal_insert_lsn()")
    probe.sql("INSERT INTO t SELECT generate_series(1, 20000); SELECT pg_switch_wal()")
    middle = probe.value("SELECT pg_current_wal_lsn()")
    probe.sql("INSERT INTO t SELECT generate_series(1, 20000); SELECT pg_switch_wal()")
    system = int(probe.control()["Database system identifier"])
    probe.stop()  # archives what is ready

    recover(copies[0], {"recovery_target_lsn": middle})
    second = history(archive, 2)
    fork = second.switch_point(1)
    assert fork is not None
    assert fork >= Lsn.parse(middle)
    copies[0].sql("INSERT INTO t SELECT generate_series(1, 20000); SELECT pg_switch_wal()")
    first = WalSegment.at(2, fork, SIZE)
    wait_until((archive / str(first)).exists, f"{first} in the archive")
    copies[0].stop()

    assert judge(system, archive / str(first)) == Complete()
    changes = [
        fact
        for fact in scan_segment(first, SIZE, (archive / str(first)).read_bytes()).facts
        if isinstance(fact, TimelineChange)
    ]
    assert [(change.timeline, change.previous) for change in changes] == [(2, 1)]
    assert changes[0].begin >= fork
    partials = sorted(archive.glob("*.partial"))
    for partial in partials:
        verdict = judge(system, partial)
        assert isinstance(verdict, CutOff)
    for path in archive.glob("0000000[12]" + "[0-9A-F]" * 16):
        assert judge(system, path) == Complete(), path.name

    # Along timeline 2, but only to a point before 2 left 1.
    recover(copies[1], {"recovery_target_lsn": early, "recovery_target_timeline": "2"})
    third = history(archive, 3)
    assert [switch.parent for switch in third.switches] == [1, 2]
    assert third.switches[1].at < third.switches[0].at == fork
    left = third.switches[1].at
    assert third.legs == (Leg(1, Lsn(0), left), Leg(3, left, None))
    assert third.derive(2) == second
    assert third.derive(2).encode() == (archive / "00000002.history").read_text()
    assert third.encode() == (archive / "00000003.history").read_text()
