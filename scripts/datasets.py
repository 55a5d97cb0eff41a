"""The clusters that are archived and backed up, made anew from a seed.

What a cluster holds at a given seed is always the same but for what PostgreSQL decides by the
clock: when it checkpoints, and so which pages stand in the WAL as a whole.
"""

import os
from dataclasses import dataclass
from pathlib import Path

from figures import SMALL_RELATIONS
from scratch import Workplace
from server import (
    ask,
    count_ready,
    hold_back,
    make_cluster,
    size_of,
    start_server,
    stop_server,
)

SETTINGS = """
listen_addresses = ''
unix_socket_directories = '{root}'
shared_buffers = '256MB'
max_wal_size = '4GB'
wal_keep_size = '200GB'
wal_recycle = off
autovacuum = off
archive_command = ''
"""
QUICKLY = "-c fsync=off -c synchronous_commit=off"
ACCOUNTS = "SELECT count(*), sum(aid::bigint * (abalance + 1)) FROM pgbench_accounts"
RELATIONS = "SELECT count(*), sum(relpages) FROM pg_class WHERE relname LIKE 'small_%'"
SCALE_A_GIB = 68  # pgbench's accounts and their index: 15 MiB for each unit of scale
NOISE = """
INSERT INTO noise SELECT string_agg(sha512(('{seed} {turn} ' || a || ' ' || b)::bytea), ''::bytea)
FROM generate_series(1, 2000) AS a, generate_series(1, 31) AS b GROUP BY a
"""
SMALL = """
DO $$ BEGIN FOR i IN {begin}..{end} LOOP
  EXECUTE format('CREATE TABLE small_%s (n) AS SELECT %s', i, i + {seed});
END LOOP; END $$
"""
SMALL_BATCH = 1000
NAME_LENGTH = 24  # of a segment, not of a backup or timeline history file


@dataclass(frozen=True, slots=True)
class Dataset:
    """A stopped cluster, with ``segments`` in its pg_wal that can be offered to the archiver.

    ``wal`` and ``files`` describe what it holds; ``query`` has the answer ``fingerprint`` in every
    copy that is worth anything.
    """

    place: Workplace
    data_dir: Path
    wal: str
    files: str
    segments: tuple[str, ...]
    size_bytes: int
    query: str
    fingerprint: str

    def rewind(self) -> None:
        """Leave nothing of the program that was here before; the server must not run."""
        hold_back(self.data_dir)
        (self.data_dir / "postgresql.auto.conf").write_text("")


def make_pgbench(place: Workplace, gib: float, segments: int, seed: int) -> Dataset:
    """pgbench's database and, where segments are asked for, the WAL of its transactions."""
    data_dir = begin(place)
    scale = max(1, round(SCALE_A_GIB * gib))
    place.run(["pgbench", "-iq", "-s", str(scale)], timeout_s=7200)
    restart_archiving(place, data_dir)
    turn = 0
    while count_ready(data_dir) < segments:
        turn += 1
        work(place, seed + turn)
    return finish(place, data_dir, f"{gib:g} GiB", ("pgbench", segments), ACCOUNTS)


def work(place: Workplace, seed: int) -> None:
    """Some seconds of pgbench, of whose first changes to each page the WAL holds the whole page."""
    ask(place, "CHECKPOINT")
    place.run(["pgbench", "-n", "-c", "8", "-j", "2", "-T", "2", f"--random-seed={seed}"])


def make_incompressible(place: Workplace, segments: int, seed: int) -> Dataset:
    """WAL of digests in rows that PostgreSQL does not compress; hardly any files."""
    data_dir = begin(place)
    place.run(["pgbench", "-iq", "-s", "1"])
    ask(place, "CREATE UNLOGGED TABLE nothing ()")
    ask(place, "CREATE TABLE noise (body bytea)")
    ask(place, "ALTER TABLE noise ALTER body SET STORAGE EXTERNAL")
    restart_archiving(place, data_dir)
    turn = 0
    while count_ready(data_dir) < segments:
        turn += 1
        ask(place, NOISE.format(seed=seed, turn=turn))
    return finish(place, data_dir, "noise", ("incompressible", segments), ACCOUNTS)


def make_relations(place: Workplace, count: int, seed: int) -> Dataset:
    """As many tables with one row each."""
    data_dir = begin(place)
    for first in range(1, count + 1, SMALL_BATCH):
        last = min(count, first + SMALL_BATCH - 1)
        ask(place, SMALL.format(begin=first, end=last, seed=seed))
    ask(place, "CHECKPOINT")
    restart_archiving(place, data_dir)
    return finish(place, data_dir, f"{count:,} {SMALL_RELATIONS}", ("", 0), RELATIONS)


def begin(place: Workplace) -> Path:
    data_dir = place.root / "data"
    settings = SETTINGS.format(root=place.root) + "max_locks_per_transaction = 2000\n"
    make_cluster(place, data_dir, settings)
    start_server(place, data_dir, QUICKLY)
    return data_dir


def restart_archiving(place: Workplace, data_dir: Path) -> None:
    """From here on segments wait; those before are of no interest."""
    stop_server(place, data_dir)
    start_server(place, data_dir, f"{QUICKLY} -c archive_mode=on")


def finish(
    place: Workplace, data_dir: Path, files: str, wal: tuple[str, int], query: str
) -> Dataset:
    """Stop the server; of the WAL that waits so many segments are kept as the data set's own."""
    kind, number = wal
    waiting = (data_dir / "pg_wal/archive_status").glob("*.ready")
    names = sorted(path.stem for path in waiting if len(path.stem) == NAME_LENGTH)
    segments = tuple(names[: max(1, number)])
    fingerprint = ask(place, query)
    stop_server(place, data_dir)
    with (data_dir / "postgresql.conf").open("a") as conf:
        conf.write("archive_mode = on\n")
    os.sync()
    size_bytes = size_of(data_dir)
    return Dataset(place, data_dir, kind, files, segments, size_bytes, query, fingerprint)
