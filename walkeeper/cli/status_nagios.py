"""``status --nagios``: one line for Nagios and its heirs, by the Monitoring Plugins' guidelines.

STATE - text | performance data, the findings below it; the exit code is the state.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from walkeeper.cli.render import age_text, counted, span_text
from walkeeper.errors import WalkeeperError
from walkeeper.services.status_report import StatusReport

OK: Final = 0
WARNING: Final = 1
CRITICAL: Final = 2
UNKNOWN: Final = 3
_STATES: Final = ("OK", "WARNING", "CRITICAL", "UNKNOWN")


@dataclass(frozen=True, slots=True)
class Verdict:
    """What to print, and the exit code."""

    text: str
    code: int


def judge(report: StatusReport) -> Verdict:
    """CRITICAL with an urgent finding, UNKNOWN where the repository could not be read.

    What can be seen to be urgent is told although the repository cannot be read.
    """
    findings = [f"{one.what} ({one.hint})" if one.hint else one.what for one in report.findings]
    urgent = sum(one.urgent for one in report.findings)
    if report.repository_problem is not None:
        urgent -= 1  # that one is a finding too
    if urgent > 0:
        code = CRITICAL
    elif report.repository_problem is not None:
        code = UNKNOWN
    else:
        code = WARNING if findings else OK
    worst = sorted(report.findings, key=lambda one: not one.urgent)
    said = f"{counted(len(worst), 'finding')}: {worst[0].what}" if worst else _summary(report)
    first = f"WALKEEPER {_STATES[code]} - {_plain(said)}"
    numbers = " ".join(_performance(report))
    return Verdict("\n".join([f"{first} | {numbers}", *map(_plain, findings)]), code)


def unknown(error: WalkeeperError) -> Verdict:
    """What is said when there is no report at all."""
    return Verdict(f"WALKEEPER UNKNOWN - {_plain(error.message)}", UNKNOWN)


def _summary(report: StatusReport) -> str:
    parts = []
    if report.agent is not None and report.agent.archiving is not None:
        parts.append(f"RPO {span_text(report.agent.archiving.rpo_s)}")
    found = report.repository_status
    if found is not None and found.last_backup is not None:
        backups = counted(found.backups, "backup")
        parts.append(f"{backups}, the last {age_text(found.last_backup.age_s)}")
    return ", ".join(parts) or "nothing to complain of"


def _performance(report: StatusReport) -> Iterator[str]:
    archiving = None if report.agent is None else report.agent.archiving
    if archiving is not None:
        yield f"rpo={archiving.rpo_s:.1f}s;;;0"
        yield f"backlog={archiving.backlog};;;0"
        yield f"backlog_bytes={archiving.backlog_bytes}B;;;0"
    found = report.repository_status
    if found is not None:
        yield f"backups={found.backups};;;0"
        yield f"gaps={sum(bool(window.missing) for window in found.windows)};;;0"
        if found.last_backup is not None:
            yield f"backup_age={found.last_backup.age_s:.0f}s;;;0"
        if found.last_proven is not None:
            yield f"drill_age={found.last_proven.age_s:.0f}s;;;0"
    yield f"findings={len(report.findings)};;;0"


def _plain(text: str) -> str:
    """One line without the bar that begins the performance data, nor control characters."""
    shown = "".join(one if one.isprintable() else " " for one in text)
    return shown.replace("|", "/")
