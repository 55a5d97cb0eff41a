"""Ceph's object gateway on loopback: a monitor, a store in memory and a radosgw, all our own
processes in a directory of their own. Ready after about six seconds, once a session."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.fix_s3 import S3Server, free_port, program, wait_for_port
from walkeeper.storage.base import Capabilities

_PACKAGES = "the Debian packages radosgw, ceph-mon, ceph-osd and openssl"

# What differs from Ceph's defaults, and why:
# cephx stays on, for radosgw hangs without it; one copy on one host; the paxos intervals and the
# pools of one placement group make the start short; tcp_nodelay saves 40 ms on each small answer.
_CONFIGURATION = """
[global]
fsid = {fsid}
mon_host = v2:127.0.0.1:{mon_port}
ms_bind_msgr1 = false
public_network = 127.0.0.0/8
cluster_network = 127.0.0.0/8
keyring = {home}/keyring
auth_allow_insecure_global_id_reclaim = false
mon_data = {home}/mon
osd_data = {home}/osd
rgw_data = {home}/rgw
run_dir = {home}
crash_dir = {home}
log_file = {home}/$name.log
admin_socket = {home}/$name.asok
pid_file = {home}/$name.pid
osd_objectstore = memstore
memstore_device_bytes = 6442450944
memstore_page_set = false
osd_pool_default_size = 1
osd_pool_default_min_size = 1
osd_pool_default_pg_num = 1
osd_pool_default_pgp_num = 1
osd_pool_default_pg_autoscale_mode = off
osd_crush_chooseleaf_type = 0
osd_heartbeat_grace = 60
mon_allow_pool_size_one = true
mon_max_pg_per_osd = 1000
mon_data_avail_crit = 1
mon_data_avail_warn = 1
paxos_propose_interval = 0.02
paxos_min_wait = 0.01
rgw_thread_pool_size = 32
rgw_enable_usage_log = false
rgw_frontends = beast endpoint=127.0.0.1:{port} tcp_nodelay=1 \
ssl_endpoint=127.0.0.1:{tls_port} ssl_certificate={home}/crt.pem ssl_private_key={home}/key.pem
"""


@dataclass
class Ceph:
    """The running cluster; ``server`` is how to speak S3 to it."""

    server: S3Server
    osd: subprocess.Popen[bytes]
    _home: Path

    def freeze(self) -> None:
        """From now on the store accepts requests and answers none (until `thaw`)."""
        self.osd.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """It goes on as if nothing had been."""
        self.osd.send_signal(signal.SIGCONT)

    def set_quota(self, bucket: str, size_bytes: int) -> None:
        """``bucket`` takes no more than this."""
        quota = ["quota", "set", "--quota-scope=bucket", f"--bucket={bucket}"]
        self._admin(*quota, f"--max-size={size_bytes}")
        self._admin("quota", "enable", "--quota-scope=bucket", f"--bucket={bucket}")

    def _admin(self, *arguments: str) -> None:
        _run(self._home, "radosgw-admin", *arguments)


@pytest.fixture(scope="session")
def ceph_cluster() -> Iterator[Ceph]:
    """Ceph itself, for tests that freeze it or set a quota."""
    with ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="walkeeper-ceph-")))
        ports = {name: free_port() for name in ("mon_port", "port", "tls_port")}
        text = _CONFIGURATION.format(home=home, fsid=uuid.uuid4(), **ports)
        (home / "ceph.conf").write_text(text)
        _make_certificate(home)
        _make_keys(home, ports["mon_port"])
        _start(stack, home, ["ceph-mon", "-i", "a"])
        osd = _start_osd(stack, home)
        gateway = _start(stack, home, ["radosgw", "-n", "client.rgw.a"])
        wait_for_port(ports["port"], gateway, home / "radosgw.out")
        user = ["user", "create", "--uid=test", "--display-name=test"]
        _run(home, "radosgw-admin", *user, "--access-key=testkey", "--secret-key=testsecret12")
        server = S3Server(
            f"http://127.0.0.1:{ports['port']}",
            ca_file=home / "crt.pem",
            tls_endpoint_url=f"https://localhost:{ports['tls_port']}",
            enforces=Capabilities(conditional_put=True, conditional_multipart=False),
        )
        yield Ceph(server, osd, home)


@pytest.fixture(scope="session")
def ceph(ceph_cluster: Ceph) -> S3Server:
    """Ceph's S3: the real product among the test servers."""
    return ceph_cluster.server


def _make_certificate(home: Path) -> None:
    command = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj"]
    command += ["/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    command += ["-keyout", f"{home}/key.pem", "-out", f"{home}/crt.pem"]
    _run(home, "openssl", *command)


def _make_keys(home: Path, mon_port: int) -> None:
    (home / "rgw").mkdir()
    (home / "osd").mkdir()
    keyring = f"{home}/keyring"
    everything = ["--cap", "mon", "allow *", "--cap", "osd", "allow *", "--cap", "mgr", "allow *"]
    _run(home, "ceph-authtool", "--create-keyring", keyring)
    _run(home, "ceph-authtool", keyring, "--gen-key", "-n", "mon.", "--cap", "mon", "allow *")
    for name in ("client.admin", "client.rgw.a", "osd.0"):
        _run(home, "ceph-authtool", keyring, "--gen-key", "-n", name, *everything)
    monitors = f"[v2:127.0.0.1:{mon_port}]"
    fsid = _setting(home, "fsid")
    _run(home, "monmaptool", "--create", "--fsid", fsid, "--addv", "a", monitors, f"{home}/monmap")
    arguments = ["--mkfs", "-i", "a", "--monmap", f"{home}/monmap", "--keyring", keyring]
    _run(home, "ceph-mon", *arguments)


def _start_osd(stack: ExitStack, home: Path) -> subprocess.Popen[bytes]:
    identity = str(uuid.uuid4())
    _run(home, "ceph", "osd", "new", identity)
    _run(home, "ceph", "auth", "import", "-i", f"{home}/keyring")
    _run(home, "ceph", "osd", "crush", "add", "osd.0", "1", "root=default", "host=here")
    _run(home, "ceph-osd", "-i", "0", "--mkfs", "--osd-uuid", identity)
    return _start(stack, home, ["ceph-osd", "-i", "0"])


def _start(stack: ExitStack, home: Path, command: list[str]) -> subprocess.Popen[bytes]:
    path = program(command[0], _PACKAGES)
    output = stack.enter_context((home / f"{command[0]}.out").open("wb"))
    process = subprocess.Popen(
        [path, "--foreground", *command[1:]],
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        env=_environment(home),
    )
    # radosgw takes long over SIGTERM; what is in memory is not worth waiting for.
    stack.callback(process.wait)
    stack.callback(process.kill)
    return process


def _run(home: Path, name: str, *arguments: str) -> str:
    command = [program(name, _PACKAGES), *arguments]
    done = subprocess.run(
        command, env=_environment(home), capture_output=True, text=True, timeout=60, check=False
    )
    if done.returncode != 0:
        pytest.fail(f"{command} failed: {done.stdout[-1000:]}{done.stderr[-1000:]}")
    return done.stdout


def _environment(home: Path) -> dict[str, str]:
    return {**os.environ, "CEPH_CONF": f"{home}/ceph.conf"}


def _setting(home: Path, name: str) -> str:
    lines = (home / "ceph.conf").read_text().splitlines()
    return next(line.split(" = ")[1] for line in lines if line.startswith(f"{name} = "))
