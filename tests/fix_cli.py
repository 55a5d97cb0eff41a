"""Walkeeper as somebody has installed it: a cluster, keys, a repository, a configuration.

Commands run through the installed program as the system user of the cluster, in a bare
environment, as from cron. ``installation`` is ready for ``run("init", "--apply")``; with
``initialise()`` that has happened and the server archives.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.fix_postgres import BARE_ENVIRONMENT, Cluster, MakeCluster, Workspace, wait_until

COMMAND_TIMEOUT_S = 90.0
AGENT_TIMEOUT_S = 30.0


@dataclass
class Installation:
    """One host with walkeeper; everything lies in ``root`` and belongs to the cluster's owner.

    ``root`` is short enough for a socket in it.
    """

    program: Path
    workspace: Workspace
    cluster: Cluster
    root: Path
    more: str = ""
    """TOML behind the rest of the configuration, see `configure`."""
    url: str = ""
    can_read: bool = True
    http: str = ""
    """[agent] http: off, unless a test is about it, see ``fix_http``."""
    more_agent: str = ""
    agent: subprocess.Popen[bytes] | None = None
    agent_log_begin: int = 0
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def config_file(self) -> Path:
        return self.root / "walkeeper.toml"

    @property
    def identity_file(self) -> Path:
        return self.root / "key.txt"

    @property
    def writer_key_file(self) -> Path:
        return self.root / "key.txt.writer"

    @property
    def repository(self) -> Path:
        """The directory of the file:// repository."""
        return self.root / "repo"

    @property
    def archive_dir(self) -> Path:
        """The folder of the only archive in the repository."""
        (record,) = self.repository.glob("*/archive.json")
        return record.parent

    @property
    def socket(self) -> Path:
        return self.root / "run" / "agent.sock"

    @property
    def agent_log_file(self) -> Path:
        return self.root / "agent.log"

    @property
    def agent_log(self) -> str:
        """All that agents of this installation have said."""
        path = self.agent_log_file
        return path.read_text(errors="replace") if path.exists() else ""

    @property
    def recipient(self) -> str:
        """The public part of the identity."""
        lines = self.identity_file.read_text().splitlines()
        return next(line for line in lines if "public key: " in line).rpartition(" ")[2]

    def configure(self, more: str | None = None, *, dsn: bool = True) -> None:
        """Write the configuration; ``more`` is TOML to be added behind it, and stays.

        ``dsn=False`` makes it a host without PostgreSQL. ``can_read`` decides on the identity.
        """
        if more is not None:
            self.more = more
        lines = ["[[repository]]", f'url = "{self.url or self.repository.as_uri()}"']
        lines += ["[encryption]", f'recipients = ["{self.recipient}"]']
        lines += [f'writer_key_file = "{self.writer_key_file}"']
        if self.can_read:
            lines += [f'identity_file = "{self.identity_file}"']
        lines += ["[agent]", f'socket = "{self.socket}"', f'state_dir = "{self.root / "state"}"']
        lines += [f'http = "{self.http}"', self.more_agent]
        if dsn:
            lines += ["[cluster]", f'dsn = "{self.cluster.dsn}"']
        self.config_file.write_text("\n".join([*lines, self.more, ""]))
        os.chown(self.config_file, self.workspace.owner.uid, self.workspace.owner.gid)

    def configure_agent(self, more: str) -> None:
        """Write the configuration with these lines in its section [agent]; they stay."""
        self.more_agent = more
        self.configure()

    def run(
        self, *arguments: str | Path, code: int | None = 0, timeout_s: float = COMMAND_TIMEOUT_S
    ) -> subprocess.CompletedProcess[str]:
        """Run ``walkeeper --config ... ARGUMENTS`` to its end as the cluster's owner.

        Fails the test, with all output and the agent's log, unless it ends with ``code`` (None:
        whatever it ends with).
        """
        result = self.workspace.run(
            [self.program, "--config", self.config_file, *arguments],
            check=False,
            env=BARE_ENVIRONMENT | self.environment,
            timeout=timeout_s,
        )
        if code is not None and result.returncode != code:
            pytest.fail(
                f"walkeeper {' '.join(map(str, arguments))} ended with {result.returncode}, not "
                f"{code}:\n{result.stdout}{result.stderr}\nthe agent:\n{self.agent_log[-4000:]}"
            )
        return result

    def json(self, *arguments: str | Path, code: int | None = 0) -> dict[str, Any]:
        """Run a command with ``--json``; the one document that it writes to stdout."""
        found = json.loads(self.run(*arguments, "--json", code=code).stdout)
        assert isinstance(found, dict)
        return found

    def initialise(self) -> None:
        """``init --apply``, and the restart that archive_mode asks for."""
        self.run("init", "--apply")
        self.cluster.restart()

    def start_agent(self, *, wait: bool = True) -> None:
        """Start ``walkeeper agent``; returns when it listens, with ``wait=False`` at once."""
        assert not self.agent_running, "the agent runs already"
        self.agent_log_begin = len(self.agent_log)
        with self.agent_log_file.open("ab") as log:
            self.agent = subprocess.Popen(
                [str(self.program), "--config", str(self.config_file), "agent"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                env=BARE_ENVIRONMENT | self.environment,
                start_new_session=True,
                **self.workspace.owner.process_options(),
            )
        if wait:
            wait_until(
                lambda: not self.agent_running or self.agent_listens(),
                "the agent to listen",
                AGENT_TIMEOUT_S,
            )
            if not self.agent_running:
                pytest.fail(f"the agent did not start:\n{self.agent_log}")

    def wait_recognised(self) -> None:
        """Wait until the agent that was started last has recognised its server."""
        wait_until(
            lambda: "source_verified" in self.agent_log[self.agent_log_begin :],
            f"the agent to recognise its server:\n{self.agent_log}",
            AGENT_TIMEOUT_S,
        )

    @property
    def agent_running(self) -> bool:
        return self.agent is not None and self.agent.poll() is None

    def agent_listens(self) -> bool:
        """Whether somebody takes connections on the agent's socket."""
        with socket.socket(socket.AF_UNIX) as probe:
            try:
                probe.connect(os.fspath(self.socket))
            except OSError:
                return False
        return True

    def stop_agent(self) -> int:
        """SIGTERM, and wait until it has drained; returns its exit code."""
        assert self.agent is not None, "there is no agent"
        self.agent.terminate()
        try:
            return self.agent.wait(AGENT_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            pytest.fail(f"the agent does not end:\n{self.agent_log}")

    def kill_agent(self) -> None:
        """SIGKILL, as the kernel does when memory runs out."""
        if self.agent is not None:
            self.agent.kill()
            self.agent.wait(AGENT_TIMEOUT_S)

    def archive_now(self) -> str:
        """Write something, switch the segment, wait until it is archived; returns its name."""
        self.cluster.sql("SELECT pg_logical_emit_message(true, 'test', 'something')")
        name = self.cluster.value("SELECT pg_walfile_name(pg_current_wal_lsn())")
        self.cluster.sql("SELECT pg_switch_wal()")
        query = f"SELECT last_archived_wal >= '{name}' FROM pg_stat_archiver"
        wait_until(
            lambda: self.cluster.value(query) == "t",
            f"{name} to be archived; the agent:\n{self.agent_log[-4000:]}",
            90,  # PostgreSQL pauses for a minute after three refusals of an agent that just begins
        )
        return name


MakeInstallation = Callable[..., Installation]


@pytest.fixture
def make_installation(
    walkeeper_bin: Path, workspace: Workspace, make_cluster: MakeCluster
) -> Iterator[MakeInstallation]:
    """Make an installation with keys and configuration; its agent is killed at the end.

    ``cluster`` takes one that exists, else one of 1 MiB segments is made with ``options``;
    ``keys`` takes over the keys of another installation, ``url`` another repository.
    """
    made: list[Installation] = []

    def make(
        *,
        cluster: Cluster | None = None,
        url: str = "",
        keys: Installation | None = None,
        can_read: bool = True,
        more: str = "",
        **options: Any,
    ) -> Installation:
        root = workspace.directory(f"wk{len(made)}")
        if cluster is None:
            cluster = make_cluster(**{"segment_size_mb": 1, "fsync": False} | options)
        one = Installation(
            walkeeper_bin, workspace, cluster, root, more=more, url=url, can_read=can_read
        )
        made.append(one)
        for name in ("repo", "run", "state"):
            workspace.directory(f"{root.name}/{name}")
        if keys is None:
            workspace.run([walkeeper_bin, "keygen", "-o", one.identity_file])
        else:
            workspace.run(["cp", "-p", keys.identity_file, keys.writer_key_file, root])
        one.configure()
        return one

    yield make
    with ExitStack() as stack:  # each is killed, whatever happens to another
        for one in made:
            stack.callback(one.kill_agent)


@pytest.fixture
def installation(make_installation: MakeInstallation) -> Installation:
    """A cluster, keys, an empty file:// repository and a configuration; nothing has run yet."""
    return make_installation()


@pytest.fixture
def archiving(installation: Installation) -> Installation:
    """An installation whose server archives through a running agent, which has recognised it."""
    installation.initialise()
    installation.start_agent()
    installation.wait_recognised()
    return installation
