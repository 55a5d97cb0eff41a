"""Looking at a repository's folders while an agent makes and removes things there."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path


def files_below(root: Path) -> Iterator[Path]:
    """The files of a tree; `Path.rglob` fails where a folder goes away under it."""
    for folder, _, names in os.walk(root):
        yield from (Path(folder) / name for name in names)


def set_folder_modes(root: Path, mode: int) -> None:
    """The mode of a tree's folders, its root included, from there downwards."""
    for folder, _, _ in os.walk(root):
        with suppress(FileNotFoundError):
            Path(folder).chmod(mode)
