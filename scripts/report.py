"""Shows what the bench found: on the terminal, as JSON, as a page's tables, as a picture."""

import importlib
import importlib.util
import json
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from contender import PROCESSES, ZSTD_LEVEL
from figures import (
    PEER,
    US,
    Case,
    Measurement,
    NotCompared,
    Results,
    Verdict,
    find_medians,
    find_ratio,
    judge,
)
from rich.console import Console, RenderableType
from rich.markup import escape
from rich.table import Table
from scratch import ScriptError, find_postgres, find_version

BEGIN, END = "<!-- bench: begin -->", "<!-- bench: end -->"
BAR_WIDTH = 40
# What is shown of each task, in this order; the rest is in the JSON.
SHOWN = {
    "push": ("mib_per_s", "cpu_s_per_gib", "peak_mib", "requests_per_segment", "segments"),
    "hook": ("hook_ms", "bare_ms", "of_bare"),
    "backup": ("wall_s", "cpu_s", "peak_mib", "s_per_gib", "requests"),
    "restore": ("wall_s", "cpu_s", "peak_mib", "s_per_gib"),
    "replay": (
        "replay_s",
        "waited_s",
        "wait_share",
        "fetched",
        "start_s",
        "hook_ms",
        "late_s",
        "end_s",
    ),
    "memory": ("idle_mib", "idle_own_mib", "busy_mib", "after_mib"),
    "growth": (
        *("push_mib_per_s", "first_status_s", "status_s", "backups_s"),
        *("plan_s", "plan_of_oldest_s"),
    ),
}


@dataclass(frozen=True, slots=True)
class Report:
    """A run of the bench: where, how, and what was found."""

    machine: dict[str, object]
    settings: dict[str, object]
    results: Results


def describe_machine(programs: dict[str, str]) -> dict[str, object]:
    """What is needed to judge figures of another machine."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {
        "processor": find_processor(),
        "cpus": os.cpu_count(),
        "memory_gib": round(memory / (1 << 30)),
        "load_before": round(os.getloadavg()[0], 1),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "postgresql": find_version(find_postgres()),
        "zstd_level": ZSTD_LEVEL,
        "processes": PROCESSES,
        **programs,
    }


def find_processor() -> str:
    """Its name as Linux knows it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def write_report(path: Path, report: Report) -> None:
    path.write_text(json.dumps(asdict(report), indent=2) + "\n")


def read_report(path: Path) -> Report:
    """What `write_report` wrote; raises ScriptError for anything else."""
    try:
        found = json.loads(path.read_text())
        runs = [
            Measurement(Case(**run["case"]), run["program"], run["figures"])
            for run in found["results"]["runs"]
        ]
        left_out = [NotCompared(**one) for one in found["results"]["not_compared"]]
        return Report(found["machine"], found["settings"], Results(runs, left_out))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ScriptError(f"{path} was not written by bench --json: {error!r}") from error


def join_reports(reports: Sequence[Report]) -> Report:
    """One of several runs on the same machine, whose figures of the same case count together.

    Raises ScriptError where machine or programs differ.
    """
    first = reports[0]
    differing = [one for one in reports if strip_load(one.machine) != strip_load(first.machine)]
    if differing:
        raise ScriptError("these are runs of different machines or programs")
    results = Results()
    for one in reports:
        results.runs += one.results.runs
        for left_out in one.results.not_compared:
            results.leave_out(left_out.what, left_out.why)
    said = {name: [say(one.settings[name]) for one in reports] for name in first.settings}
    settings: dict[str, object] = {name: "; ".join(dict.fromkeys(v)) for name, v in said.items()}
    return Report(first.machine, settings, results)


def strip_load(machine: dict[str, object]) -> dict[str, object]:
    return {name: value for name, value in machine.items() if name != "load_before"}


def goal_rows(report: Report) -> list[tuple[str, str, str, str, str]]:
    """What, where, what is asked, what was found, and whether that is enough."""
    verdicts = judge(find_medians(report.results.runs))
    return [
        (
            one.goal.what,
            ", ".join(filter(None, (one.case.data, one.case.store))),
            one.asked,
            one.found,
            "reached" if one.met else "missed",
        )
        for one in verdicts
    ]


