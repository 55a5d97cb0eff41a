"""Expiry on a real cluster: what it leaves can be restored, and kill -9 harms nothing."""

from __future__ import annotations

import json
import random
import signal
import time
from pathlib import Path

import pytest

from tests.fix_cli import Installation
from tests.fix_postgres import BARE_ENVIRONMENT
from tests.fix_restore import RestoreBed, rows

KEEP_TWO = '[retention]\nwindow = "0s"\nminimum_backups = 2\ngrace = "0s"\n'
_MOST_RUNS = 40
_MOST_KILLS = 12

MORTAL = """#!{python}
import os, random, signal, sys, threading
from walkeeper.storage.filesystem import FilesystemStorage

left = int(os.environ["DIE_AT"])
put, delete = FilesystemStorage.put, FilesystemStorage.delete

def count(name):
    global left
    if "/expiring/2" in name or "/backups/" in name or "/wal/" in name or "/tail/" in name:
        left -= 1
        if left == 0:
            delay_s = random.random() / 200
            threading.Timer(delay_s, os.kill, (os.getpid(), signal.SIGKILL)).start()

async def mortal_put(self, name, body):
    count(name)
    await put(self, name, body)

async def mortal_delete(self, name):
    count(name)
    await delete(self, name)

FilesystemStorage.put, FilesystemStorage.delete = mortal_put, mortal_delete
from walkeeper.cli.main import main
sys.exit(main())
"""


def backup_ids(one: Installation) -> list[str]:
    return [row["id"] for row in one.json("backups")["backups"]]


def segments(one: Installation) -> list[str]:
    found = one.archive_dir.glob("wal/*/*/*.zst.age")
    return sorted(path.name[:24] for path in found if len(path.name) == 24 + len(".zst.age"))


def grow(one: Installation, value: int) -> str:
    """A row, a segment that holds it, and a backup behind it."""
    one.cluster.sql(f"INSERT INTO t VALUES ({value})")
    one.archive_now()
    one.run("backup")
    return backup_ids(one)[-1]


def test_what_expire_leaves_restores_and_what_it_deletes_is_gone(bed: RestoreBed) -> None:
    one = bed.installation
    first = backup_ids(one)[0]
    pinned = grow(one, 1)
    gone = grow(one, 2)
    base = grow(one, 3)
    newest = grow(one, 4)
    one.cluster.sql("INSERT INTO t VALUES (5)")
    one.archive_now()

    refused = one.run("expire", code=40)
    assert "[retention] window is not set" in refused.stderr
    one.configure(KEEP_TWO)
    one.run("backups", "pin", pinned, "--reason", "before the audit")
    before = segments(one)
    said = one.json("expire", "--dry-run")
    assert segments(one) == before
    report = one.json("expire")

    assert {row["id"] for row in report["backups"] if row["deleted"]} == {first, gone}
    assert [row["kept"] for row in said["backups"]] == [row["kept"] for row in report["backups"]]
    assert backup_ids(one) == [pinned, base, newest]
    assert report["deleted_wal"]["objects"] > 0
    left = {row["id"]: row for row in one.json("backups")["backups"]}
    assert left[pinned]["pinned"] == "before the audit"
    assert segments(one)[0] == left[pinned]["wal_first"]
    text = one.run("expire").stdout
    assert "pinned: before the audit" in text
    assert "the newest backup" in text

    bed.restore("old", "--backup", pinned, "--target", "immediate", "--target-timeline", "1")
    assert rows(bed.started("old")) == [1]
    bed.stop_started()
    bed.restore("all")
    assert rows(bed.started("all")) == [1, 2, 3, 4, 5]
    # A restore leaves its lease, for the recovery that somebody starts later.
    assert len(list(one.archive_dir.glob("leases/*/*.json"))) == 2
    one.run("backups", "unpin", pinned)
    assert pinned in backup_ids(one)
    leased = {row["id"]: row["reason"] for row in one.json("expire")["backups"]}[pinned]
    assert leased == "in use by a restore or drill"


