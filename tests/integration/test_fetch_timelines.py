"""Real recoveries past promotions: each ends exactly where its path and what is stored of it end.

A primary and its standby part ways in the middle of a segment; both go on. What of it is in the
archive differs from test to test, what recovers from it is PostgreSQL through the installed hook.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.fix_archive import ONE_MIB, TestKeys, make_archive
from tests.fix_fetch import put_object
from tests.fix_fetch_wal import put_cut_off, put_tail, recycled
from tests.fix_postgres import (
    BARE_ENVIRONMENT,
    Cluster,
    MakeCluster,
    Workspace,
    copy_whole,
    find_client_dir,
    wait_until,
)
from walkeeper.core.layout import wal_object
from walkeeper.core.lsn import Lsn
from walkeeper.core.timeline import TimelineHistory
from walkeeper.core.wal import TimelineHistoryFile, WalSegment, parse_wal_file
from walkeeper.core.walcheck import CutOff, SegmentCheck
from walkeeper.keys.files import format_identity_file
from walkeeper.postgres.recovery_conf import restore_command
from walkeeper.repository.archive import Archive
from walkeeper.storage.filesystem import FilesystemStorage

COMMON = list(range(1, 11))
DEAD = [101, 102, 103]
"""Rows that the old primary took after the promotion; the first lies in the fork's segment."""
LIVE = [201, 202]
"""Rows of timeline 2 that were shipped with its tail; 203 and 204 came later."""


@dataclass(frozen=True)
class Split:
    """What a primary and its promoted standby left; ``fork`` lies in the middle of a segment."""

    root: Path
    system_identifier: int
    fork: Lsn
    shipped: Lsn

    @property
    def backup(self) -> Path:
        return self.root / "backup"

    def files(self, timeline: int) -> list[Path]:
        """What the server of a timeline archived, its history file and ``.partial`` left out."""
        names = sorted((self.root / "archived").glob(f"{timeline:08X}*"))
        return [path for path in names if len(path.name) == 24]

    def content(self, wal: WalSegment) -> bytes:
        return (self.root / "archived" / str(wal)).read_bytes()

    @property
    def history(self) -> bytes:
        return (self.root / "archived" / "00000002.history").read_bytes()

    def at_fork(self, timeline: int) -> WalSegment:
        """The segment that holds the fork."""
        return WalSegment.at(timeline, self.fork, ONE_MIB)


@pytest.fixture(scope="module")
def split_root() -> Iterator[Path]:
    root = Path(tempfile.mkdtemp(prefix="walkeeper-split-", dir="/var/tmp"))
    root.chmod(0o755)
    yield root
    shutil.rmtree(root)


@pytest.fixture
def split(
    split_root: Path, make_cluster: MakeCluster, make_standby: Callable[..., Cluster]
) -> Split:
    """Made once for all tests here."""
    if not (split_root / "facts").exists():
        make_split(split_root, make_cluster, make_standby)
    identifier, shipped = (split_root / "facts").read_text().split()
    history = (split_root / "archived" / "00000002.history").read_text()
    fork = TimelineHistory.parse(2, history).switches[0].at
    return Split(split_root, int(identifier), fork, Lsn.parse(shipped))


def make_split(root: Path, make_cluster: MakeCluster, make_standby: Callable[..., Cluster]) -> None:
    archived = root / "archived"
    archived.mkdir()
    settings = {"archive_command": f"test -e {archived}/%f || ({copy_whole(archived)})"}
    primary = make_cluster(segment_size_mb=1, archive_mode="on", fsync=False, settings=settings)
    os.chown(archived, primary.workspace.owner.uid, primary.workspace.owner.gid)
    primary.sql("CREATE TABLE t (n int)")
    backup = root / "backup"
    backup.mkdir(mode=0o700)
    os.chown(backup, primary.workspace.owner.uid, primary.workspace.owner.gid)
    program = find_client_dir(15) / "pg_basebackup"
    primary.run_as_owner(
        [program, "-D", backup, "-d", primary.dsn, "-X", "none", "-c", "fast", "-N"]
    )
    standby = make_standby(primary)
    insert(primary, COMMON[:5], switch=True)
    primary.sql("SELECT pg_logical_emit_message(false, 'room', repeat('x', 100000))")
    insert(primary, COMMON[5:])
    position = primary.value("SELECT pg_current_wal_flush_lsn()")
    standby.wait_for(f"SELECT pg_last_wal_replay_lsn() >= '{position}'", "t")
    standby.promote()
    insert(primary, DEAD[:1])
    primary.sql("SELECT pg_switch_wal()")
    last = [insert(primary, DEAD[1:], switch=True)]
    insert(standby, LIVE)
    shipped = standby.value("SELECT pg_current_wal_flush_lsn()")
    last.append(insert(standby, [203, 204], switch=True))
    for name in last:
        wait_until((archived / name).exists, f"{name} to be archived")
    identifier = primary.control()["Database system identifier"]
    primary.stop("immediate")
    standby.stop("immediate")
    (root / "facts").write_text(f"{identifier} {shipped}")


