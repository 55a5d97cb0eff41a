"""What was measured, its medians, and the goals that these are held against."""

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

US, PEER = "walkeeper", "pgbackrest"
SMALL_RELATIONS = "small relations"
NEAR, FAR = ("file", "rgw-tls"), ("rgw-20ms",)


@dataclass(frozen=True, slots=True, order=True)
class Case:
    """A task on some data in some store: what is compared is equal in all three."""

    task: str
    data: str
    store: str

    def __str__(self) -> str:
        return ", ".join(filter(None, (self.task, self.data, self.store)))


@dataclass(frozen=True, slots=True)
class Measurement:
    """One run of one program; figures are named with their units."""

    case: Case
    program: str
    figures: dict[str, float]


@dataclass(frozen=True, slots=True)
class NotCompared:
    """What could not be measured, and why."""

    what: str
    why: str


Relation = Literal["peer", "itself", "large files", "fewest"]


@dataclass(frozen=True, slots=True)
class Goal:
    """A bound on a figure of ours.

    ``against`` says what the figure is divided by first: pgBackRest's in the same case, nothing,
    our own with large files, or our own with the fewest segments in the archive.
    """

    what: str
    task: str
    figure: str
    limit: float
    against: Relation = "peer"
    at_least: bool = False
    stores: tuple[str, ...] = ()  # none: all
    scale: float = 1.0  # from the figure to what is shown
    unit: str = "x"


GOALS = (
    Goal("WAL push, throughput", "push", "mib_per_s", 1.5, at_least=True, stores=NEAR),
    Goal("WAL push, throughput", "push", "mib_per_s", 2.0, at_least=True, stores=FAR),
    Goal("WAL push, CPU seconds a GiB", "push", "cpu_s_per_gib", 0.8),
    Goal("WAL push, requests a segment", "push", "requests_per_segment", 1.05, "itself", unit=""),
    Goal("hook, durable segment", "hook", "hook_ms", 15, "itself", unit=" ms"),
    Goal("hook, of a bare interpreter", "hook", "of_bare", 2.0, "itself"),
    Goal("base backup, wall time", "backup", "wall_s", 0.8),
    Goal("base backup, CPU", "backup", "cpu_s", 1.0),
    Goal("restore, wall time", "restore", "wall_s", 0.8),
    Goal("small relations, backup a GiB", "backup", "s_per_gib", 2.0, "large files"),
    Goal("replay, waits for WAL", "replay", "wait_share", 5, "itself", scale=100, unit=" %"),
    Goal("agent, idle", "memory", "idle_mib", 60, "itself", unit=" MiB"),
    Goal("agent, 16 uploads at once", "memory", "busy_mib", 150, "itself", unit=" MiB"),
    Goal("growth: push", "growth", "push_mib_per_s", 0.9, "fewest", at_least=True),
    Goal("growth: status", "growth", "status_s", 2.0, "itself", unit=" s"),
    Goal("growth: backups", "growth", "backups_s", 2.0, "itself", unit=" s"),
    Goal("growth: plan", "growth", "plan_s", 2.0, "itself", unit=" s"),
)


@dataclass(frozen=True, slots=True)
class Verdict:
    """A goal in one case: the value that counts, and whether it is reached."""

    goal: Goal
    case: Case
    value: float

    @property
    def met(self) -> bool:
        limit = self.goal.limit
        return self.value >= limit if self.goal.at_least else self.value <= limit

    @property
    def asked(self) -> str:
        bound = "at least" if self.goal.at_least else "at most"
        return f"{bound} {self.goal.limit:g}{self.goal.unit}"

    @property
    def found(self) -> str:
        return f"{self.value:.2f}{self.goal.unit}"


@dataclass
class Results:
    """All runs so far."""

    runs: list[Measurement] = field(default_factory=list)
    not_compared: list[NotCompared] = field(default_factory=list)

    def add(self, case: Case, program: str, figures: dict[str, float]) -> Measurement:
        measured = Measurement(case, program, figures)
        self.runs.append(measured)
        return measured

    def leave_out(self, what: str, why: str) -> None:
        """Say once that something is not compared."""
        if (one := NotCompared(what, why)) not in self.not_compared:
            self.not_compared.append(one)


Medians = dict[Case, dict[str, dict[str, float]]]


def find_medians(runs: Iterable[Measurement]) -> Medians:
    """For each case and program the median of each figure by itself."""
    grouped: dict[Case, dict[str, dict[str, list[float]]]] = {}
    for run in runs:
        figures = grouped.setdefault(run.case, {}).setdefault(run.program, {})
        for name, value in run.figures.items():
            figures.setdefault(name, []).append(value)
    return {
        case: {
            program: {name: statistics.median(values) for name, values in figures.items()}
            for program, figures in programs.items()
        }
        for case, programs in grouped.items()
    }


def judge(medians: Medians, goals: Sequence[Goal] = GOALS) -> list[Verdict]:
    """Every goal in every case in which it can be judged."""
    found = []
    for goal in goals:
        for case, programs in medians.items():
            if case.task != goal.task or (goal.stores and case.store not in goal.stores):
                continue
            ours = programs.get(US, {}).get(goal.figure)
            divisor = find_divisor(medians, case, goal)
            if ours is not None and divisor:
                found.append(Verdict(goal, case, goal.scale * ours / divisor))
    return found


def find_divisor(medians: Medians, case: Case, goal: Goal) -> float | None:
    """What a figure is divided by; None where that was not measured."""
    match goal.against:
        case "itself":
            return 1.0
        case "peer":
            return medians[case].get(PEER, {}).get(goal.figure)
        case "large files":
            if SMALL_RELATIONS not in case.data:
                return None
            others = [one for one in medians if one.task == case.task and one.store == case.store]
            large = [one for one in others if SMALL_RELATIONS not in one.data]
        case "fewest":
            others = [one for one in medians if one.task == case.task and one.store == case.store]
            large = sorted(others, key=lambda one: count_of(one.data))[:1]
            if large == [case]:
                return None
    return medians[large[0]].get(US, {}).get(goal.figure) if large else None


def count_of(data: str) -> int:
    """The number with which a data set's description begins: ``100,000 segments``."""
    digits = data.split(" ", 1)[0].replace(",", "")
    return int(digits) if digits.isdigit() else 0


def find_ratio(medians: Medians, case: Case, program: str, figure: str) -> float | None:
    """Our figure divided by another program's; None where one of them is not known."""
    ours = medians[case].get(US, {}).get(figure)
    theirs = medians[case].get(program, {}).get(figure)
    return None if ours is None or not theirs else ours / theirs
