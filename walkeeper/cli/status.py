"""``walkeeper status``: health at a glance."""

from __future__ import annotations

import asyncio
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click

from walkeeper.cli.exits import exit_codes
from walkeeper.cli.main import PATIENCE_S, Options, run

if TYPE_CHECKING:
    from pathlib import Path

    from walkeeper.agent.compose import Workshop
    from walkeeper.errors import WalkeeperError
    from walkeeper.services.agent_status import AgentStatus
    from walkeeper.services.status_report import StatusReport

_AGENT_TIMEOUT_S = 10.0


@click.command("status", epilog=exit_codes(3))
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
@click.option(
    "--nagios", is_flag=True, help="One line for Nagios and the like, and its exit codes."
)
@click.pass_obj
def command(options: Options, *, as_json: bool, nagios: bool) -> None:
    """Show the health of the archive at a glance.

    Asks the agent, where one runs, and the repository. Ends with 0 when all is well and with 3 when
    something needs attention, which includes an agent that does not run although [cluster] dsn is
    set.

    With --nagios the exit codes are those of monitoring plugins instead: 0 OK, 1 WARNING (can
    wait), 2 CRITICAL (the archive or a recovery is in danger), 3 UNKNOWN (nothing could be found
    out). Give the plugin 30 seconds: a store that does not answer is asked for 20.
    """
    from walkeeper.cli.render import Page, print_json
    from walkeeper.cli.status_report import show

    if as_json and nagios:
        raise click.UsageError("--json and --nagios exclude each other")
    if nagios:
        sys.exit(_check(options))
    report, problem = run(lambda: _status(options))
    if as_json:
        print_json(report)
    else:
        show(Page(), report)
    if problem is not None:
        raise problem
    if not report.healthy:
        sys.exit(3)


def _check(options: Options) -> int:
    """Print the line of a monitoring plugin; whatever happens, its exit code is one of theirs."""
    from walkeeper.cli.status_nagios import judge, unknown
    from walkeeper.errors import WalkeeperError, find_known

    try:
        report, _ = run(lambda: _status(options))
    except Exception as error:  # noqa: BLE001 - the outermost frame: any other code is misread
        verdict = unknown(
            find_known(error) or WalkeeperError(f"an internal error: {type(error).__name__}")
        )
    else:
        verdict = judge(report)
    click.echo(verdict.text)
    return verdict.code


async def ask_agent(socket: Path) -> AgentStatus | None:
    """What the agent says of itself, None when none listens.

    Raises WalkeeperError when one listens that cannot be asked.
    """
    from walkeeper.agent.control_client import control_request
    from walkeeper.services.agent_status import decode_agent_status

    reply = await control_request(socket, "status", {}, timeout_s=_AGENT_TIMEOUT_S)
    if reply is None:
        return None
    reply.raise_failure()
    return decode_agent_status(reply.message)


async def _status(options: Options) -> tuple[StatusReport, WalkeeperError | None]:
    """The report, and what kept the repository from being part of it."""
    from walkeeper.agent.compose import open_workshop
    from walkeeper.errors import WalkeeperError

    config = options.load()
    agent: AgentStatus | None = None
    trouble: WalkeeperError | None = None
    try:
        agent = await ask_agent(config.agent.socket)
    except WalkeeperError as error:
        trouble = error
    if agent is None and trouble is None and config.cluster.dsn is not None:
        nobody = f"no agent answers on {config.agent.socket}"
        trouble = WalkeeperError(nobody, hint="systemctl start walkeeper")
    async with open_workshop(config, patience_s=PATIENCE_S) as shop:
        return await _look(options, shop, agent, trouble)


async def _look(
    options: Options,
    shop: Workshop,
    agent: AgentStatus | None,
    trouble: WalkeeperError | None,
) -> tuple[StatusReport, WalkeeperError | None]:
    from walkeeper.agent.status_memory import keep_folders, recall_folders
    from walkeeper.errors import StorageError
    from walkeeper.services.look import Look, look_at
    from walkeeper.services.status_report import Subject, make_report

    subject = Subject(repository=shop.storage.url)
    problem = None
    now = datetime.now(UTC)
    try:
        archive = await shop.archive(options.archive)
        subject = Subject(repository=shop.storage.url, folder=archive.folder, record=archive.record)
        state_dir, known = shop.config.agent.state_dir, archive.record.archive
        loop = asyncio.get_running_loop()
        memory = await loop.run_in_executor(shop.pool, recall_folders, state_dir, known, now)
        look = await look_at(archive, shop.pool, now, memory=memory)
        await loop.run_in_executor(shop.pool, keep_folders, state_dir, memory)
    except StorageError as error:
        problem = error
        look = Look(at=now, error=error.message, hint=error.hint)
    return make_report(subject, look, agent, now, trouble=trouble), problem
