"""What lets the agent in, and until when: certificates, credentials, a role, files of keys."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from walkeeper.core.wording import moment_text, span_text
from walkeeper.services.agent_status import AgentStatus, ExpiryStatus
from walkeeper.services.status_findings import Finding

_FILE_HINT: Final = (
    "the agent goes on with what it read when it started; its next start, or a restore, will fail"
)


@dataclass(frozen=True, slots=True)
class Expiring:
    """Something that is of no use any more from ``ends_at`` on; ``name`` is unique and short."""

    name: str
    what: str
    ends_at: datetime
    hint: str = "renew it: without it the repository cannot be reached"


def expiry_status(expiring: Expiring, now: datetime, within_s: float) -> ExpiryStatus:
    """How it stands at ``now``; ``within_s`` before its end somebody should know."""
    left_s = (expiring.ends_at - now).total_seconds()
    return ExpiryStatus(
        name=expiring.name,
        what=expiring.what,
        ends_at=expiring.ends_at,
        left_s=round(left_s),
        soon=left_s <= within_s,
        hint=expiring.hint,
    )


def find_access_problems(agent: AgentStatus) -> Iterator[Finding]:
    """What ends soon or has ended, and files that could not be used again."""
    for one in agent.expiring:
        if one.soon:
            ends = f"ends in {span_text(one.left_s)}" if one.left_s > 0 else "has ended"
            what = f"{one.what} {ends}, at {moment_text(one.ends_at)}"
            yield Finding(what, one.hint, urgent=False, key=f"expiry:{one.name}")
    for file in agent.key_files or ():
        if file.problem is not None:
            what = f"{file.name} cannot be used any more: {file.problem}"
            yield Finding(what, _FILE_HINT, urgent=False, key=f"key_file:{file.name}")
