"""A backup is a cluster for whoever has stock tools, the key and FORMAT.md."""

import os
from pathlib import Path

import pytest

from tests.fix_backup import part_lists
from tests.fix_postgres import find_client_dir

QUIET = {"autovacuum": False}


@pytest.fixture
def make_archiving(make_installation):
    """An installation that archives, its cluster made with these options."""

    def make(**options):
        one = make_installation(**options)
        one.initialise()
        one.start_agent()
        one.wait_recognised()
        return one

    return make


@pytest.fixture
def by_hand_cluster(adopt_cluster):
    """What was unpacked, recovered to the end of the archive."""

    def start(hand, *options):
        cluster = adopt_cluster(hand.data_dir, hand.installation.cluster.version)
        cluster.start(*options)
        cluster.wait_for("SELECT pg_is_in_recovery()", "f")
        return cluster

    return start


def test_by_hand_a_backup_under_load_has_every_acknowledged_row(
    make_archiving, by_hand, by_hand_cluster, start_load
):
    """Parts, tablespaces and WAL by the commands of FORMAT.md; the load ran all the time."""
    one = make_archiving(tablespaces=["fast"])
    cluster = one.cluster
    cluster.sql("CREATE TABLE noted (n int) TABLESPACE fast")
    cluster.pgbench("-i", "-q", "-s", "3", "--tablespace=fast")
    with start_load(cluster):
        report = one.json("backup", "--label", "under load")
        cluster.sql("INSERT INTO noted SELECT generate_series(1, 1000)")
    transfers = cluster.value("SELECT count(*) FROM pgbench_history")
    total = cluster.value("SELECT sum(abalance) FROM pgbench_accounts")
    assert int(transfers) > 0
    one.archive_now()
    assert (report["checksum_findings"], report["damaged"], report["left_out"]) == (0, [], [])
    assert report["parts"] >= 4  # two readers, the tablespace, and the last one

    hand = by_hand(one)
    hand.unpack(report["backup"])
    hand.prepare()
    copy = by_hand_cluster(hand)

    assert copy.value("SELECT count(*) FROM noted") == "1000"
    assert copy.value("SELECT count(*) FROM pgbench_history") == transfers
    assert copy.value("SELECT sum(abalance) FROM pgbench_accounts") == total
    location = copy.value("SELECT pg_tablespace_location(oid) FROM pg_tablespace WHERE oid > 10000")
    assert location.startswith(str(hand.root)), "the copy must not touch the source's tablespace"


def test_by_hand_a_failure_stops_recovery_instead_of_ending_it(
    make_archiving, by_hand, adopt_cluster
):
    one = make_archiving()
    report = one.json("backup")
    hand = by_hand(one)
    hand.unpack(report["backup"])
    hand.prepare()
    wrong = one.workspace.run(["age-keygen"]).stdout
    (one.root / "wrong.txt").write_text(wrong)
    (one.root / "wrong.txt").chmod(0o644)
    script = hand.root / "wal-fetch.sh"
    script.write_text(script.read_text().replace(str(one.identity_file), f"{one.root}/wrong.txt"))
    copy = adopt_cluster(hand.data_dir, 15)
    copy.spawn()
    assert copy.wait_stopped() != 0
    assert "could not restore file" in copy.log
    assert "from archive: command not executable" in copy.log  # its words for 126


@pytest.mark.parametrize(
    ("version", "segment_size_mb", "manifest_version"), [(15, 64, 1), (18, 1, 2)]
)
def test_by_hand_other_versions_and_segment_sizes(
    make_archiving, by_hand, by_hand_cluster, version, segment_size_mb, manifest_version
):
    one = make_archiving(version=version, segment_size_mb=segment_size_mb)
    # Nobody is forced to have a schema named public.
    one.cluster.sql(
        "CREATE SCHEMA shop; CREATE TABLE shop.t AS SELECT generate_series(1, 500) AS n;"
        "DROP SCHEMA public"
    )
    report = one.json("backup")
    one.archive_now()
    hand = by_hand(one)
    hand.unpack(report["backup"])
    first = (hand.data_dir / "backup_manifest").read_text().splitlines()[0]
    assert first == f'{{ "PostgreSQL-Backup-Manifest-Version": {manifest_version},'
    hand.prepare()
    assert by_hand_cluster(hand).value("SELECT sum(n) FROM shop.t") == "125250"


