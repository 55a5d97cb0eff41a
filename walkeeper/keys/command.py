"""Keys from a command's output: a password manager, a KMS client, ``age -d`` in a wrapper."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Sequence
from contextlib import suppress

from walkeeper.errors import KeyUnavailable
from walkeeper.keys.load import decode_key_text


def run_identity_command(argv: Sequence[str], *, timeout_s: float) -> str:
    """What the command prints: the text of an identity file. Blocking.

    No shell is involved; standard input is empty, standard error goes where ours goes. Raises
    `KeyUnavailable` when it cannot be started, fails, or takes longer than ``timeout_s``: then
    it is killed with everything that it started. Never shows what it printed.
    """
    source = f"the identity command {argv[0]}"
    try:
        process = subprocess.Popen(
            list(argv),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
    except OSError as error:
        raise KeyUnavailable(f"{source} cannot be started: {error.strerror}") from None
    with process:
        try:
            output, _ = process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            _kill_group(process)
            raise KeyUnavailable(f"{source} took longer than {timeout_s:g} s") from None
    if process.returncode != 0:
        raise KeyUnavailable(f"{source} failed with exit code {process.returncode}")
    return decode_key_text(output, source)


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    """End the command and all that it started; it was not waited for, so its group is its own."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
