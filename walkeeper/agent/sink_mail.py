"""Alerts by mail."""

from __future__ import annotations

import asyncio
import hashlib
import smtplib
import socket
import ssl
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC
from email.message import EmailMessage
from email.utils import format_datetime, make_msgid, parseaddr
from typing import Final

import structlog

from walkeeper.agent.alert_text import Origin, fields_of
from walkeeper.config_alerts import MailConfig
from walkeeper.core.alerts import Notice, Severity
from walkeeper.errors import NotifyError
from walkeeper.log import redact_text
from walkeeper.storage.settings import Secret

DEADLINE_S: Final = 60.0

_PORTS: Final = {"starttls": 587, "tls": 465, "none": 25}
_MAX_REPLY: Final = 200

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class MailSink:
    """Tells everybody in ``config.to``; ``context`` verifies the server's certificate.

    smtplib blocks, so each mail takes a thread of ``pool`` until it is sent or given up.
    """

    config: MailConfig
    password: Secret | None
    context: ssl.SSLContext
    pool: ThreadPoolExecutor
    deadline_s: float = DEADLINE_S
    name: str = "mail"

    async def tell(self, notice: Notice, origin: Origin) -> None:
        """Send it; raises `NotifyError` unless the server took it for somebody, and in time."""
        message = make_mail(self.config, notice, origin)
        talk = _Talk(self.config, self.password, self.context, self.deadline_s)
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self.deadline_s):
                await loop.run_in_executor(self.pool, talk.send, message)
        except TimeoutError:
            if not talk.was_taken:
                raise talk.too_slow() from None
        finally:
            talk.hang_up()


def make_mail(config: MailConfig, notice: Notice, origin: Origin) -> EmailMessage:
    """The mail; all that one alert brings has the same subject and thread (RFC 5322, 3.6.4)."""
    fields = fields_of(notice, origin)
    domain = parseaddr(config.sender)[1].rpartition("@")[2] or "localhost"
    about = "\0".join((fields["repository"], fields["archive"], fields["key"], fields["since"]))
    thread = f"<walkeeper.{hashlib.sha256(about.encode()).hexdigest()[:32]}@{domain}>"
    message = EmailMessage()
    message["From"] = config.sender
    message["To"] = ", ".join(config.to)
    subject = f"[walkeeper] {fields['archive']} on {fields['host']}: {fields['key']}"
    message["Subject"] = " ".join(subject.split())
    message["Date"] = format_datetime(notice.at.astimezone(UTC), usegmt=True)
    message["Message-ID"] = make_msgid(domain=domain)
    message["In-Reply-To"] = thread
    message["References"] = thread
    message["Auto-Submitted"] = "auto-generated"  # RFC 3834: no answers from people on holiday
    if notice.alert.severity is Severity.CRITICAL and notice.event != "recovered":
        message["Importance"] = "high"
    rows = ("event", "severity", "key", "since", "at", "lasted", "archive", "repository", "host")
    table = "".join(f"{name + ':':<12} {fields[name]}\n" for name in rows)
    message.set_content(f"{fields['text']}\n\n{table}", cte="quoted-printable")
    return message


@dataclass(slots=True)
class _Talk:
    """One connection to a mail server, used in a thread and given up from outside."""

    config: MailConfig
    password: Secret | None
    context: ssl.SSLContext
    deadline_s: float
    was_taken: bool = False
    _smtp: smtplib.SMTP | None = None
    _is_over: bool = False

    def send(self, message: EmailMessage) -> None:
        """From the connection to the end; blocks."""
        with self._translated():
            smtp = self._smtp = smtplib.SMTP(timeout=self.deadline_s)
            try:
                self._connect(smtp)
                self._log_in(smtp)
                self._go_on()
                refused = smtp.send_message(message)
                self.was_taken = True  # what follows is no failure
                with suppress(OSError):
                    smtp.quit()
            finally:
                smtp.close()
        if refused:
            log.warning("mail_recipients_refused", recipients=sorted(refused))

    def hang_up(self) -> None:
        """End what still goes on in the thread: its next answer is the end of the connection."""
        self._is_over = True
        connection = self._smtp.sock if self._smtp is not None else None
        if connection is not None:
            with suppress(OSError):
                # Not that of SSLSocket, which takes its state away under a thread that reads.
                socket.socket.shutdown(connection, socket.SHUT_RDWR)

    def too_slow(self) -> NotifyError:
        return NotifyError(f"{self._server} did not take the mail within {self.deadline_s:g} s")

    @property
    def _port(self) -> int:
        return self.config.port or _PORTS[self.config.security]

    @property
    def _server(self) -> str:
        return f"the mail server {self.config.server}:{self._port}"

    def _connect(self, smtp: smtplib.SMTP) -> None:
        """Up to the greeting; what smtplib does itself could not be given up before that."""
        host = self.config.server
        smtp.sock = socket.create_connection((host, self._port), self.deadline_s)
        if self.config.security == "tls":
            smtp.sock = self.context.wrap_socket(smtp.sock, server_hostname=host)
        self._go_on()
        code, text = smtp.getreply()
        if code != 220:
            raise smtplib.SMTPConnectError(code, text)

    def _log_in(self, smtp: smtplib.SMTP) -> None:
        if self.config.security == "starttls":
            self._go_on()
            smtp._host = self.config.server  # type: ignore[attr-defined]  # noqa: SLF001  # whom its certificate must name
            smtp.starttls(context=self.context)
        if self.config.user is not None and self.password is not None:
            self._go_on()
            smtp.login(self.config.user, self.password.reveal())

    def _go_on(self) -> None:
        """Leave what was given up while there was no connection to cut."""
        if self._is_over:
            raise self.too_slow()

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except smtplib.SMTPAuthenticationError as error:  # its text may repeat what was sent
            raise NotifyError(
                f"{self._server} refused the login with {error.smtp_code}",
                hint="see user and password_file of [alerts.mail]",
            ) from None
        except smtplib.SMTPRecipientsRefused as error:
            code, text = next(iter(error.recipients.values()))
            raise NotifyError(
                f"{self._server} refused all recipients: {_reply(code, text)}"
            ) from None
        except smtplib.SMTPResponseException as error:
            raise NotifyError(
                f"{self._server} answered {_reply(error.smtp_code, error.smtp_error)}"
            ) from None
        except smtplib.SMTPNotSupportedError as error:
            raise NotifyError(f"{self._server} cannot do what is needed: {error}") from None
        except ssl.SSLCertVerificationError as error:
            raise NotifyError(
                f"{self._server} has a certificate that is not trusted: {error.verify_message}",
                hint="name the authority in ca_file of [alerts.mail]",
            ) from None
        except TimeoutError:
            raise self.too_slow() from None
        except OSError as error:  # smtplib's own errors are among them
            why = error.strerror or "the connection was lost"
            raise NotifyError(f"{self._server} cannot be reached: {why}") from None
        except ValueError as error:  # of a host name that DNS cannot carry, for one
            raise NotifyError(f"{self._server} cannot be asked: {type(error).__name__}") from None


def _reply(code: int, text: bytes | str) -> str:
    plain = text.decode("utf-8", "replace") if isinstance(text, bytes) else text
    return f"{code} {' '.join(redact_text(plain).split())[:_MAX_REPLY]}"