@pytest.mark.slow
def test_random_moments_inside_the_window_restore_after_expiry(bed: RestoreBed) -> None:
    one = bed.installation
    gone = backup_ids(one)[0]
    base = grow(one, 1)
    time.sleep(21)  # until the first backup lies outside a window of 20 s, and the second before it
    moments: list[tuple[str, list[int]]] = []
    for value in range(2, 7):
        one.cluster.sql(f"INSERT INTO t VALUES ({value})")
        moments.append((one.cluster.value("SELECT clock_timestamp()"), list(range(1, value + 1))))
        one.archive_now()
    one.cluster.sql("INSERT INTO t VALUES (7)")
    one.archive_now()
    one.configure('[retention]\nwindow = "20s"\nminimum_backups = 1\ngrace = "0s"\n')
    report = one.json("expire")
    assert {row["id"] for row in report["backups"] if row["deleted"]} == {gone}
    assert backup_ids(one) == [base]
    for number, (moment, expected) in enumerate(random.sample(moments, 3)):
        bed.restore(f"moment{number}", "--target-time", moment)
        assert rows(bed.started(f"moment{number}")) == expected
        bed.stop_started()


def test_a_store_that_takes_no_writes_is_said_and_still_restores(bed: RestoreBed) -> None:
    one = bed.installation
    grow(one, 1)
    one.stop_agent()
    one.configure(KEEP_TWO.replace("= 2", "= 1"))
    one.workspace.run(["chmod", "-R", "a-w", one.repository])
    try:
        denied = one.run("expire", "--json", code=22)
        (row, kept) = json.loads(denied.stdout)["backups"]
        assert (row["kept"], row["deleted"], kept["kept"]) == (False, False, True)
        assert "walkeeper:" in denied.stderr
        assert len(backup_ids(one)) == 2
        assert "would be deleted, if the store let us" in one.run("expire", code=22).stdout
        report = bed.restore("pg")
        assert any("no lease protects backup" in note for note in report["notes"])
        assert rows(bed.started("pg")) == [1]
    finally:
        one.workspace.run(["chmod", "-R", "u+w", one.repository])


@pytest.fixture
def several(bed: RestoreBed) -> RestoreBed:
    for value in range(1, 5):
        grow(bed.installation, value)
    return bed


@pytest.fixture
def mortal(several: RestoreBed) -> Path:
    """Walkeeper that dies a moment after it has begun to change the archive for the nth time."""
    one = several.installation
    program = one.root / "mortal"
    program.write_text(MORTAL.format(python=one.program.parent / "python"))
    program.chmod(0o755)
    return program


def test_killed_again_and_again_it_leaves_only_whole_backups(
    several: RestoreBed, mortal: Path
) -> None:
    one = several.installation
    one.configure(KEEP_TWO)
    expected = backup_ids(one)[-2:]
    kills = 0
    for _ in range(_MOST_RUNS):
        # On a busy machine a run may get no further than the one before, so not for ever.
        nth = kills % 4 + 1 if kills < _MOST_KILLS else 0
        done = one.workspace.run(
            [mortal, "--config", one.config_file, "expire"],
            check=False,
            env=BARE_ENVIRONMENT | one.environment | {"DIE_AT": str(nth)},
        )
        if done.returncode == 0:
            break
        assert done.returncode == -signal.SIGKILL, done.stderr
        kills += 1
        listed = one.json("backups")
        assert all(row["problem"] is None for row in listed["backups"])
        assert {row["id"] for row in listed["backups"]} >= set(expected)
    else:
        pytest.fail("it never came to its end")
    assert kills >= 3
    one.run("expire")
    assert backup_ids(one) == expected
    assert not list(one.archive_dir.glob("expiring/2*"))
    assert len(list(one.archive_dir.glob("backups/*/start.json"))) == 2
    several.restore("pg")
    assert rows(several.started("pg")) == [1, 2, 3, 4]
