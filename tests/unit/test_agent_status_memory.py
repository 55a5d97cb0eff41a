"""What ``status`` writes into the agent's directory, and where it does not."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from walkeeper.agent.status_memory import keep_folders, recall_folders
from walkeeper.core.wal import SegmentSize

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
SIZE = SegmentSize(1 << 30)
ALL = [f"wal/00000001/{log:08X}/" for log in range(20)]


def looked(state_dir: Path, folders: list[str]) -> None:
    memory = recall_folders(state_dir, "an archive", NOW)
    for folder in folders:
        memory.note(folder, full=True)
    keep_folders(state_dir, memory)


def test_the_next_status_knows_what_this_one_listed(tmp_path: Path) -> None:
    looked(tmp_path, ALL)
    assert recall_folders(tmp_path, "an archive", NOW).recall(ALL, ALL, SIZE).keys() == set(
        ALL[1:-1]
    )


def test_a_host_without_the_agent_s_directory_gets_none(tmp_path: Path) -> None:
    looked(tmp_path / "walkeeper", ALL)
    assert list(tmp_path.iterdir()) == []


def test_of_a_small_archive_nothing_is_written(tmp_path: Path) -> None:
    looked(tmp_path, ALL[:5])
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_memory_is_as_none(tmp_path: Path) -> None:
    looked(tmp_path, ALL)
    (path,) = tmp_path.iterdir()
    path.write_bytes(b"{")
    assert recall_folders(tmp_path, "an archive", NOW).recall(ALL, ALL, SIZE) == {}
