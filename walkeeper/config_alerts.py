"""``[alerts]`` of the configuration: what is worth an alert, and whom it goes to."""

from __future__ import annotations

import json
from pathlib import Path
from string import Template
from typing import Annotated, Final, Literal

import msgspec

from walkeeper.config_values import Duration
from walkeeper.storage.settings import Secret

TEMPLATE_FIELDS: Final = (
    "event", "severity", "key", "summary", "hint", "text", "since", "at", "lasted", "archive",
    "repository", "host",
)  # fmt: skip
"""What ``${...}`` in the template of a webhook can name."""

_MIN_HEARTBEAT_S: Final = 1
_MIN_REPEAT_S: Final = 60
_MAX_TIMEOUT_S: Final = 600
_MAX_HOLD_S: Final = 3600


class WebhookConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[[alerts.webhook]]``: an address that takes a POST; the URL alone is often a secret."""

    url: Secret | None = None
    url_file: Path | None = None
    format: Literal["json", "slack"] = "json"
    template: str | None = None


class MailConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[alerts.mail]``: an SMTP server; ``port`` None is the usual one for ``security``."""

    server: str
    sender: str = msgspec.field(name="from")
    to: Annotated[tuple[str, ...], msgspec.Meta(min_length=1)]
    port: Annotated[int, msgspec.Meta(ge=1, le=65535)] | None = None
    security: Literal["starttls", "tls", "none"] = "starttls"
    user: str | None = None
    password_file: Path | None = None
    ca_file: Path | None = None


class CommandConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[alerts.command]``: a program that is started without a shell."""

    argv: Annotated[tuple[str, ...], msgspec.Meta(min_length=1)]
    timeout: Duration = Duration(30)


class AlertsConfig(msgspec.Struct, frozen=True, kw_only=True):
    """``[alerts]``: targets, and sinks. Times are seconds; None is not watched.

    ``hold`` is how long something must be wrong, or right again, before that is told.
    """

    rpo: Duration = Duration(900)
    max_backup_age: Duration | None = None
    max_drill_age: Duration | None = None
    disk_full_within: Duration = Duration(4 * 3600)
    expiry_within: Duration = Duration(14 * 86_400)
    hold: Duration = Duration(60)
    repeat: Duration = Duration(4 * 3600)
    heartbeat_url: Secret | None = None
    heartbeat_interval: Duration = Duration(60)
    webhook: tuple[WebhookConfig, ...] = ()
    mail: MailConfig | None = None
    command: CommandConfig | None = None

    @property
    def is_used(self) -> bool:
        """Whether anybody is told anything."""
        sinks = bool(self.webhook) or self.mail is not None or self.command is not None
        return sinks or self.heartbeat_url is not None

    def secret_urls(self) -> list[str]:
        """The addresses that no message may show; those in files are not among them."""
        urls = [self.heartbeat_url, *(one.url for one in self.webhook)]
        return [url.reveal() for url in urls if url is not None]


def check_alerts(alerts: AlertsConfig) -> list[str]:
    """A sentence for each thing that is wrong."""
    problems = [
        f"[alerts] {name} must be longer than nothing"
        for name in ("rpo", "max_backup_age", "max_drill_age")
        if getattr(alerts, name) is not None and getattr(alerts, name) <= 0
    ]
    if alerts.hold > _MAX_HOLD_S:
        problems.append('[alerts] hold is over "1h"')
    if alerts.repeat < _MIN_REPEAT_S:
        problems.append('[alerts] repeat is under "1min"')
    if alerts.heartbeat_interval < _MIN_HEARTBEAT_S:
        problems.append('[alerts] heartbeat_interval is under "1s"')
    if alerts.heartbeat_url is not None and not is_web_url(alerts.heartbeat_url.reveal()):
        problems.append("[alerts] heartbeat_url begins with https:// or http://")
    for number, webhook in enumerate(alerts.webhook, 1):
        problems += [f"[[alerts.webhook]] number {number}: {text}" for text in _check(webhook)]
    if alerts.mail is not None:
        problems += [f"[alerts.mail] {text}" for text in _check_mail(alerts.mail)]
    command = alerts.command
    if command is not None and not command.argv[0].startswith("/"):
        problems.append("[alerts.command] argv begins with the absolute path of a program")
    if command is not None and not 0 < command.timeout <= _MAX_TIMEOUT_S:
        problems.append('[alerts.command] timeout is not between "0s" and "10min"')
    return problems


def is_web_url(url: str) -> bool:
    """Whether it is one that can be asked over HTTP."""
    scheme, separator, rest = url.partition("://")
    return bool(separator) and scheme in {"http", "https"} and bool(rest)


def is_json(template: str) -> bool:
    """Whether a template makes JSON, in which values are escaped; else it makes plain text."""
    return template.lstrip().startswith(("{", "["))


def _check(webhook: WebhookConfig) -> list[str]:
    problems: list[str] = []
    if (webhook.url is None) == (webhook.url_file is None):
        problems.append("it has neither url nor url_file, or both")
    if webhook.url is not None and not is_web_url(webhook.url.reveal()):
        problems.append("url begins with https:// or http://")
    if webhook.template is not None:
        if webhook.format != "json":
            problems.append("format and template exclude each other")
        problems += _check_template(webhook.template)
    return problems


def _check_template(template: str) -> list[str]:
    try:
        filled = Template(template).substitute(dict.fromkeys(TEMPLATE_FIELDS, "x"))
    except KeyError as error:
        return [f"template: there is no {error.args[0]}, only {', '.join(TEMPLATE_FIELDS)}"]
    except ValueError as error:
        return [f"template: {error}"]
    if is_json(template):
        try:
            json.loads(filled)
        except json.JSONDecodeError as error:
            return [f"template begins like JSON and is none: {error}"]
    return []


def _check_mail(mail: MailConfig) -> list[str]:
    problems = [
        f"{name}: {address!r} is no address"
        for name, addresses in (("from", (mail.sender,)), ("to", mail.to))
        for address in addresses
        if "@" not in address or any(character in address for character in "\r\n")
    ]
    if (mail.user is None) != (mail.password_file is None):
        problems.append("user and password_file go together")
    if mail.user is not None and mail.security == "none":
        problems.append('security = "none" would send the password in clear')
    return problems
