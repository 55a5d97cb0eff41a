"""An agent that starts while its repository is away lives on, tells of it, and begins by itself."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.fix_archiving import MakeS3Archiving
from tests.fix_cli import Installation
from tests.fix_http import SOME_PORT, ask, http_address, wait_ready
from tests.fix_postgres import BARE_ENVIRONMENT, wait_until
from tests.fix_sinks import WebSink

DEADLINE_S = 60.0


class Absence:
    """An installation whose repository can be taken away; ``told`` is what a webhook heard."""

    def __init__(self, installation: Installation, web: WebSink) -> None:
        self.installation = installation
        self._web = web
        self._away = installation.repository.with_name("away")
        installation.http = SOME_PORT
        installation.more_agent = 'look_every = "5s"'
        url = web.url("/hook-of-a-test")
        installation.configure(f'[alerts]\nhold = "1s"\nwebhook = [{{ url = "{url}" }}]')

    @property
    def told(self) -> list[tuple[str, str]]:
        documents = [json.loads(one.body) for one in self._web.received]
        return [(one["event"], one["key"]) for one in documents]

    def begin(self) -> None:
        self.installation.repository.rename(self._away)

    def end(self) -> None:
        self._away.rename(self.installation.repository)

    def wait_told(self, event: str, key: str) -> None:
        def heard() -> bool:
            return (event, key) in self.told

        wait_until(heard, f"{event} {key}:\n{self.installation.agent_log}", DEADLINE_S)

    def push(self) -> str:
        """Offer a WAL file through the hook, which fails; what it says on standard error."""
        wal_dir: Path = self.installation.cluster.wal_dir
        segment = max(path for path in wal_dir.iterdir() if len(path.name) == 24)
        hook = [self.installation.program, "wal-push", "--socket", self.installation.socket]
        done = self.installation.workspace.run(
            [*hook, segment], check=False, env=BARE_ENVIRONMENT, timeout=DEADLINE_S
        )
        assert done.returncode == 1
        return done.stderr

    def wait_noted(self, key: str) -> None:
        """Until the agent has written down that the webhook has heard of it."""

        def noted() -> bool:
            files = (self.installation.root / "state" / "alerts").glob("*.json")
            states = [json.loads(path.read_text()) for path in files]
            entries = (state["ledgers"].get("webhook 1", {}).get(key) for state in states)
            return any(one is not None and one["told_at"] is not None for one in entries)

        wait_until(noted, f"{key} to be noted", DEADLINE_S)


@pytest.fixture
def absence(installation: Installation, web_sink: WebSink) -> Absence:
    found = Absence(installation, web_sink)
    installation.initialise()
    return found


def test_it_says_so_everywhere_and_archives_when_the_repository_is_back(absence: Absence) -> None:
    installation = absence.installation
    absence.begin()
    installation.start_agent()
    address = http_address(installation)
    absence.wait_told("raised", "repository")
    assert ask(address, "/healthz").status == 200
    reply = ask(address, "/readyz")
    assert reply.status == 503
    assert "repository: " in reply.json()["reasons"][0]
    assert "does not exist" in reply.text
    assert "cannot open the archive yet" in absence.push()
    status = installation.json("status", code=None)
    assert "cannot open the archive yet" in status["agent_problem"]
    assert "systemctl start" not in str(status["findings"][0]["hint"])
    absence.end()
    absence.wait_told("recovered", "repository")
    installation.wait_recognised()
    installation.archive_now()
    wait_ready(installation)
    assert installation.stop_agent() == 0


def test_a_restart_tells_nothing_twice_and_forgets_no_other_alert(absence: Absence) -> None:
    installation = absence.installation
    installation.start_agent()
    absence.wait_told("raised", "no_backup")
    absence.wait_noted("no_backup")
    installation.stop_agent()
    absence.begin()
    installation.start_agent()
    absence.wait_told("raised", "repository")
    absence.wait_noted("repository")
    installation.kill_agent()
    installation.start_agent()
    assert ask(http_address(installation), "/readyz").status == 503
    absence.end()
    absence.wait_told("recovered", "repository")
    installation.run("backup")
    absence.wait_told("recovered", "no_backup")
    for key in ("repository", "no_backup"):
        assert [event for event, told in absence.told if told == key] == ["raised", "recovered"]


def test_it_ends_when_it_is_asked_to(absence: Absence) -> None:
    absence.begin()
    absence.installation.start_agent()
    assert absence.installation.stop_agent() == 0
    assert not absence.installation.socket.exists()


def test_a_repository_that_answers_and_holds_no_archive_ends_it(installation: Installation) -> None:
    assert "walkeeper init" in installation.run("agent", code=10).stderr


def test_a_store_that_fails_is_waited_for_too(make_s3_archiving: MakeS3Archiving) -> None:
    one = make_s3_archiving()
    one.installation.http = SOME_PORT
    one.installation.configure()
    fault = one.proxy.add(times=10**6, status=503)
    one.installation.start_agent()
    assert "503" in ask(http_address(one.installation), "/readyz").text
    fault.times = 0
    one.installation.wait_recognised()
    one.installation.archive_now()
    refused = one.proxy.requests
    assert any(seen.kind == "PUT" and "archive.json" in seen.path for seen in refused), "the probe"
