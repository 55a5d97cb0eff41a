"""A live agent tells of what is wrong, of its end, and of no secret."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.fix_archiving import MakeS3Archiving, S3Archiving
from tests.fix_certificate import Certificate
from tests.fix_cli import Installation
from tests.fix_http import SOME_PORT, ask, http_address
from tests.fix_postgres import wait_until
from tests.fix_sinks import MailServer, WebSink

DEADLINE_S = 60.0
REPEAT_DEADLINE_S = 150.0

Event = tuple[str, str]
ALL_SINKS = {"webhook 1", "mail", "command"}


@dataclass
class Listeners:
    """Everybody who is told by the agent of an installation."""

    installation: Installation
    web: WebSink
    mail: MailServer
    more_agent: str = 'look_every = "5s"'

    @property
    def heard_file(self) -> Path:
        return self.installation.root / "heard"

    def configure(
        self,
        *,
        script: str = "",
        path: str = "-of-a-test",
        url_file: Path | None = None,
        mail: str = 'security = "none"',
    ) -> None:
        """Write the configuration.

        ``script`` is what the command runs, ``path`` goes into the address of the heartbeat,
        ``url_file`` holds that of the webhook, and ``mail`` says how to reach the mail server.
        """
        script = script or f"cat >> {self.heard_file}; echo >> {self.heard_file}"
        url = (
            f'url = "{self.web.url("/hook-of-a-test")}"'
            if url_file is None
            else f'url_file = "{url_file}"'
        )
        self.installation.http = SOME_PORT
        self.installation.more_agent = self.more_agent
        self.installation.configure(
            "[alerts]\n"
            'rpo = "1h"\nhold = "1s"\nrepeat = "1min"\nheartbeat_interval = "1s"\n'
            f'heartbeat_url = "{self.web.url("/beat" + path)}"\n'
            f"webhook = [{{ {url} }}]\n"
            f'mail = {{ server = "127.0.0.1", port = {self.mail.port}, {mail},'
            ' from = "walkeeper@db.test", to = ["dba@db.test"] }\n'
            f'command = {{ argv = ["/bin/sh", "-c", "{script}"] }}'
        )

    def start(self) -> None:
        self.installation.start_agent()
        self.installation.wait_recognised()

    @property
    def beats(self) -> int:
        return sum(one.path.startswith("/beat") for one in self.web.received)

    def by_webhook(self) -> list[Event]:
        posted = [one.body for one in self.web.received if one.path.startswith("/hook")]
        return [_event(json.loads(body)) for body in posted]

    def by_command(self) -> list[Event]:
        if not self.heard_file.exists():
            return []
        lines = self.heard_file.read_text().splitlines(keepends=True)
        return [_event(json.loads(one)) for one in lines if one.endswith("\n") and one.strip()]

    def mail_texts(self) -> list[str]:
        return [f"{one['Subject']}\n{one.get_content()}" for one in self.mail.mails]

    def wait(self, condition: Callable[[], bool], what: str, timeout_s: float = DEADLINE_S) -> None:
        """`wait_until`, which shows at the end of its patience what was heard and logged."""
        try:
            wait_until(condition, what, timeout_s)
        except pytest.fail.Exception as error:
            heard = f"webhook: {self.by_webhook()}\ncommand: {self.by_command()}"
            pytest.fail(f"{error}\n{heard}\n{self.installation.agent_log[-6000:]}")

    def wait_told(self, event: Event, mail: str, timeout_s: float = DEADLINE_S) -> None:
        """Until the webhook, the command and a mail with the words ``mail`` have told of it."""

        def told() -> bool:
            both = event in self.by_webhook() and event in self.by_command()
            return both and any(mail in text for text in self.mail_texts())

        self.wait(told, f"{event} to be told", timeout_s)

    def wait_noted(self, event: Event) -> None:
        """Until the agent knows that the three have heard of it: it may be stopped then."""
        name, key = event

        def noted() -> bool:
            whole = self.installation.agent_log.rpartition("\n")[0]
            lines = [json.loads(line) for line in whole.splitlines()]
            told = [one for one in lines if one["event"] == "alert_told" and one["key"] == key]
            return {one["sink"] for one in told if one["alert_event"] == name} == ALL_SINKS

        self.wait(noted, f"{event} to be noted")

    def wait_beating(self) -> None:
        before = self.beats
        self.wait(lambda: self.beats >= before + 2, "heartbeats")


def _event(document: dict[str, Any]) -> Event:
    return document["event"], document["key"]


@pytest.fixture
def listeners(installation: Installation, web_sink: WebSink, mail_sink: MailServer) -> Listeners:
    """An initialised installation with an alert sink of each kind; its agent is not started."""
    found = Listeners(installation, web_sink, mail_sink)
    found.configure()
    installation.initialise()
    return found


def test_a_repository_that_goes_away_is_told_by_all_and_so_is_its_return(
    listeners: Listeners,
) -> None:
    installation = listeners.installation
    listeners.start()
    installation.run("backup")
    listeners.wait_beating()
    away = installation.repository.with_name("away")
    installation.repository.rename(away)
    listeners.wait_told(("raised", "repository"), "CRITICAL")
    listeners.wait_noted(("raised", "repository"))
    address = http_address(installation)
    assert ask(address, "/readyz").status == 503
    assert 'walkeeper_notifications_total{outcome="told",sink_kind="webhook"}' in (
        ask(address, "/metrics").text
    )
    beats = listeners.beats
    listeners.wait_told(("repeated", "repository"), "STILL CRITICAL", REPEAT_DEADLINE_S)
    assert listeners.beats <= beats + 1  # one may have been on its way
    away.rename(installation.repository)
    listeners.wait_told(("recovered", "repository"), "RECOVERED")
    listeners.wait_beating()


def test_a_restart_of_the_agent_repeats_nothing_and_forgets_no_all_clear(
    listeners: Listeners,
) -> None:
    installation = listeners.installation
    listeners.start()
    listeners.wait_told(("raised", "no_backup"), "no base backup")
    listeners.wait_noted(("raised", "no_backup"))
    assert listeners.beats == 0
    installation.stop_agent()
    listeners.start()
    installation.run("backup")
    listeners.wait_told(("recovered", "no_backup"), "RECOVERED")
    for heard in (listeners.by_webhook(), listeners.by_command()):
        told = [event for event, key in heard if key == "no_backup"]
        assert [one for one in told if one != "repeated"] == ["raised", "recovered"]


def test_a_sink_that_fails_delays_no_other_and_is_shown(listeners: Listeners) -> None:
    listeners.web.status = 500
    listeners.start()
    installation = listeners.installation
    listeners.wait(
        lambda: (
            {("raised", "no_backup"), ("raised", "sink:webhook 1")} <= {*listeners.by_command()}
        ),
        "the command to be told of both",
    )
    found = [one["what"] for one in installation.json("status", code=None)["findings"]]
    assert any("do not get through to webhook 1" in what for what in found)
    listeners.web.status = 200
    listeners.wait(
        lambda: (
            ("raised", "no_backup") in listeners.by_webhook()
            and ("recovered", "sink:webhook 1") in listeners.by_command()
        ),
        "the webhook to be told after all",
    )


def test_a_heartbeat_that_is_not_heard_is_told_to_the_sinks_and_shown(
    listeners: Listeners,
) -> None:
    installation = listeners.installation
    listeners.start()
    installation.run("backup")
    listeners.wait_beating()
    listeners.web.failing = "/beat"
    listeners.wait_told(("raised", "sink:heartbeat"), "heartbeat is not heard")
    found = [one["what"] for one in installation.json("status", code=None)["findings"]]
    assert any("the heartbeat is not heard" in what for what in found)
    listeners.wait_beating()  # it is no reason to fall silent
    listeners.web.failing = None
    listeners.wait_told(("recovered", "sink:heartbeat"), "RECOVERED")


@dataclass
class Canaries:
    """Secrets by where they were planted; those of ``files`` lie in files of these names."""

    installation: Installation
    planted: dict[str, str]

    def file(self, name: str, text: str | None = None) -> Path:
        path = self.installation.root / f"canary-{name}"
        path.write_text(self.planted[name] if text is None else text)
        path.chmod(0o644)
        return path

    def leaks(self, shown: dict[str, str]) -> list[tuple[str, str]]:
        """Where which of them can be read."""
        return [
            (where, name)
            for where, text in shown.items()
            for name, secret in self.planted.items()
            if secret in text
        ]


@pytest.fixture
def canaries(
    make_s3_archiving: MakeS3Archiving,
) -> tuple[Canaries, S3Archiving]:
    """An installation on a store whose key is a canary too."""
    found = make_s3_archiving(more="")
    places = ("dsn", "beat", "env", "hook", "smtp", "token")
    planted = {place: f"c4n4ry-{place}-Zq8W-0123456789" for place in places}
    planted["store"] = found.shelf.server.secret_access_key
    return Canaries(found.installation, planted), found


def test_no_secret_is_in_a_log_a_metric_a_page_or_an_alert(
    canaries: tuple[Canaries, S3Archiving],
    web_sink: WebSink,
    login_mail_sink: MailServer,
    certificate: Certificate,
) -> None:
    (birds, on_s3), mail = canaries, login_mail_sink
    installation, planted = birds.installation, birds.planted
    urls = [web_sink.url(f"/{name}-{planted[name]}") for name in ("beat", "hook")]
    plain = (secret for place, secret in planted.items() if place not in {"beat", "hook"})
    everything = " ".join([*plain, *urls])
    printed, mended = birds.file("printed", everything), installation.root / "mended"
    server = on_s3.shelf.server
    installation.environment |= {
        "WALKEEPER_CLUSTER_DSN": installation.cluster.dsn.replace(
            "postgres@", f"postgres:{planted['dsn']}@"
        ),
        "AWS_SECRET_ACCESS_KEY": planted["env"],
        "WALKEEPER_REPOSITORY_ACCESS_KEY_ID_FILE": str(birds.file("id", server.access_key_id)),
        "WALKEEPER_REPOSITORY_SECRET_ACCESS_KEY_FILE": str(birds.file("store")),
    }
    ca_file = birds.file("ca", certificate.path.read_text())
    token_file = birds.file("token")
    mail.password, mail.trouble = planted["smtp"], f"451 not yet, {everything}"
    listeners = Listeners(
        installation, web_sink, mail, f'look_every = "5s"\nhttp_token_file = "{token_file}"'
    )
    fails = f"test -e {mended} || {{ cat {printed} >&2; exit 7; }}"
    listeners.configure(
        script=f"cat >> {listeners.heard_file}; {fails}",
        path=f"-{planted['beat']}",
        url_file=birds.file("hook", urls[1]),
        mail='user = "walkeeper", password_file = "{}", ca_file = "{}"'.format(
            birds.file("smtp"), ca_file
        ),
    )
    listeners.start()
    address, key = http_address(installation), f"Bearer {planted['token']}"
    assert ask(address, "/readyz").status == 401
    told = {("raised", "sink:command"), ("raised", "sink:mail"), ("raised", "no_backup")}
    listeners.wait(lambda: told <= {*listeners.by_webhook()}, "the sinks' troubles")
    shown = {"refused": ask(address, "/").text} | _seen(installation, address, key, "early")
    mail.trouble = None
    mended.touch()
    known = " ".join([*(planted[place] for place in ("dsn", "env", "store")), urls[0]])
    error = f"<Error><Code>AccessDenied</Code><Message>{known}</Message></Error>"
    on_s3.proxy.add(times=10**6, status=403, body=error.encode())
    installation.cluster.stop()
    listeners.wait(
        lambda: (
            ("raised", "repository") in listeners.by_webhook()
            and any("repository" in text for text in listeners.mail_texts())
            and '"repository"' in listeners.heard_file.read_text()
            and ask(address, "/readyz", Authorization=key).status == 503
        ),
        "the alerts",
    )
    shown |= _seen(installation, address, key, "late")
    shown["log"] = installation.agent_log
    shown["mails"] = "\n".join(listeners.mail_texts())
    shown["posted"] = "\n".join(one.body.decode() for one in listeners.web.received)
    shown["stdin"] = listeners.heard_file.read_text()
    assert mail.logins
    for place in ("early status", "late status", "late /", "posted", "mails", "stdin", "log"):
        assert "[redacted]" in shown[place], place  # what sinks and store have said
    assert not birds.leaks(shown)


def _seen(installation: Installation, address: str, key: str, when: str) -> dict[str, str]:
    """What pages and commands show now, by where."""
    paths = ("/", "/metrics", "/readyz", "/api/v1/status", "/api/v1/timeline")
    shown = {f"{when} {path}": ask(address, path, Authorization=key).text for path in paths}
    for command in ("status", "check", "backups"):
        done = installation.run(command, code=None)
        shown[f"{when} {command}"] = done.stdout + done.stderr
    return shown
