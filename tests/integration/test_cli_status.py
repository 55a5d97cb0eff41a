"""``walkeeper status`` and ``walkeeper backups`` against real servers and agents."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fix_cli import Installation
from tests.fix_postgres import wait_until
from tests.fix_tree import files_below, set_folder_modes


def texts(report: dict[str, object]) -> str:
    findings = report["findings"]
    assert isinstance(findings, list)
    return " ".join(row["what"] for row in findings)


def find_stored(installation: Installation, segment: str) -> Path:
    """The object of a segment; tails come and go beside it."""
    files = files_below(installation.archive_dir / "wal")
    (stored,) = (path for path in files if path.name == f"{segment}.zst.age")
    return stored


def test_without_an_archive_status_says_how_to_create_one(installation: Installation) -> None:
    assert "walkeeper init" in installation.run("status", code=10).stderr


def test_without_the_agent_status_shows_what_the_repository_holds(
    archiving: Installation,
) -> None:
    archiving.run("backup")
    assert archiving.stop_agent() == 0
    report = archiving.json("status", code=3)
    assert report["agent"] is None
    assert str(archiving.socket) in report["agent_problem"]
    assert report["repository_status"]["backups"] == 1
    assert len(report["repository_status"]["windows"]) == 1
    assert "nothing is archived" in texts(report)


def test_a_host_that_only_reads_needs_no_agent_to_be_healthy(archiving: Installation) -> None:
    archiving.run("backup")
    archiving.stop_agent()
    archiving.configure(dsn=False)
    assert archiving.json("status")["healthy"] is True


def test_a_healthy_archive_is_shown_with_what_can_be_recovered(archiving: Installation) -> None:
    backup = archiving.json("backup")["backup"]
    archiving.archive_now()  # and before it the backup history file, so that nothing comes behind
    name = archiving.archive_now()
    report = archiving.json("status")
    assert report["healthy"] is True
    assert report["findings"] == []
    agent = report["agent"]
    assert agent["source"]["verified"] is True
    assert agent["archiving"]["last_archived"] == name
    assert agent["archiving"]["backlog"] == 0
    assert agent["archiving"]["rpo_s"] < 60
    (window,) = report["repository_status"]["windows"]
    assert window["backups"] == [backup]
    assert window["last_segment"] == name
    assert window["missing"] == []
    assert report["repository_status"]["last_backup"]["id"] == backup


def test_the_text_fits_80_columns_and_has_no_colours_off_a_terminal(
    archiving: Installation,
) -> None:
    archiving.run("backup")
    for command in ("status", "backups"):
        text = archiving.run(command).stdout
        long = [line for line in text.splitlines() if len(line) > 80 and " " in line[13:].strip()]
        assert long == []
        assert "\x1b" not in text


def test_a_gap_is_a_finding_until_a_backup_has_made_up_for_it(archiving: Installation) -> None:
    archiving.run("backup")
    lost = archiving.archive_now()
    later = archiving.archive_now()
    find_stored(archiving, lost).unlink()
    report = archiving.json("status", code=3)
    assert lost in texts(report)
    (window,) = report["repository_status"]["windows"]
    assert window["missing"] == [lost]
    assert window["stranded"] == [later]
    archiving.run("backup")
    archiving.archive_now()
    report = archiving.json("status")
    assert len(report["repository_status"]["windows"]) == 2
    assert any(lost in notice for notice in report["notices"])


def test_a_backup_whose_own_wal_is_lost_is_called_worthless(archiving: Installation) -> None:
    archiving.run("backup")
    first = archiving.json("backups")["backups"][0]["wal_first"]
    find_stored(archiving, first).unlink()
    report = archiving.json("status", code=3)
    assert "cannot be restored" in texts(report)
    assert report["repository_status"]["windows"] == []


def test_a_server_that_does_not_archive_through_the_agent_is_a_finding(
    archiving: Installation,
) -> None:
    archiving.run("backup")
    archiving.cluster.sql("ALTER SYSTEM SET archive_command = 'true'")
    archiving.cluster.reload()
    wait_until(
        lambda: not archiving.json("status", code=None)["agent"]["source"]["verified"],
        "the agent to notice",
    )
    report = archiving.json("status", code=3)
    assert "archive_command is not walkeeper's" in texts(report)


def test_wal_that_does_not_get_through_is_shown_with_the_reason(archiving: Installation) -> None:
    archiving.run("backup")
    archiving.archive_now()  # and before it the backup history file, or that would wait too
    try:
        set_folder_modes(archiving.repository, 0o555)
        archiving.cluster.sql("SELECT pg_logical_emit_message(true, 'test', 'something')")
        archiving.cluster.sql("SELECT pg_switch_wal()")
        wait_until(
            lambda: archiving.json("status", code=None)["agent"]["archiving"]["last_error"],
            "an upload to fail",
        )
        report = archiving.json("status", code=3)
    finally:
        set_folder_modes(archiving.repository, 0o755)
    waiting = report["agent"]["archiving"]
    assert waiting["backlog"] >= 1
    assert waiting["oldest_waiting"] in waiting["last_error"]
    assert "not getting through" in texts(report)


def test_an_unreachable_repository_leaves_the_agents_facts(archiving: Installation) -> None:
    archiving.repository.rename(archiving.root / "gone")
    result = archiving.run("status", "--json", code=20)
    (archiving.root / "gone").rename(archiving.repository)
    assert '"repository_status": null' in result.stdout
    assert '"verified": true' in result.stdout
    assert "walkeeper: " in result.stderr


def test_an_agent_of_another_archive_is_a_finding(
    archiving: Installation,
) -> None:
    archiving.run("--archive", "second", "init")
    report = archiving.json("--archive", "second", "status", code=3)
    assert "another archive" in texts(report)


def test_no_backups_is_no_error_for_their_list(installation: Installation) -> None:
    installation.run("init")
    assert "no backup" in installation.run("backups").stdout
    assert installation.json("backups")["backups"] == []


def test_backups_are_listed_with_the_newest_last(archiving: Installation) -> None:
    ids = [archiving.json("backup", "--label", label)["backup"] for label in ("first", "second")]
    report = archiving.json("backups")
    assert [row["id"] for row in report["backups"]] == ids
    assert [row["label"] for row in report["backups"]] == ["first", "second"]
    text = archiving.run("backups").stdout
    assert text.index(ids[0]) < text.index(ids[1])


@pytest.fixture
def backed_up(archiving: Installation) -> Path:
    """The folder of the only backup."""
    backup = archiving.json("backup")["backup"]
    return archiving.archive_dir / "backups" / str(backup)


def test_a_backup_whose_description_was_changed_is_shown_as_such(
    archiving: Installation, backed_up: Path
) -> None:
    summary = backed_up / "summary.json"
    summary.chmod(0o644)
    summary.write_bytes(summary.read_bytes().replace(b'"files":', b'"files":1'))
    result = archiving.run("backups", code=3)
    assert backed_up.name in result.stdout
    (row,) = archiving.json("backups", code=3)["backups"]
    assert row["problem"]
    assert row["size_bytes"] is None
    assert backed_up.name in texts(archiving.json("status", code=3))


def test_a_backup_without_a_manifest_is_only_counted(
    archiving: Installation, backed_up: Path
) -> None:
    (backed_up / "manifest.json.zst.age").unlink()
    report = archiving.json("backups")
    assert report["backups"] == []
    assert report["unfinished"] == [backed_up.name]
    assert "1 unfinished backup" in archiving.run("backups").stdout
