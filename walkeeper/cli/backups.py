"""``walkeeper backups``: what base backups there are."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from walkeeper.cli.exits import exit_codes
from walkeeper.cli.main import PATIENCE_S, Options, run

if TYPE_CHECKING:
    from walkeeper.cli.backups_report import BackupsReport


@click.command("backups", epilog=exit_codes(3))
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
@click.pass_obj
def command(options: Options, *, as_json: bool) -> None:
    """List the base backups, the newest (by stop LSN) last.

    Ends with 3 when the description of a backup is damaged or its data had damaged pages. Backups
    without a manifest do not exist yet, or never will: they are only counted.
    """
    from walkeeper.cli.backups_report import show
    from walkeeper.cli.render import Page, print_json

    report = run(lambda: _list(options))
    if as_json:
        print_json(report)
    else:
        show(Page(), report)
    if report.has_findings:
        sys.exit(3)


async def _list(options: Options) -> BackupsReport:
    from walkeeper.agent.compose import open_workshop
    from walkeeper.cli.backups_report import report_of

    async with open_workshop(options.load(), patience_s=PATIENCE_S) as shop:
        archive = await shop.archive(options.archive)
        store = shop.backups(archive)
        listed = await store.list_backups()
        unfinished = [found async for found in store.unfinished()]
        return report_of(shop.storage.url, archive.folder, listed, unfinished)
