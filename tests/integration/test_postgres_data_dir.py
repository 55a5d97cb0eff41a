"""The walk passes what PostgreSQL's own base backup copies, and finds damage in it."""

import os
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.fix_postgres import find_client_dir, versions_at_hand
from walkeeper.errors import PostgresError
from walkeeper.postgres.control_file import read_control_file
from walkeeper.postgres.data_dir import (
    EntryKind,
    list_tablespaces,
    version_directory,
    walk_data_directory,
    walk_tablespace,
)
from walkeeper.postgres.exclusions import find_checksummed_segment
from walkeeper.postgres.page_checksum import PageVerifier

QUIET = {"autovacuum": False, "checkpoint_timeout": "1h"}
ROUNDS_UNDER_LOAD = 3


def walk_all(cluster):
    """All entries: of the data directory under None, of each tablespace under its oid."""
    links = list_tablespaces(cluster.data_dir)
    control = read_control_file(cluster.data_dir)
    entries = {None: list(walk_data_directory(cluster.data_dir, links))}
    for link in links:
        folder = version_directory(cluster.version, control.catalog_version)
        entries[link.oid] = list(walk_tablespace(link, folder))
    return entries


def paths(entries, kind):
    return {entry.path for entry in entries if entry.kind is kind}


def tree(root):
    """Relative paths of all directories and of all files below a directory."""
    directories, files = set(), set()
    for folder, subfolders, names in os.walk(root):
        base = Path(folder).relative_to(root)
        directories |= {str(base / name) for name in subfolders}
        files |= {str(base / name) for name in names}
    return directories, files


@pytest.mark.parametrize("version", versions_at_hand())
def test_the_walk_is_that_of_pg_basebackup(make_cluster, version):
    cluster = make_cluster(
        version=version,
        tablespaces=["fast"],
        settings=QUIET | {"allow_in_place_tablespaces": True},
        fsync=False,
    )
    cluster.sql("CREATE TABLESPACE inplace LOCATION ''")
    cluster.sql(
        "CREATE TABLE a AS SELECT generate_series(1, 1000) AS n;"
        "CREATE UNLOGGED TABLE u AS SELECT generate_series(1, 100000) AS n; CREATE INDEX ON u(n);"
        "VACUUM u;"
        "CREATE UNLOGGED TABLE uf TABLESPACE fast AS SELECT 1 AS n;"
        "CREATE TABLE b TABLESPACE fast AS SELECT 1 AS n;"
        "CREATE TABLE i TABLESPACE inplace AS SELECT 1 AS n;"
        "CREATE DATABASE other TABLESPACE fast;"
    )
    for name in ("backup_label.old", "postgresql.auto.conf.tmp", "notes.txt"):
        (cluster.data_dir / name).write_text("x")
    (cluster.data_dir / "pg_replslot" / "left").mkdir()
    target = cluster.workspace.directory("copy")
    mapped = cluster.workspace.directory("copy-fast")
    argv = [find_client_dir(version) / "pg_basebackup", "-d", cluster.dsn, "-D", target]
    argv += ["-X", "none", "-c", "fast", "-T", f"{cluster.tablespaces['fast']}={mapped}"]
    cluster.run_as_owner(argv)
    ours = walk_all(cluster)

    directories, files = tree(target)
    (oid,) = (oid for oid in ours if oid is not None)
    expected = files - {"backup_label", "backup_label.old", "backup_manifest", "global/pg_control"}
    assert paths(ours[None], EntryKind.FILE) == expected
    ours_directories = paths(ours[None], EntryKind.DIRECTORY)
    assert ours_directories - {"pg_wal/summaries"} == directories - {
        f"pg_tblspc/{oid}",
        "pg_wal/summaries",
    }
    assert (paths(ours[oid], EntryKind.DIRECTORY), paths(ours[oid], EntryKind.FILE)) == tree(mapped)
    assert len(files) > 500


def test_temporary_and_unlogged_relations_stay_out_but_for_the_seed(make_cluster):
    cluster = make_cluster(settings=QUIET, fsync=False)
    database = cluster.value("SELECT oid FROM pg_database WHERE datname = 'postgres'")
    cluster.sql(
        "CREATE UNLOGGED TABLE u AS SELECT generate_series(1, 100000); VACUUM u; CHECKPOINT"
    )
    unlogged = cluster.value("SELECT pg_relation_filenode('u')")
    (cluster.data_dir / "base" / database / "t3_99999").write_text("x")
    assert (cluster.data_dir / "base" / database / f"{unlogged}_vm").exists()

    walked = walk_all(cluster)[None]

    of_it = {path for path in paths(walked, EntryKind.FILE) if f"/{unlogged}" in path}
    assert of_it == {f"base/{database}/{unlogged}_init"}
    assert f"base/{database}/t3_99999" not in paths(walked, EntryKind.FILE)


def test_links_and_special_files_are_reported_and_not_followed(make_cluster):
    cluster = make_cluster(fsync=False)
    outside = cluster.workspace.directory("outside")
    (outside / "secret").write_text("x")
    (cluster.data_dir / "pg_log").symlink_to(outside)
    (cluster.data_dir / "dangling").symlink_to("/nowhere")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(cluster.data_dir / "socket"))
        walked = walk_all(cluster)[None]

    skipped = {entry.path: entry.reason for entry in walked if entry.kind is EntryKind.SKIPPED}
    assert set(skipped) == {"pg_log", "dangling", "socket"}
    assert "symbolic link" in skipped["pg_log"]
    assert not any("secret" in entry.path for entry in walked)


