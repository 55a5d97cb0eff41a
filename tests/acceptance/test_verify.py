"""Verifying a real archive by command, and the agent doing it by itself."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.fix_archiving import NO_TAIL, set_archive_command, wait_archived, write_segments
from tests.fix_cli import Installation, MakeInstallation
from tests.fix_postgres import Cluster, wait_until

MakeStandby = Callable[..., Cluster]


@pytest.fixture
def archived(archiving: Installation) -> Installation:
    """Two base backups with WAL around them, and a tail."""
    cluster = archiving.cluster
    cluster.sql("CREATE TABLE t AS SELECT generate_series(1, 20000) AS n")
    for _ in range(2):
        archiving.run("backup")
        archiving.archive_now()
        archiving.archive_now()
    return archiving


def flip(path: Path) -> None:
    """Change one bit near the end."""
    body = bytearray(path.read_bytes())
    body[-30] ^= 1
    path.chmod(0o600)
    path.write_bytes(body)


def test_a_sound_archive_is_clean_and_planted_damage_is_named(archived: Installation) -> None:
    report = archived.json("verify")
    assert report["clean"]
    assert report["findings"] == []
    assert report["unchecked"] == []
    assert report["checked"]["backups"] == 2
    assert report["read"] == "all"
    assert report["complete_since"] == report["started_at"]
    said = archived.run("verify", "--quick").stdout
    assert "no damage found" in said
    assert "only headers and sizes" in said

    archive = archived.archive_dir
    first, second = sorted(path.parent for path in archive.glob("backups/*/manifest.json.zst.age"))
    part = next(path for path in sorted(second.glob("data/*.tar.zst.age")))
    flip(part)
    segments = sorted(
        path for path in archive.glob("wal/00000001/*/*.zst.age") if path.name.count(".") == 2
    )
    gone = segments[-2]
    gone.unlink()
    report = archived.json("verify", code=3)
    found = {one["object"]: one for one in report["findings"]}
    part_name, gone_name = (str(path.relative_to(archive)) for path in (part, gone))
    assert found[part_name]["kind"] == "damaged"
    assert found[part_name]["backups"] == [second.name]
    assert found[gone_name]["kind"] == "missing"
    assert found[gone_name]["moments"][0]["until_backup"] is None
    assert set(found) == {part_name, gone_name}

    text = archived.run("verify", code=3).stdout
    assert part_name in text
    assert f"cannot be restored: {second.name}" in text
    assert "2 findings" in text
    only = archived.json("verify", "--backup", first.name, code=3)
    assert {one["object"] for one in only["findings"]} == {gone_name}
    archived.run("verify", "--backup", "20200101T000000Z-full-000000", code=13)
    archived.run("verify", "--quick", "--sample", "5%", code=2)


def test_what_was_read_is_remembered_from_sample_to_sample(archived: Installation) -> None:
    reports = [archived.json("verify", "--sample", "50%") for _ in range(2)]
    assert reports[0]["complete_since"] is None
    assert reports[1]["complete_since"] is not None
    assert all(report["clean"] for report in reports)


def test_a_host_without_an_identity_says_what_it_could_not_check(archived: Installation) -> None:
    writers = next(
        line.split()[-1]
        for line in archived.identity_file.read_text().splitlines()
        if line.startswith("# writer:")
    )
    archived.can_read = False
    archived.environment["WALKEEPER_ENCRYPTION_WRITERS"] = writers
    archived.configure()
    report = archived.json("verify")
    assert report["clean"]
    assert report["read"] == "headers"
    assert "without an identity" in report["unchecked"][0]


def test_the_agent_does_what_is_scheduled_and_status_shows_it(installation: Installation) -> None:
    installation.configure(
        '[schedule]\nbackup = "* * * * *"\nverify = "* * * * *"\n[verify]\nsample = "100%"'
    )
    installation.initialise()
    installation.start_agent()

    def outcomes() -> dict[str, str | None]:
        report = installation.json("status", code=None)
        return {job["name"]: job["last_outcome"] for job in report["agent"]["schedule"]}

    assert set(outcomes()) == {"backup", "verify"}
    wait_until(
        lambda: outcomes() == {"backup": "done", "verify": "done"},
        f"the scheduled runs; the agent:\n{installation.agent_log[-4000:]}",
        110,
    )
    assert installation.json("backups")["backups"]
    text = installation.run("status", code=None).stdout
    assert "backup: " in text
    installation.stop_agent()
    (state,) = installation.root.glob("state/schedule/*/backup.json")
    assert b'"outcome"' in state.read_bytes()


def test_wal_is_followed_over_a_promotion(
    archiving: Installation, make_standby: MakeStandby, make_installation: MakeInstallation
) -> None:
    primary = archiving.cluster
    standby = make_standby(primary)
    other = make_installation(
        cluster=standby, url=archiving.repository.as_uri(), keys=archiving, more=NO_TAIL
    )
    archiving.run("backup")
    write_segments(primary, 2)
    wait_archived(archiving)
    archiving.stop_agent()
    primary.stop("immediate")
    set_archive_command(standby, f"{other.program} wal-push --socket {other.socket} %p")
    standby.promote()
    other.start_agent()
    write_segments(standby, 3)
    wait_archived(other)
    report = other.json("verify")
    assert report["findings"] == []

    archive = archiving.archive_dir
    (history,) = archive.glob("wal/00000002.history.zst.age")
    segments = sorted(archive.glob("wal/00000002/*/*.zst.age"))
    first = next(path for path in segments if path.name.count(".") == 2)
    whole = history.read_bytes()
    history.unlink()
    first.unlink()
    found = {one["object"]: one for one in other.json("verify", code=3)["findings"]}
    assert f"wal/{history.name}" in found
    history.write_bytes(whole)
    (found_one,) = other.json("verify", code=3)["findings"]
    assert found_one["object"] == str(first.relative_to(archive))
    assert found_one["kind"] == "missing"
