"""Values of the configuration that TOML has no type for: durations, sizes, the dsn and others."""

from __future__ import annotations

import re
from ipaddress import ip_address
from typing import Final, Self
from urllib.parse import unquote

_DURATION: Final = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|min|h|d|w|y)")
_DURATION_S: Final = {
    "ms": 0.001,
    "s": 1,
    "min": 60,
    "h": 3600,
    "d": 86_400,
    "w": 7 * 86_400,
    "y": 366 * 86_400,  # a year is kept whole
}
_SHARE: Final = re.compile(r"(\d+(?:\.\d+)?)\s*%")
_SIZE: Final = re.compile(r"(\d+)\s*(B|KiB|MiB|GiB)")
_PORT: Final = re.compile(r"[0-9]{1,5}")
_SIZE_BYTES: Final = {"B": 1, "KiB": 1024, "MiB": 1024**2, "GiB": 1024**3}

_KEYWORD_PASSWORD: Final = re.compile(
    r"(?P<key>\b(?:ssl)?password\s*=\s*)(?P<value>'(?:[^'\\]|\\.)*'|(?:[^\s'\\]|\\.)*)"
)
"""A password in libpq's keyword/value form (fe-connect.c, conninfo_parse)."""

_URI_PASSWORD: Final = re.compile(r"[a-z]+://[^:@/?#]*:([^?#]*)@")
_URI_PARAMETER: Final = re.compile(r"[?&](?:ssl)?password=([^&#]*)")


class Duration(float):
    """Seconds, written as ``"500ms"``, ``"1s"``, ``"15min"``, ``"2h"``, ``"7d"``, ``"8w"``,
    ``"1y"`` (366 days)."""

    __slots__ = ()

    @classmethod
    def parse(cls, text: str) -> Self:
        """Reads the written form. Raises ValueError, saying how it is written."""
        match = _DURATION.fullmatch(text.strip())
        if match is None:
            raise ValueError(f'{text!r} is not a duration such as "500ms", "1s", "15min" or "2h"')
        return cls(float(match[1]) * _DURATION_S[match[2]])


class Size(int):
    """Bytes, written as ``"64MiB"``, ``"512KiB"`` or ``"1GiB"``."""

    __slots__ = ()

    @classmethod
    def parse(cls, text: str) -> Self:
        """Reads the written form. Raises ValueError, saying how it is written."""
        match = _SIZE.fullmatch(text.strip())
        if match is None:
            raise ValueError(f'{text!r} is not a size such as "64MiB" or "1GiB"')
        return cls(int(match[1]) * _SIZE_BYTES[match[2]])


class Share(float):
    """A share above 0 and up to 1, written as ``"5%"``."""

    __slots__ = ()

    @classmethod
    def parse(cls, text: str) -> Self:
        """Reads the written form. Raises ValueError, saying how it is written."""
        match = _SHARE.fullmatch(text.strip())
        if match is None or not 0 < float(match[1]) <= 100:
            raise ValueError(f'{text!r} is not a share such as "5%", above "0%" and up to "100%"')
        return cls(float(match[1]) / 100)


class Listen(str):
    """Where to listen: ``"127.0.0.1:9188"``, ``"[::1]:9188"``, ``"localhost:9188"``.

    ``""`` is nowhere, port 0 is one that the system chooses.
    """

    __slots__ = ()

    @classmethod
    def parse(cls, text: str) -> Self:
        """Reads the written form. Raises ValueError, saying how it is written."""
        listen = cls(text)
        written, _, port = text.rpartition(":")
        bracketed = written == f"[{listen.host}]"
        if text and not (
            is_host(listen.host)
            and (bracketed if ":" in listen.host else written == listen.host)
            and _PORT.fullmatch(port)
            and listen.port < 65536
        ):
            raise ValueError(
                f'{text!r} is no address such as "127.0.0.1:9188" or "[::1]:9188": other names than'
                " localhost are not taken, for they may come to mean another address"
            )
        return listen

    @property
    def host(self) -> str:
        """The address, without brackets."""
        return self.rpartition(":")[0].removeprefix("[").removesuffix("]")

    @property
    def port(self) -> int:
        """The port, 0 for any."""
        return int(self.rpartition(":")[2] or 0)

    @property
    def is_on(self) -> bool:
        """Whether to listen at all."""
        return self != ""

    @property
    def is_loopback(self) -> bool:
        """Whether only this very host can connect."""
        return is_loopback(self.host)


def is_host(text: str) -> bool:
    """Whether this is localhost, or an IP address without a zone."""
    if text == "localhost":
        return True
    try:
        ip_address(text)
    except ValueError:
        return False
    return "%" not in text


def is_loopback(host: str) -> bool:
    """Whether a host, as written, is this one by its loopback interface."""
    return is_host(host) and (host == "localhost" or ip_address(host).is_loopback)


class Dsn:
    """How to connect to PostgreSQL: a URI or libpq's ``key=value`` form, maybe with a password.

    repr, str and format hide it; ``reveal`` gives it, ``redacted`` what a message may show.
    """

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """The dsn itself, for the one place that connects."""
        return self._value

    def __repr__(self) -> str:
        return "Dsn(<hidden>)"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Dsn) and other._value == self._value

    def __hash__(self) -> int:
        return hash((Dsn, self._value))

    def passwords(self) -> list[str]:
        """The passwords in it, as written and, in a URI, as they read when decoded."""
        found = [match["value"] for match in _KEYWORD_PASSWORD.finditer(self._value)]
        found += [re.sub(r"\\(.)", r"\1", value.strip("'")) for value in found]
        if "://" in self._value:
            written = _uri_passwords(self._value)
            found = [*written, *(unquote(value) for value in written)]
        return [value for value in dict.fromkeys(found) if value]

    def redacted(self) -> str:
        """The dsn with every password replaced, for a message."""
        if "://" not in self._value:
            return _KEYWORD_PASSWORD.sub(r"\g<key>***", self._value)
        text = self._value
        for password in _uri_passwords(text):
            text = re.sub(rf"(?<=[:=]){re.escape(password)}(?=[@&#]|$)", "***", text)
        return text


def _uri_passwords(uri: str) -> list[str]:
    """The passwords of a URI as they are written in it: of the user, and of its parameters."""
    found = [match[1] for match in [_URI_PASSWORD.match(uri)] if match]
    found += [match[1] for match in _URI_PARAMETER.finditer(uri)]
    return [value for value in found if value]
