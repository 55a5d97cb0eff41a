"""What a live agent shows of itself and of the archive over HTTP."""

from __future__ import annotations

import json
import socket
from typing import Any

from tests.fix_cli import Installation
from tests.fix_http import ask, http_address, wait_ready
from tests.fix_postgres import wait_until

MOVING = {
    "uptime_s", "rpo_s", "rpo_max_s", "rpo_p99_s", "last_archived_age_s", "checked_at", "looked_at",
    "listed_at",
    "age_s", "requests", "bytes_read", "bytes_written", "errors", "flush_lsn", "shipped_lsn",
    "links", "stored_bytes", "left_s",
}  # fmt: skip
"""What differs between two documents of the same state."""


def still(value: Any) -> Any:
    match value:
        case dict():
            return {key: still(inner) for key, inner in value.items() if key not in MOVING}
        case list():
            return [still(inner) for inner in value]
        case _:
            return value


def test_the_agent_serves_the_same_document_as_the_command(watched: Installation) -> None:
    watched.run("backup")
    last = watched.archive_now()
    address = http_address(watched)

    def shown() -> str:
        return ask(address, "/api/v1/status").text

    wait_until(lambda: f'"last_segment":"{last}"' in shown(), f"{last} to be seen:\n{shown()}", 60)
    wait_until(
        lambda: still(watched.json("status", code=None)) == still(json.loads(shown())),
        f"the same document:\n{watched.json('status', code=None)}\n{shown()}",
        60,
    )


def test_a_backup_is_seen_soon_though_looks_are_seldom(installation: Installation) -> None:
    installation.http = "127.0.0.1:0"
    installation.configure_agent('look_every = "1h"')
    installation.initialise()
    installation.start_agent()
    wait_ready(installation)
    backup = installation.json("backup")["backup"]
    address = http_address(installation)
    wait_until(lambda: backup in ask(address, "/api/v1/status").text, "the backup to be seen", 60)


def test_a_server_that_goes_away_makes_the_agent_unready(watched: Installation) -> None:
    assert wait_ready(watched).json() == {"ready": True, "reasons": []}
    watched.cluster.stop()
    reply = wait_ready(watched, ready=False)
    assert "PostgreSQL: " in reply.json()["reasons"][0]
    assert ask(http_address(watched), "/healthz").text == "ok\n"
    watched.cluster.start()
    wait_ready(watched)


def test_a_repository_that_goes_away_is_shown_until_it_is_back(watched: Installation) -> None:
    wait_ready(watched)
    watched.run("backup")
    away = watched.repository.with_name("away")
    watched.repository.rename(away)
    watched.workspace.directory(f"{watched.root.name}/repo")
    reasons = wait_ready(watched, ready=False).json()["reasons"]
    assert "repository: " in reasons[0]
    address = http_address(watched)

    def document() -> dict[str, Any]:
        return ask(address, "/api/v1/status").json()

    wait_until(lambda: document()["repository_problem"] is not None, "it to be in the document", 60)
    assert document()["healthy"] is False
    assert document()["repository_status"] is None
    watched.repository.rmdir()
    away.rename(watched.repository)
    wait_ready(watched)


def test_a_port_that_is_taken_is_a_finding_and_archiving_goes_on(
    installation: Installation,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        installation.http = f"127.0.0.1:{holder.getsockname()[1]}"
        installation.configure()
        installation.initialise()
        installation.start_agent()
        installation.wait_recognised()
        installation.run("backup")
        installation.archive_now()
        findings = installation.json("status", code=3)["findings"]
        assert "another process listens there" in findings[0]["what"]
    wait_until(
        lambda: installation.json("status", code=None)["healthy"], "the port to be taken over", 60
    )
    assert ask(installation.http, "/healthz").status == 200


def test_a_password_is_on_no_page(installation: Installation) -> None:
    canary = "canary-password-0123"
    installation.http = "127.0.0.1:0"
    installation.configure_agent('look_every = "5s"')
    text = installation.config_file.read_text()
    shown = text.replace("postgres@/postgres", f"postgres:{canary}@/postgres")
    assert canary in shown
    installation.config_file.write_text(shown)
    installation.initialise()
    installation.start_agent()
    wait_ready(installation)
    address = http_address(installation)
    installation.cluster.stop()
    wait_ready(installation, ready=False)
    for path in ("/", "/metrics", "/healthz", "/readyz", "/api/v1/status"):
        assert canary not in ask(address, path).text
    assert canary not in installation.agent_log


def test_the_agent_does_not_start_without_the_token_that_it_is_to_ask_for(
    installation: Installation,
) -> None:
    installation.http = "0.0.0.0:0"
    installation.configure()
    assert "is open to others" in installation.run("agent", code=40).stderr
    installation.configure_agent(f'http_token_file = "{installation.root}/token"')
    installation.initialise()
    assert "http_token_file" in installation.run("agent", code=40).stderr


def test_the_token_opens_the_port_and_is_in_no_log(installation: Installation) -> None:
    token = "canary-token-0123456789"
    path = installation.root / "token"
    installation.http = "0.0.0.0:0"
    installation.configure_agent(f'http_token_file = "{path}"')
    path.write_text(token)
    path.chmod(0o644)
    installation.initialise()
    installation.start_agent()
    port = http_address(installation).rpartition(":")[2]
    address = f"127.0.0.1:{port}"
    assert ask(address, "/api/v1/status").status == 401
    reply = ask(address, "/api/v1/status", Authorization=f"Bearer {token}")
    assert reply.status == 200
    assert token not in reply.text
    assert installation.stop_agent() == 0
    assert token not in installation.agent_log
