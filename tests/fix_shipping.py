"""An installed walkeeper that ships the tail fast, and its repository as stock tools see it."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from tests.fix_archiving import wait_archived
from tests.fix_cli import Installation, MakeInstallation
from tests.fix_postgres import Cluster, send_signal, wait_until
from tests.fix_tree import files_below
from walkeeper.agent.control_client import control_request
from walkeeper.services.agent_status import AgentStatus, TailStatus, decode_agent_status

FAST = '[tail]\ninterval = "200ms"'


def tail_objects(installation: Installation) -> list[str]:
    """The names of all stored tails, relative to the archive."""
    folder = installation.archive_dir
    paths = (path for path in files_below(folder / "tail") if path.suffix == ".age")
    return sorted(str(path.relative_to(folder)) for path in paths)


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
    """The links of a segment put together by hand; nothing of a tail that goes meanwhile."""
    content = b""
    for name in tail_objects(installation):
        path = installation.archive_dir / name
        if path.parent.name == segment and not path.name.startswith("merged"):
            assert int(path.name[:8], 16) == len(content), "a gap in the chain"
            try:
                content += opened(installation.identity_file, path)
            except subprocess.CalledProcessError:
                if path.exists():
                    raise
                return b""
    return content


def wait_shipped(
    installation: Installation, into: Installation | None = None, timeout_s: float = 30.0
) -> tuple[str, bytes]:
    """Wait until everything that is flushed now is stored; the segment and its joined tail.

    What is stored, in the repository of ``into``, must be what the server's own file holds. Where
    the server goes on to another segment meanwhile, that one is waited for: the first has no tail
    any more.
    """
    into = into or installation
    name, offset = _some_of_a_segment(installation.cluster)
    tail = b""

    def is_shipped() -> bool:
        nonlocal name, offset, tail
        tail = joined(into, name)
        if len(tail) < offset and any(into.archive_dir.glob(f"wal/*/*/{name}.zst.age")):
            name, offset = _some_of_a_segment(installation.cluster)
        return len(tail) >= offset

    wait_until(
        is_shipped,
        f"{offset} bytes of {name} to be shipped; the agent:\n{installation.agent_log[-3000:]}",
        timeout_s,
    )
    local = (installation.cluster.wal_dir / name).read_bytes()
    assert tail == local[: len(tail)]
    return name, tail


def _some_of_a_segment(cluster: Cluster) -> tuple[str, int]:
    """What is `flushed`, where that is more than nothing."""
    name, offset = flushed(cluster)
    if offset == 0:  # PostgreSQL flushes when a segment is full: the tail has nothing of the next
        cluster.sql("SELECT pg_logical_emit_message(true, 'next', 'segment')")
        name, offset = flushed(cluster)
    return name, offset


@contextlib.contextmanager
def still(cluster: Cluster) -> Iterator[None]:
    """A server that writes nothing unless it is told to; all that it has written is flushed.

    Else its background writer notes what runs every 15 s (bgwriter.c, LOG_SNAPSHOT_INTERVAL_MS),
    and autovacuum comes when it likes. They are stopped where they wait, and hold nothing there.
    """
    stopped: list[int] = []
    query = (
        "SELECT pid, wait_event_type FROM pg_stat_activity"
        " WHERE backend_type IN ('background writer', 'autovacuum launcher')"
    )

    def both_sleep() -> bool:
        for pid in stopped:
            send_signal(pid, signal.SIGCONT)
        stopped[:] = [int(pid) for pid, _ in cluster.sql(query)]
        for pid in stopped:
            send_signal(pid, signal.SIGSTOP)
        return [kind for _, kind in cluster.sql(query)] == ["Activity"] * 2

    try:
        wait_until(both_sleep, "the background writer and the autovacuum launcher to sleep")
        cluster.sql("SELECT pg_logical_emit_message(true, 'still', '')")
        yield
    finally:
        for pid in stopped:
            send_signal(pid, signal.SIGCONT)


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


def wait_noted(installation: Installation) -> TailStatus:
    """Wait until the agent knows that all that is flushed is stored; what it says of the tail.

    A link can be seen before its folders are synced, and only then it counts for the agent.
    """
    said = wait_tail(installation, "shipping")

    def is_noted() -> bool:
        nonlocal said
        said = wait_tail(installation, "shipping")
        flush_lsn = installation.cluster.value("SELECT pg_current_wal_flush_lsn()")
        return said.shipped_lsn == flush_lsn

    wait_until(
        is_noted, f"the agent to know what it has shipped:\n{installation.agent_log[-3000:]}", 60
    )
    return said


def copy_running(installation: Installation, name: str) -> Path:
    """Copy the data directory of a server that runs and does nothing, as a snapshot has it.

    What it has written is shipped, and its archiver has nothing to rename under the copy.
    """
    installation.cluster.sql("CHECKPOINT")
    wait_shipped(installation)
    wait_archived(installation)
    copied = installation.workspace.directory(name)
    installation.workspace.run(["cp", "-a", f"{installation.cluster.data_dir}/.", copied])
    (copied / "postmaster.pid").unlink()
    return copied


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
