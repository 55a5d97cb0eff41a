"""Alerts by mail, to a real SMTP server."""

from __future__ import annotations

import asyncio
import smtplib
import ssl
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import msgspec
import pytest
from structlog.testing import capture_logs

from tests.fix_certificate import Certificate
from tests.fix_sinks import (
    ORIGIN,
    mail_server,
    make_notice,
    odd_server,
)
from walkeeper.agent.alert_text import Origin
from walkeeper.agent.sink_mail import MailSink, make_mail
from walkeeper.config_alerts import MailConfig
from walkeeper.core.alerts import Severity
from walkeeper.errors import NotifyError
from walkeeper.storage.settings import Secret

TO = ("dba@example.org", "boss@example.org")


def sink_of(
    port: int,
    pool: ThreadPoolExecutor,
    *,
    security: str = "none",
    trusts: Certificate | None = None,
    password: str | None = None,
    deadline_s: float = 60,
) -> MailSink:
    document = {
        "server": "127.0.0.1",
        "port": port,
        "from": "Walkeeper <walkeeper@example.org>",
        "to": TO,
        "security": security,
    }
    return MailSink(
        config=mail_config(document, user=password and "walkeeper"),
        password=Secret(password) if password else None,
        context=ssl.create_default_context(cafile=trusts.path if trusts else None),
        pool=pool,
        deadline_s=deadline_s,
    )


def mail_config(document: dict[str, object], user: str | None = None) -> MailConfig:
    return msgspec.convert(document | ({"user": user} if user else {}), MailConfig)


CONFIG = mail_config({"server": "x", "from": "w@example.org", "to": TO})


async def refusal(sink: MailSink) -> NotifyError:
    with pytest.raises(NotifyError) as caught:
        await sink.tell(make_notice(), ORIGIN)
    return caught.value


async def test_everybody_gets_the_mail(sink_pool: ThreadPoolExecutor) -> None:
    async with mail_server() as server:
        await sink_of(server.port, sink_pool).tell(make_notice(summary="RPO is 22 min ü"), ORIGIN)
    (mail,) = server.mails
    assert server.recipients == [list(TO)]
    assert mail["Subject"] == "[walkeeper] letta on db1: rpo"
    assert mail["From"] == "Walkeeper <walkeeper@example.org>"
    assert mail["Date"].datetime.isoformat() == "2026-11-21T03:12:00+00:00"
    assert mail["Importance"] == "high"
    assert mail["Auto-Submitted"] == "auto-generated"
    body = mail.get_content()
    assert body.startswith("CRITICAL: walkeeper letta on db1: RPO is 22 min ü. Next: look at")
    assert "repository:  s3://bucket/letta" in body


async def test_starttls_comes_before_the_login(
    sink_pool: ThreadPoolExecutor, certificate: Certificate
) -> None:
    async with mail_server(starttls=certificate, login=True) as server:
        sink = sink_of(
            server.port, sink_pool, security="starttls", trusts=certificate, password="right"
        )
        await sink.tell(make_notice(), ORIGIN)
    assert server.logins == ["walkeeper"]
    assert len(server.mails) == 1


async def test_tls_from_the_first_byte(
    sink_pool: ThreadPoolExecutor, certificate: Certificate
) -> None:
    async with mail_server(tls=certificate) as server:
        await sink_of(server.port, sink_pool, security="tls", trusts=certificate).tell(
            make_notice(), ORIGIN
        )
    assert len(server.mails) == 1


@pytest.mark.parametrize("security", ["starttls", "tls"])
@pytest.mark.parametrize("trusts_other", [True, False])
async def test_a_certificate_that_is_not_trusted_is_refused(
    sink_pool: ThreadPoolExecutor,
    certificate: Certificate,
    other_certificate: Certificate,
    security: str,
    trusts_other: bool,
) -> None:
    shown = {security: certificate}
    trusts = other_certificate if trusts_other else None
    async with mail_server(**shown) as server:
        error = await refusal(
            sink_of(server.port, sink_pool, security=security, trusts=trusts, password="right")
        )
    assert "certificate that is not trusted" in error.message
    assert error.hint is not None
    assert "ca_file" in error.hint
    assert not server.logins
    assert not server.mails


async def test_a_server_without_starttls_gets_nothing_in_clear(
    sink_pool: ThreadPoolExecutor,
) -> None:
    async with mail_server() as server:
        error = await refusal(sink_of(server.port, sink_pool, security="starttls"))
    assert "STARTTLS" in error.message
    assert not server.mails


async def test_a_login_that_is_refused_shows_no_password(
    sink_pool: ThreadPoolExecutor, certificate: Certificate
) -> None:
    async with mail_server(starttls=certificate, login=True) as server:
        error = await refusal(
            sink_of(
                server.port, sink_pool, security="starttls", trusts=certificate, password="wrong-1"
            )
        )
    assert "refused the login with 535" in error.message
    assert "wrong-1" not in error.message
    assert not server.mails


async def test_what_the_server_says_against_the_mail_is_told(
    sink_pool: ThreadPoolExecutor,
) -> None:
    async with mail_server() as server:
        server.trouble = "452 the disk is full"
        assert "452 the disk is full" in (await refusal(sink_of(server.port, sink_pool))).message
        server.refused = set(TO)
        error = await refusal(sink_of(server.port, sink_pool))
    assert "refused all recipients: 550 no dba@example.org here" in error.message


