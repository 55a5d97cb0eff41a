"""``walkeeper check`` against real servers and agents."""

from __future__ import annotations

import re

from tests.fix_cli import Installation, MakeInstallation


def outcomes(report: dict[str, object]) -> dict[str, str]:
    steps = report["steps"]
    assert isinstance(steps, list)
    return {row["name"]: row["outcome"] for row in steps}


def test_all_is_well_when_a_segment_went_there_and_back(archiving: Installation) -> None:
    text = archiving.run("check").stdout
    name = re.search(r"archiving: ([0-9A-F]{24}) was durable", text)
    assert name is not None
    assert list((archiving.archive_dir / "wal").rglob(f"{name[1]}.zst.age"))
    assert f"{name[1]} was decrypted" in text
    assert "\x1b" not in text


def test_json_names_each_step_once(archiving: Installation) -> None:
    report = archiving.json("check")
    assert report["ok"] is True
    assert report["exit_code"] == 0
    names = [row["name"] for row in report["steps"]]
    assert names == [
        "configuration",
        "keys",
        "repository",
        "overwriting",
        "PostgreSQL",
        "settings",
        "rights",
        "agent",
        "archiving",
        "reading back",
    ]
    assert set(outcomes(report).values()) == {"ok"}


def test_without_an_identity_header_and_size_are_checked(archiving: Installation) -> None:
    archiving.can_read = False
    archiving.configure()
    assert "no identity here to open it" in archiving.run("check").stdout


def test_a_segment_that_does_not_arrive_in_time_is_named(archiving: Installation) -> None:
    result = archiving.run("check", "--timeout", "0s", code=13)
    assert re.search(r"[0-9A-F]{24} is not in the archive", result.stdout)


def test_without_the_agent_the_rest_is_still_checked(installation: Installation) -> None:
    installation.initialise()
    report = installation.json("check", code=1)
    found = outcomes(report)
    assert found["agent"] == "failed"
    assert found["archiving"] == "skipped"
    assert found["rights"] == "ok"


def test_without_postgresql_repository_and_agent_are_still_checked(
    archiving: Installation,
) -> None:
    archiving.cluster.stop()
    found = outcomes(archiving.json("check", code=21))
    assert found["PostgreSQL"] == "failed"
    assert found["repository"] == "ok"
    assert found["agent"] == "ok", "what was verified holds while the server is down"


def test_without_an_archive_the_first_failure_decides_the_exit_code(
    installation: Installation,
) -> None:
    found = outcomes(installation.json("check", code=10))
    assert found["repository"] == "failed"
    assert found["agent"] == "failed"
    assert found["PostgreSQL"] == "ok"


def test_a_repository_that_takes_no_writes_fails_before_any_wal_is_lost(
    installation: Installation,
) -> None:
    installation.initialise()
    archive = installation.archive_dir
    archive.chmod(0o555)
    report = installation.json("check", code=None)
    archive.chmod(0o755)
    assert outcomes(report)["repository"] == "ok"
    assert outcomes(report)["overwriting"] == "failed"
    assert report["exit_code"] in {20, 22}


def test_a_key_that_others_can_read_is_a_warning(installation: Installation) -> None:
    installation.run("init")
    installation.identity_file.chmod(0o644)
    installation.configure(dsn=False)
    report = installation.json("check", code=3)
    assert outcomes(report)["keys"] == "warning"
    assert f"chmod 600 {installation.identity_file}" in str(report)


def test_an_identity_that_does_not_open_what_is_sealed_is_the_wrong_key(
    installation: Installation, make_installation: MakeInstallation
) -> None:
    installation.run("init")
    stranger = make_installation(cluster=installation.cluster)
    installation.configure(f'writers = ["{writer_of(installation)}"]')
    text = installation.config_file.read_text()
    encryption = text.replace(str(installation.identity_file) + '"', f'{stranger.identity_file}"')
    moved = encryption.replace(installation.more, "")
    installation.config_file.write_text(
        moved.replace("[encryption]", f"[encryption]\n{installation.more}")
    )
    report = installation.json("check", code=12)
    assert outcomes(report)["keys"] == "failed"
    assert outcomes(report)["repository"] == "skipped"


def writer_of(installation: Installation) -> str:
    lines = installation.identity_file.read_text().splitlines()
    return next(line for line in lines if "# writer: " in line).rpartition(" ")[2]


def test_a_writer_key_that_no_reader_believes_is_the_wrong_key(
    installation: Installation, make_installation: MakeInstallation
) -> None:
    stranger = make_installation(cluster=installation.cluster)
    text = installation.config_file.read_text()
    installation.config_file.write_text(
        text.replace(str(installation.writer_key_file), str(stranger.writer_key_file))
    )
    result = installation.run("check", code=12)
    assert "not among the writers" in result.stdout


def test_rights_that_are_missing_come_with_the_grant_that_gives_them(
    archiving: Installation,
) -> None:
    archiving.cluster.sql("CREATE ROLE little LOGIN; GRANT pg_monitor TO little")
    text = archiving.config_file.read_text()
    archiving.config_file.write_text(text.replace("postgresql://postgres@", "postgresql://little@"))
    result = archiving.run("check", code=21)
    wrapped = " ".join(result.stdout.split())
    assert "GRANT EXECUTE ON FUNCTION pg_switch_wal()" in wrapped


def test_a_mistake_in_the_configuration_ends_the_check(installation: Installation) -> None:
    installation.config_file.write_text("[cluster]\nnsd = 1\n")
    report = installation.json("check", code=40)
    assert outcomes(report) == {"configuration": "failed"}


def test_a_host_that_only_reads_is_checked_as_far_as_that_goes(
    installation: Installation,
) -> None:
    installation.run("init")
    installation.configure(dsn=False)
    found = outcomes(installation.json("check"))
    assert found["repository"] == "ok"
    assert found["PostgreSQL"] == "skipped"


def test_archiving_by_another_command_of_ours_is_a_warning(archiving: Installation) -> None:
    elsewhere = f"{archiving.program} wal-push --socket {archiving.socket} --timeout 10 %p"
    archiving.cluster.sql(f"ALTER SYSTEM SET archive_command = '{elsewhere}'")
    archiving.cluster.reload()
    report = archiving.json("check", code=None)
    assert outcomes(report)["settings"] == "warning"
