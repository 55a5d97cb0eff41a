"""A real recovery through the real hook: it ends where the archive ends, and nowhere else."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.fix_archive import TestKeys, make_archive
from tests.fix_postgres import (
    BARE_ENVIRONMENT,
    Cluster,
    MakeCluster,
    copy_whole,
    find_client_dir,
    wait_until,
)
from walkeeper.core.layout import wal_object
from walkeeper.core.lsn import Lsn
from walkeeper.core.wal import WalSegment, parse_wal_file
from walkeeper.keys.files import format_identity_file
from walkeeper.postgres.recovery_conf import restore_command
from walkeeper.postgres.wal_dir import WalDirectory
from walkeeper.repository.archive import Archive
from walkeeper.services.budget import ByteBudget
from walkeeper.services.wal_upload import WalSource, WalUploader
from walkeeper.storage.filesystem import FilesystemStorage

ROUNDS = 12
"""Segments with a row each; the backup was taken before the first."""


@dataclass
class Site:
    """A source that was archived, a backup of it, and a fetch service on the archive."""

    source: Cluster
    archive: Archive
    root: Path
    backup: Path
    socket: Path
    hook: Path
    adopt: Callable[..., Cluster]
    service: subprocess.Popen[bytes] | None = None

    def segment(self, row: int) -> Path:
        """The stored segment that holds the insert of this row."""
        return self.root / self.archive.path(wal_object(self.segments[row]))

    @property
    def segments(self) -> dict[int, WalSegment]:
        lsns = self.source.workspace.root / "lsns"
        size = self.archive.segment_size
        return {
            row: WalSegment.at(1, Lsn.parse(text), size)
            for row, text in enumerate(lsns.read_text().split(), 1)
        }

    def restored(self, signal_file: str = "recovery.signal", end: Lsn | None = None) -> Cluster:
        """A copy of the backup that is ready to recover."""
        workspace = self.source.workspace
        data_dir = workspace.directory("restored")
        workspace.run(["cp", "-a", f"{self.backup}/.", data_dir])
        workspace.run(["touch", data_dir / signal_file])
        cluster = self.adopt(data_dir)
        argv = [str(self.hook), "wal-fetch", "--socket", str(self.socket)]
        command = restore_command(argv, 1, end)
        cluster.configure({"archive_mode": "off", "restore_command": command})
        return cluster

    def rows(self, cluster: Cluster) -> list[int]:
        return [int(row) for (row,) in cluster.sql("SELECT n FROM t ORDER BY n")]


async def upload_all(archive: Archive, directory: Path, source: Cluster) -> None:
    wal_dir = WalDirectory(directory, archive._pool)
    uploader = WalUploader(
        archive,
        WalSource(directory, int(archive.record.system_identifier), source.version),
        pool=archive._pool,
        budget=ByteBudget(64 << 20),
        spool_dir=directory,
        puts=4,
    )
    for path in sorted(directory.iterdir()):
        wal = parse_wal_file(path.name)
        identity = await wal_dir.find_identity(wal)
        assert identity is not None
        await uploader.upload(wal, identity)


@pytest.fixture
async def site(
    make_cluster: MakeCluster,
    adopt_cluster: Callable[..., Cluster],
    pool: ThreadPoolExecutor,
    keys: TestKeys,
    walkeeper_bin: Path,
) -> Site:
    source = make_cluster(segment_size_mb=1, archive_mode="on", start=False, fsync=False)
    workspace = source.workspace
    directory = workspace.directory("collected")
    source.configure({"archive_command": copy_whole(directory)})
    source.start()
    source.sql("CREATE TABLE t (n int)")
    backup = workspace.directory("backup")
    program = find_client_dir(15) / "pg_basebackup"
    workspace.run([program, "-D", backup, "-d", source.dsn, "-X", "none", "-c", "fast", "-N"])
    lsns = []
    for row in range(1, ROUNDS + 1):
        source.sql(f"INSERT INTO t VALUES ({row})")
        lsns.append(source.value("SELECT pg_current_wal_flush_lsn()"))
        last = source.value("SELECT pg_walfile_name(pg_switch_wal())")
    (workspace.root / "lsns").write_text("\n".join(lsns))
    wait_until((directory / last).exists, f"{last} to be archived")
    source.wait_for("SELECT last_archived_wal FROM pg_stat_archiver", last)
    identifier = int(source.control()["Database system identifier"])
    source.stop("immediate")

    root = workspace.directory("repository")
    archive = await make_archive(
        FilesystemStorage(root, pool), keys, pool, system_identifier=identifier
    )
    await upload_all(archive, directory, source)
    sockets = workspace.directory("sockets")
    own(root, source)
    return Site(source, archive, root, backup, sockets / "fetch.sock", walkeeper_bin, adopt_cluster)


def own(path: Path, cluster: Cluster) -> None:
    owner = cluster.workspace.owner
    for name in (path, *path.rglob("*")):
        os.chown(name, owner.uid, owner.gid)


@pytest.fixture
def serve(site: Site, keys: TestKeys) -> Iterator[Site]:
    """The site with its fetch service, a process of the cluster's user, running."""
    workspace = site.source.workspace
    files = workspace.directory("configuration")
    state = workspace.directory("state")
    identity = files / "key.txt"
    now = datetime.now(UTC)
    identity.write_text(format_identity_file(keys.identity, keys.recipient, keys.writer, now))
    identity.chmod(0o600)
    config = files / "walkeeper.toml"
    config.write_text(
        f'[[repository]]\nurl = "file://{site.root}"\n'
        f'[encryption]\nidentity_file = "{identity}"\n'
        f'[agent]\nstate_dir = "{state}"\n'
    )
    own(files, site.source)
    argv = [site.hook, "fetch-service", "--listen", site.socket, "--idle", "60"]
    with (site.socket.parent / "log").open("wb") as log:
        process = subprocess.Popen(
            [*map(str, argv), "--config", str(config)],
            stdout=log,
            stderr=log,
            cwd="/",
            env=BARE_ENVIRONMENT,
            **workspace.owner.process_options(),
        )
    site.service = process
    wait_until(lambda: site.socket.exists() or process.poll() is not None, "the service to listen")
    assert process.poll() is None, (site.socket.parent / "log").read_text()
    yield site
    process.send_signal(signal.SIGKILL)
    process.wait(10)


