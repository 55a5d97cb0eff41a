"""Tries, before anything is restored, whether PostgreSQL will be able to fetch its WAL.

The user who will run PostgreSQL fetches the first segment that recovery needs, in an environment
as bare as the server's: that proves program, configuration, key, credentials and store.
"""

from __future__ import annotations

import shlex
import shutil
import subprocess
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Final

from walkeeper.core.wal import SegmentSize, WalSegment
from walkeeper.errors import RecoveryError
from walkeeper.postgres.recovery_conf import RECOVERY_SIGNAL
from walkeeper.services.restore_target import FileOwner

_TIMEOUT_S: Final = 180.0
_LAST_LINES: Final = 5
AHEAD_OPTIONS: Final = ("--ahead", "--timeout", "15")
"""Make a restore_command only begin to fetch; a store that hangs holds up nobody for long."""
_ABSENT: Final = 1  # what restore_command makes of wal-fetch's 66


def try_restore_command(
    command: str, segment: WalSegment, size: SegmentSize, owner: FileOwner
) -> None:
    """Run a restore_command for a segment as PostgreSQL would, into a scratch directory. Blocks.

    Raises RecoveryError with what the command said when it fails or does not bring the segment.
    """
    scratch = Path(tempfile.mkdtemp(prefix="walkeeper-try-", dir=tempfile.gettempdir()))
    try:
        _make_look(scratch, owner)
        _run(_script(command, segment), segment, scratch, owner)
        fetched = scratch / "pg_wal" / "RECOVERYXLOG"
        if not fetched.exists() or fetched.stat().st_size != size.bytes:
            raise RecoveryError(f"wal-fetch said that it had fetched {segment}, and had not")
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def begin_fetching(command: str, segment: WalSegment, data_dir: Path, owner: FileOwner) -> None:
    """Run a restore_command with AHEAD_OPTIONS for the first segment of a restored cluster. Blocks.

    What goes wrong is met, and told, when PostgreSQL asks for WAL.
    """
    with suppress(subprocess.SubprocessError, OSError):
        _start(_script(command, segment), data_dir, owner)


def _script(command: str, segment: WalSegment) -> str:
    """What PostgreSQL makes of a restore_command (src/common/archive.c, BuildRestoreCommand)."""
    words = command.replace("%%", "\0").replace("%f", str(segment))
    return words.replace("%p", "pg_wal/RECOVERYXLOG").replace("\0", "%")


def _make_look(scratch: Path, owner: FileOwner) -> None:
    """What wal-fetch looks at in a data directory that recovers."""
    (scratch / "pg_wal").mkdir()
    (scratch / RECOVERY_SIGNAL).touch()
    for path in (scratch / "pg_wal", scratch / RECOVERY_SIGNAL, scratch):
        owner.take(path)


def _run(script: str, segment: WalSegment, scratch: Path, owner: FileOwner) -> None:
    try:
        ended = _start(script, scratch, owner)
    except subprocess.TimeoutExpired:
        raise RecoveryError(
            f"wal-fetch did not bring {segment} within {_TIMEOUT_S:.0f} s",
            hint=_try(script, owner),
        ) from None
    except OSError as error:
        raise RecoveryError(f"wal-fetch cannot be started: {error.strerror}") from error
    if ended.returncode == 0:
        return
    if ended.returncode == _ABSENT:
        raise RecoveryError(
            f"wal-fetch says that the archive does not hold {segment}, which the plan has found",
            hint=f"does the configuration lead elsewhere for {owner.name}? {_try(script, owner)}",
        )
    said = " ".join(ended.stderr.strip().splitlines()[-_LAST_LINES:]) or "it said nothing"
    raise RecoveryError(
        f"the user {owner.name} cannot fetch WAL, and PostgreSQL could not either: {said}",
        hint=f"may {owner.name} read the configuration, the key and the credentials, without any "
        f"variable of your environment? {_try(script, owner)}",
    )


def _start(script: str, directory: Path, owner: FileOwner) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["/bin/sh", "-c", script],
        cwd=directory,
        env={},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
        timeout=_TIMEOUT_S,
        **owner.process_options(),
    )


def _try(script: str, owner: FileOwner) -> str:
    command = script.rpartition(" EXIT; ")[2].rpartition(" ")[0]
    return f"try: sudo -u {shlex.quote(owner.name)} env -i {command} /tmp/wal"
