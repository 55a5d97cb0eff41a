"""``walkeeper fetch-service``: what the hook starts on a host without an agent."""

from __future__ import annotations

from pathlib import Path

import click

from walkeeper.cli.exits import exit_codes
from walkeeper.cli.main import Options, run


@click.command("fetch-service", epilog=exit_codes(11), hidden=True)
@click.option("--listen", type=click.Path(path_type=Path), required=True, metavar="SOCKET")
@click.option("--idle", type=float, default=60.0, show_default=True, help="Seconds without work.")
@click.option("--config", "config_path", type=click.Path(path_type=Path), metavar="FILE")
@click.option("--archive", metavar="NAME")
@click.option("--unsigned", is_flag=True)
@click.pass_obj
def command(
    options: Options,
    /,
    *,
    listen: Path,
    idle: float,
    config_path: Path | None,
    archive: str | None,
    unsigned: bool,
) -> None:
    """Serve wal-fetch on SOCKET until nobody asks any more; started by wal-fetch itself."""
    chosen = Options(config_path or options.config_path, archive or options.archive)
    run(lambda: _serve(chosen, listen, idle, unsigned=unsigned))


async def _serve(options: Options, listen: Path, idle_s: float, *, unsigned: bool) -> None:
    from walkeeper.agent.compose import open_workshop
    from walkeeper.agent.fetch_service import run_fetch_service

    async with open_workshop(options.load(), allow_unsigned=unsigned) as shop:
        await run_fetch_service(shop, listen, idle_s, options.archive)
