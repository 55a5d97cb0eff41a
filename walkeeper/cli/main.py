"""``walkeeper``: finds the command, loads it, and turns what it raises into an exit code."""

from __future__ import annotations

import asyncio
import importlib
import os
import sys
import traceback
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

import click

from walkeeper import __version__
from walkeeper.cli.exits import exit_codes
from walkeeper.errors import find_known

if TYPE_CHECKING:
    from walkeeper.config import Config

T = TypeVar("T")

_COMMANDS: Final = {
    "agent": ("agent", "Run the service in the foreground."),
    "backup": ("backup", "Take a base backup now."),
    "backups": ("backups", "List the base backups; pin and unpin them."),
    "check": ("check", "Check everything end to end."),
    "expire": ("expire", "Apply the retention policy and explain each decision."),
    "drill": ("drill", "Prove that a point can be restored, by restoring it."),
    "fetch-service": ("fetch_service", "Serve wal-fetch on a host without an agent."),
    "init": ("init", "Create the archive and show the PostgreSQL settings it needs."),
    "keygen": ("keygen", "Make the keys of a cluster."),
    "restore": ("restore", "Rebuild a cluster, at its end or at any moment before."),
    "status": ("status", "Show the health of the archive at a glance."),
    "verify": ("verify", "Read what is stored and say what is damaged or missing."),
}
PATIENCE_S: Final = 20.0
"""How long commands that only look go on trying while the store does not answer."""
_HIDDEN: Final = {"fetch-service"}
_HOOKS: Final = {
    "wal-fetch": "The restore_command: wal-fetch %f %p.",
    "wal-push": "The archive_command: wal-push %p.",
}


@dataclass(frozen=True, slots=True)
class Options:
    """What stands before the command."""

    config_path: Path | None
    archive: str | None

    def load(self) -> Config:
        """The configuration; sets up logging as it says. Raises ConfigError."""
        from walkeeper.config_load import find_config_path, load_config
        from walkeeper.log import configure_logging

        config = load_config(find_config_path(self.config_path, os.environ), os.environ)
        configure_logging(config.log.level, config.log.format)
        return config

    def unusual_config_path(self) -> Path | None:
        """Where the configuration lies, None where everybody finds it there."""
        from walkeeper.config_load import DEFAULT_PATH, find_config_path

        path = find_config_path(self.config_path, os.environ)
        return None if path == DEFAULT_PATH else path


class _Commands(click.Group):
    """Loads a command's module when the command is called: the others cost nothing."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return sorted({*_COMMANDS, *_HOOKS} - _HIDDEN)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in _COMMANDS:
            return None
        module = importlib.import_module(f"walkeeper.cli.{_COMMANDS[cmd_name][0]}")
        command = module.command
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        rows = [(name, about) for name, (_, about) in _COMMANDS.items() if name not in _HIDDEN]
        with formatter.section("Commands"):
            formatter.write_dl(sorted([*rows, *_HOOKS.items()]))


@click.group(
    cls=_Commands,
    epilog=exit_codes(3, 11, 13, 14, 21),
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.option(
    "--config",
    "config_path",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Configuration; else $WALKEEPER_CONFIG, else /etc/walkeeper/walkeeper.toml.",
)
@click.option(
    "--archive", metavar="NAME", help="Which archive of the repository; else [cluster] archive."
)
@click.version_option(__version__, prog_name="walkeeper")
@click.pass_context
def cli(ctx: click.Context, config_path: Path | None, archive: str | None) -> None:
    """Continuous archiving for PostgreSQL: encrypted WAL and base backups in object storage."""
    ctx.obj = Options(config_path, archive)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code and never raises."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        outcome = cli.main(arguments, prog_name="walkeeper", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("walkeeper: interrupted", err=True)
        return 130
    except BaseException as error:  # noqa: BLE001 - the outermost frame
        return report(error)
    return outcome if isinstance(outcome, int) else 0


def report(error: BaseException) -> int:
    """Say on stderr what went wrong and what to do next, no secret; returns the exit code."""
    from walkeeper.log import redact_text

    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else 1
    known = find_known(error)
    if known is None:
        click.echo(redact_text("".join(traceback.format_exception(error))), err=True, nl=False)
        click.echo("walkeeper: an internal error, please report it", err=True)
        return 1
    click.echo(redact_text(f"walkeeper: {known.message}"), err=True)
    if known.hint:
        click.echo(redact_text(f"  hint: {known.hint}"), err=True)
    return known.exit_code


def run(work: Callable[[], Coroutine[object, object, T]]) -> T:
    """The one ``asyncio.run`` of a command."""
    return asyncio.run(work())