def figure_rows(report: Report, task: str) -> tuple[list[str], list[list[str]]]:
    """The medians of one task, and our ratio to each peer: header and rows."""
    medians = {
        case: programs
        for case, programs in find_medians(report.results.runs).items()
        if case.task == task
    }
    names = [
        name
        for name in SHOWN.get(task, ())
        if any(name in figures for programs in medians.values() for figures in programs.values())
    ]
    rows = []
    for case, programs in medians.items():
        where = ", ".join(filter(None, (case.data, case.store)))
        for program, figures in programs.items():
            rows.append([where, program, *(show(figures.get(name)) for name in names)])
        for program in programs:
            if program != US and US in programs:
                ratios = [show(find_ratio(medians, case, program, name)) for name in names]
                rows.append([where, f"{US} / {program}", *ratios])
    return ["", "program", *names], rows


def show(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.2f}"


def show_report(report: Report, console: Console) -> None:
    """Everything, with the goals last: they are what is looked for."""
    for task in SHOWN:
        header, rows = figure_rows(report, task)
        if rows:
            console.print(make_table(f"{task}, medians", header, rows))
    goals = goal_rows(report)
    colours = {"reached": "green", "missed": "red"}
    shown = [[*row[:4], f"[{colours[row[4]]}]{row[4]}[/]"] for row in goals]
    if shown:
        console.print(make_table("goals", ["what", "where", "asked", "found", ""], shown))
    for one in report.results.not_compared:
        console.print(f"not compared: {escape(one.what)}: {escape(one.why)}", soft_wrap=True)


def make_table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    table = Table(title=title)
    for column in header:
        table.add_column(column, justify="left" if column in {"", "program"} else "right")
    for row in rows:
        table.add_row(*row, style="bold" if " / " in row[1] else "")
    return table


def write_markdown(path: Path, report: Report) -> None:
    """Put the tables between the marks of a page; raises ScriptError where it has none."""
    text = path.read_text()
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ScriptError(f"{path} has no lines {BEGIN} and {END}")
    path.write_text(f"{before}{BEGIN}\n{as_markdown(report)}{END}{after}")


def as_markdown(report: Report) -> str:
    """Machine, goals, medians and what was not compared."""
    machine = ", ".join(f"{name} {value}" for name, value in report.machine.items())
    settings = ", ".join(f"{name} {say(value)}" for name, value in report.settings.items())
    parts = [f"Machine: {machine}.\n", f"Settings: {settings}.\n"]
    parts.append(markdown_table(["what", "where", "asked", "found", ""], goal_rows(report)))
    for task in SHOWN:
        header, rows = figure_rows(report, task)
        if rows:
            parts.append(f"### {task}\n\n{markdown_table(header, rows)}")
    left_out = [f"* {one.what}: {one.why}\n" for one in report.results.not_compared]
    if left_out:
        parts.append("Not compared:\n\n" + "".join(left_out))
    return "\n" + "\n".join(parts) + "\n"


def say(value: object) -> str:
    return " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(cell.replace('|', '/') for cell in row)} |\n" for row in lines)


def draw(path: Path, report: Report) -> RenderableType:
    """The goals as bars, how far each is reached: a file, or a table without matplotlib."""
    verdicts = judge(find_medians(report.results.runs))
    if importlib.util.find_spec("matplotlib") is None:
        table = Table(title=f"no matplotlib (pip install '.[bench]'), so not in {path}", box=None)
        for one in verdicts:
            bar = "#" * round(min(reach_of(one), 2.0) / 2 * BAR_WIDTH)
            table.add_row(f"{one.goal.what} ({one.case.data}, {one.case.store})", bar, one.found)
        return table
    matplotlib = importlib.import_module("matplotlib")
    matplotlib.use("Agg")
    pyplot = importlib.import_module("matplotlib.pyplot")
    figure, axes = pyplot.subplots(figsize=(10, 1 + 0.3 * len(verdicts)))
    labels = [f"{one.goal.what} ({one.case.data}, {one.case.store})" for one in verdicts]
    colours = ["tab:green" if one.met else "tab:red" for one in verdicts]
    bars = axes.barh(labels, [reach_of(one) for one in verdicts], color=colours)
    axes.bar_label(bars, [one.found for one in verdicts], padding=3)
    axes.axvline(1.0, color="black", linewidth=0.8)
    axes.invert_yaxis()
    axes.set_xlabel(f"reached, as a part of the goal ({US} beside {PEER})")
    figure.savefig(path, bbox_inches="tight")
    return f"drawn: {path}"


def reach_of(verdict: Verdict) -> float:
    """1.0 is the goal, more is better."""
    value, limit = verdict.value, verdict.goal.limit
    if not verdict.goal.at_least:
        value, limit = limit, value
    return value / limit if limit else 2.0
