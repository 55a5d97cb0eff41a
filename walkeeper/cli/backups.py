"""``walkeeper backups``: what base backups there are, and which stay whatever the policy says."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from walkeeper.cli.exits import exit_codes
from walkeeper.cli.main import Options, run

if TYPE_CHECKING:
    from walkeeper.cli.backups_report import BackupsReport


@click.group("backups", invoke_without_command=True, epilog=exit_codes(3))
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
@click.pass_context
def command(context: click.Context, *, as_json: bool) -> None:
    """List the base backups, the newest (by stop LSN) last.

    Ends with 3 when the description of a backup is damaged or its data had damaged pages. Backups
    without a manifest do not exist yet, or never will: they are only counted.
    """
    from walkeeper.cli.backups_report import show
    from walkeeper.cli.render import Page, print_json

    if context.invoked_subcommand is not None:
        if as_json:
            raise click.UsageError("--json belongs to the list alone")
        return
    options = context.find_object(Options)
    assert options is not None  # the main command has made it
    report = run(lambda: _list(options))
    if as_json:
        print_json(report)
    else:
        show(Page(), report)
    if report.has_findings:
        sys.exit(3)


@command.command("pin", epilog=exit_codes(13))
@click.argument("backup", metavar="ID")
@click.option("--reason", required=True, metavar="TEXT", help="Why; stored in clear and shown.")
@click.pass_obj
def pin(options: Options, backup: str, reason: str) -> None:
    """Keep a backup, with the WAL that makes it consistent, until it is unpinned."""
    run(lambda: _pin(options, backup, reason))
    click.echo(f"{backup} is pinned")


@command.command("unpin", epilog=exit_codes(13))
@click.argument("backup", metavar="ID")
@click.pass_obj
def unpin(options: Options, backup: str) -> None:
    """Leave a backup to the retention policy again."""
    run(lambda: _pin(options, backup, None))
    click.echo(f"{backup} is not pinned any more")


async def _list(options: Options) -> BackupsReport:
    from walkeeper.agent.compose import open_workshop
    from walkeeper.cli.backups_report import report_of
    from walkeeper.repository.holds import Holds

    async with open_workshop(options.load()) as shop:
        archive = await shop.archive(options.archive)
        store = shop.backups(archive)
        listed = await store.list_backups()
        unfinished = [found async for found in store.unfinished()]
        pins = await Holds(archive).pins()
        return report_of(shop.storage.url, archive.folder, listed, unfinished, pins.reasons)


async def _pin(options: Options, text: str, reason: str | None) -> None:
    """Pin a backup for a reason, or unpin it."""
    from datetime import UTC, datetime

    from walkeeper.agent.compose import open_workshop
    from walkeeper.core.backup_id import BackupId
    from walkeeper.errors import NoSuchBackup, UsageError
    from walkeeper.repository.holds import Holds
    from walkeeper.repository.removal import BackupRemoval

    try:
        backup = BackupId.parse(text)
    except ValueError as error:
        raise UsageError(str(error), hint="walkeeper backups lists them") from error
    async with open_workshop(options.load()) as shop:
        archive = await shop.archive(options.archive)
        holds, now = Holds(archive), datetime.now(UTC)
        if reason is None:
            await holds.unpin(backup, now)
            return
        removal = BackupRemoval(archive)
        missing = NoSuchBackup(f"there is no backup {backup}", hint="list them: walkeeper backups")
        if not await removal.is_committed(backup):
            raise missing
        await holds.pin(backup, reason, now)
        if not await removal.is_committed(backup):  # expire was at it
            raise missing
