"""Archiving, watched from outside: what PostgreSQL offered, what was acknowledged, what is stored.

A `Witness` is an archive_command that first copies the file, then calls the real hook, then notes
that it was acknowledged. A `Shelf` reads what is stored with stock tools alone.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import pytest

from tests.fix_age import Tool
from tests.fix_cli import Installation, MakeInstallation
from tests.fix_postgres import BARE_ENVIRONMENT, Cluster, copy_whole
from tests.fix_proxy import HttpFaults
from tests.fix_s3 import S3Server
from tests.fix_tree import files_below
from walkeeper.storage.durable import TEMPORARY_NAME

NO_TAIL = """
[tail]
interval = "0s"
"""
"""Configuration for stories of whole files, in which every request and object is counted."""


class Shelf(Protocol):
    """The objects of a repository, by their whole names."""

    def names(self) -> list[str]: ...

    def read(self, name: str) -> bytes: ...


@dataclass(frozen=True)
class FileShelf:
    """A file:// repository; what is just being written there is no object yet."""

    root: Path

    def names(self) -> list[str]:
        files = (one for one in files_below(self.root) if not TEMPORARY_NAME.fullmatch(one.name))
        return sorted(path.relative_to(self.root).as_posix() for path in files)

    def read(self, name: str) -> bytes:
        return (self.root / name).read_bytes()


@dataclass(frozen=True)
class BucketShelf:
    """A bucket, reached without the proxy in front of it."""

    server: S3Server
    bucket: str

    def names(self) -> list[str]:
        with contextlib.closing(self.server.client()) as client:
            pages = client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket)
            return sorted(item["Key"] for page in pages for item in page.get("Contents", []))

    def read(self, name: str) -> bytes:
        with contextlib.closing(self.server.client()) as client:
            body: bytes = client.get_object(Bucket=self.bucket, Key=name)["Body"].read()
            return body


def fingerprint(shelf: Shelf) -> dict[str, str]:
    """Everything that is stored, name to digest: to be compared before and after.

    A tail that is deleted just now is not stored any more.
    """
    found = {}
    for name in shelf.names():
        with contextlib.suppress(FileNotFoundError):
            found[name] = hashlib.sha256(shelf.read(name)).hexdigest()
    return found


def stored_as(shelf: Shelf, file: str) -> list[str]:
    """The names under which a WAL file is stored: its own, and of a segment its cut-off ones."""
    found = []
    for name in shelf.names():
        base = name.rpartition("/")[2].removesuffix(".zst.age")
        if "/wal/" in name and (base == file or base.startswith(f"{file}.partial.")):
            found.append(name)
    return found


@dataclass(frozen=True)
class StockTools:
    """Opens an object as somebody does who has nothing of ours."""

    tool: Tool

    def open(self, installation: Installation, shelf: Shelf, name: str) -> bytes:
        sealed = shelf.read(name)
        packed = self.tool("age", "-d", "-i", str(installation.identity_file), stdin=sealed)
        return self.tool("zstd", "-d", "-c", stdin=packed)


@pytest.fixture
def stock(tool: Tool) -> StockTools:
    """Debian's age and zstd."""
    return StockTools(tool)


@dataclass(frozen=True)
class Witness:
    """What passed through a server's archive_command."""

    folder: Path

    @property
    def acknowledged(self) -> list[str]:
        """WAL files for which the hook said 0."""
        marks = self.folder.glob("*.acknowledged")
        return sorted(path.name.removesuffix(".acknowledged") for path in marks)

    def content(self, file: str) -> bytes:
        """What PostgreSQL offered under this name, the first time."""
        return (self.folder / file).read_bytes()


def watch_archiving(installation: Installation) -> Witness:
    """Put a witness around the archive_command of an initialised installation."""
    folder = installation.workspace.directory(f"{installation.root.name}/witness")
    hook = installation.cluster.value("SHOW archive_command")
    copy = f"test -e {folder}/%f || ({copy_whole(folder)})"
    command = f"{copy}; {hook} && touch {folder}/%f.acknowledged"
    set_archive_command(installation.cluster, command)
    return Witness(folder)


def set_archive_command(cluster: Cluster, command: str) -> None:
    """Change archive_command in a running server, and wait until it counts."""
    quoted = command.replace("'", "''")
    cluster.sql(f"ALTER SYSTEM SET archive_command = '{quoted}'")
    cluster.reload()
    cluster.wait_for("SHOW archive_command", command)


def waiting(cluster: Cluster) -> list[str]:
    """WAL files that PostgreSQL still wants archived."""
    marks = (cluster.wal_dir / "archive_status").glob("*.ready")
    return sorted(path.name.removesuffix(".ready") for path in marks)


def wait_archived(installation: Installation, timeout_s: float = 40.0) -> None:
    """Until nothing is ready any more; fails when nothing gets done for so long.

    PostgreSQL, which pauses for a minute, is woken.
    """
    cluster = installation.cluster
    left, deadline = len(waiting(cluster)), time.monotonic() + timeout_s
    while found := len(waiting(cluster)):
        if found < left:
            left, deadline = found, time.monotonic() + timeout_s
        if time.monotonic() > deadline:
            pytest.fail(f"{left} files wait in vain; the agent:\n{installation.agent_log}")
        wake_archiver(cluster)


