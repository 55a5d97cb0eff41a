"""``walkeeper keygen``: an identity to read with, a writer key to write with."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import click

from walkeeper.cli.exits import exit_codes


@click.command("keygen", epilog=exit_codes(12, repository=False))
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    default=Path("key.txt"),
    show_default=True,
    metavar="FILE",
    help="The identity; the writer key goes beside it, into FILE.writer.",
)
def command(output: Path) -> None:
    """Make the keys of a cluster and print the recipient.

    FILE opens what is stored: keep copies of it apart from the repository, for without it nothing
    can be read. FILE.writer signs what is stored: it belongs on every host that archives this
    cluster and nowhere else. Existing files are never overwritten.
    """
    from walkeeper.codec.keygen import generate_identity, generate_writer_key
    from walkeeper.keys.files import format_identity_file, format_writer_key_file
    from walkeeper.keys.load import create_key_file, require_free

    writer_output = output.with_name(output.name + ".writer")
    require_free(output, writer_output)
    identity, recipient = generate_identity()
    writer_key, writer = generate_writer_key()
    created_at = datetime.now(UTC)
    create_key_file(output, format_identity_file(identity, recipient, writer, created_at))
    create_key_file(writer_output, format_writer_key_file(writer_key, writer, created_at))
    click.echo(f"identity (reads):    {output}", err=True)
    click.echo(f"writer key (writes): {writer_output}", err=True)
    click.echo(f'put into [encryption]: recipients = ["{recipient}"]', err=True)
    click.echo(str(recipient))
