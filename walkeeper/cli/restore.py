"""``walkeeper restore``: rebuild a cluster, at its end or at any moment before."""

from __future__ import annotations

import os
import re
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from walkeeper.cli.exits import exit_codes
from walkeeper.cli.main import Options, run

if TYPE_CHECKING:
    from walkeeper.cli.restore_report import RestoreReport
    from walkeeper.config import Config
    from walkeeper.core.target import RecoveryRequest
    from walkeeper.repository.archive import Archive
    from walkeeper.services.restore import RestoreProgress, RestoreSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class RestoreOptions:
    """The options of the command, as they were given."""

    target_dir: Path
    backup: str | None
    target: str | None
    target_time: str | None
    target_lsn: str | None
    target_xid: str | None
    target_name: str | None
    target_timeline: str
    target_exclusive: bool
    target_action: str
    tablespace_mapping: tuple[str, ...]
    standby: bool
    not_before: str | None
    resume_archiving: bool
    plan: bool
    start: bool
    port: int | None
    bin_dir: Path | None
    unsigned: bool


@click.command("restore", epilog=exit_codes(13, 14, 21))
@click.option(
    "--target-dir",
    type=click.Path(path_type=Path),
    required=True,
    metavar="DIR",
    help="The new data directory: absent or empty.",
)
@click.option("--backup", metavar="ID", help="Begin with this backup, not the newest that fits.")
@click.option("--target-time", metavar="TIME", help='For instance "2026-11-20 10:15:00+01".')
@click.option("--target-lsn", metavar="LSN", help="For instance 0/3000060.")
@click.option("--target-xid", metavar="XID", help="The end of a transaction.")
@click.option("--target-name", metavar="NAME", help="A restore point.")
@click.option(
    "--target",
    metavar="latest|immediate",
    help="All WAL without a gap (the default), or only until the backup is consistent.",
)
@click.option("--target-timeline", metavar="latest|current|N", default="latest", show_default=True)
@click.option("--target-exclusive", is_flag=True, help="Stop just before the target.")
@click.option(
    "--target-action", metavar="promote|pause|shutdown", default="promote", show_default=True
)
@click.option(
    "--tablespace-mapping",
    metavar="OLD=NEW",
    multiple=True,
    help="Put a tablespace elsewhere; OLD is its location or its oid. Repeatable.",
)
@click.option("--standby", is_flag=True, help="Make a standby that follows the archive.")
@click.option("--not-before", metavar="TIME", help="Refuse when recovery would end before TIME.")
@click.option(
    "--resume-archiving",
    is_flag=True,
    help="It takes the source's place: archive, and run logical replication.",
)
@click.option("--plan", is_flag=True, help="Show what would be done, prove it, and stop.")
@click.option("--start", is_flag=True, help="Start it, follow recovery, and leave it running.")
@click.option("--port", type=click.IntRange(1, 65535), help="With --start: its port.")
@click.option(
    "--bin-dir",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="With --start: where postgres and pg_ctl are.",
)
@click.option("--unsigned", is_flag=True, help="Believe objects that no known writer signed.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
@click.pass_obj
def command(options: Options, /, *, as_json: bool, **given: object) -> None:
    """Rebuild the cluster in DIR, at its end or at any moment before.

    First a plan is made and proven: the backup, every segment up to the target, room, and that
    PostgreSQL's user can fetch WAL. Nothing is written unless all of it holds. As root, the files
    become those of DIR's owner, or of the user postgres.

    A time without a zone is taken as UTC. The copy archives nothing and runs no logical
    replication unless --resume-archiving is given.
    """
    from walkeeper.cli.render import Page, print_json
    from walkeeper.cli.restore_progress import show_progress
    from walkeeper.cli.restore_report import show

    wanted = RestoreOptions(**given)  # type: ignore[arg-type]  # click has converted each
    if not wanted.start and (wanted.port is not None or wanted.bin_dir is not None):
        raise click.UsageError("--port and --bin-dir have a meaning only with --start")
    if wanted.plan and wanted.start:
        raise click.UsageError("--plan starts nothing: leave out --start")
    with show_progress(quiet=as_json or not sys.stderr.isatty()) as progress:
        report = run(lambda: _restore(options, wanted, progress))
    if as_json:
        print_json(report)
    else:
        show(Page(), report)
    problem = report.problem
    if problem is not None:
        click.echo(f"walkeeper: {problem}", err=True)
        sys.exit(1)


async def _restore(
    options: Options, wanted: RestoreOptions, progress: Callable[[RestoreProgress], None]
) -> RestoreReport:
    from walkeeper.agent.compose import open_workshop
    from walkeeper.cli.restore_report import report_of
    from walkeeper.errors import RecoveryError
    from walkeeper.services.restore import RestoreService

    request = _request(wanted)
    config = options.load()
    async with open_workshop(config, allow_unsigned=wanted.unsigned) as shop:
        archive = await shop.archive(options.archive)
        settings = _settings(options, wanted, request, config, archive)
        service = RestoreService(archive, shop.backups(archive), shop.pool, settings, progress)
        prepared = await service.prepare()
        if wanted.plan:
            try:
                await service.try_fetch(prepared)
            except RecoveryError as error:
                return report_of(prepared.document, fetch_problem=error.message)
            return report_of(prepared.document)
        await service.try_fetch(prepared)
        try:
            result = await service.restore(prepared)
        except BaseException:
            _say_unfinished(wanted.target_dir)
            raise
        return report_of(prepared.document, result)


def _request(wanted: RestoreOptions) -> RecoveryRequest:
    from walkeeper.core.target import parse_request

    return parse_request(
        target=wanted.target,
        time=wanted.target_time,
        lsn=wanted.target_lsn,
        xid=wanted.target_xid,
        name=wanted.target_name,
        timeline=wanted.target_timeline,
        action=wanted.target_action,
        exclusive=wanted.target_exclusive,
    )


def _settings(
    options: Options,
    wanted: RestoreOptions,
    request: RecoveryRequest,
    config: Config,
    archive: Archive,
) -> RestoreSettings:
    from walkeeper.agent.drill_run import role_of
    from walkeeper.agent.program import find_program
    from walkeeper.config_load import find_config_path
    from walkeeper.core.backup_id import BackupId
    from walkeeper.core.target import parse_time
    from walkeeper.errors import UsageError
    from walkeeper.services.restore import RestoreSettings
    from walkeeper.services.restore_start import StartSettings

    try:
        backup = None if wanted.backup is None else BackupId.parse(wanted.backup)
    except ValueError as error:
        raise UsageError(str(error), hint="walkeeper backups lists them") from error
    config_path = find_config_path(options.config_path, os.environ).absolute()
    fetch = (str(find_program()), "wal-fetch", "--config", str(config_path))
    start = StartSettings(wanted.bin_dir, wanted.port, role_of(config))
    return RestoreSettings(
        target_dir=wanted.target_dir,
        scratch_dir=Path(tempfile.gettempdir()),
        request=request,
        fetch_words=(*fetch, "--archive", archive.folder, *["--unsigned"] * wanted.unsigned),
        backup=backup,
        tablespace_mapping=tuple(_parse_mapping(text) for text in wanted.tablespace_mapping),
        standby=wanted.standby,
        not_before=None if wanted.not_before is None else parse_time(wanted.not_before).at,
        resume_archiving=wanted.resume_archiving,
        start=start if wanted.start else None,
    )


def _parse_mapping(text: str) -> tuple[str, str]:
    """``OLD=NEW``; an equal sign that belongs to a name has a backslash before it."""
    parts = [part.replace("\\=", "=") for part in re.split(r"(?<!\\)=", text)]
    if len(parts) != 2 or not all(parts):
        raise click.UsageError(f"--tablespace-mapping wants OLD=NEW, not {text!r}")
    return parts[0], parts[1]


def _say_unfinished(target_dir: Path) -> None:
    from walkeeper.services.restore_target import UNFINISHED_FILE

    if (target_dir / UNFINISHED_FILE).exists():
        click.echo(
            f"walkeeper: {target_dir} is not complete and cannot start: remove it and try again",
            err=True,
        )
