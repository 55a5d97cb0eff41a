"""``walkeeper check``: everything end to end."""

from __future__ import annotations

import sys
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click
import msgspec
from click.core import ParameterSource

from walkeeper.cli.exits import exit_codes
from walkeeper.cli.main import Options, run

if TYPE_CHECKING:
    from walkeeper.services.checklist import Checklist, Step


class StepRow(msgspec.Struct, frozen=True, kw_only=True):
    """One step; ``outcome`` is ok, warning, failed or skipped."""

    name: str
    outcome: str
    detail: str
    hint: str | None


class CheckReport(msgspec.Struct, frozen=True, kw_only=True):
    """The document of ``check --json``; ``exit_code`` is the command's own."""

    ok: bool
    exit_code: int
    steps: tuple[StepRow, ...]


def _parse_timeout(_context: click.Context, _option: click.Parameter, text: str) -> float:
    from walkeeper.config_values import Duration

    try:
        return Duration.parse(text)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


@click.command("check", epilog=exit_codes(3, 13, 21))
@click.option(
    "--timeout",
    "timeout_s",
    default="60s",
    show_default=True,
    metavar="DURATION",
    callback=_parse_timeout,
    help="How long to wait for the segment.",
)
@click.option(
    "--alerts", "only_alerts", is_flag=True, help="Only send a test alert to everybody in [alerts]."
)
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
@click.pass_obj
def command(options: Options, *, timeout_s: float, only_alerts: bool, as_json: bool) -> None:
    """Check everything end to end.

    Configuration, keys, repository, PostgreSQL and the agent; then makes a restore point, switches
    to a new WAL segment, waits until the old one is durable and reads it back. On a host without
    [cluster] dsn only configuration, keys and repository. Ends with the exit code of the first step
    that failed, with 3 when there are only warnings.

    With --alerts it sends one test alert to each webhook, mail and command of [alerts] instead, and
    says who took it.
    """
    from walkeeper.cli.check_alerts import check_alerts
    from walkeeper.cli.render import Page, print_json
    from walkeeper.services.checklist import Checklist

    source = click.get_current_context().get_parameter_source("timeout_s")
    if only_alerts and source is not ParameterSource.DEFAULT:
        raise click.UsageError("--timeout is for the segment, and --alerts sends none")
    page = Page()

    def show(step: Step) -> None:
        if not as_json:
            page.item(step.outcome.value, f"{step.name}: {step.detail}", hint=step.hint)

    checklist = Checklist(show)
    if only_alerts:
        run(lambda: check_alerts(options, checklist, now=lambda: datetime.now(UTC)))
    else:
        run(lambda: _check(options, timeout_s, checklist))
    if as_json:
        print_json(_report_of(checklist))
    sys.exit(checklist.exit_code)


async def _check(options: Options, timeout_s: float, checklist: Checklist) -> None:
    from walkeeper.cli.check_steps import Steps

    async with AsyncExitStack() as stack:
        steps = Steps(options, checklist, stack, timeout_s, now=lambda: datetime.now(UTC))
        await steps.run()


def _report_of(checklist: Checklist) -> CheckReport:
    def row(step: Step) -> StepRow:
        return StepRow(
            name=step.name, outcome=step.outcome.value, detail=step.detail, hint=step.hint
        )

    return CheckReport(
        ok=checklist.exit_code == 0,
        exit_code=checklist.exit_code,
        steps=tuple(row(step) for step in checklist.steps),
    )
