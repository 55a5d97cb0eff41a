"""Who may ask the HTTP port: the own host by its own name, or whoever shows the token."""

from __future__ import annotations

import base64
import binascii
import hmac
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import structlog

from walkeeper.agent.http_answer import Answer, text_answer
from walkeeper.config import AgentConfig
from walkeeper.config_values import is_loopback
from walkeeper.errors import ConfigError, KeyUnavailable
from walkeeper.keys.load import read_key_file
from walkeeper.log import register_secret
from walkeeper.storage.settings import Secret

_SHORTEST_TOKEN: Final = 16
_HOST: Final = re.compile(r"(?P<host>\[[0-9a-f:.]+\]|[^:\[\]]+)(?::[0-9]{0,5})?", re.IGNORECASE)
"""RFC 9110, section 7.2: uri-host [ ":" port ]."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Entry:
    """Decides on one request by its headers.

    With a token only that counts. Without one, the host that the request names must be this one:
    a page from elsewhere whose name was made to lead here (DNS rebinding) still names its own.
    """

    token: Secret | None = None
    trusted_proxy: bool = False

    def refusal(self, hosts: Sequence[str], authorization: str | None) -> Answer | None:
        """None for who may come in; ``hosts`` are all Host headers of the request."""
        if len(hosts) != 1:
            return text_answer("one Host header is needed", 400)
        if self.token is not None:
            if _shows(authorization, self.token):
                return None
            challenge = 'Basic realm="walkeeper", charset="UTF-8"'
            return text_answer("the token is needed", 401, WWW_Authenticate=challenge)
        if self.trusted_proxy or names_loopback(hosts[0]):
            return None
        return text_answer("ask for localhost: this is not a host of that name", 421)


def names_loopback(host: str) -> bool:
    """Whether a Host header names the own host: localhost or a loopback address."""
    found = _HOST.fullmatch(host.strip())
    return found is not None and is_loopback(found["host"].strip("[]").lower())


def open_entry(agent: AgentConfig) -> Entry:
    """The entry that the configuration wants; reads the token, so it blocks. Raises ConfigError."""
    if agent.http_token_file is None:
        return Entry(trusted_proxy=agent.http_trusted_proxy)
    token = _read_token(agent.http_token_file)
    register_secret(token)
    return Entry(Secret(token))


def _read_token(path: Path) -> str:
    try:
        found = read_key_file(path)
    except KeyUnavailable as error:
        raise ConfigError(
            f"[agent] http_token_file cannot be used: {error.message}",
            hint=f"make one: openssl rand -hex 24 > {path}",
        ) from None
    if found.exposed:
        log.warning("http_token_file_open_to_others", path=str(path))
    return require_token(path, found.text)


def require_token(path: Path, text: str) -> str:
    """The token in the text of the file at ``path``; raises ConfigError where that is none."""
    token = text.strip()
    if len(token) < _SHORTEST_TOKEN or not token.isascii() or not token.isprintable():
        raise ConfigError(
            f"[agent] http_token_file {path} holds no token of at least {_SHORTEST_TOKEN} plain "
            "characters",
            hint=f"make one: openssl rand -hex 24 > {path}",
        )
    return token


def _shows(authorization: str | None, token: Secret) -> bool:
    """Whether the header holds the token: as a bearer's (RFC 6750), or as a password (RFC 7617)."""
    scheme, _, value = (authorization or "").strip().partition(" ")
    shown = value.strip().encode("utf-8", "replace")
    if scheme.lower() == "basic":
        try:
            shown = base64.b64decode(shown, validate=True).partition(b":")[2]
        except binascii.Error:
            return False
    elif scheme.lower() != "bearer":
        return False
    return hmac.compare_digest(shown, token.reveal().encode())
