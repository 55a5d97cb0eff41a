"""Which file in ``state_dir`` keeps the alerts of an agent, also before its archive is open."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Final

_FOLDER: Final = "alerts"
_NAMELESS: Final = "start.json"


def state_of(state_dir: Path, archive: str) -> Path:
    """The file of an archive, by its id."""
    return state_dir / _FOLDER / f"{archive}.json"


def find_last_state(state_dir: Path) -> Path:
    """The file that was written last: an agent has one archive. Blocks."""
    nameless = state_dir / _FOLDER / _NAMELESS
    with suppress(OSError):
        found = [(path.stat().st_mtime, path) for path in nameless.parent.glob("*.json")]
        return max(found, default=(0.0, nameless))[1]
    return nameless


def adopt_state(state_dir: Path, archive: str) -> None:
    """Go on with what was told before the archive was open for the first time. Blocks."""
    own = state_of(state_dir, archive)
    with suppress(OSError):
        if not own.exists():
            os.replace(own.with_name(_NAMELESS), own)  # noqa: PTH105 - blocks either way
