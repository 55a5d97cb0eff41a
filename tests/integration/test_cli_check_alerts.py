"""``walkeeper check --alerts``: a test alert to everybody."""

from __future__ import annotations

import json

from tests.fix_cli import Installation
from tests.fix_sinks import WebSink


def configure(installation: Installation, web_sink: WebSink, script: str) -> None:
    installation.configure(
        "[alerts]\n"
        f'webhook = [{{ url = "{web_sink.url("/hook-1")}" }}, '
        f'{{ url = "{web_sink.url("/hook-2")}", format = "slack" }}]\n'
        f'command = {{ argv = ["/bin/sh", "-c", "{script}"] }}\n'
        'heartbeat_url = "http://127.0.0.1:1/beat"'
    )


def test_everybody_gets_one_test_alert_and_is_reported(
    installation: Installation, web_sink: WebSink
) -> None:
    configure(installation, web_sink, f"cat > {installation.root}/told")
    report = installation.json("check", "--alerts")
    found = {row["name"]: row["outcome"] for row in report["steps"]}
    assert found == {
        "webhook 1": "ok",
        "webhook 2": "ok",
        "command": "ok",
        "heartbeat": "skipped",
    }
    assert sorted(posted.path for posted in web_sink.received) == ["/hook-1", "/hook-2"]
    told = json.loads((installation.root / "told").read_text())
    assert (told["key"], told["severity"]) == ("test", "info")
    assert "nothing is wrong" in told["text"]


def test_who_does_not_take_it_is_named_and_the_others_are_still_told(
    installation: Installation, web_sink: WebSink
) -> None:
    web_sink.status = 404
    configure(installation, web_sink, f"cat > {installation.root}/told")
    result = installation.run("check", "--alerts", code=1)
    said = " ".join(result.stdout.split())
    assert f"webhook 1: http://{web_sink.address} answered 404 Not Found" in said
    assert "command: a test alert was taken" in said
    assert "hook-1" not in result.stdout + result.stderr
    assert (installation.root / "told").exists()


def test_where_nobody_would_be_told_that_is_an_error(installation: Installation) -> None:
    result = installation.run("check", "--alerts", code=40)
    assert "nobody would be told" in result.stderr


def test_a_time_for_the_segment_has_no_meaning_here(installation: Installation) -> None:
    result = installation.run("check", "--alerts", "--timeout", "5s", code=2)
    assert "--timeout is for the segment" in result.stderr
