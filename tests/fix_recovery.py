"""One archive with a fork in it, directories restored from it, and recoveries that go wrong.

Made once for a module: each recovery works on a copy of a restored directory, with the
restore_command that ``restore`` wrote, and so with a private fetch service of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.fix_archiving import NO_TAIL, finish_segment, wait_archived
from tests.fix_cli import Installation
from tests.fix_postgres import (
    Cluster,
    Owner,
    Workspace,
    find_bin_dir,
    remove_tree,
    wait_until,
)
from tests.fix_proxy import HttpFaults
from tests.fix_s3 import S3Server
from walkeeper.agent.compose import open_workshop
from walkeeper.codec.keygen import generate_identity
from walkeeper.codec.sealer import Sealer
from walkeeper.codec.stanza import ObjectContext
from walkeeper.config_load import load_config
from walkeeper.core.layout import ObjectName

ROWS = 6
FORK_AFTER = 3
"""Rows up to this one are of timeline 1, the others of timeline 2; each has its own segment."""

HASTE = 'deadline = "3s"\nread_timeout = "1s"\nconnect_timeout = "1s"\n'
"""The limits of a reader that is to give up."""
TARGETS = ("time", "latest", "standby")


@dataclass
class Bucket:
    """The objects of the archive, reached without the proxy; what a test changes is put back."""

    server: S3Server
    name: str
    changed: dict[str, bytes] = field(default_factory=dict)

    def key(self, file: str) -> str:
        """The object of a WAL file."""
        found = [key for key in self.keys() if key.rpartition("/")[2] == f"{file}.zst.age"]
        assert len(found) == 1, (file, found)
        return found[0]

    def keys(self) -> list[str]:
        with contextlib.closing(self.server.client()) as client:
            pages = client.get_paginator("list_objects_v2").paginate(Bucket=self.name)
            return [item["Key"] for page in pages for item in page.get("Contents", [])]

    def read(self, key: str) -> bytes:
        with contextlib.closing(self.server.client()) as client:
            body: bytes = client.get_object(Bucket=self.name, Key=key)["Body"].read()
            return body

    def write(self, key: str, body: bytes) -> None:
        self.changed.setdefault(key, self.read(key))
        with contextlib.closing(self.server.client()) as client:
            client.put_object(Bucket=self.name, Key=key, Body=body)

    def delete(self, key: str) -> None:
        self.changed.setdefault(key, self.read(key))
        with contextlib.closing(self.server.client()) as client:
            client.delete_object(Bucket=self.name, Key=key)

    def put_back(self) -> None:
        for key, body in list(self.changed.items()):
            with contextlib.closing(self.server.client()) as client:
                client.put_object(Bucket=self.name, Key=key, Body=body)
            del self.changed[key]


@dataclass
class RecoveryBed:
    """The archive behind its proxy, and for each target a restored directory to be copied."""

    installation: Installation
    proxy: HttpFaults
    bucket: Bucket
    segments: list[str] = field(default_factory=list)
    """The segment of each row."""
    first: str = ""
    """The segment that recovery begins with."""
    ends: dict[str, str] = field(default_factory=dict)
    """Where a recovery without any fault ends, for each target."""
    numbers: Iterator[int] = field(default_factory=itertools.count)
    config: str = ""
    """The configuration of restored directories; a busy store has its usual time."""

    @property
    def workspace(self) -> Workspace:
        return self.installation.workspace

    def template(self, target: str) -> Path:
        return self.installation.root / f"restored-{target}"

    @contextlib.contextmanager
    def recovery(self, target: str) -> Iterator[Recovery]:
        """A fresh copy of a restored directory; in the end all of it is gone."""
        name = f"r{next(self.numbers)}"
        root = self.workspace.directory(name)
        self.workspace.run(["cp", "-a", "--reflink=auto", self.template(target), root / "pg"])
        run = self.workspace.directory(f"{name}/run")
        environment = {"XDG_RUNTIME_DIR": str(run), "TMPDIR": str(run)}
        cluster = Cluster(self.workspace, root / "pg", run, 15, environment=environment)
        recovery = Recovery(self, target, cluster)
        try:
            yield recovery
        finally:
            cluster.kill9() if cluster.process is not None else None
            recovery.stop_service()
            self.heal()
            shutil.rmtree(root)

    def give_up_soon(self) -> None:
        """The reader waits for the store no longer than needed, until `heal`."""
        self.configure(self.config.replace("[encryption]", f"{HASTE}[encryption]"))

    def configure(self, text: str) -> None:
        """Replace the configuration at once: a fetch service may just begin to read it."""
        path = self.installation.config_file
        draft = path.with_suffix(".draft")
        draft.write_text(text)
        os.chown(draft, self.workspace.owner.uid, self.workspace.owner.gid)
        draft.rename(path)

    def heal(self) -> None:
        """The store is as it was, and so is the reader."""
        if self.installation.config_file.read_text() != self.config:
            self.configure(self.config)
        self.proxy.reopen()
        self.proxy.forget()
        self.bucket.put_back()

    def seal_for_somebody_else(self, file: str) -> None:
        """Put an object in the place of this file's that only another identity opens."""
        key = self.bucket.key(file)
        folder, _, name = key.partition("/")
        self.bucket.write(key, asyncio.run(self._sealed(folder, ObjectName(name))))

    async def _sealed(self, folder: str, name: ObjectName) -> bytes:
        config = load_config(self.installation.config_file, {})
        async with open_workshop(config) as shop:
            record = (await shop.archive(folder)).record
            signing = shop.signing()
            assert signing is not None
            context = ObjectContext(
                archive=record.archive,
                system_identifier=record.system_identifier,
                writer="0" * 16,
            )
            sealer = Sealer([generate_identity()[1]], signing, context)
            with contextlib.closing(sealer.seal(name, [b"a secret of somebody else"])) as sealed:
                return b"".join(bytes(block) for block in sealed.blocks())


