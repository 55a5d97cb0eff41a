"""What one run of the bench is to do, and where it notes what it found."""

from dataclasses import dataclass, field
from pathlib import Path

from figures import Case, Results
from rich.console import Console

MIB = 1024 * 1024
GIB = 1024 * MIB
TASKS = ("push", "hook", "backup", "restore", "replay", "memory", "growth")


@dataclass(frozen=True, slots=True)
class Bench:
    """The command line, and the results so far."""

    tasks: frozenset[str]
    stores: tuple[str, ...]
    programs: tuple[str, ...]
    wal: tuple[str, ...]
    segments: int
    sizes: tuple[float, ...]
    relations: int
    growth: tuple[int, ...]
    replay_segments: int
    repeat: int
    seed: int
    give_up_s: float
    work_dir: Path
    run_user: str
    console: Console
    results: Results = field(default_factory=Results)

    def note(self, case: Case, program: str, figures: dict[str, float]) -> None:
        """Keep the figures of one run, and show them."""
        self.results.add(case, program, figures)
        shown = ", ".join(f"{name} {value:.4g}" for name, value in figures.items())
        self.console.print(f"[dim]{case}[/] {program}: {shown}", soft_wrap=True)
