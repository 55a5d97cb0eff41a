"""``walkeeper drill``: prove that a point can be restored, by restoring it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

from walkeeper.cli.exits import exit_codes
from walkeeper.cli.main import Options, run

if TYPE_CHECKING:
    from walkeeper.config import Config
    from walkeeper.core.backup_id import BackupId
    from walkeeper.core.target import RecoveryRequest
    from walkeeper.services.drill_report import DrillReport
    from walkeeper.services.restore import RestoreProgress


@dataclass(frozen=True, slots=True, kw_only=True)
class DrillOptions:
    """The options of the command, as they were given."""

    backup: str | None
    target_time: str | None
    use_random: bool
    use_latest: bool
    keep: bool


@click.command("drill", epilog=exit_codes(3, 11, 13, 14, 21))
@click.option("--backup", metavar="ID", help="Begin with this backup, not the newest that fits.")
@click.option("--target-time", metavar="TIME", help='For instance "2026-11-20 10:15:00+01".')
@click.option("--random", "use_random", is_flag=True, help="A position by chance.")
@click.option("--latest", "use_latest", is_flag=True, help="The end of the archive.")
@click.option("--keep", is_flag=True, help="Leave the scratch directory.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
@click.pass_obj
def command(options: Options, /, *, as_json: bool, **given: object) -> None:
    """Prove that a point can be restored, by restoring it.

    The point is restored into a scratch directory, recovered by a private PostgreSQL that nobody
    else can reach, and checked: where recovery ended, tables and indexes (pg_amcheck), data
    checksums, row counts, and the queries of [drill] checks. Nothing of the backup's configuration
    is used. How it went is recorded in the archive; the scratch directory is removed.

    Without an option [drill] target decides on the point. Ends with 0 when it is proven and with 3
    when it is not.
    """
    from walkeeper.cli.drill_report import show
    from walkeeper.cli.render import Page, print_json
    from walkeeper.cli.restore_progress import show_progress

    wanted = DrillOptions(**given)  # type: ignore[arg-type]  # click has converted each
    if (wanted.target_time is not None) + wanted.use_random + wanted.use_latest > 1:
        raise click.UsageError("--target-time, --random and --latest exclude each other")
    with show_progress(quiet=as_json or not sys.stderr.isatty()) as progress:
        report = run(lambda: _drill(options, wanted, progress))
    if as_json:
        print_json(report)
    else:
        show(Page(), report)
    if not report.proven:
        sys.exit(3)


async def _drill(
    options: Options, wanted: DrillOptions, progress: Callable[[RestoreProgress], None]
) -> DrillReport:
    from walkeeper.agent.compose import open_workshop
    from walkeeper.agent.drill_run import DrillWish, run_drill

    config = options.load()
    wish = DrillWish(
        request=_request(wanted, config),
        backup=_backup(wanted),
        keep=wanted.keep,
    )
    async with open_workshop(config) as shop:
        archive = await shop.archive(options.archive, probe=True)
        return await run_drill(shop, archive, wish, progress)


def _request(wanted: DrillOptions, config: Config) -> RecoveryRequest | None:
    from walkeeper.agent.drill_run import configured_request
    from walkeeper.core.target import RecoveryRequest, parse_time

    if wanted.target_time is not None:
        return RecoveryRequest(parse_time(wanted.target_time))
    if wanted.use_random:
        return None
    return RecoveryRequest() if wanted.use_latest else configured_request(config)


def _backup(wanted: DrillOptions) -> BackupId | None:
    from walkeeper.core.backup_id import BackupId
    from walkeeper.errors import UsageError

    try:
        return None if wanted.backup is None else BackupId.parse(wanted.backup)
    except ValueError as error:
        raise UsageError(str(error), hint="walkeeper backups lists them") from error
