"""walkeeper itself, as the bench starts it."""

import json
import re
import shutil
import subprocess
import time
from pathlib import Path

from contender import Site
from scratch import ScriptError, copy_package

AGENT_READY_S = 60.0


class Walkeeper:
    """walkeeper with its agent, zstd level 1, age."""

    name = "walkeeper"

    def __init__(self, site: Site) -> None:
        copy_package(site.place)
        self._bin = Path(
            shutil.which("walkeeper", path=site.place.environment["PATH"]) or ""
        ).parent
        self._site = site
        self._place = site.place
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
        self.start_agent()
        return command

    def _configure(self, recipient: str) -> None:
        root = self._place.root
        url = f"file://{root}/repository"
        endpoint = ""
        if bucket := self._site.bucket:
            url = f"s3://{bucket.name}/walkeeper"
            trust = f'ca_file = "{bucket.ca_file}"' if bucket.tls else ""
            # In files: a restored server fetches its WAL in PostgreSQL's bare environment.
            endpoint = f"""\
endpoint_url = "{bucket.endpoint}"
region = "us-east-1"
{trust}
access_key_id_file = "{self._place.write("s3-id", bucket.access_key)}"
secret_access_key_file = "{self._place.write("s3-secret", bucket.secret_key)}"
"""
        else:
            self._place.directory("repository")
        self._place.directory("state")
        limits = ""
        if number := self._site.processes:
            limits = f"[archive]\nuploads = {number}\n\n[backup]\nreaders = {number}\n"
        text = f"""\
[cluster]
dsn = "postgresql://postgres@/postgres?host={self._site.socket_dir}"

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

{limits}
{self._site.more}"""
        path = self._place.write("walkeeper.toml", text)
        self._place.environment["WALKEEPER_CONFIG"] = str(path)

    def start_agent(self) -> None:
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

    @property
    def agent_pid(self) -> int:
        assert self._agent is not None
        return self._agent.pid

    def kill(self) -> None:
        """As the kernel does when memory runs out."""
        if self._agent:
            self._agent.kill()
            self._agent.wait(60)

    def restore(self, target: Path) -> float:
        where: list[str | Path] = ["--target-dir", target, "--target-action", "promote"]
        said = self._place.run(["walkeeper", "restore", *where, "--json"])
        return float(json.loads(said[said.index("{") :])["seconds"]["ahead"])

    def belongs(self, argv: list[str]) -> bool:
        """The agent, the commands and the fetch service: Python of this environment, and ours."""
        return Path(argv[0]).parent == self._bin and "walkeeper" in " ".join(argv[1:])
