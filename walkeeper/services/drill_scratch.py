"""The directory that a drill works in: one drill at a time, and nothing is left of dead ones.

A drill that was killed leaves files, and a server that knows nothing of it: the next one stops
the server and removes the files. Everything blocks.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from walkeeper.core.layout_holds import DrillName
from walkeeper.errors import ConfigError, Locked, PostgresError, RecoveryError
from walkeeper.postgres.postmaster import find_postmaster
from walkeeper.postgres.private_server import is_run_dir
from walkeeper.services.restore_target import FileOwner, find_file_owner

_LOCK_FILE: Final = "drill.lock"
_KEEP_FILE: Final = "KEEP"
_NAME: Final = re.compile(r"drill-\d{8}T\d{6}Z-[0-9a-f]{6}", re.ASCII)
_STOP_S: Final = 20.0
_POLL_S: Final = 0.05


@dataclass(frozen=True, slots=True)
class Scratch:
    """The directory of one drill and who will own its cluster."""

    root: Path
    owner: FileOwner

    @property
    def data_dir(self) -> Path:
        """Where the cluster is restored to."""
        return self.root / "data"

    @property
    def tablespaces_dir(self) -> Path:
        """Each tablespace goes into a directory in it, named by its oid."""
        return self.root / "tablespaces"

    @property
    def conf_dir(self) -> Path:
        """The private server's own configuration."""
        return self.root / "conf"

    @property
    def run_dir(self) -> Path:
        """Sockets: the server's and the fetch service's."""
        return self.root / "run"

    def keep(self) -> None:
        """Leave it to the operator: neither this drill nor a later one removes it."""
        (self.root / _KEEP_FILE).touch()


@contextmanager
def open_scratch(parent: Path, drill: DrillName, *, keep: bool) -> Iterator[Scratch]:
    """A new directory in ``parent`` for a drill, removed at the end unless ``keep``.

    What drills that were killed left there is removed first. As root the files become those of
    ``parent``'s owner, or of the user postgres. Raises Locked while another drill runs there,
    ConfigError for a place that cannot be used.
    """
    with _locked(parent):
        for path in sorted(parent.iterdir()):
            if _NAME.fullmatch(path.name) and not (path / _KEEP_FILE).exists():
                remove_dead(path)
        scratch = _make(parent, drill)
        try:
            if keep:
                scratch.keep()
            yield scratch
        finally:
            if not keep:
                remove_dead(scratch.root)


def remove_dead(root: Path) -> None:
    """Stop the server that runs in a drill's directory, if one does, and remove the directory."""
    _stop_server(root / "data")
    try:
        shutil.rmtree(root)
    except OSError as error:
        raise RecoveryError(
            f"the scratch directory {root} cannot be removed: {error.strerror}",
            hint=f"remove it by hand: rm -r {root}",
        ) from error


@contextmanager
def _locked(parent: Path) -> Iterator[None]:
    try:
        parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        lock = os.open(parent / _LOCK_FILE, flags, 0o600)
    except OSError as error:
        raise _unusable(parent, error.strerror or str(error)) from error
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Locked(
                f"another drill is running in {parent}",
                hint="wait until it has ended, or give this one a [drill] scratch_dir of its own",
            ) from None
        yield
    finally:
        os.close(lock)


def _make(parent: Path, drill: DrillName) -> Scratch:
    owner = find_file_owner(parent)
    scratch = Scratch(parent / f"drill-{drill}", owner)
    try:
        for path in (
            scratch.root,
            scratch.data_dir,
            scratch.tablespaces_dir,
            scratch.conf_dir,
            scratch.run_dir,
        ):
            path.mkdir(mode=0o700)
            owner.take(path)
    except OSError as error:
        raise _unusable(parent, error.strerror or str(error)) from error
    try:
        _require_reachable(scratch)
    except BaseException:
        shutil.rmtree(scratch.root)
        raise
    return scratch


def _require_reachable(scratch: Scratch) -> None:
    """The server's user can work there: every directory above lets it through."""
    looked = subprocess.run(
        ["/bin/sh", "-c", 'test -w "$0" && test -x "$0"', str(scratch.data_dir)],
        check=False,
        cwd="/",
        stdin=subprocess.DEVNULL,
        **scratch.owner.process_options(),
    )
    if looked.returncode != 0:
        raise _unusable(scratch.root.parent, f"the user {scratch.owner.name} cannot enter it")


def _unusable(parent: Path, why: str) -> ConfigError:
    return ConfigError(
        f"drills cannot use {parent}: {why}",
        hint="set [drill] scratch_dir to a directory that PostgreSQL's user can reach",
    )


def _stop_server(data_dir: Path) -> None:
    """Stop the server whose working directory this is; no other process is touched."""
    with contextlib.suppress(PostgresError):  # no file to read: no server of ours
        running = find_postmaster(data_dir)
        if running is None or not _runs_in(running.pid, data_dir):
            return
        for demand in (signal.SIGQUIT, signal.SIGKILL):
            deadline = time.monotonic() + _STOP_S
            while _runs_in(running.pid, data_dir) and time.monotonic() < deadline:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(running.pid, demand)
                time.sleep(_POLL_S)
        run_dir = Path(running.socket_dir)
        if is_run_dir(run_dir):  # it lies elsewhere where paths of sockets would become too long
            shutil.rmtree(run_dir, ignore_errors=True)


def _runs_in(pid: int, data_dir: Path) -> bool:
    try:
        return Path(f"/proc/{pid}/cwd").samefile(data_dir)
    except OSError:
        return False