def wake_archiver(cluster: Cluster) -> None:
    """Make PostgreSQL's archiver look again: a SIGHUP sets its latch (pgarch.c)."""
    cluster.sql("SELECT pg_reload_conf()")
    time.sleep(0.1)


def write_segments(cluster: Cluster, count: int) -> None:
    """Fill ``count`` segments and more with bytes that do not compress, and flush them all."""
    size = int(cluster.value("SELECT setting FROM pg_settings WHERE name = 'wal_segment_size'"))
    piece = min(size, 16 << 20)
    cluster.sql(
        f"""DO $$ DECLARE noise bytea; BEGIN
        SELECT string_agg(sha512(random()::text::bytea), ''::bytea) INTO noise
            FROM generate_series(1, {piece // 64});
        FOR i IN 1..{count * size // piece + 1} LOOP
            PERFORM pg_logical_emit_message(false, 'noise', noise);
        END LOOP; END $$;
        SELECT pg_logical_emit_message(true, 'noise', '')"""
    )


def finish_segment(cluster: Cluster) -> str:
    """Write something and switch the segment; returns the name of what is ready now."""
    cluster.sql("SELECT pg_logical_emit_message(true, 'test', 'something')")
    file = cluster.value("SELECT pg_walfile_name(pg_current_wal_lsn())")
    cluster.sql("SELECT pg_switch_wal()")
    return file


@dataclass(frozen=True)
class Pushed:
    """How a hook ended that was called by hand, as PostgreSQL would have."""

    code: int
    message: str
    elapsed_s: float


def push(installation: Installation, file: str, *, cwd: Path, timeout_s: float = 12.0) -> Pushed:
    """Call ``wal-push pg_wal/FILE`` in a data directory."""
    argv = [installation.program, "wal-push", "--socket", installation.socket]
    argv += ["--timeout", str(timeout_s), f"pg_wal/{file}"]
    begin = time.monotonic()
    done = installation.workspace.run(argv, check=False, cwd=cwd, env=BARE_ENVIRONMENT)
    return Pushed(done.returncode, done.stderr, time.monotonic() - begin)


@pytest.fixture
def segments_only(installation: Installation) -> Installation:
    """An initialised installation that ships no tail; its agent is not started."""
    installation.configure(NO_TAIL)
    installation.initialise()
    return installation


@dataclass
class S3Archiving:
    """An installation whose repository is a bucket behind a proxy that counts and disturbs."""

    installation: Installation
    proxy: HttpFaults
    shelf: BucketShelf


MakeS3Archiving = Callable[..., S3Archiving]


def use_bucket(installation: Installation, server: S3Server, endpoint_url: str) -> None:
    """Tell commands and agent of an installation how to reach the store of its ``s3://`` url."""
    installation.environment |= {
        "WALKEEPER_REPOSITORY_ENDPOINT_URL": endpoint_url,
        "WALKEEPER_REPOSITORY_READ_TIMEOUT": "20s",
        "AWS_ACCESS_KEY_ID": server.access_key_id,
        "AWS_SECRET_ACCESS_KEY": server.secret_access_key,
        "AWS_EC2_METADATA_DISABLED": "true",
    }


@pytest.fixture
def make_s3_archiving(
    ceph: S3Server,
    make_installation: MakeInstallation,
    http_faults: Callable[[str | None], HttpFaults],
) -> MakeS3Archiving:
    """Make an installation on Ceph behind a proxy, initialised; its agent is not started."""

    def make(**options: object) -> S3Archiving:
        bucket = ceph.new_bucket()
        proxy = http_faults(ceph.endpoint_url)
        one = make_installation(url=f"s3://{bucket}", **{"more": NO_TAIL} | options)
        use_bucket(one, ceph, proxy.url)
        one.initialise()
        return S3Archiving(one, proxy, BucketShelf(ceph, bucket))

    return make


def resident(process: subprocess.Popen[bytes]) -> dict[str, float]:
    """VmRSS and VmHWM of a process in MiB."""
    lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    fields = dict(line.split(":", 1) for line in lines)
    return {name: int(fields[name].split()[0]) / 1024 for name in ("VmRSS", "VmHWM")}


@contextlib.contextmanager
def planted(cluster: Cluster, file: str, content: bytes) -> Iterator[Path]:
    """A file in ``pg_wal`` that PostgreSQL takes for its own and wants archived."""
    owner = cluster.workspace.owner
    path = cluster.wal_dir / file
    ready = cluster.wal_dir / "archive_status" / f"{file}.ready"
    path.write_bytes(content)
    os.chown(path, owner.uid, owner.gid)
    ready.touch()
    os.chown(ready, owner.uid, owner.gid)
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)
        ready.unlink(missing_ok=True)
