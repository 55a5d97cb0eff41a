"""Restores that cannot be right are refused, and what is refused leaves nothing behind."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from tests.fix_postgres import find_bin_dir
from tests.fix_restore import RestoreBed


def test_a_target_that_cannot_be_reached_is_refused_before_anything_is_written(
    bed: RestoreBed,
) -> None:
    bed.source.sql("INSERT INTO t VALUES (1)")
    bed.installation.archive_now()
    tomorrow = (datetime.now(UTC) + timedelta(days=1)).isoformat(" ")

    for options, said in (
        (("--target-time", tomorrow), "no transaction ended after"),
        (("--target-time", "2001-01-01 00:00:00+00"), "no usable backup ends before"),
        (("--target-name", "nowhere"), "restore point 'nowhere' is not in the WAL"),
        (("--target-xid", "4000000"), "transaction 4000000 is not in the WAL"),
        (("--target-lsn", "FF/0"), "no whole record begins at or after FF/0"),
        (("--not-before", tomorrow), "recovery would end at"),
        (("--target-timeline", "7"), "nothing of timeline 7"),
    ):
        assert said in bed.restore("pg", *options, code=14)["stderr"]
        assert not bed.target("pg").exists()


def test_a_gap_is_named_and_latest_ends_before_it(bed: RestoreBed) -> None:
    bed.source.sql("INSERT INTO t VALUES (1)")
    bed.installation.archive_now()
    bed.source.sql("INSERT INTO t VALUES (2)")
    lost = bed.installation.archive_now()
    bed.source.sql("INSERT INTO t VALUES (3)")
    moment = bed.source.value("SELECT clock_timestamp()")
    last = bed.installation.archive_now()
    (stored,) = bed.installation.archive_dir.glob(f"wal/*/*/{lost}.zst.age")
    stored.unlink()

    refused = bed.restore("pg", "--target-time", moment, code=14)
    plan = bed.restore("pg", "--plan")["plan"]

    assert f"segment {lost} is missing" in refused["stderr"]
    assert plan["gap"] == lost
    assert plan["stranded"][0]["first"] == last  # the running server may have gone on
    assert not bed.target("pg").exists()


def test_a_directory_that_is_not_empty_is_refused_and_stays_as_it_is(bed: RestoreBed) -> None:
    target = bed.source.workspace.directory(f"{bed.installation.root.name}/pg")
    (target / "precious").write_text("keep me")

    refused = bed.restore("pg", code=1)

    assert "is not empty: precious is in it" in refused["stderr"]
    assert [path.name for path in target.iterdir()] == ["precious"]


def test_wal_that_the_user_of_postgresql_cannot_fetch_is_noticed_before_anything_is_written(
    bed: RestoreBed,
) -> None:
    # The identity reaches this command through the environment, which PostgreSQL will not have.
    installation = bed.installation
    hidden = installation.root / "elsewhere.txt"
    installation.identity_file.rename(hidden)
    installation.environment["WALKEEPER_ENCRYPTION_IDENTITY_FILE"] = str(hidden)

    refused = bed.restore("pg", code=1)
    planned = bed.restore("pg", "--plan", code=1)

    assert "cannot fetch WAL" in refused["stderr"]
    assert "key.txt" in refused["stderr"]
    assert "cannot fetch WAL" in planned["fetch_problem"]
    assert not bed.target("pg").exists()


def test_a_damaged_part_ends_the_restore_and_leaves_a_directory_that_cannot_start(
    bed: RestoreBed,
) -> None:
    part = max(
        bed.installation.archive_dir.glob("backups/*/data/*.tar.zst.age"),
        key=lambda path: path.stat().st_size,
    )
    content = bytearray(part.read_bytes())
    content[len(content) // 2] ^= 1
    part.write_bytes(content)

    refused = bed.restore("pg", code=30)

    assert part.name in refused["stderr"]
    assert "is not complete and cannot start" in refused["stderr"]
    target = bed.target("pg")
    assert "is being restored by walkeeper" in (target / "walkeeper.restoring").read_text()
    assert not (target / "global" / "pg_control").exists()
    start = bed.source.workspace.run(
        [find_bin_dir(15) / "pg_ctl", "-D", target, "-w", "start"], check=False
    )
    assert start.returncode != 0
    again = bed.restore("pg", code=1)
    assert "an unfinished restore lies in" in again["stderr"]


def test_a_part_that_is_missing_is_noticed_by_the_plan(bed: RestoreBed) -> None:
    part = min(bed.installation.archive_dir.glob("backups/*/data/*.tar.zst.age"))
    part.unlink()

    refused = bed.restore("pg", "--plan", code=30)

    assert f"{part.name} is missing" in refused["stderr"]