@dataclass
class Recovery:
    """One recovery; stopped or not, it can be begun again."""

    bed: RecoveryBed
    target: str
    cluster: Cluster

    @property
    def standby(self) -> bool:
        return self.target == "standby"

    @property
    def rows(self) -> list[int]:
        return [int(row) for (row,) in self.cluster.sql("SELECT n FROM t ORDER BY n")]

    @property
    def promoted(self) -> bool:
        """Whether the server has begun a timeline of its own; known whether it runs or not."""
        begun = (self.cluster.wal_dir / "00000003.history").exists()
        assert begun == ("selected new timeline ID" in self.cluster.log)
        return begun

    @property
    def forked_at(self) -> str:
        """Where the timeline of a promoted server begins."""
        lines = (self.cluster.wal_dir / "00000003.history").read_text().split("\n")
        lines = [line for line in lines if line]
        timeline, lsn, _ = lines[-1].split("\t")
        assert timeline == "2"
        return lsn

    @property
    def service_log(self) -> str:
        """All that the private fetch service has said."""
        logs = (self.cluster.socket_dir / "walkeeper").glob("*.log")
        return "".join(path.read_text(errors="replace") for path in logs)

    def wait_over(self) -> None:
        """Until the server has stopped, or has left recovery."""
        wait_until(
            lambda: not self.cluster.running or "ready to accept connections" in self.cluster.log,
            f"the recovery to be over:\n{self.cluster.log}",
            60,
        )

    def wait_caught_up(self) -> None:
        """Until a standby has all that the archive holds."""
        wait_until(
            lambda: (
                not self.cluster.running
                or (self.cluster.accepts_connections() and len(self.rows) == ROWS)
            ),
            f"the standby to catch up:\n{self.cluster.log}",
            60,
        )

    def stop_service(self) -> None:
        """End the private fetch service, which serves nobody else, and hooks that were left."""
        wait_until(lambda: not self._kill_rest(), "the last hook to go", 60)

    def _kill_rest(self) -> list[int]:
        """Kill what is there of them; a hook that dies may have started a service just before."""
        mark = str(self.cluster.socket_dir).encode()
        killed = []
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                words = (entry / "cmdline").read_bytes() if entry.name.isdigit() else b""
                is_service = b"fetch-service" in words and mark in words
                if is_service or (b"wal-fetch" in words and self._works_here(entry)):
                    os.kill(int(entry.name), signal.SIGKILL)
                    killed.append(int(entry.name))
        return killed

    def _works_here(self, process: Path) -> bool:
        return (process / "cwd").readlink() == self.cluster.data_dir


