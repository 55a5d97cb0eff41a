"""``wal-push`` and ``wal-fetch``: what PostgreSQL starts for each WAL file.

A hook does no archiving itself: it asks the agent over its Unix socket and turns the answer into
an exit code. It is started once per segment, so it imports ``_socket`` and what the interpreter
has loaded anyway: not os, not argparse, not re.

Exit codes. ``wal-push``: 0 when the agent has said that the file is durable, 1 for everything
else (over 125 would end PostgreSQL's archiver process, pgarch.c). ``wal-fetch``: 0 when the whole
file lies at its destination, 66 when the archive has answered that it holds no such file, 126 for
everything else, usage errors included (PostgreSQL takes 1 to 125 as the end of the archive and
may promote, xlogarchive.c RestoreArchivedFile). SIGTERM is not caught: PostgreSQL sends it to the
process group and must see it.
"""

import posix

from walkeeper.hooks import wire
from walkeeper.hooks.channel import Absent, Failure, ask, deadline_in, environment
from walkeeper.hooks.options import (
    Options,
    absolute,
    encoded,
    parent,
    parse_options,
    split_command,
)

PUSH_DEADLINE_S = 12.0
"""How long ``wal-push`` waits for durability unless ``--timeout`` says otherwise."""

PUSH_DEADLINE_LIMIT_S = 15.0
"""PostgreSQL tries three times before it lets a shutdown go on (pgarch.c)."""

PUSH_USAGE = """\
usage: walkeeper wal-push [--socket S] [--timeout SECONDS] %p

Hands a WAL file to the agent and waits until it is durable: the archive_command.
Exit codes: 0 durable, 1 anything else."""

FETCH_USAGE = """\
usage: walkeeper wal-fetch [--socket S] [--config F] [--archive A] [--timeline N] [--end LSN]
                           [--standby] [--unsigned] [--guard-tablespaces]
                           [--timeout SECONDS] [--ahead] %f %p

Fetches a WAL file from the archive: the restore_command. With --ahead nothing is written: it has
this and the following files fetched ahead, for a recovery that is about to ask for them.
Exit codes: 0 fetched, 66 the archive holds no such file, 126 anything else."""

_PUSH_OPTIONS = {"--socket": True, "--timeout": True}
_FETCH_OPTIONS = {
    "--socket": True,
    "--config": True,
    "--archive": True,
    "--timeline": True,
    "--end": True,
    "--standby": False,
    "--unsigned": False,
    "--guard-tablespaces": False,
    "--timeout": True,
    "--ahead": False,
}


def push(arguments: list[str]) -> None:
    """Returns when the agent has said that the file is durable. Raises Failure otherwise."""
    options = parse_options(arguments, _PUSH_OPTIONS, 1)
    timeout_s = options.timeout_s(PUSH_DEADLINE_S, PUSH_DEADLINE_LIMIT_S)
    deadline = deadline_in(timeout_s)
    path = absolute(encoded(options.operands[0]))
    fields = describe_push(path, posix.stat(parent(path)), posix.stat(path), timeout_s)
    socket = options.get("--socket") or environment("WALKEEPER_SOCKET") or wire.DEFAULT_SOCKET
    ask(socket, wire.encode_request("wal-push", fields), deadline)


def describe_push(
    path: bytes, directory: posix.stat_result, file: posix.stat_result, timeout_s: float
) -> dict[str, bytes]:
    """The fields of a ``wal-push`` for this file in that directory; see wire.py."""
    return {
        "path": path,
        "dir_dev": b"%d" % directory.st_dev,
        "dir_ino": b"%d" % directory.st_ino,
        "dev": b"%d" % file.st_dev,
        "ino": b"%d" % file.st_ino,
        "size": b"%d" % file.st_size,
        "mtime_ns": b"%d" % file.st_mtime_ns,
        "timeout_ms": b"%d" % (timeout_s * 1000),
    }


def parse_fetch(arguments: list[str]) -> Options | None:
    """The options of a call of ``wal-fetch`` that fetches, None for another. Raises Failure."""
    call = split_command(arguments)
    if call is None or call[0] != "wal-fetch":
        return None
    options = parse_options(call[1], _FETCH_OPTIONS, 2)
    return options if options.get("--ahead") is None else None


def run(command: str, arguments: list[str]) -> int:
    """Runs one hook and returns its exit code; every failure is one line on standard error.

    The broad catch is on purpose: this is the outermost frame, and whatever goes wrong here must
    end as 1 (wal-push) or 126 (wal-fetch).
    """
    failed = 1 if command == "wal-push" else 126
    try:
        if "--help" in arguments:
            say(PUSH_USAGE if command == "wal-push" else FETCH_USAGE)
            return failed
        if command == "wal-push":
            push(arguments)
        else:
            from walkeeper.hooks.fetch import fetch, fetch_ahead

            options = parse_options(arguments, _FETCH_OPTIONS, 2)
            (fetch if options.get("--ahead") is None else fetch_ahead)(options)
    except Absent:
        return 66 if command == "wal-fetch" else failed
    except Failure as failure:
        explain(failure.message, failure.hint)
    except BaseException as error:  # noqa: BLE001 - see above
        explain(f"{command} failed: {type(error).__name__}: {error}", "")
    else:
        return 0
    return failed


def explain(message: str, hint: str) -> None:
    """Writes ``walkeeper: message (hint)``; a failure to write changes nothing."""
    say(" ".join((f"walkeeper: {message} ({hint})" if hint else f"walkeeper: {message}").split()))


def say(text: str) -> None:
    """Writes to standard error, whatever state that is in."""
    try:
        posix.write(2, text.encode("utf-8", "backslashreplace") + b"\n")
    except OSError:
        return


def main(arguments: list[str]) -> None:
    """Ends the process with the hook's exit code; the interpreter's own tear-down is left out.

    ``arguments`` are those after the program's name: ``[--config FILE] wal-push|wal-fetch ...``.
    """
    code = 126
    try:
        call = split_command(arguments)
        if call is None:
            say("walkeeper: only wal-push and wal-fetch are called this way")
        else:
            code = 1 if call[0] == "wal-push" else 126
            code = run(*call)
    finally:
        posix._exit(code)  # noqa: SLF001
