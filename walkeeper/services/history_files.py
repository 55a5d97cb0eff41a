"""Timeline history files on this host, so that an outage of the archive finds them here.

Beside them one empty file says up to which timeline the archive was once listed completely.
Nothing is ever changed: files appear whole and durable, or not at all. All of it blocks.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import structlog

from walkeeper.core.timeline import TimelineHistory
from walkeeper.core.wal import TimelineHistoryFile
from walkeeper.errors import IntegrityError, ObjectExists
from walkeeper.storage.direct import Stages
from walkeeper.storage.durable import Draft

_HISTORY: Final = re.compile(r"([0-9A-F]{8})\.history")
_LISTED: Final = re.compile(r"signed-([0-9A-F]{8})")
"""Files "listed-..." are of versions that counted timelines which no writer had signed."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class KeptHistories:
    """What was found: contents by timeline, and the highest timeline of a complete listing."""

    contents: dict[int, bytes]
    listed: int | None


class HistoryFiles:
    """The directory of one archive below ``state_dir``, which must exist."""

    def __init__(self, state_dir: Path, archive_id: str) -> None:
        self._state_dir = state_dir
        self._directory = state_dir / "history" / archive_id

    def load(self) -> KeptHistories:
        """Read what is there; a file that is no history is removed and counts as not there."""
        contents: dict[int, bytes] = {}
        listed = [int(match[1], 16) for name in self._names() if (match := _LISTED.fullmatch(name))]
        for name in self._names():
            if match := _HISTORY.fullmatch(name):
                timeline = int(match[1], 16)
                path = self._directory / name
                content = path.read_bytes()
                try:
                    parse_history(timeline, content)
                except IntegrityError as error:
                    log.warning("kept_history_removed", file=str(path), reason=error.message)
                    path.unlink()
                else:
                    contents[timeline] = content
        return KeptHistories(contents, max(listed, default=None))

    def keep(self, timeline: int, content: bytes) -> None:
        """Make a history durable. Raises StorageError."""
        self._create(str(TimelineHistoryFile(timeline)), content)

    def keep_listed(self, highest: int) -> None:
        """Remember that the archive was listed completely, and up to where it goes."""
        self._create(f"signed-{highest:08X}", b"")

    def _names(self) -> Iterator[str]:
        if self._directory.is_dir():
            for entry in self._directory.iterdir():
                yield entry.name

    def _create(self, name: str, content: bytes) -> None:
        draft = Draft(self._state_dir, self._directory / name, Stages())
        try:
            draft.write(content)
            draft.publish()
        except ObjectExists:
            return
        finally:
            draft.discard()


def parse_history(timeline: int, content: bytes) -> TimelineHistory:
    """Read a history file. Raises IntegrityError when it is none of this timeline."""
    try:
        return TimelineHistory.parse(timeline, content.decode())
    except ValueError as error:  # UnicodeDecodeError is one
        raise IntegrityError(f"{TimelineHistoryFile(timeline)} is malformed: {error}") from error
