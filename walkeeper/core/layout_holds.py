"""Names of what holds a backup, or marks its end: pins, leases, marks of expiry, drill records.

A continuation of `walkeeper.core.layout`, with the same promise: what does not parse is not ours.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from walkeeper.core.backup_id import BackupId
from walkeeper.core.layout import ObjectName

PINS_PREFIX: Final = "pins/"
LEASES_PREFIX: Final = "leases/"
EXPIRING_PREFIX: Final = "expiring/"
DRILLS_PREFIX: Final = "drills/"

HOLDER_BYTES: Final = 8
"""Bytes of chance in the name of a lease's holder, and of a question for the store's clock."""

_STAMP: Final = r"\d{8}T\d{6}Z"
_PIN: Final = re.compile(rf"pins/([^/]+)/({_STAMP})-(pin|unpin)\.json", re.ASCII)
_LEASE: Final = re.compile(rf"leases/([^/]+)/({_STAMP})-([0-9a-f]{{16}})\.json", re.ASCII)
_MARK: Final = re.compile(r"expiring/([^/]+)\.json")
_CLOCK: Final = re.compile(r"expiring/clock-[0-9a-f]{16}\.json")
_DRILL: Final = re.compile(rf"drills/({_STAMP})-[0-9a-f]{{6}}\.json", re.ASCII)


@dataclass(frozen=True, slots=True)
class PinName:
    """A backup was pinned, or unpinned, at a moment (whole seconds); the latest word counts."""

    backup: BackupId
    at: datetime
    pins: bool


@dataclass(frozen=True, slots=True)
class LeaseName:
    """A backup is in use until a moment (whole seconds) by ``holder``, 16 hex digits of chance."""

    backup: BackupId
    expires_at: datetime
    holder: str


@dataclass(frozen=True, slots=True)
class DrillName:
    """A drill that began at a moment (whole seconds); ``chance`` are 6 hex digits."""

    at: datetime
    chance: str

    def __str__(self) -> str:
        return f"{_stamp(self.at)}-{self.chance}"


def pins_prefix(backup: BackupId) -> str:
    """The folder of what was said about pinning a backup."""
    return f"{PINS_PREFIX}{backup}/"


def pin_object(pin: PinName) -> ObjectName:
    """Where a pin or its end is stored."""
    word = "pin" if pin.pins else "unpin"
    return ObjectName(f"{pins_prefix(pin.backup)}{_stamp(pin.at)}-{word}.json")


def parse_pin_object(name: str) -> PinName | None:
    """The pin, or end of a pin, of a stored name, or None."""
    match = _PIN.fullmatch(name)
    if match is None:
        return None
    backup, at = _find_backup(match[1]), _find_moment(match[2])
    return None if backup is None or at is None else PinName(backup, at, match[3] == "pin")


def leases_prefix(backup: BackupId) -> str:
    """The folder of a backup's leases."""
    return f"{LEASES_PREFIX}{backup}/"


def lease_object(lease: LeaseName) -> ObjectName:
    """Where a lease is stored."""
    stamp = _stamp(lease.expires_at)
    return ObjectName(f"{leases_prefix(lease.backup)}{stamp}-{lease.holder}.json")


def parse_lease_object(name: str) -> LeaseName | None:
    """The lease of a stored name, or None."""
    match = _LEASE.fullmatch(name)
    if match is None:
        return None
    backup, at = _find_backup(match[1]), _find_moment(match[2])
    return None if backup is None or at is None else LeaseName(backup, at, match[3])


def expiring_mark(backup: BackupId) -> ObjectName:
    """Says that a backup is about to be deleted."""
    return ObjectName(f"{EXPIRING_PREFIX}{backup}.json")


def parse_expiring_mark(name: str) -> BackupId | None:
    """The backup of a mark, or None."""
    match = _MARK.fullmatch(name)
    return None if match is None else _find_backup(match[1])


def clock_object(chance: str) -> ObjectName:
    """Lives for a moment, to learn from its time what the store's clock says."""
    return ObjectName(f"{EXPIRING_PREFIX}clock-{chance}.json")


def is_clock_object(name: str) -> bool:
    """Whether a name is such a question, left by a run that was killed."""
    return _CLOCK.fullmatch(name) is not None


def drill_record(drill: DrillName) -> ObjectName:
    """What a drill has shown, for everybody."""
    return ObjectName(f"{DRILLS_PREFIX}{drill}.json")


def drill_details(drill: DrillName) -> ObjectName:
    """What a drill has seen, sealed: checks with their values, counts, the server's words."""
    return ObjectName(f"{DRILLS_PREFIX}{drill}.json.zst.age")


def parse_drill_record(name: str) -> datetime | None:
    """When the drill of a record was made, as its name says, or None."""
    match = _DRILL.fullmatch(name)
    return None if match is None else _find_moment(match[1])


def _stamp(moment: datetime) -> str:
    utc = moment.astimezone(UTC)
    return f"{utc.year:04d}{utc.strftime('%m%dT%H%M%SZ')}"


def _find_moment(stamp: str) -> datetime | None:
    try:
        return datetime.strptime(stamp, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    except ValueError:
        return None


def _find_backup(text: str) -> BackupId | None:
    try:
        return BackupId.parse(text)
    except ValueError:
        return None
