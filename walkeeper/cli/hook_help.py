"""``--help`` of the hooks, which themselves never load click."""

from __future__ import annotations

from typing import Final

import click

_EPILOGS: Final = {
    "wal-push": (
        "\b\nExit codes:\n"
        "    0  the file is durable in the archive\n"
        "    1  it is not; PostgreSQL keeps it and asks again"
    ),
    "wal-fetch": (
        "\b\nExit codes:\n"
        "    0  the file is there\n"
        "   66  the archive answered that it holds no such file\n"
        "  126  everything else: recovery must stop and not end"
    ),
}
_ABOUT: Final = {
    "wal-push": (
        "The archive_command: hands one WAL file to the agent and waits until it is durable.\n\n"
        "\b\n  archive_command = 'walkeeper wal-push %p'\n\n"
        "Options: --socket FILE (else $WALKEEPER_SOCKET, else /run/walkeeper/agent.sock)."
    ),
    "wal-fetch": (
        "The restore_command: brings one WAL file, from the agent or, on a host without one, by a "
        "private service that prefetches.\n\n"
        "\b\n  restore_command = 'walkeeper wal-fetch %f %p'\n\n"
        "Write it as 'walkeeper restore' does: PostgreSQL takes exit codes up to 125 as the end of "
        "the archive, so everything but 66 must become 126.\n\n"
        "Options: --socket FILE, --config FILE, --archive NAME, --timeline N, --end LSN, --standby."
    ),
}


def hook_command(name: str, short_help: str) -> click.Command:
    """A command that only explains itself."""
    return click.Command(
        name,
        help=_ABOUT[name],
        short_help=short_help,
        epilog=_EPILOGS[name],
        params=[click.Argument(["arguments"], nargs=-1, type=click.UNPROCESSED)],
    )