def test_recovery_goes_to_the_end_of_the_archive_and_promotes(serve: Site) -> None:
    server = serve.restored()
    server.start()
    server.wait_for("SELECT pg_is_in_recovery()", "f")
    assert serve.rows(server) == list(range(1, ROUNDS + 1))
    assert server.value("SELECT timeline_id FROM pg_control_checkpoint()") == "2"


def refuse_to_start(server: Cluster) -> None:
    """The server ends by itself, has said why, and is still on timeline 1 and in recovery."""
    server.spawn()
    assert server.wait_stopped() != 0
    assert "FATAL" in server.log
    assert "selected new timeline" not in server.log
    assert server.control()["Latest checkpoint's TimeLineID"] == "1"
    assert (server.data_dir / "recovery.signal").exists()


def test_a_hole_stops_the_recovery_and_the_server_does_not_promote(serve: Site) -> None:
    serve.segment(6).unlink()
    server = serve.restored()
    refuse_to_start(server)
    assert f"{serve.segments[6]} is missing, and {serve.segments[7]} behind it" in server.log


def test_an_outage_stops_the_recovery_and_ends_with_it(serve: Site) -> None:
    aside = serve.root.with_name("elsewhere")
    serve.root.rename(aside)
    server = serve.restored()
    # The store is asked again for two minutes: nobody has to wait for that here.
    command = server.data_dir / "postgresql.conf"
    command.write_text(command.read_text().replace("wal-fetch ", "wal-fetch --timeout 2 "))
    refuse_to_start(server)
    aside.rename(serve.root)
    server.start()
    server.wait_for("SELECT pg_is_in_recovery()", "f")
    assert serve.rows(server) == list(range(1, ROUNDS + 1))


def test_a_damaged_segment_stops_the_recovery(serve: Site) -> None:
    damaged = serve.segment(6)
    body = bytearray(damaged.read_bytes())
    body[-20] ^= 1
    damaged.write_bytes(bytes(body))
    server = serve.restored()
    refuse_to_start(server)
    assert str(serve.segments[6]) in server.log


def test_with_an_end_stranded_segments_behind_it_do_not_stop_the_recovery(serve: Site) -> None:
    serve.segment(6).unlink()
    server = serve.restored(end=serve.segments[6].begin(serve.archive.segment_size))
    server.start()
    server.wait_for("SELECT pg_is_in_recovery()", "f")
    assert serve.rows(server) == [1, 2, 3, 4, 5]


def test_a_standby_lives_through_a_hole_and_goes_on_when_it_is_filled(serve: Site) -> None:
    hidden = serve.root.with_name("hidden")
    shutil.move(serve.segment(6), hidden)
    server = serve.restored("standby.signal")
    server.configure({"wal_retrieve_retry_interval": "100ms"})
    server.start()
    server.wait_for("SELECT count(*) FROM t", "5")
    shutil.move(hidden, serve.segment(6))
    server.wait_for("SELECT count(*) FROM t", str(ROUNDS))
    assert server.value("SELECT pg_is_in_recovery()") == "t"
    assert "fetch_failed_in_standby_mode" in (serve.socket.parent / "log").read_text()
