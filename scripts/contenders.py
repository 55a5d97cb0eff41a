"""The two programs that the bench measures, told to do the same work in the same way."""

import re
import secrets
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from scratch import ScriptError, Workplace

PROCESSES = 2
ZSTD_LEVEL = 1
AGENT_READY_S = 20.0


@dataclass(frozen=True, slots=True)
class Bucket:
    """An S3 bucket behind TLS on loopback; without one the repository is a directory."""

    port: int
    name: str
    access_key: str
    secret_key: str
    ca_file: Path


class Contender(Protocol):
    """A program that archives, backs up and restores the cluster in ``place.root / "data"``."""

    name: str

    def prepare(self) -> str:
        """Make repository and services ready while nothing is archived; the archive_command."""

    def backup(self) -> None:
        """Take a full base backup."""

    def stop(self) -> None:
        """End what runs beside PostgreSQL."""

    def restore(self, target: Path) -> None:
        """Rebuild the newest state in a new directory, ready to be started."""

    def belongs(self, argv: list[str]) -> bool:
        """Whether a process is one of this program."""


class PgBackRest:
    """pgBackRest with asynchronous archiving: its fast way."""

    name = "pgbackrest"

    def __init__(self, place: Workplace, bucket: Bucket | None) -> None:
        self._place = place
        self._config = place.root / "pgbackrest.conf"
        repository = self._describe_bucket(bucket) if bucket else self._describe_directory()
        settings = {
            **repository,
            "repo1-cipher-type": "aes-256-cbc",
            "repo1-cipher-pass": secrets.token_urlsafe(36),
            "repo1-retention-full": "9",
            "compress-type": "zst",
            "compress-level": ZSTD_LEVEL,
            "process-max": PROCESSES,
            "archive-async": "y",
            "start-fast": "y",
            "spool-path": place.directory("spool"),
            "lock-path": place.directory("lock"),
            "log-path": place.directory("pgbackrest-log"),
            "log-level-console": "warn",
        }
        lines = [f"{key}={value}" for key, value in settings.items()]
        cluster = ["[bench]", f"pg1-path={place.root}/data", f"pg1-socket-path={place.root}"]
        place.write("pgbackrest.conf", "\n".join(["[global]", *lines, *cluster, ""]))

    def _describe_directory(self) -> dict[str, object]:
        return {"repo1-path": self._place.directory("repository")}

    def _describe_bucket(self, bucket: Bucket) -> dict[str, object]:
        return {
            "repo1-type": "s3",
            "repo1-path": "/pgbackrest",
            "repo1-s3-bucket": bucket.name,
            "repo1-s3-endpoint": "localhost",
            "repo1-s3-region": "us-east-1",
            "repo1-s3-key": bucket.access_key,
            "repo1-s3-key-secret": bucket.secret_key,
            "repo1-s3-uri-style": "path",
            "repo1-storage-host": "localhost",
            "repo1-storage-port": bucket.port,
            "repo1-storage-ca-file": bucket.ca_file,
        }

    def _run(self, *words: str) -> None:
        self._place.run(["pgbackrest", f"--config={self._config}", "--stanza=bench", *words])

    def prepare(self) -> str:
        self._run("stanza-create")
        return f"pgbackrest --config={self._config} --stanza=bench archive-push %p"

    def backup(self) -> None:
        self._run("--type=full", "backup")

    def stop(self) -> None:
        """Nothing stays: the asynchronous process ends with its queue."""

    def restore(self, target: Path) -> None:
        self._run(f"--pg1-path={target}", "--archive-mode=off", "restore")

    def belongs(self, argv: list[str]) -> bool:
        return Path(argv[0]).name == "pgbackrest" and f"--config={self._config}" in argv


class Walkeeper:
    """walkeeper with its defaults: the agent, zstd level 1, age; ``more`` is configuration."""

    name = "walkeeper"

    def __init__(self, place: Workplace, bucket: Bucket | None, more: str = "") -> None:
        self._place = place
        self._bucket = bucket
        self._more = more
        self._agent: subprocess.Popen[str] | None = None

    def prepare(self) -> str:
        said = self._place.run(["walkeeper", "keygen", "-o", "key.txt"])
        recipient = re.search(r"age1[0-9a-z]+", said)
        if recipient is None:
            raise ScriptError("walkeeper keygen printed no recipient")
        self._configure(recipient.group())
        self._place.run(["walkeeper", "init", "--apply"])
        # From the file: a session may begin before the server has read it again.
        query = "SELECT setting FROM pg_file_settings WHERE name = 'archive_command'"
        command = self._place.run(["psql", "-XAtc", query]).strip()
        # Not before the clock runs: the agent sends nothing while this is not its own hook.
        self._place.run(["psql", "-Xqc", "ALTER SYSTEM SET archive_command = ''"])
        self._place.run(["psql", "-Xqc", "SELECT pg_reload_conf()"])
        self._start_agent()
        return command

    def _configure(self, recipient: str) -> None:
        root = self._place.root
        url = f"file://{root}/repository"
        endpoint = ""
        if self._bucket:
            url = f"s3://{self._bucket.name}/walkeeper"
            # In files: a restored server fetches its WAL in PostgreSQL's bare environment.
            endpoint = f"""\
endpoint_url = "https://localhost:{self._bucket.port}"
region = "us-east-1"
ca_file = "{self._bucket.ca_file}"
access_key_id_file = "{self._place.write("s3-id", self._bucket.access_key)}"
secret_access_key_file = "{self._place.write("s3-secret", self._bucket.secret_key)}"
"""
        else:
            self._place.directory("repository")
        self._place.directory("state")
        text = f"""\
[cluster]
dsn = "postgresql://postgres@/postgres?host={root}"

[[repository]]
url = "{url}"
{endpoint}

[encryption]
recipients = ["{recipient}"]
writer_key_file = "{root}/key.txt.writer"
identity_file = "{root}/key.txt"

[agent]
socket = "{root}/agent.sock"
http = ""
state_dir = "{root}/state"

{self._more}"""
        path = self._place.write("walkeeper.toml", text)
        self._place.environment["WALKEEPER_CONFIG"] = str(path)

    def _start_agent(self) -> None:
        with (self._place.root / "agent.log").open("w") as log:
            self._agent = self._place.spawn(["walkeeper", "agent"], stdout=log, stderr=log)
        deadline = time.monotonic() + AGENT_READY_S
        while not (self._place.root / "agent.sock").exists():
            if self._agent.poll() is not None or time.monotonic() > deadline:
                said = (self._place.root / "agent.log").read_text(errors="replace")
                raise ScriptError(f"the agent does not start:\n{said[-2000:]}")
            time.sleep(0.05)

    def backup(self) -> None:
        self._place.run(["walkeeper", "backup"])

    def stop(self) -> None:
        if self._agent:
            self._agent.terminate()
            self._agent.wait(60)

    def kill(self) -> None:
        """As the kernel does when memory runs out."""
        if self._agent:
            self._agent.kill()
            self._agent.wait(60)

    def restore(self, target: Path) -> None:
        self._place.run(
            ["walkeeper", "restore", "--target-dir", target, "--target-action", "promote"]
        )

    def belongs(self, argv: list[str]) -> bool:
        """The agent, the commands and the fetch service: Python of this environment, and ours."""
        return Path(argv[0]).parent == Path(sys.prefix) / "bin" and "walkeeper" in " ".join(
            argv[1:]
        )
