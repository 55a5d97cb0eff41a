"""The tail: the repository is never more than about an interval behind the server."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fix_cli import Installation
from tests.fix_postgres import wait_until

FAST = '[tail]\ninterval = "200ms"'


def tail_objects(installation: Installation) -> list[str]:
    """The names of all stored tails, relative to the archive."""
    folder = installation.archive_dir
    return sorted(str(path.relative_to(folder)) for path in folder.glob("tail/*/*.age"))


def opened(installation: Installation, name: Path) -> bytes:
    """The content of a stored object, by Debian's own tools."""
    command = f"age -d -i {installation.identity_file} {name} | zstd -dc"
    return subprocess.run(["sh", "-c", command], check=True, capture_output=True).stdout


def flushed(installation: Installation) -> tuple[str, int]:
    """The current segment and how many bytes of it are flushed."""
    row = installation.cluster.value(
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
            content += opened(installation, path)
    return content


@pytest.fixture
def shipping(installation: Installation) -> Iterator[Installation]:
    """An installation whose agent ships the tail every 200 ms."""
    installation.configure(FAST)
    installation.initialise()
    installation.cluster.sql("ALTER SYSTEM SET archive_timeout = 0")
    installation.cluster.sql("SELECT pg_reload_conf()")
    installation.start_agent()
    installation.cluster.sql("CREATE TABLE t (n int)")
    return installation


def wait_shipped(installation: Installation) -> tuple[str, bytes]:
    """Wait until everything that is flushed now is stored; the segment and its joined tail."""
    name, offset = flushed(installation)
    wait_until(
        lambda: len(joined(installation, name)) >= offset,
        f"{offset} bytes of {name} to be shipped; the agent:\n{installation.agent_log[-3000:]}",
    )
    return name, joined(installation, name)


def test_what_is_committed_is_in_the_archive_before_the_segment_is_full(
    shipping: Installation,
) -> None:
    shipping.cluster.sql("INSERT INTO t VALUES (1)")
    name, tail = wait_shipped(shipping)
    local = (shipping.cluster.data_dir / "pg_wal" / name).read_bytes()
    assert tail == local[: len(tail)]
    assert not list(shipping.archive_dir.glob(f"wal/*/*/{name}*"))


def test_an_idle_server_costs_nothing(shipping: Installation) -> None:
    wait_shipped(shipping)
    time.sleep(0.5)
    before = tail_objects(shipping)
    time.sleep(1.5)
    assert tail_objects(shipping) == before


def test_the_tail_goes_when_its_segment_is_durable(shipping: Installation) -> None:
    shipping.cluster.sql("INSERT INTO t VALUES (1)")
    name, _ = wait_shipped(shipping)
    shipping.archive_now()
    shipping.cluster.sql("INSERT INTO t VALUES (2)")
    wait_shipped(shipping)
    wait_until(
        lambda: not any(name in tail for tail in tail_objects(shipping)),
        f"the tail of {name} to be deleted",
    )


def test_a_restarted_agent_goes_on_where_the_chain_ends(shipping: Installation) -> None:
    shipping.cluster.sql("INSERT INTO t VALUES (1)")
    name, before = wait_shipped(shipping)
    shipping.stop_agent()
    shipping.cluster.sql("INSERT INTO t SELECT generate_series(1, 100)")
    shipping.start_agent()
    same, after = wait_shipped(shipping)
    assert same == name
    assert after.startswith(before)
    assert len(after) > len(before)


def test_a_killed_server_and_a_killed_agent_leave_a_chain_that_goes_on(
    shipping: Installation,
) -> None:
    for number in range(3):
        shipping.cluster.sql(f"INSERT INTO t VALUES ({number})")
        shipping.kill_agent()
        shipping.cluster.kill9()
        shipping.cluster.start()
        shipping.start_agent()
        name, tail = wait_shipped(shipping)
        local = (shipping.cluster.data_dir / "pg_wal" / name).read_bytes()
        assert tail == local[: len(tail)]


def test_everything_so_far_is_merged_after_64_links(shipping: Installation) -> None:
    def merged() -> bool:
        shipping.cluster.sql("INSERT INTO t VALUES (1)")
        return any("merged-" in name for name in tail_objects(shipping))

    wait_until(merged, "64 links to be merged", 60)
    path = next(shipping.archive_dir.glob("tail/*/merged-*"))
    end = int(path.name.removeprefix("merged-")[:8], 16)
    content = opened(shipping, path)
    assert len(content) == end
    local = (shipping.cluster.data_dir / "pg_wal" / path.parent.name).read_bytes()
    assert content == local[:end]
