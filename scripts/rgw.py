"""Ceph's RGW on loopback with an empty bucket: one monitor, one OSD, one gateway."""

import re
import secrets
import socket
import time
import uuid
from collections import Counter
from collections.abc import Iterable
from contextlib import ExitStack
from typing import Any, Final

import botocore.exceptions
import botocore.session
from contender import Bucket
from scratch import ScriptError, Workplace

READY_S = 60.0
OSD_PORTS = 40
# The gateway's log has a line like nginx's for each request; the HTTP method and the path count.
REQUEST: Final = re.compile(r' beast: .* "(?P<method>[A-Z]+) (?P<path>/\S*) HTTP/')
# cephx, since without authentication radosgw hangs; tcp_nodelay, since small answers wait 44 ms
# without it; the paxos settings make the start quick.
CONFIG = """\
[global]
fsid = {fsid}
mon_host = v2:127.0.0.1:{mon_port}
ms_bind_msgr1 = false
ms_bind_port_min = {osd_port}
ms_bind_port_max = {osd_port_end}
public_network = 127.0.0.0/8
cluster_network = 127.0.0.0/8
auth_cluster_required = cephx
auth_service_required = cephx
auth_client_required = cephx
auth_allow_insecure_global_id_reclaim = false
keyring = {root}/keyring
osd_pool_default_size = 1
osd_pool_default_min_size = 1
osd_pool_default_pg_num = 1
osd_pool_default_pgp_num = 1
osd_pool_default_pg_autoscale_mode = off
osd_crush_chooseleaf_type = 0
mon_allow_pool_size_one = true
mon_max_pg_per_osd = 1000
mon_data_avail_crit = 1
mon_data_avail_warn = 1
paxos_propose_interval = 0.02
paxos_min_wait = 0.01
run_dir = {root}
crash_dir = {root}
log_file = {root}/$name.log
admin_socket = {root}/$name.asok
pid_file = {root}/$name.pid
mon_data = {root}/mon
osd_data = {root}/osd
rgw_data = {root}/rgw
osd_objectstore = bluestore
bluestore_block_size = 21474836480
bluestore_block_db_create = false
bluestore_block_wal_create = false
bluestore_cache_autotune = false
bluestore_cache_size = 67108864
osd_memory_target = 939524096
rgw_frontends = beast tcp_nodelay=1 endpoint=127.0.0.1:{plain_port} \
ssl_endpoint=127.0.0.1:{tls_port} ssl_certificate={root}/cert.pem ssl_private_key={root}/key.pem
rgw_enable_usage_log = false
debug_rgw = 1/1
"""
IDENTITIES = {
    "mon.": {"mon": "allow *"},
    "client.admin": {"mon": "allow *", "osd": "allow *", "mgr": "allow *"},
    "client.rgw.a": {"mon": "allow *", "osd": "allow *", "mgr": "allow *"},
    "osd.0": {"mon": "allow profile osd", "osd": "allow *", "mgr": "allow profile osd"},
}


def start_rgw(place: Workplace, bucket: str, *, tls: bool = True) -> Bucket:
    """Start it in a workplace, whose end stops it; raises ScriptError when it does not come up."""
    for name in ("mon", "osd", "rgw"):
        place.directory(name)
    mon_port, osd_port, tls_port, plain_port = find_ports()
    fsid = str(uuid.uuid4())
    facts: dict[str, object] = {"root": place.root, "fsid": fsid, "mon_port": mon_port}
    facts |= {"tls_port": tls_port, "plain_port": plain_port}
    facts |= {"osd_port": osd_port, "osd_port_end": osd_port + OSD_PORTS}
    place.environment["CEPH_CONF"] = str(place.write("ceph.conf", CONFIG.format_map(facts)))
    make_certificate(place)
    for name, capabilities in IDENTITIES.items():
        argv = ["ceph-authtool", "keyring", "--gen-key", "-n", name]
        argv += [word for kind, what in capabilities.items() for word in ("--cap", kind, what)]
        place.run(argv if (place.root / "keyring").exists() else [*argv, "--create-keyring"])
    start_cluster(place, fsid, mon_port)
    place.run(["radosgw", "-n", "client.rgw.a"])
    secret = secrets.token_urlsafe(24)
    port = tls_port if tls else plain_port
    found = Bucket(port, bucket, "benchkey", secret, place.root / "cert.pem", tls=tls)
    keys = [f"--access-key={found.access_key}", f"--secret-key={found.secret_key}"]
    place.run(["radosgw-admin", "user", "create", "--uid=bench", "--display-name=bench", *keys])
    make_bucket(found)
    return found


def count_requests(place: Workplace, bucket: str) -> "Counter[str]":
    """The requests to a bucket so far, by HTTP method, from the gateway's log."""
    log = place.root / "client.rgw.a.log"
    with log.open(errors="replace") as lines:
        return count_lines(lines, bucket)


def count_lines(lines: Iterable[str], bucket: str) -> "Counter[str]":
    """Those lines of the log that are requests to the bucket."""
    found: Counter[str] = Counter()
    for line in lines:
        match = REQUEST.search(line)
        if match and re.match(rf"/{re.escape(bucket)}(?:[/?]|$)", match["path"]):
            found[match["method"]] += 1
    return found


def find_ports() -> tuple[int, int, int, int]:
    """Four ports that were free a moment ago."""
    with ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(4)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        mon, osd, tls, plain = (int(probe.getsockname()[1]) for probe in probes)
        return mon, min(osd, 65535 - OSD_PORTS), tls, plain


def make_certificate(place: Workplace) -> None:
    """A certificate for localhost that is its own authority."""
    argv = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "30"]
    argv += ["-keyout", "key.pem", "-out", "cert.pem", "-subj", "/CN=localhost"]
    place.run([*argv, "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"])


def start_cluster(place: Workplace, fsid: str, mon_port: int) -> None:
    """Monitor and OSD; each goes into the background when it is ready."""
    address = f"[v2:127.0.0.1:{mon_port}]"
    place.run(["monmaptool", "--create", "--fsid", fsid, "--addv", "a", address, "monmap"])
    place.run(["ceph-mon", "--mkfs", "-i", "a", "--monmap", "monmap", "--keyring", "keyring"])
    place.run(["ceph-mon", "-i", "a"])
    osd = str(uuid.uuid4())
    place.run(["ceph", "osd", "new", osd])
    place.run(["ceph", "auth", "import", "-i", "keyring"])
    place.run(["ceph", "osd", "crush", "add", "osd.0", "1", "root=default", "host=h0"])
    place.run(["ceph-osd", "-i", "0", "--mkfs", "--osd-uuid", osd])
    place.run(["ceph-osd", "-i", "0"])


def make_bucket(bucket: Bucket) -> None:
    """Create the bucket as soon as the gateway answers."""
    client: Any = botocore.session.get_session().create_client(
        "s3",
        region_name="us-east-1",
        endpoint_url=bucket.endpoint,
        aws_access_key_id=bucket.access_key,
        aws_secret_access_key=bucket.secret_key,
        verify=str(bucket.ca_file),
    )
    deadline = time.monotonic() + READY_S
    while True:
        try:
            client.create_bucket(Bucket=bucket.name)
        except botocore.exceptions.EndpointConnectionError as error:
            if time.monotonic() > deadline:
                raise ScriptError(f"radosgw does not answer: {error}") from error
            time.sleep(0.1)
        else:
            return
