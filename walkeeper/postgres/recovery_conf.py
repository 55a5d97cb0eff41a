"""The settings that make a restored data directory recover to where it should.

They go into postgresql.auto.conf, which PostgreSQL reads last. Text in, text out.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC
from typing import Final

from walkeeper.core.lsn import Lsn
from walkeeper.core.target import (
    AtLsn,
    AtName,
    AtTime,
    AtXid,
    Immediate,
    Latest,
    RecoveryTarget,
    TargetAction,
)

RECOVERY_SIGNAL: Final = "recovery.signal"
"""An empty file of this name makes the server recover to a target and end recovery."""
STANDBY_SIGNAL: Final = "standby.signal"
"""An empty file of this name makes the server a standby."""


@dataclass(frozen=True, slots=True)
class RecoveryConf:
    """How a restored directory of PostgreSQL ``major`` recovers.

    ``timeline`` is the number to follow. A ``standby`` has no target, follows the latest timeline,
    and keeps what its configuration says of its primary. A ``detached`` copy archives nothing and
    takes over no replication slot of the source.
    """

    major: int
    restore_command: str
    timeline: int
    target: RecoveryTarget
    action: TargetAction = TargetAction.PROMOTE
    standby: bool = False
    detached: bool = True


# Exactly one of them says where recovery stops.
_TARGETS: Final = (
    "recovery_target",
    "recovery_target_lsn",
    "recovery_target_name",
    "recovery_target_time",
    "recovery_target_xid",
)
# A restore replaces every one of these, whatever an earlier recovery left.
_REPLACED: Final = frozenset(
    {
        *_TARGETS,
        "restore_command",
        "archive_cleanup_command",
        "recovery_end_command",
        "recovery_target_inclusive",
        "recovery_target_timeline",
        "recovery_target_action",
    }
)
_REPLACED_BUT_FOR_STANDBYS: Final = frozenset(
    {"primary_conninfo", "primary_slot_name", "recovery_min_apply_delay", "promote_trigger_file"}
)
_REPLACED_FOR_COPIES: Final = frozenset({"archive_mode", "max_logical_replication_workers"})
_LAST_WITH_PROMOTE_TRIGGER_FILE: Final = 15  # release notes of 16

# src/backend/utils/misc/guc-file.l: a name, an optional "=", a value.
_SETTING: Final = re.compile(r"\s*([A-Za-z_][A-Za-z0-9_$]*)")
_HEADER: Final = "# Written by walkeeper restore; the last setting of a name counts."


def edit_auto_conf(text: str, conf: RecoveryConf) -> str:
    """The text of postgresql.auto.conf with recovery set up as ``conf`` says.

    Other settings and comments stay as they are. Editing twice changes nothing more. A file that
    is not UTF-8 passes through when it is read and written with ``surrogateescape``.
    """
    replaced = _REPLACED
    if not conf.standby:
        replaced |= _REPLACED_BUT_FOR_STANDBYS
    if conf.detached:
        replaced |= _REPLACED_FOR_COPIES
    kept = [
        line
        for line in text.removesuffix("\n").split("\n")
        if line and _setting_of(line) not in replaced and line != _HEADER
    ]
    settings = [f"{name} = {quote(value)}" for name, value in _settings(conf)]
    return "".join(f"{line}\n" for line in [*kept, _HEADER, *settings])


def _settings(conf: RecoveryConf) -> list[tuple[str, str]]:
    """All settings, in their order: clearing a target also clears one that was set before it.

    src/backend/access/transam/xlogrecovery.c, assign_recovery_target and its siblings. Clearing
    overrides what is left in postgresql.conf, where two targets would keep the server down.
    """
    chosen = [] if conf.standby else _target_settings(conf.target)
    settings = [(name, "") for name in _TARGETS if name not in dict(chosen)]
    settings += [("archive_cleanup_command", ""), ("recovery_end_command", "")]
    if not conf.standby:
        settings += [("primary_conninfo", ""), ("primary_slot_name", "")]
        settings += [("recovery_min_apply_delay", "0")]  # it would delay this recovery, too
        if conf.major <= _LAST_WITH_PROMOTE_TRIGGER_FILE:
            settings += [("promote_trigger_file", "")]
    settings += chosen
    settings += [("recovery_target_timeline", "latest" if conf.standby else str(conf.timeline))]
    settings += [("recovery_target_action", conf.action)]
    settings += [("restore_command", conf.restore_command)]
    if conf.detached:
        settings += [("archive_mode", "off"), ("max_logical_replication_workers", "0")]
    return settings


def _target_settings(target: RecoveryTarget) -> list[tuple[str, str]]:
    match target:
        case Latest():
            return []
        case Immediate():
            return [("recovery_target", "immediate")]
        case AtName():
            return [("recovery_target_name", target.name)]
        case AtTime():
            value = target.at.astimezone(UTC).isoformat(" ", "microseconds")
            setting = ("recovery_target_time", value)
        case AtLsn():
            setting = ("recovery_target_lsn", str(target.lsn))
        case AtXid():  # the epoch is not compared
            setting = ("recovery_target_xid", str(target.xid & 0xFFFF_FFFF))
    return [setting, ("recovery_target_inclusive", "on" if target.inclusive else "off")]


def restore_command(argv_prefix: Sequence[str], timeline: int | None, end: Lsn | None) -> str:
    """The restore_command that asks walkeeper for WAL.

    ``argv_prefix`` is the command up to and with ``wal-fetch`` and its options; ``--timeline`` and
    ``--end`` follow where given, then %f and %p. PostgreSQL takes every exit code up to 125 for
    "not in the archive" and may end recovery there; so whatever ends the command other than 0 and
    66 (confirmed absent) becomes 126, which stops the server: also a program that cannot be found,
    loaded or forked.
    """
    words = list(argv_prefix)
    if timeline is not None:
        words += ["--timeline", str(timeline)]
    if end is not None:
        words += ["--end", str(end)]
    command = shlex.join(words).replace("%", "%%")
    trap = "trap 'r=$?; case $r in 0) exit 0;; 66) exit 1;; *) exit 126;; esac' EXIT"
    return f'{trap}; {command} "%f" "%p"'


def quote(value: str) -> str:
    """A value as a configuration file writes it; ValueError for one with a NUL.

    Backslashes begin escapes there (src/backend/utils/misc/guc-file.l, DeescapeQuotedString).
    """
    if "\0" in value:
        raise ValueError("a setting cannot hold a NUL")
    escaped = value.replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r")
    return "'" + escaped.replace("'", "''") + "'"


def _setting_of(line: str) -> str | None:
    match = _SETTING.match(line)
    return None if match is None else match[1].lower()
