"""A cluster comes back as it was at the moment asked for, by the command that an operator types."""

from __future__ import annotations

from tests.fix_postgres import free_port, wait_until
from tests.fix_restore import RestoreBed, rows
from walkeeper.core.lsn import Lsn


def test_a_dropped_table_is_there_again_at_the_moment_before_the_drop(bed: RestoreBed) -> None:
    source = bed.source
    source.sql("INSERT INTO t SELECT generate_series(1, 100)")
    moment = source.value("SELECT clock_timestamp()")
    source.sql("DROP TABLE t")
    source.sql("CREATE TABLE later (n int)")
    bed.installation.archive_now()

    report = bed.restore("pg", "--target-time", moment)

    assert report["restored"]
    cluster = bed.started("pg")
    assert rows(cluster) == list(range(1, 101))
    assert cluster.value("SELECT to_regclass('later')") == ""


def test_every_kind_of_target_is_met_where_it_says_and_the_command_says_so(
    bed: RestoreBed,
) -> None:
    source = bed.source
    source.sql("INSERT INTO t VALUES (1)")
    xid = source.value("INSERT INTO t VALUES (2) RETURNING pg_current_xact_id()")
    source.sql("INSERT INTO t VALUES (3)")
    name_lsn = source.value("SELECT pg_create_restore_point('before four')")
    lsn = source.value("SELECT pg_current_wal_insert_lsn()")
    source.sql("INSERT INTO t VALUES (4)")
    source.sql("SELECT pg_switch_wal()")
    source.sql("INSERT INTO t VALUES (5)")
    bed.installation.archive_now()

    met: dict[str, tuple[list[int], dict[str, object]]] = {}
    for number, (kind, options) in enumerate(
        {
            "xid": ("--target-xid", xid),
            "xid exclusive": ("--target-xid", xid, "--target-exclusive"),
            "name": ("--target-name", "before four"),
            "lsn exclusive": ("--target-lsn", lsn, "--target-exclusive"),
            "immediate": ("--target", "immediate"),
            "latest": (),
        }.items()
    ):
        report = bed.restore(f"pg{number}", *options, "--start", "--port", str(free_port()))
        bed.stop_started()
        cluster = bed.started(f"pg{number}")
        met[kind] = rows(cluster), report["recovery"]
        cluster.stop()

    assert {kind: found for kind, (found, _) in met.items()} == {
        "xid": [1, 2],
        "xid exclusive": [1],
        "name": [1, 2, 3],
        "lsn exclusive": [1, 2, 3],
        "immediate": [],
        "latest": [1, 2, 3, 4, 5],
    }
    for kind, (_, recovery) in met.items():
        assert recovery["state"] == "promoted", kind
        assert recovery["problem"] is None, kind
        assert recovery["timeline"] == 2, kind
        assert recovery["running"], kind
    assert met["name"][1]["lsn"] == name_lsn


def test_at_the_target_the_server_pauses_or_shuts_down_when_asked_to(bed: RestoreBed) -> None:
    source = bed.source
    source.sql("INSERT INTO t VALUES (1)")
    source.sql("SELECT pg_create_restore_point('here')")
    source.sql("INSERT INTO t VALUES (2)")
    bed.installation.archive_now()
    target = ("--target-name", "here", "--start", "--port", str(free_port()))

    paused = bed.restore("paused", *target, "--target-action", "pause")["recovery"]
    shut = bed.restore("shut", *target, "--target-action", "shutdown")["recovery"]

    assert (paused["state"], paused["running"], paused["problem"]) == ("paused", True, None)
    assert (shut["state"], shut["running"], shut["problem"]) == ("shut down", False, None)
    bed.stop_started()
    cluster = bed.started("paused", recovered=False)
    # It takes connections as soon as it is consistent, which is before the target.
    cluster.wait_for("SELECT pg_get_wal_replay_pause_state()", "paused", timeout_s=60)
    assert cluster.value("SELECT pg_is_in_recovery()") == "t"
    assert rows(cluster) == [1]


def test_a_standby_follows_the_archive_and_takes_what_comes_later(bed: RestoreBed) -> None:
    source = bed.source
    source.sql("INSERT INTO t VALUES (1)")
    bed.installation.archive_now()

    bed.restore("standby", "--standby")

    standby = bed.started("standby", recovered=False)
    standby.wait_for("SELECT count(*) FROM t", "1")
    source.sql("INSERT INTO t VALUES (2)")
    bed.installation.archive_now()
    standby.wait_for("SELECT count(*) FROM t", "2")
    assert standby.value("SELECT pg_is_in_recovery()") == "t"


def test_rows_that_are_only_in_the_tail_of_the_current_segment_come_back(bed: RestoreBed) -> None:
    source = bed.source
    source.sql("INSERT INTO t VALUES (1)")
    bed.installation.archive_now()
    source.sql("INSERT INTO t VALUES (2)")
    flushed = Lsn.parse(source.value("SELECT pg_current_wal_flush_lsn()"))
    wait_until(
        lambda: Lsn.parse(bed.restore("pg", "--plan")["plan"]["end_lsn"]) >= flushed,
        "the tail to be shipped",
    )

    report = bed.restore("pg", "--start", "--port", str(free_port()))

    assert report["recovery"]["problem"] is None
    bed.stop_started()
    assert rows(bed.started("pg")) == [1, 2]
