"""``walkeeper agent``: the service."""

from __future__ import annotations

import click

from walkeeper.cli.exits import exit_codes
from walkeeper.cli.main import Options, run


@click.command("agent", epilog=exit_codes(11))
@click.pass_obj
def command(options: Options) -> None:
    """Run the service in the foreground, until SIGTERM or SIGINT.

    SIGTERM lets what is under way end, a second one does not. SIGHUP reads the configuration
    again. Under systemd it is of Type=notify.
    """
    from walkeeper.agent.app import Agent
    from walkeeper.agent.program import program_words

    config = options.load()
    program = program_words(options.unusual_config_path(), options.archive)
    run(lambda: Agent(config, options.load, options.archive, program).run())
