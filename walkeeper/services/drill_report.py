"""What a drill finds out, as documents: of each check, of tables, and of all of it."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

import msgspec

from walkeeper.repository.drills import DrillRecord
from walkeeper.services.restore_document import PlanDocument

Outcome = Literal["ok", "failed", "unfinished", "skipped"]
"""``unfinished`` was stopped for lack of time, ``skipped`` could not be done here; neither says
anything against the backup."""


class CheckResult(msgspec.Struct, frozen=True, kw_only=True):
    """One check. ``database``, ``sql``, ``expected`` and ``found`` are those of the user's own."""

    name: str
    outcome: Outcome
    detail: str
    seconds: float = 0.0
    database: str | None = None
    sql: str | None = None
    expected: str | None = None
    found: str | None = None


class TableCount(msgspec.Struct, frozen=True, kw_only=True):
    """How many rows one of the largest tables has."""

    database: str
    table: str
    size_bytes: int
    rows: int


class DrillReport(msgspec.Struct, frozen=True, kw_only=True):
    """A drill: what ``--json`` prints, and what is sealed beside the record.

    ``reached_at`` is the time of the last transaction replayed. ``findings`` are sentences, empty
    when the point is proven; ``server_log`` is the end of what the private server said where it
    failed. ``kept_in`` is the scratch directory where it was to be kept.
    """

    record: DrillRecord
    plan: PlanDocument
    reached_at: datetime | None
    findings: tuple[str, ...]
    checks: tuple[CheckResult, ...]
    tables: tuple[TableCount, ...]
    server_log: str = ""
    kept_in: str | None = None

    @property
    def proven(self) -> bool:
        """Whether the point is proven."""
        return self.record.proven
