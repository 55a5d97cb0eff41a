"""``walkeeper expire``: apply the retention policy, and explain each decision."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from walkeeper.cli.exits import exit_codes
from walkeeper.cli.main import Options, report, run

if TYPE_CHECKING:
    from walkeeper.cli.expire_report import ExpireReport
    from walkeeper.errors import WalkeeperError


@click.command("expire", epilog=exit_codes(3))
@click.option("--dry-run", is_flag=True, help="Only say what would be deleted.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
@click.pass_obj
def command(options: Options, *, dry_run: bool, as_json: bool) -> None:
    """Delete what the policy in [retention] does not want, and say why each backup stays or goes.

    Only backups that are proven to be whole count; what is damaged, forged or dated in the future
    never pushes out another one, and ends this with 3. Backups that are pinned, in use by a
    restore, the newest or the last that a drill has proven stay whatever the policy says.

    Backups are marked first and deleted a minute later. It may be killed and run again at any
    time. Where the store does not let it delete, it says what it would delete and ends with 22.
    """
    from walkeeper.cli.expire_report import show
    from walkeeper.cli.render import Page, print_json

    document, denied = run(lambda: _expire(options, dry_run=dry_run))
    if as_json:
        print_json(document)
    else:
        show(Page(), document)
    if denied is not None:
        sys.exit(report(denied))
    if document.findings:
        sys.exit(3)


async def _expire(options: Options, *, dry_run: bool) -> tuple[ExpireReport, WalkeeperError | None]:
    from walkeeper.agent.compose import open_workshop
    from walkeeper.agent.expiry import expire_service, retention_policy
    from walkeeper.cli.expire_report import report_of

    config = options.load()
    retention_policy(config.retention)  # before anything is asked of the store
    async with open_workshop(config) as shop:
        archive = await shop.archive(options.archive)
        result = await expire_service(shop, archive).run(dry_run=dry_run)
        return report_of(shop.storage.url, archive.folder, result), result.denied
