"""What was wrong in the last hours, also where it is over."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

from walkeeper.services.status_findings import Finding

_MOST: Final = 50
_KEPT: Final = timedelta(hours=24)


@dataclass(frozen=True, slots=True)
class Problem:
    """A finding, when it was first and last seen, and whether it still stands."""

    finding: Finding
    first_at: datetime
    last_at: datetime
    over: bool = False


class ProblemLog:
    """Remembers findings. Texts that only differ in their figures are one problem."""

    def __init__(self) -> None:
        self._known: OrderedDict[str, Problem] = OrderedDict()

    def note(self, findings: Iterable[Finding], at: datetime) -> None:
        """Take what is found now; what is not among it is over."""
        now = {_key(one.what): one for one in findings}
        for key, known in self._known.items():
            if key not in now and not known.over:
                self._known[key] = replace(known, over=True)
        for key, finding in now.items():
            before = self._known.pop(key, None)
            first_at = at if before is None or before.over else before.first_at
            self._known[key] = Problem(finding, first_at, at)
        for key, known in list(self._known.items()):
            if at - known.last_at > _KEPT or len(self._known) > _MOST:
                del self._known[key]

    @property
    def newest_first(self) -> tuple[Problem, ...]:
        """What is remembered."""
        return tuple(reversed(self._known.values()))


def _key(text: str) -> str:
    return "".join("0" if char.isdigit() else char for char in text)
