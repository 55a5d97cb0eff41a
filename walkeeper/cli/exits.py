"""The exit codes, as every ``--help`` ends with them, and how an error becomes one."""

from __future__ import annotations

from typing import Final

MEANINGS: Final = {
    0: "done",
    1: "failed",
    2: "wrong usage, or several archives and none named",
    3: "done, with findings",
    10: "no archive in the repository",
    11: "locked by another process",
    12: "wrong key, or a key is missing",
    13: "no such backup or segment",
    14: "the recovery target cannot be reached",
    15: "another cluster's archive or server",
    16: "the archive's format is too new for this program",
    20: "storage unavailable",
    21: "PostgreSQL unavailable",
    22: "storage denied it",
    30: "damaged, forged or unexpected content",
    40: "configuration",
    130: "interrupted",
}
_EVERYWHERE: Final = (0, 1, 2)
_REPOSITORY: Final = (10, 12, 15, 16, 20, 22, 30, 40, 130)


def exit_codes(*own: int, repository: bool = True) -> str:
    """The epilog of a command's help: the codes it can end with, each with its meaning.

    ``repository`` adds those of every command that opens the archive.
    """
    codes = sorted({*_EVERYWHERE, *own, *(_REPOSITORY if repository else (40,))})
    lines = [f"  {code:>3}  {MEANINGS[code]}" for code in codes]
    return "\b\nExit codes:\n" + "\n".join(lines)
