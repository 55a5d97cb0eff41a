"""walkeeper beside its peers: the same WAL, the same clusters, the same compression, this machine.

Every program works in turn on the same data sets, each time from an empty store. What is measured:
push (WAL that waits until it is archived), hook (one call for a segment that is stored), backup,
restore, replay (a recovery from a far store), memory (of the agent), growth (with ever more
segments in the archive). BENCHMARKS.md says how to read it. `bench --rpo` measures disasters.
"""

import argparse
import dataclasses
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import datasets
from contender import CannotCompareError
from contenders import CONTENDERS, WHERE, find_programs
from datasets import Dataset
from figures import US
from report import (
    Report,
    describe_machine,
    draw,
    join_reports,
    read_report,
    show_report,
    write_markdown,
    write_report,
)
from rich.console import Console
from rich.markup import escape
from scratch import ScriptError, open_workplace
from settings import TASKS, Bench
from stores import STORES
from task_archive import run_session
from task_growth import run_growth
from task_memory import run_memory
from task_replay import run_replay

COPIED_IN = ("file", "rgw-tls")  # where backup and restore are measured
FULL = {"sizes": "1,10", "relations": 100_000, "growth": "1000,100000,1000000", "repeat": 5}
REPLAY_GIB = 0.3
WIDTH = 160  # where there is no terminal that says how wide it is
PAGE = Path(__file__).resolve().parents[1] / "BENCHMARKS.md"


def main() -> int:
    arguments = parse_arguments()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    console = Console(highlight=False, width=None if sys.stdout.isatty() else WIDTH)
    try:
        if arguments.read:
            report = join_reports([read_report(path) for path in arguments.read])
        else:
            report = measure(arguments, console)
    except ScriptError as error:
        console.print(f"[bold red]{escape(str(error))}[/]", soft_wrap=True)
        return 1
    except KeyboardInterrupt:
        return 130
    show_report(report, console)
    if arguments.json:
        write_report(arguments.json, report)
    if arguments.markdown:
        write_markdown(arguments.markdown, report)
    if arguments.plot:
        console.print(draw(arguments.plot, report))
    return 0


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--tasks", default=",".join(TASKS), help="what to measure (all)")
    add("--stores", default="file,rgw-tls,rgw-20ms", help=f"of {', '.join(STORES)} (%(default)s)")
    add("--programs", default="", help=f"of {', '.join(CONTENDERS)} (all that are installed)")
    add("--wal", default="pgbench,incompressible", help="WAL to push (%(default)s)")
    add("--segments", type=int, default=200, help="segments of WAL to push (200)")
    add("--sizes", default="1", metavar="GIB,...", help="clusters to back up; as 1,10,50 (1)")
    add("--relations", type=int, default=0, help="and one with so many small relations (0)")
    add("--growth", default="1000,100000", metavar="N,...", help="segments held (%(default)s)")
    add("--replay-segments", type=int, default=128, help="segments to recover (128)")
    add("--repeat", type=int, default=1, help="runs of each; medians count (1)")
    add("--seed", type=int, default=1, help="of the data (1)")
    add("--give-up", type=float, default=60, metavar="S", help="on a push, after S seconds (60)")
    add("--full", action="store_true", help="10 GiB, 100k relations, 1M segments, 5 runs")
    add("--json", type=Path, metavar="FILE", help="write all figures to FILE")
    shown = "measure nothing: show what --json wrote, in one run or several"
    add("--read", type=Path, nargs="+", metavar="FILE", help=shown)
    page = "put the tables between the marks of FILE (BENCHMARKS.md)"
    add("--markdown", nargs="?", const=PAGE, type=Path, metavar="FILE", help=page)
    add("--plot", type=Path, metavar="FILE", help="draw the ratios (needs matplotlib)")
    add("--work-dir", type=Path, default=Path("/var/tmp"), help="needs 20 GB (%(default)s)")
    add("--run-user", default="", help=argparse.SUPPRESS)  # scripts/bench knows
    arguments = parser.parse_args()
    if arguments.full:
        for name, value in FULL.items():
            if getattr(arguments, name) == parser.get_default(name):
                setattr(arguments, name, value)
    known = {"tasks": TASKS, "stores": STORES, "wal": ("pgbench", "incompressible")}
    for name, values in (known | {"programs": CONTENDERS}).items():
        chosen = tuple(filter(None, getattr(arguments, name).split(",")))
        if strange := set(chosen) - set(values):
            parser.error(f"--{name}: {', '.join(sorted(strange))} is none of {', '.join(values)}")
        setattr(arguments, name, chosen)
    try:
        arguments.sizes = tuple(map(float, filter(None, arguments.sizes.split(","))))
        arguments.growth = tuple(sorted(map(int, filter(None, arguments.growth.split(",")))))
    except ValueError as error:
        parser.error(f"--sizes and --growth are lists of numbers: {error}")
    return arguments


