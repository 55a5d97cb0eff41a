"""``walkeeper verify``: is everything there, and is it what was written?"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

import click

from walkeeper.cli.exits import exit_codes
from walkeeper.cli.main import Options, run

if TYPE_CHECKING:
    from walkeeper.core.backup_id import BackupId
    from walkeeper.services.verify_report import VerifyProgress, VerifyReport


def _parse_share(_context: click.Context, _option: click.Parameter, text: str) -> float:
    from walkeeper.config_values import Share

    try:
        return Share.parse(text)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


def _parse_backup(
    _context: click.Context, _option: click.Parameter, text: str | None
) -> BackupId | None:
    from walkeeper.core.backup_id import BackupId

    try:
        return None if text is None else BackupId.parse(text)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


@click.command("verify", epilog=exit_codes(3, 13))
@click.option(
    "--backup",
    metavar="ID",
    callback=_parse_backup,
    help="Only this backup, with the WAL from its start on.",
)
@click.option(
    "--sample",
    "share",
    default="100%",
    show_default=True,
    metavar="SHARE",
    callback=_parse_share,
    help="How much to read to its end; what was read longest ago comes first.",
)
@click.option("--quick", is_flag=True, help="Check headers and sizes only, read nothing.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
@click.pass_obj
def command(
    options: Options, backup: BackupId | None, share: float, *, quick: bool, as_json: bool
) -> None:
    """Read what is stored and say what is damaged or missing.

    Every manifest, part and WAL object must be there with its size and its signed header, and WAL
    must go on without a gap from each backup to the end of its timeline. With an identity
    every byte is read as well: digests, files, WAL pages. Each finding says which backups and
    moments it costs. Ends with 0 when all is well and with 3 when there are findings.
    """
    from walkeeper.cli.render import Page, print_json
    from walkeeper.cli.verify_view import show, show_progress

    if quick and share < 1:
        raise click.UsageError("--quick reads nothing, so there is nothing to --sample")
    with show_progress(quiet=as_json or not sys.stderr.isatty()) as progress:
        report = run(lambda: _verify(options, backup, share, quick=quick, progress=progress))
    if as_json:
        print_json(report)
    else:
        show(Page(), report)
    if not report.clean:
        sys.exit(3)


async def _verify(
    options: Options,
    backup: BackupId | None,
    share: float,
    *,
    quick: bool,
    progress: Callable[[VerifyProgress], None],
) -> VerifyReport:
    from walkeeper.agent.compose import open_workshop
    from walkeeper.agent.verify_job import run_verify

    async with open_workshop(options.load()) as shop:
        archive = await shop.archive(options.archive)
        return await run_verify(shop, archive, progress, share=share, quick=quick, backup=backup)