async def test_one_recipient_less_is_a_warning_for_the_others_were_told(
    sink_pool: ThreadPoolExecutor,
) -> None:
    async with mail_server() as server:
        server.refused = {TO[0]}
        with capture_logs() as logs:
            await sink_of(server.port, sink_pool).tell(make_notice(), ORIGIN)
    assert server.recipients == [[TO[1]]]
    assert [(line["event"], line["recipients"]) for line in logs] == [
        ("mail_recipients_refused", [TO[0]])
    ]


async def test_a_server_that_is_away_is_a_failure(sink_pool: ThreadPoolExecutor) -> None:
    async with mail_server() as server:
        port = server.port
    error = await refusal(sink_of(port, sink_pool))
    assert f"127.0.0.1:{port} cannot be reached: Connection refused" in error.message


async def _hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await asyncio.Event().wait()


async def _dribble(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while True:  # a greeting without end, each line well within any time-out of a socket
        writer.write(b"220-wait\r\n")
        await writer.drain()
        await asyncio.sleep(0.05)


@pytest.mark.parametrize("talk", [_hang, _dribble])
@pytest.mark.parametrize("security", ["none", "tls"])
async def test_a_server_that_hangs_or_dribbles_is_given_up_and_its_thread_is_free(
    sink_pool: ThreadPoolExecutor, talk: object, security: str
) -> None:
    async with odd_server(talk) as port:  # type: ignore[arg-type]
        error = await refusal(sink_of(port, sink_pool, security=security, deadline_s=1))
        # The pool has one thread: this ends only when the thread has left the server.
        async with asyncio.timeout(60):
            await asyncio.get_running_loop().run_in_executor(sink_pool, int)
    assert "127.0.0.1" in error.message


async def test_a_mail_that_was_taken_is_told_whatever_comes_of_the_goodbye(
    sink_pool: ThreadPoolExecutor,
) -> None:
    async with mail_server() as server:
        server.stays = asyncio.Event()
        await sink_of(server.port, sink_pool, deadline_s=5).tell(make_notice(), ORIGIN)
        assert len(server.mails) == 1
        server.stays.set()


async def test_a_cancelled_alert_leaves_no_thread_behind(sink_pool: ThreadPoolExecutor) -> None:
    connected = asyncio.Event()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connected.set()
        await _hang(reader, writer)

    async with odd_server(talk) as port:
        task = asyncio.create_task(sink_of(port, sink_pool).tell(make_notice(), ORIGIN))
        await connected.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        async with asyncio.timeout(30):
            await asyncio.get_running_loop().run_in_executor(sink_pool, int)


async def test_an_answer_that_is_not_smtp_is_a_failure(sink_pool: ThreadPoolExecutor) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await writer.drain()

    async with odd_server(talk) as port:
        assert "127.0.0.1" in (await refusal(sink_of(port, sink_pool))).message


def test_mails_of_one_alert_share_subject_and_thread_and_no_other_does() -> None:
    raised = make_mail(CONFIG, make_notice(), ORIGIN)
    cleared = make_mail(CONFIG, make_notice("recovered", minutes=30), ORIGIN)
    gap = make_mail(CONFIG, make_notice(key="gap:1"), ORIGIN)
    elsewhere = make_mail(CONFIG, make_notice(), Origin("other", ORIGIN.repository, "db1"))
    assert raised["Subject"] == cleared["Subject"]
    assert raised["References"] == cleared["References"] == cleared["In-Reply-To"]
    assert raised["Message-ID"] != cleared["Message-ID"]
    assert len({mail["References"] for mail in (raised, gap, elsewhere)}) == 3


def test_only_what_is_critical_and_goes_on_is_marked_important() -> None:
    warning = make_mail(CONFIG, make_notice(severity=Severity.WARNING), ORIGIN)
    assert warning["Importance"] is None
    assert make_mail(CONFIG, make_notice("recovered"), ORIGIN)["Importance"] is None


def test_nothing_in_an_alert_becomes_a_header_of_its_own() -> None:
    notice = make_notice(key="gap:a\r\nBcc: x@example.org\r\n\r\nbody", summary="b\r\n.\r\nc")
    mail = make_mail(CONFIG, notice, Origin("l\nBcc: y@example.org", "r", "h"))
    assert mail["Bcc"] is None
    assert "\n" not in mail["Subject"]


async def test_no_secret_is_mailed_or_shown(sink_pool: ThreadPoolExecutor, canary: str) -> None:
    notice = make_notice(summary=f"no {canary}", hint=canary, key=f"gap:{canary}")
    async with mail_server() as server:
        await sink_of(server.port, sink_pool).tell(notice, ORIGIN)
        server.trouble = f"554 I do not like {canary}"
        error = await refusal(sink_of(server.port, sink_pool))
    assert canary not in server.mails[0].as_string() + server.mails[0].get_content()
    assert error.message.endswith("554 I do not like [redacted]")
    assert not isinstance(error.__cause__, smtplib.SMTPException), "its text is not redacted"


async def test_a_host_name_that_cannot_be_one_is_a_failure(sink_pool: ThreadPoolExecutor) -> None:
    sink = sink_of(1, sink_pool)
    config = msgspec.structs.replace(sink.config, server="x" * 70 + ".invalid")
    error = await refusal(replace(sink, config=config))
    assert "cannot be asked" in error.message
