"""What `verify` finds and says: structures for its report, and the notebook they grow in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, Literal

import msgspec

from walkeeper.core.backup_id import BackupId
from walkeeper.core.wal import WalSegment
from walkeeper.errors import IntegrityError, WalkeeperError, WrongKey

Kind = Literal["missing", "damaged", "wrong-key"]
"""``damaged`` is cut, changed, swapped or forged; with ``wrong-key`` no identity opens it."""

_MOST: Final = 10_000
"""Problems, and notes, that are kept one by one; the rest is counted."""


class LostTime(msgspec.Struct, frozen=True, kw_only=True):
    """Moments that cannot be recovered: from ``begin_lsn`` on ``timeline`` to ``end_lsn``.

    ``until_backup`` had ended there, at ``until``. Without it they go on to the end of the WAL.
    """

    timeline: int
    begin_lsn: str
    end_lsn: str | None
    until_backup: str | None
    until: datetime | None


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """Something that is not as it was written.

    ``object`` is its name in the archive, or the first of a row that is missing; ``backups`` are
    those that cannot be restored because of it, ``moments`` likewise.
    """

    object: str
    kind: Kind
    what: str
    backups: tuple[str, ...] = ()
    moments: tuple[LostTime, ...] = ()


class Checked(msgspec.Struct, kw_only=True):
    """How much was looked at; ``read`` objects were read to their end, ``bytes`` as stored."""

    backups: int = 0
    objects: int = 0
    read: int = 0
    bytes: int = 0


class VerifyProgress(msgspec.Struct, frozen=True):
    """How far it is: "backups", "wal", "tail" or "continuity"."""

    phase: str
    objects: int
    read: int
    bytes: int
    problems: int


class VerifyReport(msgspec.Struct, frozen=True, kw_only=True):
    """The document of ``verify --json``.

    ``read`` says what was asked for: "all", "sample" or "headers". ``unchecked`` are sentences
    about what was not looked at and why; ``complete_since``: everything stored before it has been
    read to its end since. ``findings_left_out`` counts those beyond the first ten thousand.
    """

    archive: str
    folder: str
    started_at: datetime
    ended_at: datetime
    clean: bool
    read: Literal["all", "sample", "headers"]
    sample: float | None
    checked: Checked
    complete_since: datetime | None
    findings: tuple[Finding, ...]
    findings_left_out: int
    unchecked: tuple[str, ...]
    notes: tuple[str, ...]


Subject = WalSegment | BackupId | int | None
"""What a problem makes useless: a segment, a backup, a timeline's history, or nothing."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One object that is not as it should be, before it is known what that costs."""

    object: str
    kind: Kind
    what: str
    subject: Subject = None


@dataclass(slots=True)
class Notebook:
    """Everything that the checks of one run find."""

    progress: Callable[[VerifyProgress], None]
    phase: str = ""
    checked: Checked = field(default_factory=Checked)
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    unchecked: list[str] = field(default_factory=list)
    left_out: int = 0
    notes_left_out: int = 0
    cold: int = 0
    damaged: list[str] = field(default_factory=list)

    def enter(self, phase: str) -> None:
        """Begin a phase."""
        self.phase = phase
        self.tell()

    def tell(self) -> None:
        """Say how far it is."""
        counts = self.checked
        problems = len(self.problems) + self.left_out
        self.progress(
            VerifyProgress(self.phase, counts.objects, counts.read, counts.bytes, problems)
        )

    def report(self, problem: Problem) -> None:
        """Keep a problem."""
        if len(self.problems) >= _MOST:
            self.left_out += 1
            return
        self.problems.append(problem)
        if problem.kind == "damaged":
            self.damaged.append(problem.object)

    def report_error(self, name: str, error: WalkeeperError, subject: Subject = None) -> None:
        """Keep what an error of ours says of an object."""
        assert isinstance(error, IntegrityError | WrongKey)
        kind: Kind = "damaged" if isinstance(error, IntegrityError) else "wrong-key"
        what = error.message.removeprefix(name).removeprefix(": ").strip()
        self.report(Problem(name, kind, what, subject))

    def note(self, text: str) -> None:
        """Keep what is worth knowing and no damage."""
        if len(self.notes) >= _MOST:
            self.notes_left_out += 1
        else:
            self.notes.append(text)
