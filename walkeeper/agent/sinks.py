"""Those who are told of alerts, made from ``[alerts]``."""

from __future__ import annotations

import asyncio
import ssl
from concurrent.futures import ThreadPoolExecutor
from email.errors import MessageError
from email.headerregistry import AddressHeader, HeaderRegistry
from pathlib import Path
from typing import Protocol

import structlog

from walkeeper.agent.alert_text import Origin
from walkeeper.agent.sink_command import CommandSink
from walkeeper.agent.sink_mail import MailSink
from walkeeper.agent.sink_webhook import WebhookSink
from walkeeper.agent.web_request import show_address
from walkeeper.config_alerts import AlertsConfig, MailConfig, WebhookConfig, is_web_url
from walkeeper.core.alerts import Notice
from walkeeper.errors import ConfigError, KeyUnavailable
from walkeeper.keys.load import read_key_file
from walkeeper.log import register_secret, register_secret_url
from walkeeper.storage.settings import Secret

log = structlog.get_logger(__name__)


class Sink(Protocol):
    """Somebody who is told of alerts. ``name`` stays the same while the configuration does."""

    @property
    def name(self) -> str:
        """``webhook 1``, ``webhook 2``, ``mail``, ``command``."""
        ...

    async def tell(self, notice: Notice, origin: Origin) -> None:
        """Pass it on; ends within a deadline of its own, raises `NotifyError` when it cannot."""
        ...


async def make_sinks(config: AlertsConfig, pool: ThreadPoolExecutor) -> tuple[Sink, ...]:
    """All that are configured, in a fixed order; mail is sent in ``pool``.

    Reads the files of secrets and registers what is in them. Raises ConfigError.
    """
    return await asyncio.get_running_loop().run_in_executor(pool, _make, config, pool)


def _make(config: AlertsConfig, pool: ThreadPoolExecutor) -> tuple[Sink, ...]:
    sinks: list[Sink] = []
    for number, webhook in enumerate(config.webhook, 1):
        url = _webhook_url(webhook, f"[[alerts.webhook]] number {number}:")
        sinks.append(
            WebhookSink(
                name=f"webhook {number}",
                url=Secret(url),
                format=webhook.format,
                template=webhook.template,
            )
        )
    if config.mail is not None:
        sinks.append(_make_mail(config.mail, pool))
    if config.command is not None:
        sinks.append(CommandSink(argv=config.command.argv, timeout_s=config.command.timeout))
    return tuple(sinks)


def _webhook_url(webhook: WebhookConfig, where: str) -> str:
    if webhook.url is not None:
        url, source = webhook.url.reveal(), f"{where} url"
    else:
        assert webhook.url_file is not None  # checked with the configuration
        url = _read_secret(webhook.url_file, f"{where} url_file")
        source = f"{where} {webhook.url_file}"
    require_address(source, url)
    register_secret_url(url)
    return url


def require_address(source: str, text: str) -> None:
    """Raise ConfigError, which names the source, unless the text is an address to post to."""
    url = text.strip()
    try:
        show_address(url)
        known = is_web_url(url)
    except ValueError:
        known = False
    if not known:
        raise ConfigError(f"{source} holds no address with https:// or http://")


def require_password(user: str | None, text: str) -> str:
    """The password in the text of a file; raises ConfigError where no server could take it."""
    password = text.strip()
    if not password or not (password + (user or "")).isascii():  # RFC 4954, and smtplib
        raise ConfigError("[alerts.mail] user and password are plain characters, at least one")
    return password


def _make_mail(config: MailConfig, pool: ThreadPoolExecutor) -> MailSink:
    for address in (config.sender, *config.to):
        if not _is_mailbox(address):
            raise ConfigError(f"[alerts.mail] {address!r} is not one address")
    password = None
    if config.password_file is not None:
        text = _read_secret(config.password_file, "[alerts.mail] password_file")
        text = require_password(config.user, text)
        password = Secret(text)
        register_secret(text)
    try:
        context = ssl.create_default_context(cafile=config.ca_file)
    except OSError as error:  # ssl.SSLError is one
        why = error.strerror or "it holds no certificate"
        raise ConfigError(f"[alerts.mail] ca_file {config.ca_file} cannot be used: {why}") from None
    return MailSink(config=config, password=password, context=context, pool=pool)


def _is_mailbox(text: str) -> bool:
    """Whether it is one address, with or without a name (RFC 5322, 3.4)."""
    try:
        header = HeaderRegistry()("To", text)
    except (ValueError, IndexError, AttributeError, MessageError):  # of a parser that gave up
        return False
    assert isinstance(header, AddressHeader)  # as a header of that name is
    return len(header.addresses) == 1 and not header.defects


def _read_secret(path: Path, where: str) -> str:
    try:
        found = read_key_file(path)
    except KeyUnavailable as error:
        raise ConfigError(f"{where} cannot be used: {error.message}") from None
    if found.exposed:
        log.warning("secret_file_open_to_others", path=str(path))
    return found.text.strip()
