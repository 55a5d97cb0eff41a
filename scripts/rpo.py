"""What a disaster costs: a server is killed at full speed, and its rows are counted after.

Each run has a cluster, a base backup, pgbench at full speed, and a client that commits numbered
rows one after another. At a random moment every process of PostgreSQL and the agent get SIGKILL
and the data directory is removed; `walkeeper restore --start` rebuilds it from the repository.
Lost are the rows that the client was told are committed. Last comes what the tail costs in S3.
"""

import argparse
import contextlib
import dataclasses
import json
import math
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from contender import Bucket, Site
from contender_walkeeper import Walkeeper
from delay import delayed
from gauge import reap_orphans
from rgw import start_rgw
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rpo_cost import CALM_DEADLINE_S, Cost, measure_costs, show_costs
from rpo_load import Client, committing, full_speed
from scratch import ScriptError, Workplace, open_workplace
from server import ask, start_server
from shared_memory import free_of_killed

SETTINGS = """
listen_addresses = ''
unix_socket_directories = '{root}'
shared_buffers = '128MB'
max_wal_size = '4GB'
archive_mode = on
autovacuum = off
"""
EARLIEST_S = 3.0
SCALE = 5


@dataclass(frozen=True, slots=True)
class Loss:
    """One disaster: committed rows that are gone, the seconds they span, and how long it took."""

    after_s: float
    acknowledged: int
    lost_rows: int
    lost_s: float
    restore_s: float


def main() -> int:
    arguments = parse_arguments()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    console = Console(highlight=False)
    losses: list[Loss] = []
    costs: list[Cost] = []
    try:
        for turn in range(arguments.runs):
            with opened(arguments) as (place, walkeeper):
                loss = lose(place, walkeeper, arguments.seconds)
            losses.append(loss)
            console.print(f"{turn + 1:3}: {describe(loss)}", soft_wrap=True)
        if arguments.cost_seconds:
            with opened(arguments) as (place, _):
                costs = measure_costs(place, arguments.cost_seconds, console)
    except ScriptError as error:
        console.print(f"[bold red]{escape(str(error))}[/]", soft_wrap=True)
        return 1
    except KeyboardInterrupt:
        return 130
    show_losses(losses, arguments, console)
    show_costs(costs, arguments, console)
    if arguments.json:
        found = {"losses": list(map(dataclasses.asdict, losses))}
        found |= {"costs": [dataclasses.asdict(c) | {"usd": c.dollars_a_month} for c in costs]}
        arguments.json.write_text(json.dumps(found, indent=2) + "\n")
    return 0


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench --rpo", description=__doc__)
    parser.add_argument("--runs", type=int, default=20, help="disasters (20)")
    parser.add_argument("--seconds", type=float, default=20.0, help="the latest moment (20)")
    parser.add_argument("--store", choices=["file", "rgw"], default="file")
    parser.add_argument("--latency-ms", type=float, default=0.0, help="to the RGW (0)")
    parser.add_argument("--interval", default="1s", help="[tail] interval (1s)")
    parser.add_argument("--cost-seconds", type=float, default=70.0, help="for each load; 0: none")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures to FILE")
    parser.add_argument("--work-dir", type=Path, default=Path("/var/tmp"), help="needs 5 GB")
    parser.add_argument("--run-user", default="", help=argparse.SUPPRESS)  # scripts/bench knows
    arguments = parser.parse_args()
    if arguments.latency_ms and arguments.store != "rgw":
        parser.error("--latency-ms needs --store rgw")
    return arguments


@contextlib.contextmanager
def opened(arguments: argparse.Namespace) -> Iterator[tuple[Workplace, Walkeeper]]:
    """A cluster that archives into a store of its own, with one base backup."""
    with ExitStack() as stack:
        user, parent = arguments.run_user, arguments.work_dir
        place = stack.enter_context(open_workplace("walkeeper-rpo-", user, parent))
        bucket = None
        if arguments.store == "rgw":
            shelf = stack.enter_context(open_workplace("walkeeper-rgw-", user, parent))
            bucket = start_rgw(shelf, "rpo")
            if arguments.latency_ms:
                port = stack.enter_context(delayed(bucket.port, arguments.latency_ms / 1000))
                bucket = dataclasses.replace(bucket, port=port)
        yield place, prepare(place, bucket, arguments.interval)


