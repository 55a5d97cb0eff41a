"""Alerts to a web server."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable

import pytest

from tests.fix_certificate import Certificate
from tests.fix_sinks import ORIGIN, WebSink, make_notice
from walkeeper.agent.sink_webhook import WebhookSink
from walkeeper.errors import NotifyError
from walkeeper.storage.settings import Secret


def sink_of(url: str, deadline_s: float = 60, template: str | None = None) -> WebhookSink:
    return WebhookSink(name="webhook 1", url=Secret(url), template=template, deadline_s=deadline_s)


async def refusal(sink: WebhookSink) -> NotifyError:
    with pytest.raises(NotifyError) as caught:
        await sink.tell(make_notice(), ORIGIN)
    return caught.value


async def test_json_holds_the_fields(web_sink: WebSink) -> None:
    await sink_of(web_sink.url("/hook?token=1")).tell(make_notice(), ORIGIN)
    (posted,) = web_sink.received
    assert (posted.method, posted.path) == ("POST", "/hook?token=1")
    assert posted.headers["content-type"] == "application/json"
    document = json.loads(posted.body)
    assert document["event"] == "raised"
    assert document["severity"] == "critical"
    assert document["archive"] == "letta"


async def test_slack_gets_a_text_in_which_nothing_has_a_meaning(web_sink: WebSink) -> None:
    sink = WebhookSink(name="webhook 1", url=Secret(web_sink.url()), format="slack")
    await sink.tell(make_notice(summary="a <!channel> & b"), ORIGIN)
    document = json.loads(web_sink.received[0].body)
    assert list(document) == ["text"]
    assert "a &lt;!channel&gt; &amp; b" in document["text"]


async def test_values_do_not_break_out_of_a_json_template(web_sink: WebSink) -> None:
    sink = sink_of(web_sink.url(), template='{"message": {"body": "${summary}", "x": "$${y}"}}')
    summary = 'a "quoted", "x": \\ ü\nline'
    await sink.tell(make_notice(summary=summary), ORIGIN)
    (posted,) = web_sink.received
    assert json.loads(posted.body) == {"message": {"body": summary, "x": "${y}"}}
    assert posted.headers["content-type"] == "application/json"


async def test_another_template_makes_plain_text(web_sink: WebSink) -> None:
    await sink_of(web_sink.url(), template='${severity}: "${summary}"').tell(
        make_notice(summary="ü"), ORIGIN
    )
    (posted,) = web_sink.received
    assert posted.body.decode() == 'critical: "ü"'
    assert posted.headers["content-type"] == "text/plain; charset=utf-8"


@pytest.mark.parametrize("status", [400, 404, 500, 599])
async def test_an_answer_that_is_not_2xx_is_a_failure(web_sink: WebSink, status: int) -> None:
    web_sink.status = status
    error = await refusal(sink_of(web_sink.url("/secret-path")))
    assert f"http://{web_sink.address} answered {status}" in error.message
    assert "secret-path" not in error.message


async def test_a_redirect_is_not_followed(
    web_sink: WebSink, make_web_sink: Callable[[None], WebSink]
) -> None:
    other = make_web_sink(None)
    web_sink.status, web_sink.headers = 307, {"Location": other.url()}
    error = await refusal(sink_of(web_sink.url()))
    assert "307" in error.message
    assert not other.received


async def test_a_server_that_hangs_is_given_up(web_sink: WebSink) -> None:
    web_sink.hangs = True
    error = await refusal(sink_of(web_sink.url("/secret-path"), deadline_s=0.5))
    assert error.message == f"http://{web_sink.address} did not answer within 0.5 s"


async def test_a_server_that_is_away_is_a_failure_without_the_path() -> None:
    with socket.socket() as taken:  # bound, and nobody listens
        taken.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        error = await refusal(sink_of(f"http://user:word@{address}/secret-path"))
    assert error.message.startswith(f"http://{address} cannot be reached: ")
    for secret in ("secret-path", "word"):
        assert secret not in error.message


async def test_a_certificate_that_nobody_signed_is_refused(
    make_web_sink: Callable[[object], WebSink], certificate: Certificate
) -> None:
    sink = make_web_sink(certificate.context)
    error = await refusal(sink_of(f"https://{sink.address}/secret-path"))
    assert "certificate that is not trusted" in error.message
    assert "secret-path" not in error.message
    assert not sink.received


async def test_an_answer_that_is_not_http_is_a_failure(web_sink: WebSink) -> None:
    web_sink.headers = {"X-Broken": "a\0b"}
    error = await refusal(sink_of(web_sink.url("/secret-path")))
    assert "secret-path" not in error.message


async def test_the_proxy_of_the_environment_is_asked(
    web_sink: WebSink, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.setenv("http_proxy", web_sink.url(""))
    await sink_of("http://alerts.invalid/hook").tell(make_notice(), ORIGIN)
    assert web_sink.received[0].path == "http://alerts.invalid/hook"


async def test_no_secret_is_sent(web_sink: WebSink, canary: str) -> None:
    notice = make_notice(summary=f"password={canary}", hint=canary)
    templates = (None, '{"a": "${text}${summary}${hint}"}', "${text}${summary}${hint}")
    for template in templates:
        await sink_of(web_sink.url(), template=template).tell(notice, ORIGIN)
    assert len(web_sink.received) == len(templates)
    assert canary not in str(web_sink.received)
