"""What ``status`` remembers in ``state_dir`` of its looks at large archives."""

from __future__ import annotations

import os
from datetime import datetime
from pathlib import Path
from typing import Final

from walkeeper.agent.state_file import read_state, write_state
from walkeeper.services.folder_memory import FolderMemory, FullFolders

_NAME: Final = "listed.json"
_WORTH_IT: Final = 16
"""Fewer full folders than this are as well listed again."""


def recall_folders(state_dir: Path, archive: str, now: datetime) -> FolderMemory:
    """The memory of one archive, empty where there is none that we may read. Blocks."""
    path = state_dir / _NAME
    known = read_state(path, FullFolders) if os.access(path, os.R_OK) else None
    return FolderMemory(archive, known, now)


def keep_folders(state_dir: Path, memory: FolderMemory) -> None:
    """Write it down where the agent's directory is here and ours to write in. Blocks."""
    document = memory.document()
    if len(document.listed_at) >= _WORTH_IT and os.access(state_dir, os.W_OK | os.X_OK):
        write_state(state_dir / _NAME, document)