def prepare(place: Workplace, bucket: Bucket | None, interval: str) -> Walkeeper:
    data_dir = place.root / "data"
    options = "-U postgres -A trust -k -E UTF8 --locale=C"
    place.run(["pg_ctl", "-s", "initdb", "-D", data_dir, "-o", options])
    with (data_dir / "postgresql.conf").open("a") as conf:
        conf.write(SETTINGS.format(root=place.root))
    start_server(place, data_dir)
    place.run(["pgbench", "-iq", "-s", str(SCALE)])
    ask(place, "CREATE TABLE committed (n bigint PRIMARY KEY)")
    site = Site(place, data_dir, bucket, more=f'[tail]\ninterval = "{interval}"\n')
    walkeeper = Walkeeper(site)
    command = walkeeper.prepare().replace("'", "''")
    ask(place, f"ALTER SYSTEM SET archive_command = '{command}'")
    ask(place, "SELECT pg_reload_conf()")
    deadline = time.monotonic() + CALM_DEADLINE_S
    while "wal-push" not in ask(place, "SHOW archive_command"):
        if time.monotonic() > deadline:
            raise ScriptError("PostgreSQL does not read its new settings")
        time.sleep(0.1)
    walkeeper.backup()
    return walkeeper


def lose(place: Workplace, walkeeper: Walkeeper, latest_s: float) -> Loss:
    """One disaster, and what is left after it."""
    data_dir = place.root / "data"
    client = Client(place.root)
    after_s = random.uniform(min(EARLIEST_S, latest_s), latest_s)
    with committing(client), full_speed(place):
        time.sleep(after_s)
        kill_all(data_dir)
        happened = time.monotonic()
        walkeeper.kill()
        shutil.rmtree(data_dir)
    reap_orphans()  # a dead postmaster that nobody has waited for still holds its socket
    free_of_killed(data_dir.parent.stat().st_uid)
    began = time.monotonic()
    target = place.directory("restored")
    place.run(["walkeeper", "restore", "--target-dir", target, "--target", "latest", "--start"])
    restore_s = time.monotonic() - began
    present = int(ask(place, "SELECT count(*) FROM committed"))
    highest = int(ask(place, "SELECT coalesce(max(n), 0) FROM committed"))
    if present != highest:
        raise ScriptError(f"rows are missing in the middle: {present} rows up to {highest}")
    lost = client.acknowledged[highest:]
    lost_s = happened - lost[0] if lost else 0.0
    return Loss(after_s, len(client.acknowledged), len(lost), lost_s, restore_s)


def kill_all(data_dir: Path) -> None:
    """SIGKILL for the postmaster and everything below it, at one moment."""
    postmaster = int((data_dir / "postmaster.pid").read_text().split("\n", 1)[0])
    os.kill(postmaster, signal.SIGSTOP)  # or it forks while we count
    for pid in (postmaster, *find_children_of(postmaster)):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def find_children_of(parent: int) -> list[int]:
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            fields = (entry / "stat").read_text().rpartition(") ")[2].split()
            if int(fields[1]) == parent:
                found.append(int(entry.name))
    return found


def describe(loss: Loss) -> str:
    return (
        f"after {loss.after_s:4.1f} s, {loss.acknowledged} rows committed, {loss.lost_rows} lost"
        f" of the last {loss.lost_s:.2f} s; restored in {loss.restore_s:.1f} s"
    )


def quantile(values: Sequence[float], part: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, math.ceil(part * len(ordered)) - 1)]


def show_losses(losses: list[Loss], arguments: argparse.Namespace, console: Console) -> None:
    if not losses:
        return
    where = f"{arguments.store}, {arguments.latency_ms:.0f} ms away, every {arguments.interval}"
    table = Table(title=f"{len(losses)} disasters; {where}")
    for column in ("", "p50", "p99", "max"):
        table.add_column(column, justify="right" if column else "left")
    figures: dict[str, list[float]] = {
        "seconds lost": [loss.lost_s for loss in losses],
        "rows lost": [loss.lost_rows for loss in losses],
        "seconds to restore": [loss.restore_s for loss in losses],
    }
    for name, values in figures.items():
        digits = 0 if name == "rows lost" else 2
        shown = [quantile(values, part) for part in (0.5, 0.99, 1.0)]
        table.add_row(name, *(f"{value:.{digits}f}" for value in shown))
    console.print(table)


if __name__ == "__main__":
    sys.exit(main())
