"""The arguments of a hook, and paths, without argparse and os."""

import posix
import sys

from walkeeper.hooks.channel import Failure


class Options:
    """The options and operands of one call."""

    def __init__(self, values: dict[str, str], operands: list[str]) -> None:
        self.operands = operands
        self._values = values

    def get(self, name: str) -> str | None:
        """The value of an option, None when it was not given, '' when it takes no value."""
        return self._values.get(name)

    def timeout_s(self, default: float, limit: float) -> float:
        """``--timeout`` in seconds. Raises Failure unless it lies above 0 and within the limit."""
        text = self._values.get("--timeout")
        if text is None:
            return default
        try:
            seconds = float(text)
        except ValueError:
            seconds = 0.0
        if not 0 < seconds <= limit:
            raise Failure(f"--timeout {text} is not between 0 and {limit:g} seconds")
        return seconds


def split_command(arguments: list[str]) -> tuple[str, list[str]] | None:
    """``(hook, its arguments)`` when these arguments call a hook, None when they do not.

    Options may stand in front of it; they are the hook's then, to take or to refuse, so that no
    call of a hook ends in the command line, whose exit codes mean other things to PostgreSQL.
    """
    at = 0
    while at < len(arguments) and arguments[at].startswith("-"):
        at += 2 if arguments[at] in {"--config", "--archive"} else 1
    if arguments[at : at + 1] in (["wal-push"], ["wal-fetch"]):
        return arguments[at], arguments[:at] + arguments[at + 1 :]
    return None


def parse_options(arguments: list[str], known: dict[str, bool], count: int) -> Options:
    """Sorts arguments into options and exactly ``count`` operands.

    ``known`` says of each option whether it takes a value. Raises Failure on anything else: an
    unknown option must never be taken for a file.
    """
    values: dict[str, str] = {}
    operands: list[str] = []
    rest = iter(arguments)
    for argument in rest:
        if argument == "--":
            operands.extend(rest)
        elif not argument.startswith("-"):
            operands.append(argument)
        else:
            name, equals, value = argument.partition("=")
            if name not in known:
                raise Failure(f"unknown option {name}", "--help lists those there are")
            if name in values:
                raise Failure(f"{name} is given twice")
            if known[name] and not equals:
                value = next(rest, "")
            if known[name] != bool(value):
                raise Failure(f"{name} {'needs' if known[name] else 'takes no'} value")
            values[name] = value
    if len(operands) != count or not all(operands):
        raise Failure(f"expected {count} file names, got {len(operands)}", "see --help")
    return Options(values, operands)


def encoded(text: str) -> bytes:
    """An argument's original bytes, as os.fsencode gives them."""
    return text.encode(sys.getfilesystemencoding(), sys.getfilesystemencodeerrors())


def absolute(path: bytes) -> bytes:
    """The path from the root; relative ones begin in the working directory, the data directory."""
    return path if path.startswith(b"/") else posix.getcwdb().rstrip(b"/") + b"/" + path


def parent(path: bytes) -> bytes:
    """The directory that an absolute path puts its file in, by name: links are not followed."""
    return path.rpartition(b"/")[0] or b"/"


def exists(path: bytes | str) -> bool:
    """Whether there is a file of that name. Raises OSError when that cannot be told."""
    try:
        posix.stat(path)
    except FileNotFoundError:
        return False
    return True
