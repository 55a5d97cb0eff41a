"""What a recovery is to reach, as an operator says it.

The kinds are PostgreSQL's own ``recovery_target*`` settings, and ``latest``, which sets none of
them and recovers all the WAL that there is.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from enum import StrEnum
from typing import Final

from walkeeper.core.lsn import Lsn
from walkeeper.errors import UsageError

# src/include/access/xlog_internal.h: MAXFNAMELEN is 64, the terminating zero included.
_MAX_NAME_BYTES: Final = 63
# src/include/access/transam.h: FirstNormalTransactionId.
_FIRST_XID: Final = 3
_MAX_XID: Final = 0xFFFF_FFFF_FFFF_FFFF
_MAX_TIMELINE: Final = 0xFFFF_FFFF

_TIME: Final = re.compile(
    r"(?P<moment>\d{4}-\d\d-\d\d[T ]\d\d:\d\d(?::\d\d(?:\.\d{1,6})?)?)"
    r" ?(?P<zone>[Zz]|UTC|GMT|(?P<sign>[+-])(?P<hours>\d\d)(?::?(?P<minutes>[0-5]\d))?)?",
    re.ASCII,
)


class TargetAction(StrEnum):
    """What PostgreSQL does when it has reached the target."""

    PROMOTE = "promote"
    PAUSE = "pause"
    SHUTDOWN = "shutdown"


class NamedTimeline(StrEnum):
    """The timeline of the backup, or the newest one on which the backup lies."""

    CURRENT = "current"
    LATEST = "latest"


TimelineChoice = NamedTimeline | int


@dataclass(frozen=True, slots=True)
class Latest:
    """All WAL without a gap."""

    def __str__(self) -> str:
        return "latest"


@dataclass(frozen=True, slots=True)
class Immediate:
    """As soon as the backup is consistent."""

    def __str__(self) -> str:
        return "immediate"


@dataclass(frozen=True, slots=True)
class AtTime:
    """Before the first transaction that ended after ``at``; exclusive: at or after it.

    ``zone_assumed``: the operator gave no zone and UTC was taken.
    """

    at: datetime
    inclusive: bool = True
    zone_assumed: bool = False

    def __post_init__(self) -> None:
        if self.at.tzinfo is None:
            raise ValueError("a recovery target time carries a zone")

    def stops_at(self, ended_at: datetime) -> bool:
        """Whether PostgreSQL stops before a transaction that ended then (recoveryStopsBefore)."""
        return ended_at > self.at if self.inclusive else ended_at >= self.at

    def __str__(self) -> str:
        return f"time {self.at.astimezone(UTC).isoformat(' ')}"


@dataclass(frozen=True, slots=True)
class AtLsn:
    """After the first record that begins at or after ``lsn``; exclusive: before it."""

    lsn: Lsn
    inclusive: bool = True

    def __str__(self) -> str:
        return f"LSN {self.lsn}"


@dataclass(frozen=True, slots=True)
class AtXid:
    """After the end of a transaction; exclusive: before it. PostgreSQL compares 32 bits."""

    xid: int
    inclusive: bool = True

    def matches(self, xid: int) -> bool:
        """Whether a record of this transaction is meant; either may carry its epoch or not."""
        return (xid ^ self.xid) & 0xFFFF_FFFF == 0

    def __str__(self) -> str:
        return f"transaction {self.xid}"


@dataclass(frozen=True, slots=True)
class AtName:
    """After the first restore point of this name (``pg_create_restore_point``)."""

    name: str

    def __str__(self) -> str:
        return f"restore point {self.name!r}"


RecoveryTarget = Latest | Immediate | AtTime | AtLsn | AtXid | AtName


@dataclass(frozen=True, slots=True)
class RecoveryRequest:
    """A target, the timeline to follow to it and what to do there."""

    target: RecoveryTarget = Latest()
    timeline: TimelineChoice = NamedTimeline.LATEST
    action: TargetAction = TargetAction.PROMOTE

    def __post_init__(self) -> None:
        # Without a target PostgreSQL always promotes at the end of the WAL.
        if isinstance(self.target, Latest) and self.action is not TargetAction.PROMOTE:
            raise UsageError(
                f"at the end of the WAL PostgreSQL always promotes, it cannot {self.action}",
                hint="name a target, such as --target-time, or leave --target-action out",
            )


def parse_request(
    *,
    target: str | None = None,
    time: str | None = None,
    lsn: str | None = None,
    xid: str | None = None,
    name: str | None = None,
    timeline: str = "latest",
    action: str = "promote",
    exclusive: bool = False,
) -> RecoveryRequest:
    """What the options of ``restore`` ask for; raises UsageError where they have no meaning."""
    given = [
        option
        for option, value in (
            ("--target", target),
            ("--target-time", time),
            ("--target-lsn", lsn),
            ("--target-xid", xid),
            ("--target-name", name),
        )
        if value is not None
    ]
    if len(given) > 1:
        raise UsageError(f"a recovery has one target, not {' and '.join(given)}")
    chosen: RecoveryTarget
    if time is not None:
        chosen = parse_time(time, inclusive=not exclusive)
    elif lsn is not None:
        chosen = AtLsn(_parse_lsn(lsn), inclusive=not exclusive)
    elif xid is not None:
        chosen = AtXid(_parse_number("transaction id", xid, _FIRST_XID, _MAX_XID), not exclusive)
    elif exclusive:
        raise UsageError("--target-exclusive goes with a time, an LSN or a transaction id")
    elif name is not None:
        chosen = AtName(_check_name(name))
    else:
        chosen = _parse_keyword(target)
    return RecoveryRequest(chosen, parse_timeline(timeline), _parse_action(action))


def parse_time(text: str, *, inclusive: bool = True) -> AtTime:
    """Read ``2026-11-20 10:15:00+01`` and ISO 8601 with a zone; without one UTC is taken.

    Raises UsageError for all else: a date alone, and names of zones other than UTC, do not say
    which moment is meant.
    """
    match = _TIME.fullmatch(text.strip())
    if match is None:
        raise UsageError(
            f"not a time: {text!r}", hint='write it with its zone, like "2026-11-20 10:15:00+01"'
        )
    try:
        moment = datetime.fromisoformat(match["moment"])
        at = moment.replace(tzinfo=_zone(match)).astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise UsageError(f"not a time: {text!r} ({error})") from error
    return AtTime(at, inclusive=inclusive, zone_assumed=match["zone"] is None)


def parse_timeline(text: str) -> TimelineChoice:
    """Read ``current``, ``latest`` or a decimal number; raises UsageError for all else."""
    try:
        return NamedTimeline(text)
    except ValueError:
        return _parse_number("timeline", text, 1, _MAX_TIMELINE)


def _zone(match: re.Match[str]) -> timezone:
    if match["sign"] is None:
        return UTC
    offset = timedelta(hours=int(match["hours"]), minutes=int(match["minutes"] or 0))
    return timezone(-offset if match["sign"] == "-" else offset)


def _parse_lsn(text: str) -> Lsn:
    try:
        return Lsn.parse(text)
    except ValueError as error:
        raise UsageError(str(error), hint="an LSN looks like 0/3000060") from error


def _parse_number(what: str, text: str, least: int, most: int) -> int:
    digits = text.isascii() and text.isdecimal() and len(text) <= len(str(most))
    if not digits or not least <= int(text) <= most:
        raise UsageError(f"a {what} is a number from {least} to {most}, not {text!r}")
    return int(text)


def _check_name(name: str) -> str:
    if not 1 <= len(name.encode(errors="surrogateescape")) <= _MAX_NAME_BYTES or "\0" in name:
        raise UsageError(f"the name of a restore point has 1 to {_MAX_NAME_BYTES} bytes")
    return name


def _parse_keyword(text: str | None) -> RecoveryTarget:
    match text:
        case None | "latest":
            return Latest()
        case "immediate":
            return Immediate()
        case _:
            raise UsageError(
                f"--target is latest or immediate, not {text!r}",
                hint="for others use --target-time, --target-lsn, --target-xid or --target-name",
            )


def _parse_action(text: str) -> TargetAction:
    try:
        return TargetAction(text)
    except ValueError:
        raise UsageError(f"--target-action is promote, pause or shutdown, not {text!r}") from None