@contextlib.contextmanager
def recovery_bed(program: Path, server: S3Server) -> Iterator[RecoveryBed]:
    """Archive a cluster that was promoted once, restore it for each target, and try each once."""
    root = Path(tempfile.mkdtemp(prefix="walkeeper-tests-", dir="/var/tmp"))
    root.chmod(0o755)
    workspace = Workspace(root, Owner.current())
    with contextlib.ExitStack() as stack:
        stack.callback(remove_tree, root)
        proxy = HttpFaults(server.endpoint_url)
        stack.callback(proxy.close)
        cluster = _make_cluster(workspace)
        stack.callback(lambda: cluster.process is None or cluster.kill9())
        bucket = Bucket(server, server.new_bucket())
        installation = _install(program, workspace, cluster, bucket, proxy)
        stack.callback(installation.kill_agent)
        bed = RecoveryBed(installation, proxy, bucket)
        moment = _write_history(bed)
        _restore_all(bed, moment)
        yield bed


def _make_cluster(workspace: Workspace) -> Cluster:
    data_dir, sockets = workspace.directory("pg"), workspace.directory("s")
    argv = [find_bin_dir(15) / "initdb", "-D", data_dir, "-U", "postgres", "-A", "trust", "-N"]
    workspace.run([*argv, "--locale=C", "--wal-segsize=1"])
    cluster = Cluster(workspace, data_dir, sockets, 15)
    cluster.configure(
        {"fsync": False, "shared_buffers": "4MB", "wal_retrieve_retry_interval": "100ms"}
    )
    cluster.start()
    return cluster


def _install(
    program: Path, workspace: Workspace, cluster: Cluster, bucket: Bucket, proxy: HttpFaults
) -> Installation:
    root = workspace.directory("wk")
    one = Installation(program, workspace, cluster, root, url=f"s3://{bucket.name}", more=NO_TAIL)
    for name in ("run", "state"):
        workspace.directory(f"wk/{name}")
    workspace.run([program, "keygen", "-o", one.identity_file])
    for name, text in (
        ("key-id", bucket.server.access_key_id),
        ("secret", bucket.server.secret_access_key),
    ):
        path = root / name
        path.write_text(text)
        path.chmod(0o600)
        os.chown(path, workspace.owner.uid, workspace.owner.gid)
    one.environment |= {
        "WALKEEPER_REPOSITORY_ENDPOINT_URL": proxy.url,
        "WALKEEPER_REPOSITORY_ACCESS_KEY_ID_FILE": str(root / "key-id"),
        "WALKEEPER_REPOSITORY_SECRET_ACCESS_KEY_FILE": str(root / "secret"),
    }
    one.configure()
    return one


def _write_history(bed: RecoveryBed) -> str:
    """Rows on two timelines; the moment before the last of them."""
    one, cluster = bed.installation, bed.installation.cluster
    one.initialise()
    one.start_agent()
    one.wait_recognised()
    cluster.sql("CREATE TABLE t (n int)")
    one.run("backup")
    moment = ""
    for row in range(1, ROWS + 1):
        if row == FORK_AFTER + 1:
            cluster.configure({"restore_command": "false", "recovery_target_timeline": "current"})
            cluster.stop()
            (cluster.data_dir / "recovery.signal").touch()
            cluster.start()
            cluster.wait_for("SELECT pg_is_in_recovery()", "f")
        if row == ROWS:
            moment = cluster.value("SELECT clock_timestamp()")
        cluster.sql(f"INSERT INTO t VALUES ({row})")
        bed.segments.append(finish_segment(cluster))
        wait_archived(one)  # PostgreSQL may have given up for a minute since it was restarted
    cluster.stop()
    one.stop_agent()
    return moment


def _restore_all(bed: RecoveryBed, moment: str) -> None:
    """A directory for each target, from a configuration that needs no environment."""
    one = bed.installation
    text = one.config_file.read_text()
    connection = "".join(
        f'{name.lower()} = "{value}"\n'
        for name, value in (
            (key.removeprefix("WALKEEPER_REPOSITORY_"), value)
            for key, value in one.environment.items()
        )
    )
    nowhere = f'state_dir = "{one.root / "nowhere"}"'  # as on a host without an agent
    text = text.replace(f'state_dir = "{one.root / "state"}"', nowhere)
    bed.config = text.replace("[encryption]", f"{connection}[encryption]")
    bed.configure(bed.config)
    one.environment.clear()
    options: dict[str, tuple[str, ...]] = {
        "time": ("--target-time", moment),
        "latest": (),
        "standby": ("--standby",),
    }
    for target in TARGETS:
        argv = ("restore", "--target-dir", bed.template(target), *options[target], "--json")
        report: dict[str, Any] = json.loads(one.run(*argv).stdout)
        bed.first = report["plan"]["wal"][0]["first"]
