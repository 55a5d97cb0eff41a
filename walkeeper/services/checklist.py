"""A list of steps that are tried one after another, each with its outcome."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from walkeeper.errors import WalkeeperError

FINDINGS: Final = 3
"""The exit code of work that is done, with findings."""


class Outcome(StrEnum):
    """How a step went; a warning is not a failure and not as it should be."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class Remark:
    """What a step that did not fail has to say; ``warning`` is what should be otherwise."""

    text: str
    warning: str | None = None
    hint: str | None = None


@dataclass(frozen=True, slots=True)
class Step:
    """One step that was tried or skipped; ``exit_code`` is that of its failure, else 0."""

    name: str
    outcome: Outcome
    detail: str
    hint: str | None = None
    exit_code: int = 0


class Checklist:
    """Tries steps and keeps their outcomes; ``on_step`` sees each as it ends."""

    def __init__(self, on_step: Callable[[Step], None]) -> None:
        self._on_step = on_step
        self.steps: list[Step] = []

    async def step(self, name: str, work: Callable[[], Awaitable[Remark]]) -> bool:
        """Try one step; whether it did not fail. Only a WalkeeperError is a failure."""
        try:
            remark = await work()
        except WalkeeperError as error:
            self._add(Step(name, Outcome.FAILED, error.message, error.hint, error.exit_code))
            return False
        if remark.warning is not None:
            text = f"{remark.text}; {remark.warning}"
            self._add(Step(name, Outcome.WARNING, text, remark.hint))
        else:
            self._add(Step(name, Outcome.OK, remark.text, remark.hint))
        return True

    def skip(self, name: str, why: str) -> None:
        """Leave a step out and say why."""
        self._add(Step(name, Outcome.SKIPPED, why))

    @property
    def exit_code(self) -> int:
        """That of the first failure; with warnings alone FINDINGS; else 0."""
        failures = [step.exit_code for step in self.steps if step.outcome is Outcome.FAILED]
        if failures:
            return failures[0]
        return FINDINGS if any(step.outcome is Outcome.WARNING for step in self.steps) else 0

    def _add(self, step: Step) -> None:
        self.steps.append(step)
        self._on_step(step)
