"""A second writer of one history is met and stopped; the server whose archive it is goes on."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from tests.fix_archiving import FileShelf, fingerprint
from tests.fix_cli import Installation, MakeInstallation
from tests.fix_postgres import Cluster, wait_until
from tests.fix_shipping import (
    ask_agent,
    copy_running,
    make_beside,
    still,
    wait_shipped,
    wait_tail,
)
from walkeeper.services.agent_status import SourceStatus

Adopt = Callable[..., Cluster]
Snapshot = Callable[[], Cluster]


@pytest.fixture
def snapshot(shipping: Installation, adopt_cluster: Adopt) -> Snapshot:
    """Copy the data directory as it is at this moment; not started."""
    return lambda: adopt_cluster(copy_running(shipping, "copy"))


def write(installation: Installation, rows: int = 10) -> None:
    installation.cluster.sql(f"INSERT INTO t SELECT generate_series(1, {rows})")


def wait_refused(copy: Installation, reason: str) -> SourceStatus:
    """Wait until the agent of the copy refuses its server; what it says of it."""
    source = ask_agent(copy).source

    def is_refused() -> bool:
        nonlocal source
        source = ask_agent(copy).source
        return reason in str(source.reason)

    wait_until(is_refused, f"{reason!r}; the agent:\n{copy.agent_log[-3000:]}")
    assert "[cluster] archive" in str(source.hint)
    return source


def check_untouched(shipping: Installation, before: dict[str, str]) -> None:
    """Nothing was added but what the server itself has shipped: it is never quite idle.

    The tail of a segment may go when that is stored whole.
    """
    after = fingerprint(FileShelf(shipping.repository))
    whole = {name.rpartition("/")[2][:24] for name in after if "/wal/" in name}
    left = {
        item
        for item in before.items()
        if "/tail/" not in item[0] or item[0].split("/")[-2] not in whole
    }
    assert left <= after.items()
    name, _ = wait_shipped(shipping)  # and what is stored there are the server's own bytes
    assert all(f"/tail/{name}/" in one for one in after.keys() - before.keys())


def said_as_an_error(installation: Installation, event: str) -> bool:
    lines = [json.loads(line) for line in installation.agent_log.splitlines() if line[:1] == "{"]
    return any((line["event"], line["level"]) == (event, "error") for line in lines)


def test_a_snapshot_started_elsewhere_writes_nothing_and_the_server_goes_on(
    shipping: Installation, snapshot: Snapshot, make_installation: MakeInstallation
) -> None:
    clone = snapshot()
    write(shipping)
    name, _ = wait_shipped(shipping)
    copy = make_beside(make_installation, shipping, clone)
    before = fingerprint(FileShelf(shipping.repository))
    clone.start()
    copy.start_agent()
    said = wait_refused(copy, "the archive is ahead of this server")
    assert name in str(said.reason)
    assert said_as_an_error(copy, "source_refused")

    write(copy, 50)
    clone.sql("SELECT pg_switch_wal()")
    clone.wait_for("SELECT failed_count > 0 FROM pg_stat_archiver", "t")
    for _ in range(2):  # through the agent, then without one
        assert f"tail/{name}/" in copy.run("backup", code=15).stderr
        copy.kill_agent()
    check_untouched(shipping, before)

    shipping.archive_now()
    write(shipping)
    wait_shipped(shipping)
    shipping.run("backup")
    assert wait_tail(shipping, "shipping").reason is None


def test_a_copy_that_ran_ahead_alone_is_refused_as_well(
    shipping: Installation, snapshot: Snapshot, make_installation: MakeInstallation
) -> None:
    clone = snapshot()
    shipping.archive_now()
    copy = make_beside(make_installation, shipping, clone)
    clone.start()
    for _ in range(4):
        write(copy, 1000)
        clone.sql("SELECT pg_switch_wal()")
    before = fingerprint(FileShelf(shipping.repository))
    copy.start_agent()
    wait_refused(copy, "holds other bytes than pg_wal/")
    check_untouched(shipping, before)


def test_of_two_that_were_both_compared_the_second_to_write_stops(
    shipping: Installation, snapshot: Snapshot, make_installation: MakeInstallation
) -> None:
    with still(shipping.cluster):  # else it may be the first
        clone = snapshot()
        copy = make_beside(make_installation, shipping, clone)
        clone.start()
        copy.start_agent()
        write(copy)
        wait_shipped(copy, into=shipping)
        wait_tail(shipping, "shipping")  # it has nothing to send and knows nothing
    write(shipping)
    wait_refused(shipping, "this server")  # it is behind, or differs: as the rows' lengths are
    assert wait_tail(shipping, "stopped").reason
    assert said_as_an_error(shipping, "tail_state")
    assert said_as_an_error(shipping, "source_doubted")
    shipping.cluster.sql("SELECT pg_switch_wal()")
    shipping.cluster.wait_for("SELECT failed_count > 0 FROM pg_stat_archiver", "t")
    write(copy)
    wait_shipped(copy, into=shipping)


def test_of_two_that_only_archive_segments_the_second_stops_at_the_first_conflict(
    shipping: Installation, snapshot: Snapshot, make_installation: MakeInstallation
) -> None:
    clone = snapshot()
    shipping.stop_agent()
    shipping.configure('[tail]\ninterval = "0s"')
    copy = make_beside(make_installation, shipping, clone)
    copy.configure('[tail]\ninterval = "0s"')
    clone.start()
    copy.start_agent()
    shipping.start_agent()
    copy.archive_now()
    write(shipping)
    shipping.cluster.sql("SELECT pg_switch_wal()")
    wait_refused(shipping, "this server's WAL differs from the archive's")
    before = fingerprint(FileShelf(shipping.repository))
    for _ in range(3):
        write(shipping)
        shipping.cluster.sql("SELECT pg_switch_wal()")
    shipping.cluster.wait_for("SELECT failed_count > 1 FROM pg_stat_archiver", "t")
    assert fingerprint(FileShelf(shipping.repository)) == before
