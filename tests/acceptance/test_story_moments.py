"""Any moment of a busy hour comes back exactly as it was."""

from __future__ import annotations

import random
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

import pytest

from tests.fix_cli import Installation, MakeInstallation
from tests.fix_postgres import Cluster, find_bin_dir
from tests.fix_restore import RestoreBed

MOMENTS = 10
CLIENTS = 4
SECONDS = 6

# One line of pg_waldump: the transaction's number and the time in its commit record.
COMMIT = re.compile(r"tx:\s+(\d+), .* desc: COMMIT (\S+ \S+) UTC")

LEDGER = "SELECT xmin, tid, bid, aid, delta FROM pgbench_history ORDER BY xmin::text::bigint"
BALANCES = """
SELECT (SELECT sum(abalance) FROM pgbench_accounts), (SELECT sum(bbalance) FROM pgbench_branches),
       (SELECT sum(tbalance) FROM pgbench_tellers),
       (SELECT coalesce(sum(delta), 0) FROM pgbench_history)
"""


@dataclass(frozen=True)
class Commit:
    """One commit record of the source, in the order in which it wrote them."""

    xid: int
    at: datetime


def commits(cluster: Cluster, begin: str) -> list[Commit]:
    """What PostgreSQL's own tool reads in the source's WAL from a position on."""
    end = cluster.value("SELECT pg_current_wal_flush_lsn()")
    argv = [find_bin_dir(cluster.version) / "pg_waldump", "-p", cluster.wal_dir, "-s", begin]
    found = cluster.run_as_owner([*argv, "-e", end, "--rmgr=Transaction"]).stdout
    return [
        Commit(int(match[1]), datetime.fromisoformat(match[2]).replace(tzinfo=UTC))
        for match in map(COMMIT.search, found.splitlines())
        if match
    ]


def held_at(written: list[Commit], moment: datetime) -> set[int]:
    """The transactions that recovery to this moment keeps: those before the first that is later."""
    kept = set()
    for commit in written:
        if commit.at > moment:
            break
        kept.add(commit.xid)
    return kept


@pytest.fixture
def busy(make_installation: MakeInstallation) -> Installation:
    """A source that keeps its WAL, so that what it wrote can be read there afterwards."""
    one = make_installation(settings={"wal_keep_size": "256MB"})
    one.initialise()
    one.start_agent()
    one.wait_recognised()
    return one


@pytest.mark.slow
def test_ten_random_moments_of_a_pgbench_run_come_back_exactly(
    busy: Installation, make_bed: Callable[..., RestoreBed]
) -> None:
    bed = make_bed(busy)
    source = bed.source
    source.pgbench("-i", "-q", "-s", "1")
    busy.run("backup")
    begin_lsn = source.value("SELECT pg_current_wal_insert_lsn()")
    begin = datetime.now(UTC)
    source.pgbench("-n", "-c", str(CLIENTS), "-T", str(SECONDS), "--rate=150")
    end = datetime.now(UTC)
    source.sql("CREATE TABLE afterwards ()")  # a commit behind every moment
    busy.archive_now()
    written = commits(source, begin_lsn)
    rows = {int(row[0]): row for row in source.sql(LEDGER)}
    assert len(rows) > 20 * MOMENTS

    for number in range(MOMENTS):
        moment = begin + (end - begin) * random.random()
        held = held_at(written, moment)
        expected = [row for xid, row in rows.items() if xid in held]
        with bed.running(f"pg{number}", "--target-time", moment.isoformat(" ")) as (copy, _):
            assert copy.sql(LEDGER) == expected, moment
            assert len(set(copy.sql(BALANCES)[0])) == 1, moment
            assert copy.value("SELECT to_regclass('afterwards')") == "", moment
        shutil.rmtree(bed.target(f"pg{number}"))
