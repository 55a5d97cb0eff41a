"""``python -m walkeeper``: the hooks before anything heavy is imported, else the command line."""

import sys

from walkeeper.hooks.options import split_command


def main() -> None:
    """Runs what the arguments ask for and ends the process."""
    if split_command(sys.argv[1:]) is not None:
        from walkeeper.hooks import client

        client.main(sys.argv[1:])
    from walkeeper.cli.main import main as command_line

    sys.exit(command_line())


if __name__ == "__main__":
    main()
