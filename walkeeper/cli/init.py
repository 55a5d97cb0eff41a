"""``walkeeper init``: the archive, and the settings that PostgreSQL needs."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click

from walkeeper.cli.exits import exit_codes
from walkeeper.cli.main import Options, run

if TYPE_CHECKING:
    from walkeeper.services.setup import SetupResult


@click.command("init", epilog=exit_codes(3, 21))
@click.option("--apply", is_flag=True, help="Set what is missing, by ALTER SYSTEM, and reload.")
@click.option(
    "--replace", is_flag=True, help="With --apply: take over from another way of archiving."
)
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
@click.pass_obj
def command(options: Options, *, apply: bool, replace: bool, as_json: bool) -> None:
    """Create the archive and show the PostgreSQL settings that it needs.

    The archive is named by --archive, [cluster] archive, or the cluster's system identifier. One
    that exists and belongs to this cluster is left as it is, so init may be run again at any time.
    Without --apply nothing in PostgreSQL is changed. Ends with 3 when settings that were set do
    not count.
    """
    from walkeeper.cli.init_report import report_of, show
    from walkeeper.cli.render import Page, print_json

    if replace and not apply:
        raise click.UsageError("--replace has a meaning only with --apply")
    url, result = run(lambda: _init(options, apply=apply, replace=replace))
    if as_json:
        print_json(report_of(url, result))
    else:
        show(Page(), url, result)
    if apply and not result.settled:
        sys.exit(3)


async def _init(options: Options, *, apply: bool, replace: bool) -> tuple[str, SetupResult]:
    from walkeeper.agent.compose import open_workshop
    from walkeeper.agent.program import find_program
    from walkeeper.codec.writer import SigningKey
    from walkeeper.postgres.server import Server
    from walkeeper.services.setup import Setup, SetupOptions

    config = options.load()
    dsn = config.require_dsn()
    config.require_writer_key_file()
    async with open_workshop(config) as shop:
        setup = Setup(
            shop.storage,
            shop.trust,
            SigningKey.derive(shop.keyring.require_writer_key()),
            shop.pool,
            SetupOptions(
                folder=options.archive or config.cluster.archive,
                program=find_program(),
                socket=config.agent.socket.absolute(),
                apply=apply,
                replace=replace,
            ),
            now=lambda: datetime.now(UTC),
        )
        async with await Server.connect(dsn.reveal(), deadline_s=30.0) as server:
            return shop.storage.url, await setup.run(server)