def test_a_linked_pg_wal_becomes_a_directory_again(make_cluster):
    cluster = make_cluster(fsync=False)
    cluster.stop()
    elsewhere = cluster.workspace.root / "wal"
    cluster.wal_dir.rename(elsewhere)
    cluster.wal_dir.symlink_to(elsewhere)

    walked = {entry.path: entry for entry in walk_all(cluster)[None]}

    assert walked["pg_wal"].kind is EntryKind.DIRECTORY
    assert walked["pg_wal"].mode == 0o700
    assert walked["pg_wal/archive_status"].kind is EntryKind.DIRECTORY
    assert not any(path.startswith("pg_wal/0") for path in walked)


def test_a_tablespace_inside_the_data_directory_is_walked_once(make_cluster):
    cluster = make_cluster(fsync=False)
    inside = cluster.data_dir / "inside"
    inside.mkdir()
    os.chown(inside, cluster.workspace.owner.uid, cluster.workspace.owner.gid)
    cluster.sql(f"CREATE TABLESPACE odd LOCATION '{inside}'")
    cluster.sql("CREATE TABLE t TABLESPACE odd AS SELECT 1 AS n")

    walked = walk_all(cluster)

    (oid,) = (oid for oid in walked if oid is not None)
    assert "inside" in paths(walked[None], EntryKind.DIRECTORY)
    assert not any(entry.path.startswith("inside/") for entry in walked[None])
    assert paths(walked[oid], EntryKind.FILE)


def test_what_vanishes_during_the_walk_is_passed_over(make_cluster):
    cluster = make_cluster(fsync=False)
    cluster.sql("CREATE DATABASE gone")
    database = cluster.value("SELECT oid FROM pg_database WHERE datname = 'gone'")
    walked = []
    for entry in walk_data_directory(cluster.data_dir, []):
        walked.append(entry.path)
        if entry.path == f"base/{database}":
            cluster.sql("DROP DATABASE gone")
    assert "PG_VERSION" in walked
    assert not any(path.startswith(f"base/{database}/") for path in walked)


def test_a_data_directory_or_tablespace_that_is_missing_is_an_error(make_cluster):
    cluster = make_cluster(tablespaces=["fast"], fsync=False)
    (link,) = list_tablespaces(cluster.data_dir)

    with pytest.raises(PostgresError, match="cannot read"):
        list(walk_data_directory(cluster.data_dir / "nowhere", []))
    with pytest.raises(PostgresError, match="cannot read"):
        list_tablespaces(cluster.data_dir / "nowhere")
    with pytest.raises(PostgresError, match="missing"):
        list(walk_tablespace(link, "PG_15_1"))

    cluster.sql("DROP TABLESPACE fast")
    assert list(walk_tablespace(link, "PG_15_1")) == []


def damaged_pages(cluster, pause_s=0.01):
    """Path and block of every damaged page, read as a backup reads."""
    found = []
    for entry in walk_data_directory(cluster.data_dir, []):
        segment = find_checksummed_segment(entry.path)
        if entry.kind is not EntryKind.FILE or segment is None:
            continue
        descriptor = os.open(entry.source, os.O_RDONLY)
        try:
            verifier = PageVerifier(
                segment,
                lambda offset, size, fd=descriptor: os.pread(fd, size, offset),
                sleep=lambda seconds: time.sleep(pause_s),
            )
            offset = 0
            while block := os.pread(descriptor, 1 << 20, offset):
                found += [(entry.path, number) for number in verifier.feed(offset, block)]
                offset += len(block)
        finally:
            os.close(descriptor)
    return found


@pytest.mark.parametrize("version", versions_at_hand())
def test_a_planted_damage_is_found_by_file_and_block(make_cluster, version):
    cluster = make_cluster(version=version, fsync=False)
    cluster.sql("CREATE TABLE t AS SELECT generate_series(1, 100000) AS n; VACUUM t")
    path = cluster.value("SELECT pg_relation_filepath('t')")
    cluster.stop()
    assert damaged_pages(cluster) == []

    with (cluster.data_dir / path).open("r+b") as file:
        file.seek(7 * 8192 + 4321)
        file.write(b"bit rot")

    assert damaged_pages(cluster) == [(path, 7)]
    report = cluster.run_as_owner(
        [find_client_dir(version) / "pg_checksums", "-D", cluster.data_dir], check=False
    )
    assert "block 7" in report.stderr


def test_a_busy_server_raises_no_alarm(make_cluster):
    cluster = make_cluster(
        settings={"bgwriter_delay": "10ms", "shared_buffers": "1MB"}, fsync=False
    )
    cluster.pgbench("-i", "-q")
    enough = threading.Event()

    def keep_busy():
        while not enough.is_set():
            cluster.pgbench("-c", "2", "-T", "1")

    with ThreadPoolExecutor(1) as background:
        load = background.submit(keep_busy)
        try:
            for _ in range(ROUNDS_UNDER_LOAD):
                assert damaged_pages(cluster, pause_s=0.05) == []
        finally:
            enough.set()
        load.result()
