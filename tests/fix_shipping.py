"""An installed walkeeper that ships the tail fast, and its repository as stock tools see it."""

from __future__ import annotations

import asyncio
import subprocess
from functools import cache
from pathlib import Path

import pytest

from tests.fix_cli import Installation, MakeInstallation
from tests.fix_postgres import Cluster, wait_until
from walkeeper.agent.control_client import control_request
from walkeeper.services.agent_status import AgentStatus, TailStatus, decode_agent_status

FAST = '[tail]\ninterval = "200ms"'


def tail_objects(installation: Installation) -> list[str]:
    """The names of all stored tails, relative to the archive."""
    folder = installation.archive_dir
    return sorted(str(path.relative_to(folder)) for path in folder.glob("tail/*/*.age"))


@cache  # objects never change
def opened(identity_file: Path, path: Path) -> bytes:
    """The content of a stored object, by Debian's own tools."""
    command = f"age -d -i {identity_file} {path} | zstd -dc"
    return subprocess.run(["sh", "-c", command], check=True, capture_output=True).stdout


def flushed(cluster: Cluster) -> tuple[str, int]:
    """The current segment and how many bytes of it are flushed."""
    row = cluster.value(
        "SELECT pg_walfile_name(l) || ' ' || (l - '0/0') %"
        " (SELECT setting::bigint FROM pg_settings WHERE name = 'wal_segment_size')"
        " FROM pg_current_wal_flush_lsn() l"
    )
    name, offset = row.split()
    return name, int(offset)


def joined(installation: Installation, segment: str) -> bytes:
    """The links of a segment put together by hand."""
    content = b""
    for path in sorted(installation.archive_dir.glob(f"tail/{segment}/*.age")):
        if not path.name.startswith("merged"):
            assert int(path.name[:8], 16) == len(content), "a gap in the chain"
            content += opened(installation.identity_file, path)
    return content


def wait_shipped(
    installation: Installation, into: Installation | None = None, timeout_s: float = 30.0
) -> tuple[str, bytes]:
    """Wait until everything that is flushed now is stored; the segment and its joined tail.

    What is stored, in the repository of ``into``, must be what the server's own file holds.
    """
    into = into or installation
    name, offset = flushed(installation.cluster)
    if offset == 0:  # PostgreSQL flushes when a segment is full: the tail has nothing of the next
        installation.cluster.sql("SELECT pg_logical_emit_message(true, 'next', 'segment')")
        name, offset = flushed(installation.cluster)
    wait_until(
        lambda: len(joined(into, name)) >= offset,
        f"{offset} bytes of {name} to be shipped; the agent:\n{installation.agent_log[-3000:]}",
        timeout_s,
    )
    tail = joined(into, name)
    local = (installation.cluster.wal_dir / name).read_bytes()
    assert tail == local[: len(tail)]
    return name, tail


def ask_agent(installation: Installation) -> AgentStatus:
    """What the agent says of itself; the repository is not looked at."""
    reply = asyncio.run(control_request(installation.socket, "status", {}, timeout_s=10))
    assert reply is not None, "the agent does not run"
    return decode_agent_status(reply.message)


def wait_tail(installation: Installation, state: str, timeout_s: float = 30.0) -> TailStatus:
    """Wait until the agent says this of the tail; all that it says."""
    found: TailStatus | None = None

    def is_there() -> bool:
        nonlocal found
        found = ask_agent(installation).tail
        return found is not None and found.state == state

    wait_until(
        is_there, f"the tail to be {state}; the agent:\n{installation.agent_log[-3000:]}", timeout_s
    )
    assert found is not None
    return found


def make_shipping(installation: Installation, more: str = FAST) -> Installation:
    """Begin to archive and to ship, with an agent; ``more`` is configuration."""
    installation.configure(more)
    installation.initialise()
    installation.cluster.sql("ALTER SYSTEM SET archive_timeout = 0")
    installation.cluster.reload()
    installation.start_agent()
    installation.cluster.sql("CREATE TABLE t (n int)")
    return installation


def hook_of(installation: Installation) -> str:
    """The archive_command that speaks to this installation's agent."""
    return f"{installation.program} wal-push --socket {installation.socket} %p"


def make_beside(
    make_installation: MakeInstallation, first: Installation, cluster: Cluster
) -> Installation:
    """Another host with the same keys and repository, and an agent of its own."""
    other = make_installation(cluster=cluster, url=first.repository.as_uri(), keys=first, more=FAST)
    with (cluster.data_dir / "postgresql.auto.conf").open("a") as conf:
        conf.write(f"archive_command = '{hook_of(other)}'\n")
    return other


@pytest.fixture
def shipping(installation: Installation) -> Installation:
    """An installation whose agent ships the tail every 200 ms."""
    return make_shipping(installation)
