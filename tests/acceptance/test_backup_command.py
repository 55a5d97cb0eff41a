"""``walkeeper backup``, through the agent and alone, as somebody at a terminal sees it."""

import contextlib
import os
import pty
import select
import subprocess
import time
from pathlib import Path

import pytest

from tests.fix_backup import (
    GIB,
    alone,
    backup_files,
    committed,
    make_long,
    part_lists,
    slow_agent,
    wait_copying,
)
from tests.fix_postgres import BARE_ENVIRONMENT, wait_until


def damage(cluster, table, block):
    """Turn over a byte of a page on disk."""
    cluster.sql("CHECKPOINT")
    path = cluster.data_dir / cluster.value(f"SELECT pg_relation_filepath('{table}')")
    with path.open("r+b") as file:
        file.seek(block * 8192 + 5000)
        byte = file.read(1)
        file.seek(block * 8192 + 5000)
        file.write(bytes([byte[0] ^ 0xFF]))
    return str(path.relative_to(cluster.data_dir)), path


@pytest.mark.parametrize("through", ["agent", "alone"])
def test_damaged_pages_are_named_and_the_backup_is_kept(archiving, by_hand, through):
    cluster, workspace = archiving.cluster, archiving.workspace
    cluster.sql(f"CREATE TABLESPACE far LOCATION '{workspace.directory('far')}'")
    # An ANALYZE by itself would set hint bits, and the next checkpoint write the pages anew.
    make = "CREATE TABLE {} WITH (autovacuum_enabled = off) {} AS SELECT repeat('x', 500)"
    cluster.sql(f"{make.format('t', '')} FROM generate_series(1, 500)")
    cluster.sql(f"{make.format('f', 'TABLESPACE far')} FROM generate_series(1, 99)")
    name, _ = damage(cluster, "t", 3)
    damage(cluster, "t", 5)
    far, _ = damage(cluster, "f", 1)
    config = alone(archiving) if through == "alone" else archiving.config_file
    argv = [archiving.program, "--config", config, "backup"]
    done = workspace.run(argv, check=False)
    assert done.returncode == 3, done.stderr
    assert f"DAMAGED: {name}, block 3, 5:" in done.stderr
    assert f"DAMAGED: {far}, block 1:" in done.stderr
    done = archiving.json("backup", code=3)
    assert done["checksum_findings"] == 3
    assert {(one["path"], one["count"], *one["blocks"]) for one in done["damaged"]} == {
        (name, 2, 3, 5),
        (far, 1, 1),
    }
    assert committed(archiving)[-1] == done["backup"]
    entries = part_lists(by_hand(archiving), done["backup"])
    assert (entries[name]["checksums"], entries[name]["bad_blocks"]) == ("bad", [3, 5])
    whole = [entry for path, entry in entries.items() if path not in {name, far}]
    assert {entry.get("checksums", "none") for entry in whole} == {"ok", "none"}


def test_a_page_verified_nowhere_is_not_called_damaged(make_installation):
    one = make_installation(checksums=False)
    one.initialise()
    one.start_agent()
    one.wait_recognised()
    one.cluster.sql("CREATE TABLE t AS SELECT repeat('x', 500) FROM generate_series(1, 500)")
    damage(one.cluster, "t", 3)
    assert one.json("backup")["checksum_findings"] == 0


