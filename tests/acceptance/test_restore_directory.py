"""What lies in a restored directory: PostgreSQL's own tools accept it, and it harms nobody."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable

import pytest

from tests.fix_cli import Installation, MakeInstallation
from tests.fix_postgres import BARE_ENVIRONMENT, free_port
from tests.fix_restore import RestoreBed, rows
from walkeeper.agent.fetch_door import DOOR


def test_pg_verifybackup_accepts_a_restored_directory_before_its_first_start(
    bed: RestoreBed,
) -> None:
    bed.restore("pg")

    bed.verify("pg")
    assert (bed.target("pg") / "walkeeper.detached").exists()


def test_the_first_wal_is_on_its_way_before_postgresql_is_started(bed: RestoreBed) -> None:
    bed.source.sql("INSERT INTO t VALUES (1)")
    bed.installation.archive_now()
    report = bed.restore("copy")
    assert report["seconds"]["ahead"] > 0
    assert (bed.target("copy") / "pg_wal" / DOOR).is_file()
    assert rows(bed.started("copy")) == [1]


def test_a_restored_copy_archives_nothing_unless_it_takes_the_place_of_its_source(
    bed: RestoreBed,
) -> None:
    bed.source.sql("INSERT INTO t VALUES (1)")
    bed.installation.archive_now()
    bed.restore("copy")
    bed.restore("heir", "--resume-archiving")

    copy, heir = bed.started("copy"), bed.started("heir")

    assert (copy.value("SHOW archive_mode"), heir.value("SHOW archive_mode")) == ("off", "on")
    assert copy.value("SHOW max_logical_replication_workers") == "0"
    assert not (bed.target("heir") / "walkeeper.detached").exists()
    assert rows(copy) == rows(heir) == [1]


@pytest.fixture
def spread(make_installation: MakeInstallation) -> Installation:
    """A source with two tablespaces, archiving."""
    installation = make_installation(tablespaces=("fast", "slow"))
    installation.initialise()
    installation.start_agent()
    installation.wait_recognised()
    return installation


def test_tablespaces_go_where_they_are_mapped_to_and_never_onto_the_live_ones(
    spread: Installation, make_bed: Callable[..., RestoreBed]
) -> None:
    bed = make_bed(spread)
    source = bed.source
    source.sql("CREATE TABLE t (n int) TABLESPACE fast; CREATE TABLE u (n int) TABLESPACE slow")
    source.sql("INSERT INTO t VALUES (1); INSERT INTO u VALUES (2)")
    spread.run("backup")
    oid = source.value("SELECT oid FROM pg_tablespace WHERE spcname = 'slow'")
    fast, slow = spread.root / "new-fast", spread.root / "new-slow"

    unmapped = bed.restore("pg", code=1)
    nested = bed.restore(
        "pg",
        "--tablespace-mapping",
        f"{source.tablespaces['fast']}={bed.target('pg') / 'inside'}",
        code=2,
    )
    bed.restore(
        "pg",
        "--tablespace-mapping",
        f"{source.tablespaces['fast']}={fast}",
        "--tablespace-mapping",
        f"{oid}={slow}",
    )

    assert "is not empty" in unmapped["stderr"]
    assert "would lie in each other" in nested["stderr"]
    bed.verify("pg")
    cluster = bed.started("pg")
    assert rows(cluster) == [1]
    assert cluster.value("SELECT n FROM u") == "2"
    places = cluster.sql(
        "SELECT pg_tablespace_location(oid) FROM pg_tablespace WHERE spcname ~ 'fast|slow'"
    )
    assert {place for (place,) in places} == {str(fast), str(slow)}
    shutil.rmtree(fast)  # had it used the source's files, the source would not mind
    assert rows(source) == [1]


def test_a_tablespace_made_after_the_backup_is_not_written_to_while_somebody_uses_it(
    bed: RestoreBed,
) -> None:
    source, location = bed.source, bed.installation.workspace.directory("later")
    source.sql(f"CREATE TABLESPACE later LOCATION '{location}'")
    source.sql("CREATE TABLE live (n int) TABLESPACE later; INSERT INTO live VALUES (1)")
    target = source.value("SELECT pg_current_wal_lsn()")
    bed.installation.archive_now()
    source.sql("CHECKPOINT")
    before = {path: path.stat().st_mtime_ns for path in location.rglob("*")}
    bed.restore("pg", "--target-lsn", target, "--target-action", "pause")

    refused = bed.adopt(bed.target("pg"), source.version)
    refused.spawn()
    assert refused.wait_stopped() != 0

    assert f"creates a tablespace at {location}, where another cluster has files" in refused.log
    assert {path: path.stat().st_mtime_ns for path in location.rglob("*")} == before
    assert source.value("SELECT n FROM live") == "1"

    # Where nobody uses the directory, recovery makes it its own, and may begin anew.
    source.stop()
    location.rename(location.with_name("moved"))
    bed.installation.workspace.directory("later")
    for end in ("immediate", "fast"):
        restored = bed.started("pg", recovered=False)
        restored.wait_for("SELECT pg_get_wal_replay_pause_state()", "paused", timeout_s=60)
        assert restored.value("SELECT n FROM live") == "1"
        restored.stop(end)


@pytest.fixture
def debian(make_installation: MakeInstallation) -> Installation:
    """A source whose configuration lies outside its data directory, as Debian has it."""
    installation = make_installation(start=False)
    cluster = installation.cluster
    etc = installation.workspace.directory("etc")
    for name in ("postgresql.conf", "pg_hba.conf", "pg_ident.conf"):
        (cluster.data_dir / name).rename(etc / name)
    with (etc / "postgresql.conf").open("a") as conf:
        conf.write(f"data_directory = '{cluster.data_dir}'\n")
        conf.write(f"hba_file = '{etc}/pg_hba.conf'\nident_file = '{etc}/pg_ident.conf'\n")
        conf.write("max_connections = 123\narchive_mode = on\n")
    cluster.start("-c", f"config_file={etc}/postgresql.conf")
    installation.run("init", "--apply")
    installation.start_agent()
    installation.wait_recognised()
    return installation


def test_a_cluster_configured_elsewhere_starts_by_itself_and_never_as_its_source(
    debian: Installation, make_bed: Callable[..., RestoreBed]
) -> None:
    bed = make_bed(debian)
    bed.source.sql("CREATE TABLE t (n int); INSERT INTO t VALUES (1)")
    debian.run("backup")

    report = bed.restore("pg", "--start", "--port", str(free_port()))

    assert report["recovery"]["problem"] is None
    assert any("lay outside the data directory" in note for note in report["notes"])
    assert any(
        "is saved as walkeeper_config/" in text for text in report["plan"]["saved_configuration"]
    )
    bed.stop_started()
    cluster = bed.started("pg")
    assert cluster.value("SHOW data_directory") == str(bed.target("pg"))
    assert cluster.value("SHOW max_connections") == "123"
    assert rows(cluster) == [1]


def test_files_restored_by_root_belong_to_who_will_run_the_server(bed: RestoreBed) -> None:
    installation, owner = bed.installation, bed.source.workspace.owner
    argv = [installation.program, "--config", installation.config_file, "restore"]
    given = bed.source.workspace.directory(f"{installation.root.name}/given")
    for target in (bed.target("new"), given):
        subprocess.run([*argv, "--target-dir", target], check=True, env=BARE_ENVIRONMENT)

    for target in (bed.target("new"), given):
        owners = {path.lstat().st_uid for path in [target, *target.rglob("*")]}
        assert owners == {owner.uid}
        assert target.stat().st_mode & 0o777 == 0o700
    assert rows(bed.started("given")) == []
