"""walkeeper beside pgBackRest: the same WAL, the same database, the same compression, this machine.

Each run works on its own copy of one cluster: pgbench's data, and WAL segments of pgbench that
wait to be archived. Measured are the time until PostgreSQL's archiver has emptied that queue,
a full base backup, and its restore; the restored cluster is then started and compared.
"""

import argparse
import json
import os
import platform
import signal
import statistics
import sys
import time
from contextlib import AbstractContextManager, ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

from contenders import PROCESSES, ZSTD_LEVEL, Contender, PgBackRest, Walkeeper
from gauge import Gauge, Usage
from rgw import start_rgw
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from scratch import ScriptError, Workplace, find_postgres, find_version, open_workplace

PHASES = ("archive", "backup", "restore")
CONTENDERS: dict[str, type[PgBackRest] | type[Walkeeper]] = {
    "pgbackrest": PgBackRest,
    "walkeeper": Walkeeper,
}
SETTINGS = """
listen_addresses = ''
unix_socket_directories = '{root}'
shared_buffers = '256MB'
max_wal_size = '4GB'
archive_command = ''
"""
DRAIN_DEADLINE_S = 1800.0
FINGERPRINT = "SELECT count(*), sum(aid::bigint * (abalance + 1)) FROM pgbench_accounts"
MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Template:
    """A stopped cluster that every run begins with."""

    data_dir: Path
    segments: int
    fingerprint: str


@dataclass(frozen=True, slots=True)
class Report:
    """What --json writes."""

    machine: dict[str, object]
    postgresql: int
    settings: dict[str, object]
    medians: dict[str, dict[str, Usage]]
    runs: dict[str, dict[str, list[Usage]]]

    def ratios(self, phase: str) -> tuple[float, float, float]:
        """walkeeper's wall time, CPU time and memory, each divided by pgBackRest's."""
        ours, theirs = (self.medians[name][phase] for name in ("walkeeper", "pgbackrest"))
        return (
            ours.wall_s / theirs.wall_s,
            ours.cpu_s / theirs.cpu_s,
            ours.peak_rss_bytes / theirs.peak_rss_bytes,
        )


def main() -> int:
    arguments = parse_arguments()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    console = Console(highlight=False)
    try:
        with ExitStack() as stack:
            shelf = stack.enter_context(open_place(arguments))
            with console.status("making the cluster that every run begins with"):
                template = make_template(shelf, arguments.scale, arguments.segments)
            usages = measure_all(arguments, template, console)
    except ScriptError as error:
        console.print(f"[bold red]{escape(str(error))}[/]", soft_wrap=True)
        return 1
    except KeyboardInterrupt:
        return 130
    report = make_report(arguments, template, usages)
    show_report(report, console)
    if arguments.json:
        arguments.json.write_text(json.dumps(asdict(report), indent=2) + "\n")
    return 0


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    parser.add_argument("--segments", type=int, default=100, help="WAL segments to archive (100)")
    parser.add_argument("--scale", type=int, default=50, help="pgbench's scale (50 is 750 MB)")
    parser.add_argument("--repeat", type=int, default=3, help="runs of each; medians count (3)")
    parser.add_argument("--only", choices=CONTENDERS, help="measure one of them")
    parser.add_argument("--rgw", action="store_true", help="store in Ceph's RGW over TLS")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures to FILE")
    parser.add_argument("--work-dir", type=Path, default=Path("/var/tmp"), help="needs 10 GB")
    parser.add_argument("--run-user", default="", help=argparse.SUPPRESS)  # scripts/bench knows
    return parser.parse_args()


def make_template(place: Workplace, scale: int, segments: int) -> Template:
    """pgbench's database and, in pg_wal, the segments that its transactions wrote."""
    data_dir = place.root / "data"
    options = "-U postgres -A trust -k -E UTF8 --locale=C"
    place.run(["pg_ctl", "-s", "initdb", "-D", data_dir, "-o", options])
    with (data_dir / "postgresql.conf").open("a") as conf:
        conf.write(SETTINGS.format(root=place.root))
    start_server(place, data_dir, "-c fsync=off")
    place.run(["pgbench", "-iq", "-s", str(scale)])
    stop_server(place, data_dir)
    start_server(place, data_dir, "-c fsync=off -c archive_mode=on -c synchronous_commit=off")
    while count_ready(data_dir) < segments:
        place.run(["pgbench", "-n", "-c", "8", "-j", "2", "-T", "1"])
    fingerprint = ask(place, FINGERPRINT)
    stop_server(place, data_dir)
    with (data_dir / "postgresql.conf").open("a") as conf:
        conf.write("archive_mode = on\n")
    return Template(data_dir, count_ready(data_dir), fingerprint)


def open_place(arguments: argparse.Namespace) -> AbstractContextManager[Workplace]:
    return open_workplace("walkeeper-bench-", arguments.run_user, arguments.work_dir)


def measure_all(
    arguments: argparse.Namespace, template: Template, console: Console
) -> dict[str, dict[str, list[Usage]]]:
    """Every contender in turn, ``repeat`` times, so that a disturbance does not hit one alone."""
    names = [arguments.only] if arguments.only else list(CONTENDERS)
    usages: dict[str, dict[str, list[Usage]]] = {
        name: {phase: [] for phase in PHASES} for name in names
    }
    for turn in range(arguments.repeat):
        for name in names:
            with ExitStack() as stack:
                stack.enter_context(console.status(f"{name}, run {turn + 1} of {arguments.repeat}"))
                place = stack.enter_context(open_place(arguments))
                bucket = None
                if arguments.rgw:  # a new one each time: nobody works beside another's garbage
                    bucket = start_rgw(stack.enter_context(open_place(arguments)), "bench")
                run = measure(place, CONTENDERS[name](place, bucket), template)
            for phase, usage in run.items():
                usages[name][phase].append(usage)
                console.print(f"{name} {phase}: {usage.wall_s:.2f} s, CPU {usage.cpu_s:.2f} s")
    return usages


