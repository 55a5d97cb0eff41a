"""The settings that a server needs to archive through walkeeper, beside those that it has."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

from walkeeper.postgres.settings import HIDDEN, Setting

LIBRARY: Final = "archive_library"
COMMAND: Final = "archive_command"
NAMES: Final = ("wal_level", "archive_mode", LIBRARY, COMMAND, "archive_timeout")
"""In the order in which they are shown and set: from PostgreSQL 16 on, a command beside a library
is an error."""

_AT_START: Final = frozenset({"wal_level", "archive_mode"})
_DEFAULT_TIMEOUT_S: Final = 60


class SettingState(StrEnum):
    """Where a setting stands.

    ``foreign``: somebody else archives with it, or nobody may know.
    """

    OK = "ok"
    RESTART = "restart"
    CHANGE = "change"
    FOREIGN = "foreign"


@dataclass(frozen=True, slots=True)
class NeededSetting:
    """A setting as it is and as it should be.

    ``current`` is None when the role may not see it; ``configured`` is what the files say where
    that does not count before a restart. ``source`` is where the current value comes from.
    """

    name: str
    current: str | None
    needed: str
    state: SettingState
    source: str = "default"
    configured: str | None = None

    @property
    def needs_restart(self) -> bool:
        """Whether a change counts only from the next start of the server."""
        return self.name in _AT_START


def make_archive_command(program: Path, socket: Path) -> str:
    """The archive_command of this installation, for PostgreSQL's bare environment.

    PostgreSQL gives it to ``/bin/sh -c`` after it has replaced %p (relative to the data directory,
    without blanks), %f, %r and %% (src/backend/archive/shell_archive.c).
    """
    words = [shlex.quote(str(word)).replace("%", "%%") for word in (program, socket)]
    return f"{words[0]} wal-push --socket {words[1]} %p"


def is_our_command(command: str) -> bool:
    """Whether it is a wal-push of walkeeper, of whichever installation."""
    return "walkeeper" in command and "wal-push" in command


def compare_settings(
    current: Mapping[str, Setting], configured: Mapping[str, str | None], command: str
) -> tuple[NeededSetting, ...]:
    """What the server has beside what it needs, in the order of NAMES.

    ``configured`` has what the files say (None: the role may not know) of settings that are hidden
    or wait for a restart. A setting that this version of PostgreSQL does not have is left out.
    """
    return tuple(
        _compare(name, current[name], configured, command) for name in NAMES if name in current
    )


def _compare(
    name: str, setting: Setting, configured: Mapping[str, str | None], command: str
) -> NeededSetting:
    value: str | None = setting.value
    if value == HIDDEN:
        value = configured.get(name)
    needed = _needed(name, value, command)
    waiting = configured.get(name) if setting.pending_restart else None
    if value == needed:
        state = SettingState.OK
    elif waiting is not None and waiting == _needed(name, waiting, command):
        return NeededSetting(name, value, waiting, SettingState.RESTART, setting.source, waiting)
    elif _is_foreign(name, value):
        state = SettingState.FOREIGN
    else:
        state = SettingState.CHANGE
    return NeededSetting(name, value, needed, state, setting.source, waiting)


def _needed(name: str, value: str | None, command: str) -> str:
    """What the setting should be; its own value where that will do."""
    match name:
        case "wal_level":
            return value if value in {"replica", "logical"} else "replica"
        case "archive_mode":
            return value if value in {"on", "always"} else "on"
        case "archive_timeout":
            return value if value is not None and int(value) > 0 else str(_DEFAULT_TIMEOUT_S)
        case "archive_command":
            return command
        case _:
            return ""


def _is_foreign(name: str, value: str | None) -> bool:
    if name == LIBRARY:
        return value != ""
    return name == COMMAND and (value is None or (value != "" and not is_our_command(value)))
