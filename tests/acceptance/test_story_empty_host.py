"""The host has burnt down. What is left: a bucket, a configuration of a few lines, and the key."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.fix_archiving import use_bucket
from tests.fix_cli import MakeInstallation
from tests.fix_postgres import (
    BARE_ENVIRONMENT,
    Cluster,
    Workspace,
    find_bin_dir,
    free_port,
    wait_until,
)
from tests.fix_proxy import HttpFaults
from tests.fix_s3 import S3Server


@dataclass
class EmptyHost:
    """Nothing but PostgreSQL and walkeeper; everything else is written by the test."""

    workspace: Workspace
    program: Path
    root: Path
    identity: str
    """The whole identity file, as a safe would hold it."""
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def config_file(self) -> Path:
        return self.root / "walkeeper.toml"

    def write(self, name: str, text: str) -> Path:
        path = self.root / name
        path.write_text(text)
        path.chmod(0o600)
        os.chown(path, self.workspace.owner.uid, self.workspace.owner.gid)
        return path

    def configure(self, server: S3Server, bucket: str, *, keys_in_files: bool = True) -> None:
        """The url, and where the identity is; credentials in files, else nowhere."""
        lines = [
            "[[repository]]",
            f'url = "s3://{bucket}"',
            f'endpoint_url = "{server.endpoint_url}"',
        ]
        if keys_in_files:
            key_id = self.write("access-key-id", server.access_key_id)
            secret = self.write("secret-access-key", server.secret_access_key)
            lines += [f'access_key_id_file = "{key_id}"', f'secret_access_key_file = "{secret}"']
        identity = self.write("key.txt", self.identity)
        lines += ["[encryption]", f'identity_file = "{identity}"']
        self.write("walkeeper.toml", "\n".join([*lines, ""]))

    def argv(self, name: str, *options: str) -> list[str]:
        command = [self.program, "--config", self.config_file, "restore", "--json"]
        return [*map(str, command), "--target-dir", str(self.root / name), *options]

    def restore(self, name: str, *options: str) -> subprocess.CompletedProcess[str]:
        environment = BARE_ENVIRONMENT | {"HOME": str(self.root)} | self.environment
        return self.workspace.run(self.argv(name, *options), check=False, env=environment)

    def begin_restore(self, name: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            self.argv(name),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=BARE_ENVIRONMENT | {"HOME": str(self.root)} | self.environment,
            cwd="/",
            start_new_session=True,
            **self.workspace.owner.process_options(),
        )

    def pg_ctl(self, name: str, *words: str) -> subprocess.CompletedProcess[str]:
        argv = [find_bin_dir(15) / "pg_ctl", "-D", self.root / name, "-w", *words]
        return self.workspace.run(argv, check=False, stdin=subprocess.DEVNULL)


@dataclass
class Disaster:
    """An empty host, and the bucket that the lost one archived into."""

    host: EmptyHost
    server: S3Server
    bucket: str


@pytest.fixture
def disaster(moto: S3Server, make_installation: MakeInstallation) -> Iterator[Disaster]:
    """A source with two rows, the second behind the backup, is lost with all that was its own."""
    bucket = moto.new_bucket()
    lost = make_installation(url=f"s3://{bucket}", more='[backup]\npart_size = "16MiB"')
    use_bucket(lost, moto, moto.endpoint_url)
    lost.initialise()
    lost.start_agent()
    lost.wait_recognised()
    lost.cluster.sql("CREATE TABLE t (n int); INSERT INTO t VALUES (1)")
    lost.run("backup")
    lost.cluster.sql("INSERT INTO t VALUES (2)")
    lost.archive_now()
    lost.cluster.stop()
    lost.stop_agent()
    identity = lost.identity_file.read_text()
    for path in (lost.root, lost.cluster.data_dir):
        path.rename(path.with_name(f"{path.name}-burnt"))
    root = lost.workspace.directory("host")
    host = EmptyHost(lost.workspace, lost.program, root, identity)
    yield Disaster(host, moto, bucket)
    for pid_file in root.glob("*/postmaster.pid"):
        host.pg_ctl(pid_file.parent.name, "-m", "immediate", "stop")


def started(disaster: Disaster, name: str, *options: str) -> list[tuple[str, ...]]:
    """The rows of a cluster restored and started by one command."""
    port = free_port()
    ended = disaster.host.restore(name, *options, "--start", "--port", str(port))
    assert ended.returncode == 0, ended.stderr
    recovery = json.loads(ended.stdout)["recovery"]
    assert recovery["problem"] is None
    workspace, root = disaster.host.workspace, disaster.host.root
    server = Cluster(workspace, root / name, Path("127.0.0.1"), 15, port)
    return server.sql("SELECT n FROM t ORDER BY n")


def test_a_url_credentials_and_the_identity_are_enough(disaster: Disaster) -> None:
    disaster.host.configure(disaster.server, disaster.bucket)

    assert started(disaster, "pg") == [("1",), ("2",)]


def test_credentials_that_only_the_command_has_are_not_enough_and_it_says_so_at_once(
    disaster: Disaster,
) -> None:
    host, server = disaster.host, disaster.server
    host.configure(server, disaster.bucket, keys_in_files=False)
    host.environment |= {
        "AWS_ACCESS_KEY_ID": server.access_key_id,
        "AWS_SECRET_ACCESS_KEY": server.secret_access_key,
        "AWS_EC2_METADATA_DISABLED": "true",
    }

    ended = host.restore("pg")

    assert ended.returncode == 1
    assert "cannot fetch WAL, and PostgreSQL could not either" in ended.stderr
    assert "credentials" in ended.stderr
    assert not (host.root / "pg").exists()


def test_an_identity_that_no_longer_says_who_wrote_restores_only_when_told_to_believe_anybody(
    disaster: Disaster,
) -> None:
    host = disaster.host
    host.identity = host.identity.splitlines()[-1] + "\n"
    assert host.identity.startswith("AGE-SECRET-KEY-")
    host.configure(disaster.server, disaster.bucket)

    refused = host.restore("pg")

    assert refused.returncode == 12
    assert "writer" in refused.stderr
    assert not (host.root / "pg").exists()
    # The server's own fetches must believe them, too.
    assert started(disaster, "pg", "--unsigned") == [("1",), ("2",)]


def test_a_restore_that_was_killed_leaves_a_directory_that_neither_starts_nor_is_restored_into(
    disaster: Disaster, http_faults: Callable[[str | None], HttpFaults]
) -> None:
    host = disaster.host
    proxy = http_faults(disaster.server.endpoint_url)
    through_proxy = S3Server(proxy.url)
    host.configure(through_proxy, disaster.bucket)
    hanging = proxy.add(times=1000, path_contains="0002.tar.zst.age", hang=True)
    process = host.begin_restore("pg")
    try:
        wait_until(
            lambda: process.poll() is not None or hanging.times < 1000,
            "one of two parts to be asked for",
            60,
        )
        wait_until((host.root / "pg" / "base").is_dir, "files of the other one")
        assert process.poll() is None
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait(10)
    hanging.times = 0

    start = host.pg_ctl("pg", "start")
    again = host.restore("pg")

    assert start.returncode != 0
    assert "is being restored by walkeeper" in (host.root / "pg/walkeeper.restoring").read_text()
    assert not (host.root / "pg/global/pg_control").exists()
    assert again.returncode == 1
    assert "an unfinished restore lies in" in again.stderr
    assert started(disaster, "new") == [("1",), ("2",)]