def measure(place: Workplace, contender: Contender, template: Template) -> dict[str, Usage]:
    """One contender on one copy of the cluster."""
    data_dir, target = place.root / "data", place.root / "restored"
    place.run(["cp", "-a", "--reflink=auto", template.data_dir, data_dir])
    with (data_dir / "postgresql.conf").open("a") as conf:
        conf.write(f"unix_socket_directories = '{place.root}'\n")
    start_server(place, data_dir)
    command = contender.prepare()
    os.sync()
    archive = measure_archiving(place, contender, command)
    with Gauge(contender.belongs, data_dir) as backup:
        contender.backup()
    contender.stop()
    stop_server(place, data_dir)
    os.sync()
    place.directory(target.name)
    with Gauge(contender.belongs, data_dir) as restore:
        contender.restore(target)
    check_restored(place, target, template)
    return {"archive": archive.usage, "backup": backup.usage, "restore": restore.usage}


def measure_archiving(place: Workplace, contender: Contender, command: str) -> Gauge:
    """From the moment when the server learns its archive_command until nothing waits any more."""
    data_dir = place.root / "data"
    quoted = command.replace("'", "''")
    place.run(["psql", "-Xqc", f"ALTER SYSTEM SET archive_command = '{quoted}'"])
    with Gauge(contender.belongs, data_dir) as gauge:
        postmaster = int((data_dir / "postmaster.pid").read_text().split("\n", 1)[0])
        os.kill(postmaster, signal.SIGHUP)
        deadline = time.monotonic() + DRAIN_DEADLINE_S
        while count_ready(data_dir):
            if time.monotonic() > deadline:
                raise ScriptError(f"{contender.name} did not archive in {DRAIN_DEADLINE_S:.0f} s")
            time.sleep(0.02)
        gauge.stop_clock()
        time.sleep(1)  # an asynchronous process notices that its queue is empty
    return gauge


def check_restored(place: Workplace, target: Path, template: Template) -> None:
    """A fast restore of something else would not count."""
    start_server(place, target, "-c archive_mode=off")
    found = ask(place, FINGERPRINT)
    stop_server(place, target)
    if found != template.fingerprint:
        raise ScriptError(f"restored {found}, not {template.fingerprint}")


def start_server(place: Workplace, data_dir: Path, options: str = "") -> None:
    log = place.root / f"{data_dir.name}.log"
    place.run(["pg_ctl", "-s", "-D", data_dir, "-l", log, "-o", options, "-t", "600", "start"])


def stop_server(place: Workplace, data_dir: Path) -> None:
    place.run(["pg_ctl", "-s", "-D", data_dir, "-m", "fast", "-t", "600", "stop"])


def ask(place: Workplace, query: str) -> str:
    return place.run(["psql", "-XAtc", query]).strip()


def count_ready(data_dir: Path) -> int:
    """How many WAL files wait to be archived."""
    return len(list((data_dir / "pg_wal/archive_status").glob("*.ready")))


def make_report(
    arguments: argparse.Namespace, template: Template, usages: dict[str, dict[str, list[Usage]]]
) -> Report:
    """All runs and their medians, with what is needed to judge them."""
    return Report(
        machine={"processor": platform.machine(), "cpus": os.cpu_count()},
        postgresql=find_version(find_postgres()),
        settings={
            "segments": template.segments,
            "scale": arguments.scale,
            "repeat": arguments.repeat,
            "store": "rgw" if arguments.rgw else "filesystem",
            "zstd_level": ZSTD_LEVEL,
            "processes": PROCESSES,
        },
        medians={
            name: {phase: find_median(runs) for phase, runs in phases.items()}
            for name, phases in usages.items()
        },
        runs=usages,
    )


def find_median(runs: list[Usage]) -> Usage:
    """The median of each figure by itself."""
    return Usage(
        statistics.median(run.wall_s for run in runs),
        statistics.median(run.cpu_s for run in runs),
        int(statistics.median(run.peak_rss_bytes for run in runs)),
    )


def show_report(report: Report, console: Console) -> None:
    """Both programs and, where both ran, walkeeper's figure divided by pgBackRest's."""
    settings = report.settings
    table = Table(
        title=f"{settings['segments']} segments, scale {settings['scale']}, {settings['store']},"
        f" PostgreSQL {report.postgresql}, medians of {settings['repeat']}"
    )
    for column in ("phase", "program", "wall s", "CPU s", "peak MiB"):
        table.add_column(column, justify="left" if column in {"phase", "program"} else "right")
    for phase in PHASES:
        for name, medians in report.medians.items():
            usage = medians[phase]
            memory = f"{usage.peak_rss_bytes / MIB:.0f}"
            table.add_row(phase, name, f"{usage.wall_s:.2f}", f"{usage.cpu_s:.2f}", memory)
        if len(report.medians) == len(CONTENDERS):
            table.add_row(phase, "[bold]ratio[/]", *map("{:.2f}".format, report.ratios(phase)))
        table.add_section()
    console.print(table)


if __name__ == "__main__":
    sys.exit(main())
