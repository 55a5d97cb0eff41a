"""A live agent tells when what lets it in ends, or could not be used again."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.fix_archiving import MakeS3Archiving
from tests.fix_cli import Installation
from tests.fix_http import SOME_PORT, ask, http_address
from tests.fix_postgres import wait_until
from tests.fix_sinks import WebSink

DEADLINE_S = 60.0


def findings(installation: Installation) -> str:
    found = installation.json("status", code=None)["findings"]
    return "\n".join(f"{one['what']} ({one['hint']})" for one in found)


def expiry_of(access: str, address: str) -> float:
    """What the agent's metric says."""
    lines = ask(address, "/metrics").text.splitlines()
    (line,) = [one for one in lines if f'expiry_timestamp_seconds{{access="{access}"}}' in one]
    return float(line.split()[-1])


@pytest.fixture
def told(watched: Installation, web_sink: WebSink) -> Callable[[], list[tuple[str, str]]]:
    """An agent with a webhook; what that was told, as pairs of event and key."""
    url = web_sink.url("/hook-of-a-test")
    watched.configure(f'[alerts]\nhold = "1s"\nwebhook = [{{ url = "{url}" }}]')
    watched.run("backup")
    watched.stop_agent()
    watched.start_agent()
    watched.wait_recognised()

    def pairs() -> list[tuple[str, str]]:
        documents: list[dict[str, Any]] = [json.loads(one.body) for one in web_sink.received]
        return [(one["event"], one["key"]) for one in documents]

    return pairs


def test_a_role_that_ends_soon_is_a_finding_and_an_alert_until_it_was_prolonged(
    watched: Installation, told: Callable[[], list[tuple[str, str]]]
) -> None:
    address = http_address(watched)
    assert "walkeeper_expiry_timestamp_seconds{" not in ask(address, "/metrics").text
    ends_at = (datetime.now(UTC) + timedelta(days=3)).replace(microsecond=0)
    watched.cluster.sql(f"ALTER ROLE postgres VALID UNTIL '{ends_at.isoformat()}'")
    wait_until(lambda: ("raised", "expiry:role") in told(), "the alert", DEADLINE_S)
    assert "the password of the database role postgres ends in" in findings(watched)
    assert "peer" in findings(watched)
    assert expiry_of("role", address) == ends_at.timestamp()
    assert "database role postgres" in ask(address, "/").text
    watched.cluster.sql("ALTER ROLE postgres VALID UNTIL 'infinity'")
    wait_until(lambda: ("recovered", "expiry:role") in told(), "the all-clear", DEADLINE_S)
    assert "database role" not in findings(watched)


def test_a_key_that_is_taken_away_is_a_finding_and_an_alert_until_it_is_back(
    watched: Installation, told: Callable[[], list[tuple[str, str]]]
) -> None:
    away, key = watched.root / "away", "key_file:encryption.identity_file"
    watched.identity_file.rename(away)
    wait_until(lambda: ("raised", key) in told(), "the alert", DEADLINE_S)
    watched.archive_now()  # nothing of it is needed to go on
    sample = 'walkeeper_key_file_usable{option="encryption.identity_file"}'
    address = http_address(watched)
    assert f"{sample} 0.0" in ask(address, "/metrics").text
    assert "encryption.identity_file cannot be used any more" in ask(address, "/").text
    away.rename(watched.identity_file)
    wait_until(lambda: ("recovered", key) in told(), "the all-clear", DEADLINE_S)
    assert f"{sample} 1.0" in ask(address, "/metrics").text
    assert "identity_file" not in findings(watched)


def test_keys_of_the_environment_that_end_soon_are_told_ahead(
    make_s3_archiving: MakeS3Archiving,
) -> None:
    installation = make_s3_archiving().installation
    ends_at = datetime.now(UTC) + timedelta(hours=3)
    expiration = ends_at.strftime("%Y-%m-%dT%H:%M:%SZ")
    installation.environment["AWS_CREDENTIAL_EXPIRATION"] = expiration
    installation.http = SOME_PORT
    installation.configure()
    installation.start_agent()
    installation.wait_recognised()
    wait_until(lambda: "keys from the environment" in findings(installation), "it", DEADLINE_S)
    assert "restart it" in findings(installation)
    shown = expiry_of("credentials", http_address(installation))
    assert abs(shown - ends_at.timestamp()) <= 3
