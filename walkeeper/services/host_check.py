"""What on this host would keep PostgreSQL from handing its WAL to the agent."""

from __future__ import annotations

import os
import pwd
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_READ: Final = 4
_EXECUTE: Final = 1


@dataclass(frozen=True, slots=True)
class _User:
    name: str
    uid: int
    groups: frozenset[int]


def find_host_problems(data_dir: Path, program: Path, socket: Path) -> list[str]:
    """Sentences for an operator, best first; blocks. ``socket`` is the agent's.

    Judged by mode bits alone: access control lists may allow more, SELinux less.
    """
    try:
        facts = data_dir.stat()
    except FileNotFoundError:
        return [f"the data directory {data_dir} is not on this host: the agent must run beside it"]
    except OSError as error:
        return [f"the data directory {data_dir} cannot be looked at: {error.strerror}"]
    owner = _find_user(facts.st_uid, facts.st_gid)
    problems = []
    if owner.uid != os.geteuid():
        problems.append(
            f"PostgreSQL runs as {owner.name}, this command as another user: the agent must run as "
            f"{owner.name}, and run init as {owner.name} too, or it may not reach what init made"
        )
    if not _may_run(owner, program):
        problems.append(
            f"{owner.name} may not execute {program}: archive_command would fail; install walkeeper"
            " where that user can reach it"
        )
    return problems + _find_socket_problems(owner, socket)


def _find_socket_problems(owner: _User, socket: Path) -> list[str]:
    try:
        found = socket.parent.stat()
    except FileNotFoundError:
        missing = f"the directory of the agent's socket does not exist: {socket.parent}"
        return [f"{missing} (the systemd unit makes it; else make it and give it to {owner.name})"]
    except OSError as error:
        return [f"{socket.parent} cannot be looked at: {error.strerror}"]
    if not stat.S_ISDIR(found.st_mode):
        return [f"{socket.parent} is not a directory"]
    return []


def _find_user(uid: int, gid: int) -> _User:
    try:
        entry = pwd.getpwuid(uid)
    except KeyError:
        return _User(f"user {uid}", uid, frozenset({gid}))
    groups = os.getgrouplist(entry.pw_name, entry.pw_gid)
    return _User(entry.pw_name, uid, frozenset(groups))


def _may_run(user: _User, program: Path) -> bool:
    """Whether the user may search every directory above the program, read and execute it."""
    try:
        real = program.resolve(strict=True)
        above = {*program.parents, *real.parents}
        return _may(user, real, _READ | _EXECUTE) and all(
            _may(user, directory, _EXECUTE) for directory in above
        )
    except OSError:
        return False


def _may(user: _User, path: Path, wanted: int) -> bool:
    facts = path.stat()
    if user.uid == 0:
        return True
    if facts.st_uid == user.uid:
        granted = facts.st_mode >> 6
    elif facts.st_gid in user.groups:
        granted = facts.st_mode >> 3
    else:
        granted = facts.st_mode
    return granted & wanted == wanted
