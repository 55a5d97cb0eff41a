"""``walkeeper backup``: a base backup now."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

import click

from walkeeper.cli.exits import exit_codes
from walkeeper.cli.main import Options, run

if TYPE_CHECKING:
    from walkeeper.config import Config
    from walkeeper.services.backup_report import BackupProgress, BackupReport


@click.command("backup", epilog=exit_codes(3, 11, 21))
@click.option("--label", default="walkeeper", show_default=True, help="A name to tell it by.")
@click.option(
    "--spread",
    is_flag=True,
    help="Spread the checkpoint that opens the backup over time instead of making it at once.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
@click.pass_obj
def command(options: Options, label: str, *, spread: bool, as_json: bool) -> None:
    """Take a base backup now: through the agent when it runs, alone otherwise.

    The backup counts once its own WAL is in the archive too, so an agent must be archiving.
    Damaged pages are named and end it with exit code 3; the backup is kept.
    """
    from walkeeper.cli.backup_progress import show_progress

    with show_progress(quiet=as_json or not sys.stderr.isatty()) as progress:
        report = run(lambda: _take(options, label, fast=not spread, progress=progress))
    _show(report, as_json=as_json)
    if report.damaged:
        sys.exit(3)


async def _take(
    options: Options, label: str, *, fast: bool, progress: Callable[[BackupProgress], None]
) -> BackupReport:
    import msgspec

    from walkeeper.agent.control_client import control_request
    from walkeeper.services.backup_report import BackupProgress, BackupReport

    config = options.load()
    last: list[bytes] = []

    def arrived(document: bytes) -> None:
        last[:] = [document]
        if document.startswith(b'{"phase":'):
            progress(msgspec.json.decode(document, type=BackupProgress))

    fields = {"label": label, "fast": "1" if fast else "0"}
    socket = config.agent.socket
    reply = await control_request(socket, "backup", fields, timeout_s=None, on_progress=arrived)
    if reply is not None:
        reply.raise_failure()
        return msgspec.json.decode(last[0], type=BackupReport)
    return await _take_alone(config, options.archive, label, fast=fast, progress=progress)


async def _take_alone(
    config: Config,
    archive_name: str | None,
    label: str,
    *,
    fast: bool,
    progress: Callable[[BackupProgress], None],
) -> BackupReport:
    # Here, not above: whoever only watches the agent does without half of the memory.
    import asyncio

    from walkeeper.agent.app import make_state_dir
    from walkeeper.agent.backup_handler import backup_service, report_of
    from walkeeper.agent.compose import open_workshop

    async with open_workshop(config) as shop:
        archive = await shop.archive(archive_name, probe=True)
        await asyncio.get_running_loop().run_in_executor(
            shop.pool, make_state_dir, config.agent.state_dir
        )
        return report_of(await backup_service(shop, archive, progress).take(label, fast=fast))


def _show(report: BackupReport, *, as_json: bool) -> None:
    if as_json:
        import msgspec

        click.echo(msgspec.json.encode(report))
        return
    ratio = report.size_bytes / max(report.stored_bytes, 1)
    click.echo(f"{report.backup} is complete")
    click.echo(
        f"  {report.files} files, {report.size_bytes / 2**20:,.1f} MiB, stored as "
        f"{report.stored_bytes / 2**20:,.1f} MiB ({ratio:.1f} to 1)"
    )
    click.echo(f"  timeline {report.timeline}, WAL {report.start_lsn} to {report.stop_lsn}")
    for reason in report.left_out:
        click.echo(f"  left out: {reason}", err=True)
    _show_rest(report.left_out_files - len(report.left_out))
    for found in report.damaged:
        more = " ..." if found.count > len(found.blocks) else ""
        listed = ", ".join(map(str, found.blocks)) + more
        click.echo(f"  DAMAGED: {found.path}, block {listed}: checksums do not hold", err=True)
    _show_rest(report.damaged_files - len(report.damaged))


def _show_rest(files: int) -> None:
    if files > 0:
        click.echo(f"  ... and {files} more files", err=True)