def insert(server: Cluster, rows: Iterable[int], *, switch: bool = False) -> str:
    """Insert each row, with ``switch`` into a segment of its own; returns the last one's name."""
    last = ""
    for row in rows:
        server.sql(f"INSERT INTO t VALUES ({row})")
        if switch:
            last = server.value("SELECT pg_walfile_name(pg_switch_wal())")
    return last


@dataclass
class Site:
    """An archive with nothing in it yet, and a fetch service on it."""

    split: Split
    archive: Archive
    root: Path
    workspace: Workspace
    socket: Path
    hook: Path
    adopt: Callable[..., Cluster]

    async def put(self, *files: Path) -> None:
        for file in files:
            name = wal_object(parse_wal_file(file.name))  # type: ignore[arg-type]
            await put_object(self.archive, name, file.read_bytes())
        self.own()

    async def put_history(self, timeline: int, content: bytes) -> None:
        await put_object(self.archive, wal_object(TimelineHistoryFile(timeline)), content)
        self.own()

    async def put_tail(self, wal: WalSegment, content: bytes, end: int) -> None:
        await put_tail(self.archive, wal, content, [end // 3, end // 2, end])
        self.own()

    async def put_cut_off(self, wal: WalSegment, offset: int, code: str) -> None:
        content = recycled(self.split.content(wal), offset)
        await put_cut_off(self.archive, wal, content, code)
        self.own()

    def own(self) -> None:
        """The service runs as the clusters' owner."""
        for name in (self.root, *self.root.rglob("*")):
            os.chown(name, self.workspace.owner.uid, self.workspace.owner.gid)

    @property
    def log(self) -> str:
        return (self.socket.parent / "log").read_text()

    def command(self, timeline: int | None = None, end: Lsn | None = None) -> str:
        """A restore_command as restore writes it; without a timeline as somebody else does."""
        argv = [str(self.hook), "wal-fetch", "--socket", str(self.socket)]
        if timeline is None:
            return f"{' '.join(argv)} %f %p"
        return restore_command(argv, timeline, end)

    def restored(self, command: str, settings: Mapping[str, str] | None = None) -> Cluster:
        """A copy of the backup that is ready to recover."""
        data_dir = self.workspace.directory("restored")
        self.workspace.run(["cp", "-a", f"{self.split.backup}/.", data_dir])
        self.workspace.run(["touch", data_dir / "recovery.signal"])
        cluster = self.adopt(data_dir)
        cluster.configure(
            {"archive_mode": "off", "restore_command": command} | dict(settings or {})
        )
        return cluster

    def recover(self, command: str, settings: Mapping[str, str] | None = None) -> Cluster:
        """Recover to the end and promote."""
        server = self.restored(command, settings)
        server.start()
        server.wait_for("SELECT pg_is_in_recovery()", "f")
        return server


@pytest.fixture
async def site(
    split: Split,
    workspace: Workspace,
    adopt_cluster: Callable[..., Cluster],
    pool: ThreadPoolExecutor,
    keys: TestKeys,
    walkeeper_bin: Path,
) -> Site:
    root = workspace.directory("repository")
    archive = await make_archive(
        FilesystemStorage(root, pool), keys, pool, system_identifier=split.system_identifier
    )
    socket = workspace.directory("sockets") / "fetch.sock"
    made = Site(split, archive, root, workspace, socket, walkeeper_bin, adopt_cluster)
    made.own()
    return made


@pytest.fixture
def serve(site: Site, keys: TestKeys) -> Iterator[Site]:
    """The site with its service running."""
    files, state = site.workspace.directory("conf"), site.workspace.directory("state")
    now = datetime.now(UTC)
    identity, config = files / "key.txt", files / "walkeeper.toml"
    identity.write_text(format_identity_file(keys.identity, keys.recipient, keys.writer, now))
    identity.chmod(0o600)
    config.write_text(
        f'[[repository]]\nurl = "file://{site.root}"\n'
        f'[encryption]\nidentity_file = "{identity}"\n'
        f'[agent]\nstate_dir = "{state}"\n'
    )
    for path in (identity, config):
        os.chown(path, site.workspace.owner.uid, site.workspace.owner.gid)
    argv = [site.hook, "fetch-service", "--listen", site.socket, "--idle", "60"]
    with (site.socket.parent / "log").open("wb") as log:
        process = subprocess.Popen(
            [*map(str, argv), "--config", str(config)],
            stdout=log,
            stderr=log,
            cwd="/",
            env=BARE_ENVIRONMENT,
            **site.workspace.owner.process_options(),
        )
    wait_until(lambda: site.socket.exists() or process.poll() is not None, "the service to listen")
    assert process.poll() is None, site.log
    yield site
    process.send_signal(signal.SIGKILL)
    process.wait(10)


def rows(server: Cluster) -> list[int]:
    return [int(row) for (row,) in server.sql("SELECT n FROM t ORDER BY n")]


def timeline_of(server: Cluster) -> str:
    return server.value("SELECT timeline_id FROM pg_control_checkpoint()")


@pytest.mark.parametrize("prepared", [True, False])
async def test_recovery_ends_at_the_fork_when_nothing_of_the_new_timeline_is_archived(
    serve: Site, prepared: bool
) -> None:
    split = serve.split
    await serve.put_history(2, split.history)
    await serve.put(*split.files(1))
    fork = split.at_fork(1)
    content = split.content(fork)
    at = split.fork.value % ONE_MIB.bytes
    await serve.put_tail(fork, content, at + 5000)
    await serve.put_cut_off(fork, at + 3000, "a")
    server = serve.recover(serve.command(2 if prepared else None))
    assert rows(server) == COMMON
    assert timeline_of(server) == "3"


@pytest.mark.parametrize("target", ["1", "current"])
async def test_a_recovery_that_is_told_to_stay_on_the_old_timeline_comes_to_its_end(
    serve: Site, target: str
) -> None:
    split = serve.split
    await serve.put_history(2, split.history)
    await serve.put(*split.files(1), *split.files(2))
    server = serve.recover(serve.command(), {"recovery_target_timeline": target})
    assert rows(server) == COMMON + DEAD
    assert timeline_of(server) == "3"
    assert "segment_withheld" not in serve.log


@pytest.mark.parametrize("target", ["1", "current", "latest"])
async def test_a_standby_that_reads_the_archive_alone_stays_on_its_timeline_or_follows(
    site: Site, target: str, request: pytest.FixtureRequest
) -> None:
    """All that the old primary wrote is there; who follows finds the new timeline as it waits."""
    split = site.split
    if target != "latest":
        await site.put_history(2, split.history)
    serve: Site = request.getfixturevalue("serve")
    fork = split.at_fork(1)
    await serve.put(*(file for file in split.files(1) if file.name < str(fork)))
    settings = {"recovery_target_timeline": target, "wal_retrieve_retry_interval": "100ms"}
    server = serve.restored(serve.command(), {"hot_standby": "on"} | settings)
    (server.data_dir / "recovery.signal").rename(server.data_dir / "standby.signal")
    server.start()
    server.wait_for("SELECT count(*) FROM t", "5", timeout_s=60)
    if target == "latest":
        await serve.put_history(2, split.history)
        kept = serve.workspace.root / "state"
        wait_until(lambda: any(kept.rglob("00000002.history")), "the history to be found", 60)
    await serve.put(*(file for file in split.files(1) if file.name >= str(fork)), *split.files(2))
    expected = COMMON + LIVE + [203, 204] if target == "latest" else COMMON + DEAD
    server.wait_for("SELECT count(*) FROM t", str(len(expected)), timeout_s=60)
    assert rows(server) == expected
    server.promote()
    assert rows(server) == expected
    assert server.value("SELECT pg_walfile_name(pg_current_wal_lsn())")[:8] == "00000003"


async def test_a_recovery_to_the_latest_brings_no_row_of_the_dead_branch_whatever_is_stored(
    serve: Site,
) -> None:
    """Of the new timeline only the first segment has come, of the old one everything."""
    split = serve.split
    await serve.put_history(2, split.history)
    await serve.put(*split.files(1), split.root / "archived" / str(split.at_fork(2)))
    server = serve.recover(serve.command(), {"recovery_target_timeline": "latest"})
    assert not set(rows(server)) & set(DEAD)
    assert set(COMMON) <= set(rows(server))


async def test_without_the_complete_segment_the_old_primarys_tail_serves_up_to_the_fork(
    serve: Site,
) -> None:
    split = serve.split
    fork = split.at_fork(1)
    await serve.put_history(2, split.history)
    await serve.put(*(file for file in split.files(1) if file.name < str(fork)))
    at = split.fork.value % ONE_MIB.bytes
    await serve.put_tail(fork, split.content(fork), at + 5000)
    server = serve.recover(serve.command(2, split.fork))
    assert rows(server) == COMMON
    assert timeline_of(server) == "3"


async def test_the_new_timelines_tail_goes_on_where_the_fork_is_and_is_no_segment_to_archive(
    serve: Site,
) -> None:
    split = serve.split
    fork = split.at_fork(2)
    await serve.put_history(2, split.history)
    await serve.put(*split.files(1))
    await serve.put_tail(fork, split.content(fork), split.shipped.value % ONE_MIB.bytes)
    copies = serve.workspace.directory("copies")
    server = serve.recover(
        serve.command(2, split.shipped),
        {"archive_mode": "always", "archive_command": copy_whole(copies)},
    )
    assert rows(server) == COMMON + LIVE
    assert timeline_of(server) == "3"
    # PostgreSQL archives what it restored; it must not take the segment's name there.
    wait_until((copies / str(fork)).exists, f"{fork} to be offered")
    check = SegmentCheck(fork, ONE_MIB, split.system_identifier, 15)
    check.feed((copies / str(fork)).read_bytes())
    assert isinstance(check.finish(), CutOff)


async def test_of_two_partial_segments_with_one_name_the_longer_one_is_recovered(
    serve: Site,
) -> None:
    split = serve.split
    fork = split.at_fork(1)
    await serve.put(*(file for file in split.files(1) if file.name < str(fork)))
    at = split.fork.value % ONE_MIB.bytes
    # The longest of them goes past the first row of the dead branch.
    for code, offset in (("a", at - 1000), ("b", at + 4000), ("c", at - 2000)):
        await serve.put_cut_off(fork, offset, code)
    server = serve.recover(serve.command(1))
    assert rows(server) == COMMON + DEAD[:1]
    assert timeline_of(server) == "2"


async def test_wal_of_a_timeline_whose_history_was_never_archived_stops_the_recovery(
    serve: Site,
) -> None:
    split = serve.split
    await serve.put(*split.files(1), *split.files(2))
    server = serve.restored(serve.command())
    server.spawn()
    assert server.wait_stopped() != 0
    assert "selected new timeline" not in server.log
    assert (server.data_dir / "recovery.signal").exists()
    assert "no history of 2" in server.log


@dataclass(frozen=True)
class Pair:
    """A primary and a standby that streams from it and restores through the hook."""

    primary: Cluster
    standby: Cluster


async def make_pair(
    serve: Site,
    make_cluster: MakeCluster,
    make_standby: Callable[..., Cluster],
    settings: Mapping[str, str],
) -> Pair:
    """Rows 1 to 10 in one segment, shown by the standby."""
    primary = make_cluster(segment_size_mb=1, fsync=False)
    # The store is asked again for long: nobody has to wait for that here.
    impatient = serve.command(1).replace("wal-fetch ", "wal-fetch --timeout 2 ")
    command = {"restore_command": impatient, "wal_retrieve_retry_interval": "100ms"}
    standby = make_standby(primary, settings=command | dict(settings))
    primary.sql("CREATE TABLE t (n int)")
    primary.sql("SELECT pg_switch_wal()")
    insert(primary, COMMON)
    position = primary.value("SELECT pg_current_wal_flush_lsn()")
    # Before that the standby may not even have the table.
    standby.wait_for(f"SELECT pg_last_wal_replay_lsn() >= '{position}'", "t", timeout_s=60)
    assert rows(standby) == COMMON
    return Pair(primary, standby)


async def test_a_standby_is_given_no_tail_and_keeps_the_rows_that_it_has_shown(
    serve: Site, make_cluster: MakeCluster, make_standby: Callable[..., Cluster]
) -> None:
    pair = await make_pair(serve, make_cluster, make_standby, {})
    current = WalSegment.parse(pair.primary.value("SELECT pg_walfile_name(pg_current_wal_lsn())"))
    content = (pair.primary.wal_dir / str(current)).read_bytes()
    shown = Lsn.parse(pair.primary.value("SELECT pg_current_wal_flush_lsn()"))
    short = shown.value % ONE_MIB.bytes - 400
    await serve.put_tail(current, content, short)
    await put_cut_off(serve.archive, current, recycled(content, short))
    serve.own()
    pair.primary.stop("immediate")
    pair.standby.promote()
    assert rows(pair.standby) == COMMON
    assert "PANIC" not in pair.standby.log


async def test_a_standby_promoted_in_an_outage_takes_no_timeline_that_the_archive_has(
    serve: Site, make_cluster: MakeCluster, make_standby: Callable[..., Cluster]
) -> None:
    await serve.put_history(2, b"1\t0/FF000000\tof a restored copy\n")
    pair = await make_pair(
        serve, make_cluster, make_standby, {"recovery_target_timeline": "current"}
    )
    # The service has listed the archive before, as an agent does every minute.
    kept = serve.workspace.root / "state"
    wait_until(lambda: any(kept.rglob("*.history")), "the history to be known on this host")
    serve.root.rename(serve.root.with_name("elsewhere"))
    pair.primary.stop("immediate")
    pair.standby.promote()
    assert pair.standby.value("SELECT pg_walfile_name(pg_current_wal_lsn())")[:8] == "00000003"
    assert rows(pair.standby) == COMMON