@pytest.mark.parametrize("through", ["agent", "alone"])
def test_progress_is_drawn_on_a_terminal(archiving, through):
    make_long(archiving.cluster, GIB // 2)
    config = alone(archiving) if through == "alone" else archiving.config_file
    master, slave = pty.openpty()
    process = subprocess.Popen(
        [str(archiving.program), "--config", str(config), "backup"],
        stdin=subprocess.DEVNULL,
        stdout=slave,
        stderr=slave,
        cwd="/",
        env=BARE_ENVIRONMENT | {"TERM": "xterm", "COLUMNS": "100"},
        **archiving.workspace.owner.process_options(),
    )
    os.close(slave)
    seen = read_all(master, process)
    assert process.returncode == 0, seen
    assert "copying" in seen
    assert "━" in seen, "a bar is drawn"
    assert "MiB" in seen
    assert "is complete" in seen


def read_all(terminal, process):
    seen = b""
    deadline = time.monotonic() + 60
    with contextlib.suppress(OSError):  # EIO: nobody has the other end open any more
        while time.monotonic() < deadline:
            if select.select([terminal], [], [], 1)[0]:
                seen += os.read(terminal, 65536)
    os.close(terminal)
    process.wait(10)
    return seen.decode(errors="replace")


def test_nothing_is_drawn_into_a_file(archiving):
    done = archiving.run("backup")
    assert done.stderr == ""
    assert "\x1b" not in done.stdout


def test_one_backup_at_a_time_and_control_c_ends_it(archiving, start_command):
    make_long(archiving.cluster, 200 * GIB)
    first = start_command(archiving, "backup")
    wait_copying(archiving)
    assert "already being taken" in archiving.run("backup", code=11).stderr
    first.interrupt()
    assert first.wait() == 130
    (archiving.cluster.data_dir / "holes").unlink()
    wait_until(lambda: backup_files(archiving) == [], "the agent to remove what it had stored")
    # What is left to do for the one before may take a moment yet.
    wait_until(lambda: archiving.run("backup", code=None).returncode != 11, "the agent to be free")
    assert len(committed(archiving)) == 1


def test_a_backup_alone_ends_with_control_c_too(archiving, start_command):
    make_long(archiving.cluster, 200 * GIB)
    first = start_command(archiving, "backup", config=alone(archiving))
    wait_copying(archiving)
    first.interrupt()
    assert first.wait() == 130
    assert "interrupted" in first.text
    assert backup_files(archiving) == []


def test_nothing_is_staged_on_disk(archiving, start_command):
    """Files of the cluster go from its directory into the repository and nowhere between."""
    make_long(archiving.cluster, GIB // 2)
    slow_agent(archiving, 16)  # else it may have ended before anybody has looked
    running = start_command(archiving, "backup")
    biggest = 0
    while running.process.poll() is None:
        biggest = max(biggest, biggest_deleted_file(archiving.agent.pid))
        time.sleep(0.02)
    assert running.wait() == 0, running.text
    assert 0 < biggest < 2 << 20, "the list of files, a line for each, and nothing else"
    state = [path for path in (archiving.root / "state").rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in state) < 1 << 20


def biggest_deleted_file(pid):
    biggest = 0
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            if str(link.readlink()).endswith("(deleted)"):
                biggest = max(biggest, link.stat().st_size)
    return biggest


def test_a_host_without_an_identity_can_back_up(make_installation):
    one = make_installation(can_read=False)
    one.initialise()
    one.start_agent()
    one.wait_recognised()
    report = one.json("backup")
    assert committed(one) == [report["backup"]]


def test_a_backup_needs_a_server_that_archives(installation):
    installation.run("init")
    done = installation.run("backup", code=21)
    assert "archive_mode is off" in done.stderr
    assert "walkeeper init --apply" in done.stderr
    assert backup_files(installation) == []


def test_without_an_agent_the_wait_for_wal_gives_up(installation):
    installation.initialise()
    installation.configure('[backup]\nwal_patience = "1s"')
    done = installation.run("backup", code=1)
    assert "did not arrive in the archive for 1 s" in done.stderr
    assert "is the agent running" in done.stderr
    assert backup_files(installation) == []


def test_a_detached_copy_is_not_backed_up_into_the_archive_of_its_source(archiving):
    (archiving.cluster.data_dir / "walkeeper.detached").touch()
    for config in (archiving.config_file, alone(archiving)):
        argv = [archiving.program, "--config", config, "backup"]
        done = archiving.workspace.run(argv, check=False)
        assert done.returncode == 1
        assert "is a restored copy" in done.stderr
    assert backup_files(archiving) == []


def test_timeouts_set_on_the_server_do_not_matter(archiving):
    cluster = archiving.cluster
    slow_agent(archiving, 16)
    # Longer than a question to the server takes on a busy host, far shorter than the backup.
    for setting in ("statement_timeout", "idle_session_timeout", "lock_timeout"):
        cluster.sql(f"ALTER SYSTEM SET {setting} = '3s'")
    cluster.sql("ALTER SYSTEM SET idle_in_transaction_session_timeout = '3s'")
    cluster.reload()
    began = time.monotonic()
    archiving.run("backup")
    assert time.monotonic() - began > 7, "the session was not idle for long enough to tell"


def test_a_tablespace_made_just_before_the_checkpoint_is_not_forgotten(
    archiving, by_hand, start_command
):
    """Its creation lies before the start of the backup, so no replay would bring it back."""
    cluster = archiving.cluster
    cluster.pgbench("-i", "-q", "-s", "3")  # something for a checkpoint to write slowly
    with slow_checkpoint(cluster):
        running = start_command(archiving, "backup", "--spread", config=alone(archiving))
        cluster.wait_for(
            "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'walkeeper'"
            " AND state = 'active' AND query LIKE '%pg_backup_start%'",
            "1",
        )
        location = archiving.workspace.directory("late")
        cluster.sql(f"CREATE TABLESPACE late LOCATION '{location}'")
        cluster.sql("CREATE TABLE t TABLESPACE late AS SELECT 1 AS n")
        path = cluster.value("SELECT pg_relation_filepath('t')")
        cluster.sql("CHECKPOINT")
        assert running.wait() == 0, running.text
    assert path in part_lists(by_hand(archiving), committed(archiving)[-1])


@contextlib.contextmanager
def slow_checkpoint(cluster):
    """A checkpoint under way that takes its time; the next one has to wait for it."""
    argv = ["psql", "-Xq", cluster.dsn, "-c", "SELECT pg_backup_start('slow', false)"]
    with subprocess.Popen(argv, stdout=subprocess.DEVNULL, env=BARE_ENVIRONMENT) as process:
        try:
            cluster.wait_for_log("checkpoint starting: force wait")
            yield
        finally:
            process.terminate()


def test_a_label_is_one_line(archiving):
    done = archiving.run("backup", "--label", "x\nSTART TIMELINE: 7", code=2)
    assert "printable" in done.stderr
    assert committed(archiving) == []