def measure(arguments: argparse.Namespace, console: Console) -> Report:
    """Everything that was asked for."""
    installed = find_programs()
    asked = arguments.programs or tuple(CONTENDERS)
    programs = tuple(name for name in CONTENDERS if name in installed and name in asked)
    if not programs:
        raise ScriptError("none of these programs is installed")
    names = {one.name for one in dataclasses.fields(Bench)}
    chosen = {name: value for name, value in vars(arguments).items() if name in names}
    chosen |= {"programs": programs, "tasks": frozenset(arguments.tasks)}
    bench = Bench(**chosen, give_up_s=arguments.give_up, console=console)
    for name in CONTENDERS:
        if name not in installed:
            bench.results.leave_out(name, WHERE.get(name, "it is not installed"))
    measure_archives(bench)
    measure_replay(bench)
    if "growth" in bench.tasks and US in programs:
        attempt(bench, "growth", partial(run_growth, bench))
    return Report(describe_machine(installed), describe_settings(bench), bench.results)


def measure_archives(bench: Bench) -> None:
    """Push, hook, backup, restore and memory, one data set after the other."""
    for at, gib in enumerate(bench.sizes):
        first = at == 0 and "pgbench" in bench.wal
        wanted = bench.tasks if first else bench.tasks - {"push", "memory"}
        if wanted & {"push", "hook", "backup", "restore", "memory"}:
            number = bench.segments if wanted & {"push", "memory"} else 1
            with made(bench, partial(datasets.make_pgbench, gib=gib, segments=number)) as dataset:
                use(bench, dataset, wanted)
    if "incompressible" in bench.wal and "push" in bench.tasks:
        number = max(1, bench.segments // 4)
        with made(bench, partial(datasets.make_incompressible, segments=number)) as dataset:
            use(bench, dataset, frozenset({"push"}))
    if bench.relations and bench.tasks & {"backup", "restore"}:
        with made(bench, partial(datasets.make_relations, count=bench.relations)) as dataset:
            use(bench, dataset, bench.tasks & {"backup", "restore"})


@contextmanager
def made(bench: Bench, make: Callable[..., Dataset]) -> Iterator[Dataset]:
    """A data set, for as long as it is used."""
    with ExitStack() as stack:
        place = stack.enter_context(
            open_workplace("walkeeper-data-", bench.run_user, bench.work_dir)
        )
        with bench.console.status("making a data set"):
            dataset = make(place, seed=bench.seed)
        yield dataset


def use(bench: Bench, dataset: Dataset, tasks: frozenset[str]) -> None:
    """Every program in turn, so that a disturbance does not hit one alone."""
    for _ in range(bench.repeat):
        for store in bench.stores:
            wanted = tasks & {"push"}
            if store in COPIED_IN or len(bench.stores) == 1:
                wanted |= tasks & {"backup", "restore"}
            if store == bench.stores[0]:
                wanted |= tasks & {"hook"}
            if "restore" in wanted:
                wanted |= {"backup"}
            for program in bench.programs if wanted else ():
                what = f"{program}, {dataset.files}, {store}"
                attempt(bench, what, partial(run_session, bench, dataset, store, program, wanted))
    if "memory" in tasks and US in bench.programs:
        store = bench.stores[-1]
        attempt(bench, "memory", partial(run_memory, bench, dataset, store))


def measure_replay(bench: Bench) -> None:
    if "replay" not in bench.tasks:
        return
    far = "rgw-20ms" if "rgw-20ms" in bench.stores else bench.stores[-1]
    make = partial(datasets.make_pgbench, gib=REPLAY_GIB, segments=0)
    with made(bench, make) as base:
        for _ in range(bench.repeat):
            for program in bench.programs:
                what = f"{program}, replay, {far}"
                attempt(bench, what, partial(run_replay, bench, base, far, program))


def attempt(bench: Bench, what: str, work: Callable[[], None]) -> None:
    """Do it; where it cannot be done, or fails, say so and go on with the next."""
    try:
        with bench.console.status(escape(what)):
            work()
    except CannotCompareError as error:
        bench.results.leave_out(what, str(error))
    except ScriptError as error:
        bench.console.print(f"[red]{escape(what)}: {escape(str(error))}[/]", soft_wrap=True)
        bench.results.leave_out(what, f"it failed: {str(error).strip().splitlines()[-1]}")


def describe_settings(bench: Bench) -> dict[str, object]:
    """What decides about the figures."""
    left_out = {"results", "console", "work_dir", "run_user"}
    found = {one.name: getattr(bench, one.name) for one in dataclasses.fields(bench)}
    found["tasks"] = sorted(bench.tasks)
    return {name: value for name, value in found.items() if name not in left_out}


if __name__ == "__main__":
    sys.exit(main())
