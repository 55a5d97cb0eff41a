"""From ``[alerts]`` to those who are told."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.fix_certificate import Certificate
from tests.fix_sinks import ORIGIN, WebSink, mail_server, make_notice
from walkeeper.agent.sinks import make_sinks
from walkeeper.config_alerts import AlertsConfig
from walkeeper.config_values import Duration
from walkeeper.errors import ConfigError, NotifyError
from walkeeper.log import redact_text
from walkeeper.storage.settings import Secret


def config_of(**sections: Any) -> AlertsConfig:
    def decode(kind: type, value: object) -> object:
        if kind is Secret:
            assert isinstance(value, str)
            return Secret(value)
        return Duration.parse(str(value)) if kind is Duration else Path(str(value))

    return msgspec.convert(sections, AlertsConfig, dec_hook=decode)


def mail_of(**more: object) -> dict[str, object]:
    return {"server": "127.0.0.1", "from": "w@example.org", "to": ["dba@example.org"], **more}


def private_file(path: Path, text: str) -> Path:
    path.write_text(text)
    path.chmod(0o600)
    return path


async def refusal(config: AlertsConfig, pool: ThreadPoolExecutor) -> str:
    with pytest.raises(ConfigError) as caught:
        await make_sinks(config, pool)
    return caught.value.message


async def test_names_do_not_depend_on_addresses(sink_pool: ThreadPoolExecutor) -> None:
    config = config_of(
        webhook=[{"url": "https://a.example/x"}, {"url": "https://b.example/y"}],
        mail=mail_of(),
        command={"argv": ["/bin/true"]},
    )
    sinks = await make_sinks(config, sink_pool)
    assert [sink.name for sink in sinks] == ["webhook 1", "webhook 2", "mail", "command"]
    assert "example/x" not in repr(sinks)


async def test_nobody_is_told_where_nobody_is_named(sink_pool: ThreadPoolExecutor) -> None:
    assert await make_sinks(AlertsConfig(), sink_pool) == ()


async def test_an_address_in_a_file_is_used_and_is_a_secret(
    sink_pool: ThreadPoolExecutor, web_sink: WebSink, tmp_path: Path, canary: str
) -> None:
    path = private_file(tmp_path / "url", web_sink.url("/services/T0/B0secret") + "\n")
    (sink,) = await make_sinks(config_of(webhook=[{"url_file": str(path)}]), sink_pool)
    await sink.tell(make_notice(), ORIGIN)
    assert web_sink.received[0].path == "/services/T0/B0secret"
    assert redact_text("POST /services/T0/B0secret") == "POST /[redacted]"


@pytest.mark.parametrize("text", ["", "ftp://host/canary1", "https://[::1/canary1", "https:///x"])
async def test_a_file_without_an_address_is_refused_and_not_shown(
    sink_pool: ThreadPoolExecutor, tmp_path: Path, text: str
) -> None:
    path = private_file(tmp_path / "url", text)
    message = await refusal(config_of(webhook=[{"url_file": str(path)}]), sink_pool)
    assert message == (
        f"[[alerts.webhook]] number 1: {path} holds no address with https:// or http://"
    )


async def test_a_file_that_is_not_there_is_named(
    sink_pool: ThreadPoolExecutor, tmp_path: Path
) -> None:
    url = config_of(webhook=[{"url_file": str(tmp_path / "url")}])
    password = config_of(mail=mail_of(user="u", password_file=str(tmp_path / "password")))
    authority = config_of(mail=mail_of(ca_file=str(tmp_path / "ca")))
    assert f"url_file cannot be used: {tmp_path}/url" in await refusal(url, sink_pool)
    assert "[alerts.mail] password_file cannot be used" in await refusal(password, sink_pool)
    assert "[alerts.mail] ca_file" in await refusal(authority, sink_pool)


async def test_a_ca_file_without_a_certificate_is_refused(
    sink_pool: ThreadPoolExecutor, tmp_path: Path
) -> None:
    path = private_file(tmp_path / "ca", "nothing")
    message = await refusal(config_of(mail=mail_of(ca_file=str(path))), sink_pool)
    assert message.startswith(f"[alerts.mail] ca_file {path} cannot be used")


async def test_a_password_that_smtp_cannot_carry_is_refused_and_not_shown(
    sink_pool: ThreadPoolExecutor, tmp_path: Path
) -> None:
    path = private_file(tmp_path / "password", "gehéim")
    message = await refusal(config_of(mail=mail_of(user="u", password_file=str(path))), sink_pool)
    assert "plain characters" in message
    assert "geh" not in message


async def test_a_password_in_a_file_logs_in_and_is_a_secret(
    sink_pool: ThreadPoolExecutor, certificate: Certificate, tmp_path: Path, canary: str
) -> None:
    path = private_file(tmp_path / "password", "mail-word-1\n")
    async with mail_server(starttls=certificate, login=True) as server:
        server.password = "mail-word-1"
        mail = mail_of(
            user="u", password_file=str(path), port=server.port, ca_file=str(certificate.path)
        )
        (sink,) = await make_sinks(config_of(mail=mail), sink_pool)
        await sink.tell(make_notice(summary="mail-word-1"), ORIGIN)
    assert server.logins == ["u"]
    assert "mail-word-1" not in server.mails[0].as_string()


async def test_the_time_out_of_a_command_is_the_configured_one(
    sink_pool: ThreadPoolExecutor,
) -> None:
    config = config_of(command={"argv": ["/bin/sleep", "300"], "timeout": "1s"})
    (sink,) = await make_sinks(config, sink_pool)
    with pytest.raises(NotifyError, match="/bin/sleep took longer than 1 s"):
        await sink.tell(make_notice(), ORIGIN)


@pytest.mark.parametrize("address", ["a@b, c@d", "a b@c", "m@", "<@", "a@[", "Name <a@b> more"])
async def test_what_is_not_one_address_is_refused_before_the_first_alert(
    sink_pool: ThreadPoolExecutor, address: str
) -> None:
    for mail in (mail_of(to=["dba@example.org", address]), {**mail_of(), "from": address}):
        message = await refusal(config_of(mail=mail), sink_pool)
        assert message == f"[alerts.mail] {address!r} is not one address"


async def test_an_address_may_have_a_name(sink_pool: ThreadPoolExecutor) -> None:
    async with mail_server() as server:
        mail = mail_of(port=server.port, security="none", to=["Jürgen <j@example.org>"])
        (sink,) = await make_sinks(config_of(mail=mail), sink_pool)
        await sink.tell(make_notice(), ORIGIN)
    assert server.recipients == [["j@example.org"]]
    assert server.mails[0]["To"] == "Jürgen <j@example.org>"
