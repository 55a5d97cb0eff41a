"""Crashes and outages: the chain goes on where it ended, and the true server is never refused."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from tests.fix_archiving import MakeS3Archiving, S3Archiving, StockTools
from tests.fix_cli import Installation, MakeInstallation
from tests.fix_postgres import BARE_ENVIRONMENT, Cluster, find_client_dir, wait_until
from tests.fix_shipping import (
    FAST,
    ask_agent,
    flushed,
    make_shipping,
    opened,
    still,
    tail_objects,
    wait_noted,
    wait_shipped,
    wait_tail,
)

ROUNDS = int(os.environ.get("WALKEEPER_TEST_KILL_ROUNDS", "6"))
SCRIPT = r"""
\set size random(1, 30000)
INSERT INTO t SELECT generate_series(1, :size / 100);
SELECT pg_logical_emit_message(random() < 0.5, 'noise', repeat('x', :size));
"""


@contextlib.contextmanager
def load(cluster: Cluster, directory: Path) -> Iterator[None]:
    """Clients that write records of all sizes, half of them without waiting for the disk."""
    script = directory / "noise.sql"
    script.write_text(SCRIPT)
    argv = [find_client_dir(cluster.version) / "pgbench", "-n", "-f", script, "-c", "4"]
    argv += ["-R", "200", "-T", "60", "-h", cluster.socket_dir, "-U", "postgres", "postgres"]
    lazy = {"PGOPTIONS": f"-c synchronous_commit={random.choice(['on', 'off'])}"}
    process = subprocess.Popen(
        [str(word) for word in argv],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=BARE_ENVIRONMENT | lazy,
    )
    try:
        yield
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()


def check_no_hole(installation: Installation) -> int:
    """Every segment up to the current tail is stored as the server wrote it; how many there are."""
    name, _ = wait_shipped(installation, timeout_s=60)
    folder = installation.archive_dir
    stored = {path.name[:24] for path in folder.glob("wal/00000001/*/*.zst.age")}
    # What was written since is on its way, several segments at once.
    numbers = [int(one[16:], 16) for one in sorted({name, *stored}) if one <= name]
    assert numbers == list(range(numbers[0], numbers[-1] + 1))
    for path in folder.glob("wal/00000001/*/*.zst.age"):
        local = installation.cluster.wal_dir / path.name[:24]
        if local.exists():
            assert opened(installation.identity_file, path) == local.read_bytes()
    return len(numbers)


def test_killing_server_and_agent_at_any_moment_leaves_no_hole_and_no_refusal(
    make_installation: MakeInstallation, tmp_path: Path
) -> None:
    installation = make_installation(fsync=True, settings={"wal_keep_size": "1GB"})
    make_shipping(installation)
    cluster = installation.cluster
    for _ in range(ROUNDS):
        with load(cluster, tmp_path):
            time.sleep(random.uniform(0.3, 2.5))
            victims = [cluster.kill9, installation.kill_agent]
            random.shuffle(victims)
            for kill in victims[: random.choice([1, 2, 2])]:
                kill()
                time.sleep(random.choice([0, 0.1]))
        if not cluster.running:
            cluster.start()
        if not installation.agent_running:
            installation.start_agent()
        wait_shipped(installation, timeout_s=60)
    assert check_no_hole(installation) >= 1
    for word in ("source_doubted", "differs", "ahead of this server", "stopped", "broke"):
        assert word not in installation.agent_log


def test_an_outage_of_the_store_shows_a_growing_rpo_and_leaves_no_hole(
    make_installation: MakeInstallation, tmp_path: Path
) -> None:
    installation = make_shipping(make_installation(settings={"wal_keep_size": "1GB"}))
    wait_shipped(installation)
    away = installation.repository.with_name("away")
    with load(installation.cluster, tmp_path):
        time.sleep(0.5)
        installation.repository.rename(away)
        wait_until(lambda: rpo_of(installation) > 1, "the RPO to grow")
        first = ask_agent(installation).archiving
        time.sleep(2)
        # An attempt that is under way is tried again for some seconds before it counts as failed.
        wait_until(lambda: tail_state(installation) == "waiting", "the tail to wait")
        second = ask_agent(installation)
        away.rename(installation.repository)
    assert first is not None
    assert second.archiving is not None
    assert second.tail is not None
    assert 1 < first.rpo_s < second.archiving.rpo_s
    assert second.archiving.rpo_s <= second.archiving.rpo_max_s
    assert second.tail.state == "waiting"
    assert second.tail.reason
    check_no_hole(installation)
    wait_until(lambda: rpo_of(installation) == 0, "an RPO of zero")
    last = ask_agent(installation).archiving
    assert last is not None
    assert last.rpo_max_s >= second.archiving.rpo_s - 1.5  # noted once a second


def tail_state(installation: Installation) -> str:
    tail = ask_agent(installation).tail
    assert tail is not None
    return tail.state


def rpo_of(installation: Installation) -> float:
    archiving = ask_agent(installation).archiving
    assert archiving is not None
    return archiving.rpo_s


def test_a_tail_that_may_not_be_deleted_stays_and_everything_goes_on(
    shipping: Installation,
) -> None:
    name, _ = wait_shipped(shipping)
    folder = shipping.archive_dir / "tail" / name
    folder.chmod(0o555)
    for _ in range(3):
        shipping.archive_now()
        shipping.cluster.sql("INSERT INTO t VALUES (1)")
        wait_shipped(shipping)
    wait_until(lambda: "tails_stay" in shipping.agent_log, "the agent to say so")
    assert any(name in one for one in tail_objects(shipping))
    assert shipping.agent_log.count("tails_stay") == 1
    folder.chmod(0o755)


def test_in_a_bucket_lost_answers_make_no_hole_and_an_idle_server_makes_no_request(
    make_s3_archiving: MakeS3Archiving, stock: StockTools
) -> None:
    archiving = make_s3_archiving(more=FAST)
    installation, proxy = archiving.installation, archiving.proxy
    installation.start_agent()
    installation.cluster.sql("CREATE TABLE t (n int)")
    wait_tail(installation, "shipping")

    def shipped() -> bool:
        tail = ask_agent(installation).tail
        assert tail is not None
        flushed_lsn = installation.cluster.value("SELECT pg_current_wal_flush_lsn()")
        return tail.shipped_lsn == flushed_lsn

    faults = [
        {"status": 500, "after": True},  # stored, and told otherwise
        {"hang": True, "after": True},  # stored, and nothing heard of it: given up after 10 s
        {"status": 503},
        {"hang": True},
    ]
    for number, fault in enumerate(faults):
        proxy.add(kind="PUT", path_contains="/tail/", **fault)
        for _ in range(3):
            installation.cluster.sql(f"INSERT INTO t VALUES ({number})")
            time.sleep(0.3)
    # Two of them are given up after 10 s each, and all are tried again after a while.
    wait_until(shipped, f"the tail to catch up; the agent:\n{installation.agent_log[-3000:]}", 90)
    with still(installation.cluster):
        wait_noted(installation)
        check_chain(archiving, stock)
        proxy.forget()
        time.sleep(3)
        assert proxy.requests == []


def check_chain(archiving: S3Archiving, stock: StockTools) -> None:
    """The links in the bucket are what is flushed of the current segment."""
    installation = archiving.installation
    name, offset = flushed(installation.cluster)
    content = b""
    for link in archiving.shelf.names():
        if f"/tail/{name}/" in link and "merged" not in link:
            assert int(link.rpartition("/")[2][:8], 16) == len(content)
            content += stock.open(installation, archiving.shelf, link)
    assert content == (installation.cluster.wal_dir / name).read_bytes()[:offset]