def test_the_set_of_files_is_that_of_pg_basebackup(make_archiving, by_hand):
    one = make_archiving(
        tablespaces=["fast"], settings=QUIET | {"allow_in_place_tablespaces": True}
    )
    cluster = one.cluster
    cluster.sql("CREATE TABLESPACE inplace LOCATION ''")
    for space in ("fast", "inplace", "pg_default"):
        cluster.sql(f"CREATE TABLE t_{space} TABLESPACE {space} AS SELECT generate_series(1, 99)")
        cluster.sql(f"CREATE UNLOGGED TABLE u_{space} (n int PRIMARY KEY) TABLESPACE {space}")
        cluster.sql(f"INSERT INTO u_{space} SELECT generate_series(1, 100)")
    for name in ("pgsql_tmp_left", "backup_label.old", "postgresql.auto.conf.tmp", "note"):
        (cluster.data_dir / name).write_text("something")
        os.chown(cluster.data_dir / name, one.workspace.owner.uid, one.workspace.owner.gid)
    report = one.json("backup")

    own = one.workspace.directory("own")
    argv = [find_client_dir(15) / "pg_basebackup", "-D", own, "-d", cluster.dsn, "-c", "fast"]
    location = cluster.tablespaces["fast"]
    moved = one.workspace.directory("own-fast")
    one.workspace.run([*argv, "-X", "none", "-T", f"{location}={moved}"])

    hand = by_hand(one)
    hand.unpack(report["backup"])
    ours, theirs = tree(hand.data_dir), tree(own)
    # PostgreSQL's own copies that one, and in plain format it makes links instead of a map.
    assert theirs - ours == {"backup_label.old"}
    assert ours - theirs == {"tablespace_map"}
    listed = set(part_lists(hand, report["backup"]))
    assert listed == {name for name in ours if not name.endswith("/")}


def tree(root):
    found = set()
    for folder, folders, names in os.walk(root, followlinks=True):
        base = Path(folder).relative_to(root)
        found |= {str(base / name) for name in names}
        found |= {f"{base / name}/" for name in folders}
    return found


def test_configuration_outside_the_data_directory_is_kept_beside_it(
    make_archiving, make_installation, by_hand, by_hand_cluster
):
    """As on Debian: nothing of it in the data directory, and a data_directory named in it."""
    one = make_installation()
    cluster, etc = one.cluster, one.workspace.directory("etc")
    cluster.stop()
    (etc / "conf.d").mkdir()
    for name in ("postgresql.conf", "pg_hba.conf", "pg_ident.conf"):
        (cluster.data_dir / name).rename(etc / name)
    with (etc / "postgresql.conf").open("a") as conf:
        conf.write(f"data_directory = '{cluster.data_dir}'\n")
        conf.write(f"hba_file = '{etc}/pg_hba.conf'\nident_file = '{etc}/pg_ident.conf'\n")
        conf.write("include_dir 'conf.d'\ninclude_if_exists = '../etc/more.conf'\n")
    (etc / "conf.d" / "one.conf").write_text("work_mem = '5MB'\n")
    (etc / "conf.d" / "ignored.txt").write_text("nothing\n")
    (etc / "more.conf").write_text("work_mem = '6MB'\n")
    for path in [etc, *etc.rglob("*")]:
        os.chown(path, one.workspace.owner.uid, one.workspace.owner.gid)
    options = ("-c", f"config_file={etc}/postgresql.conf")
    cluster.start(*options)
    one.run("init", "--apply")
    cluster.stop()
    cluster.start(*options)
    one.start_agent()
    one.wait_recognised()
    cluster.sql("CREATE TABLE t AS SELECT generate_series(1, 10) AS n")
    report = one.json("backup")
    one.archive_now()

    hand = by_hand(one)
    hand.unpack(report["backup"])
    saved = hand.data_dir / "walkeeper_config"
    kept = {f"/{path.relative_to(saved)}" for path in saved.rglob("*") if path.is_file()}
    assert kept == {
        *(f"{etc}/{name}" for name in ("postgresql.conf", "pg_hba.conf", "pg_ident.conf")),
        f"{etc}/conf.d/one.conf",
        f"{etc}/more.conf",
    }
    hand.prepare()
    hand.run(f"cd {hand.data_dir} && touch postgresql.conf pg_ident.conf")
    hand.run(f"echo local all all trust > {hand.data_dir}/pg_hba.conf")
    assert by_hand_cluster(hand).value("SELECT sum(n) FROM t") == "55"


def test_names_of_any_bytes_survive(make_archiving, by_hand):
    one = make_archiving()
    odd = [b"caf\xe9", "schön".encode(), b"a\nb", b' "quoted" \\', b"x" * 150]
    folder = one.cluster.data_dir / os.fsdecode(b"od\xffd")
    folder.mkdir()
    for name in odd:
        (folder / os.fsdecode(name)).write_bytes(name)
    (folder / os.fsdecode(b"li\xfcnk")).symlink_to(os.fsdecode(b"nowhere\xfe"))
    report = one.json("backup")
    assert report["left_out_files"] == 1
    assert "li\\udcfcnk: a symbolic link" in report["left_out"][0]

    hand = by_hand(one)
    hand.unpack(report["backup"])
    found = {
        os.fsencode(path.name): path.read_bytes()
        for path in (hand.data_dir / folder.name).iterdir()
    }
    assert found == {name: name for name in odd}
