"""``walkeeper init`` against real servers."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable

import pytest

from tests.fix_cli import Installation, MakeInstallation
from tests.fix_postgres import Cluster, wait_until


def shown(cluster: Cluster) -> dict[str, str]:
    query = "SELECT name, setting FROM pg_settings WHERE name ~ '^(archive_|wal_level)'"
    return {name: value for name, value in cluster.sql(query)}  # noqa: C416 - rows are tuples


def states(report: dict[str, object]) -> dict[str, str]:
    settings = report["settings"]
    assert isinstance(settings, list)
    return {row["name"]: row["state"] for row in settings}


def test_without_apply_the_archive_is_created_and_the_server_left_alone(
    installation: Installation,
) -> None:
    before = shown(installation.cluster)
    report = installation.json("init")
    assert report["created"] is True
    assert report["folder"] == report["archive"]["system_identifier"]
    assert report["conditional_put"] is True
    assert states(report)["archive_mode"] == "change"
    assert report["changed"] == []
    record = json.loads((installation.archive_dir / "archive.json").read_text())
    assert record["body"]["archive"] == report["archive"]["archive"]
    assert shown(installation.cluster) == before
    assert not installation.cluster.sql("SELECT 1 FROM pg_settings WHERE pending_restart")


def test_apply_sets_what_differs_and_says_what_waits_for_a_restart(
    installation: Installation,
) -> None:
    result = installation.run("init", "--apply")
    assert "restart PostgreSQL, for archive_mode" in result.stdout
    installation.cluster.restart()
    report = installation.json("init", "--apply")
    assert report["created"] is False
    assert report["changed"] == []
    assert set(states(report).values()) == {"ok"}
    assert report["restart_needed_for"] == []
    settings = shown(installation.cluster)
    assert settings["archive_mode"] == "on"
    assert settings["archive_timeout"] == "60"
    command = f"{installation.program} wal-push --socket {installation.socket} %p"
    assert settings["archive_command"] == command


def test_what_waits_for_a_restart_is_known_to_be_set(installation: Installation) -> None:
    installation.run("init", "--apply")
    report = installation.json("init")
    assert states(report)["archive_mode"] == "restart"
    assert states(report)["archive_command"] == "ok", "it is hidden while archive_mode is off"


def test_a_server_with_minimal_wal_is_raised_to_replica(
    make_installation: MakeInstallation,
) -> None:
    installation = make_installation(settings={"wal_level": "minimal", "max_wal_senders": 0})
    report = installation.json("init", "--apply")
    assert report["restart_needed_for"] == ["wal_level", "archive_mode"]
    installation.cluster.restart()
    assert shown(installation.cluster)["wal_level"] == "replica"


def test_an_archive_timeout_of_the_users_own_stays(make_installation: MakeInstallation) -> None:
    installation = make_installation(settings={"archive_timeout": "5min"})
    installation.run("init", "--apply")
    assert shown(installation.cluster)["archive_timeout"] == "300"


def test_another_way_of_archiving_is_replaced_only_when_asked_to(
    make_installation: MakeInstallation,
) -> None:
    installation = make_installation(archive_mode="on", archive_command="cp %p /elsewhere/%f")
    result = installation.run("init", "--apply", code=2)
    assert "cp %p /elsewhere/%f" in result.stderr
    assert "--replace" in result.stderr
    assert not list(installation.repository.iterdir()), "nothing may have been written"
    assert "cp" in shown(installation.cluster)["archive_command"]
    installation.run("init", "--apply", "--replace")
    assert "wal-push" in shown(installation.cluster)["archive_command"]


def test_a_foreign_command_is_seen_also_while_archive_mode_hides_it(
    make_installation: MakeInstallation,
) -> None:
    installation = make_installation(archive_mode="off", archive_command="cp %p /elsewhere/%f")
    assert shown(installation.cluster)["archive_command"] == "(disabled)"
    assert "elsewhere" in installation.run("init", "--apply", code=2).stderr


def test_an_archive_library_is_taken_for_another_way_of_archiving(
    make_installation: MakeInstallation,
) -> None:
    installation = make_installation(
        archive_mode="on", settings={"archive_library": "basic_archive"}
    )
    assert "archive_library" in installation.run("init", "--apply", code=2).stderr
    installation.run("init", "--apply", "--replace")
    installation.cluster.restart()
    assert shown(installation.cluster)["archive_library"] == ""


def test_the_command_of_another_installation_of_walkeeper_is_updated(
    make_installation: MakeInstallation,
) -> None:
    installation = make_installation(
        archive_mode="on", archive_command="/old/bin/walkeeper wal-push %p"
    )
    installation.run("init", "--apply")
    assert str(installation.program) in shown(installation.cluster)["archive_command"]


def test_a_setting_that_the_command_line_overrides_ends_with_findings(
    installation: Installation,
) -> None:
    installation.cluster.stop()
    installation.cluster.start("-c", "archive_timeout=0")
    result = installation.run("init", "--apply", code=3)
    assert "command line" in result.stdout


def test_the_archive_of_another_cluster_is_refused(make_installation: MakeInstallation) -> None:
    first = make_installation(more='archive = "shop"')
    first.run("init")
    second = make_installation(url=first.repository.as_uri(), keys=first, more='archive = "shop"')
    result = second.run("init", "--apply", code=15)
    assert "another" in result.stderr
    assert shown(second.cluster)["archive_mode"] == "off"
    assert not second.cluster.sql("SELECT 1 FROM pg_settings WHERE pending_restart")


def test_one_repository_holds_archives_of_several_clusters(
    make_installation: MakeInstallation,
) -> None:
    first = make_installation()
    first.run("init")
    second = make_installation(url=first.repository.as_uri(), keys=first)
    second.run("--archive", "other", "init")
    folders = sorted(path.parent.name for path in first.repository.glob("*/archive.json"))
    assert folders[1] == "other"
    assert len(folders) == 2
    result = second.run("backups", code=2)
    assert all(name in result.stderr for name in folders)


def test_on_a_standby_it_says_where_to_run_it(
    installation: Installation,
    make_standby: Callable[..., Cluster],
    make_installation: MakeInstallation,
) -> None:
    standby = make_standby(installation.cluster)
    host = make_installation(cluster=standby)
    result = host.run("init", "--apply", code=21)
    assert "standby" in result.stderr
    assert "primary" in result.stderr
    assert not list(host.repository.iterdir())


def test_a_host_without_a_dsn_is_told_what_is_missing(installation: Installation) -> None:
    installation.configure(dsn=False)
    assert "dsn is missing" in installation.run("init", code=40).stderr


def test_what_would_keep_postgresql_from_the_agent_is_warned_of(
    installation: Installation,
) -> None:
    (installation.root / "run").rmdir()
    (warning,) = installation.json("init")["warnings"]
    assert str(installation.socket.parent) in warning


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user than PostgreSQL's")
def test_whoever_is_not_postgresqls_user_is_told_who_must_run_the_agent(
    installation: Installation,
) -> None:
    argv = [installation.program, "--config", installation.config_file, "init", "--json"]
    result = subprocess.run(argv, capture_output=True, text=True, check=True)
    (warning,) = json.loads(result.stdout)["warnings"]
    assert "the agent must run as postgres" in warning


def test_archiving_works_through_a_path_that_a_shell_would_split(
    installation: Installation,
) -> None:
    odd = installation.root / "run" / "a b%p'c.sock"
    installation.environment["WALKEEPER_SOCKET"] = str(odd)
    installation.initialise()
    installation.start_agent(wait=False)
    wait_until(odd.exists, "the agent to listen")
    installation.wait_recognised()
    name = installation.archive_now()
    assert list((installation.archive_dir / "wal").rglob(f"{name}.zst.age"))


def test_the_newest_postgresql_takes_the_settings(make_installation: MakeInstallation) -> None:
    installation = make_installation(version=18)
    installation.initialise()
    assert shown(installation.cluster)["archive_mode"] == "on"
    assert set(states(installation.json("init")).values()) == {"ok"}
