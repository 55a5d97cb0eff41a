"""Logging: structlog to standard error, the standard library's loggers bridged into it.

The event is a constant phrase, facts are fields. JSON off a terminal, text on one. Secrets never
get this far; ``register_secret`` is the last line of defence: a registered text is replaced
wherever it turns up in a line.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
from typing import Final, Literal, TextIO
from urllib.parse import unquote, urlsplit

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

REDACTED: Final = "[redacted]"
_MIN_PATH: Final = 12
"""Of an address: shorter ones, like /hook, are words that lines are made of, and no secrets."""
_MIN_SECRET: Final = 4
"""Shorter texts turn up by chance, and replacing them would make the log unreadable."""

_secrets: list[str] = []


def register_secret(value: str) -> None:
    """Keeps a text of at least four characters out of every line logged from now on."""
    if len(value) >= _MIN_SECRET and value not in _secrets:
        _secrets.append(value)
        _secrets.sort(key=len, reverse=True)  # a secret that holds another one goes first


def register_secret_url(url: str) -> None:
    """The same for an address that is a secret: whole, and what stands behind its host."""
    register_secret(url)
    parts = urlsplit(url)
    register_secret(parts.password or "")
    for part in (parts.path, parts.query, unquote(parts.path)):
        if len(part.strip("/")) >= _MIN_PATH:
            register_secret(part.strip("/"))


def configure_logging(
    level: Literal["debug", "info", "warning", "error"] = "info",
    log_format: Literal["auto", "json", "console"] = "auto",
    stream: TextIO | None = None,
) -> None:
    """Sets up logging for the process; called once, by the entry point.

    ``auto`` is console on a terminal and JSON elsewhere. Other libraries are heard from WARNING.
    """
    out = stream if stream is not None else sys.stderr
    console = log_format == "console" or (log_format == "auto" and out.isatty())
    renderer: Processor = (
        structlog.dev.ConsoleRenderer(
            colors=out.isatty(), exception_formatter=structlog.dev.plain_traceback
        )
        if console
        else structlog.processors.JSONRenderer(ensure_ascii=False)
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            redact,
            _redacting(renderer),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
        logger_factory=structlog.PrintLoggerFactory(file=out),
        cache_logger_on_first_use=False,
    )
    root = logging.getLogger()
    root.handlers[:] = [_Bridge()]
    root.setLevel(logging.WARNING)
    logging.captureWarnings(capture=True)


def redact(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """A structlog processor: replaces registered secrets in every text of an event."""
    return {key: _redact_value(value) for key, value in event.items()}


def _redacting(renderer: Processor) -> Processor:
    """The renderer, its line searched once more: a repr may have brought a secret in."""

    def render(logger: WrappedLogger, method: str, event: EventDict) -> str:
        return redact_text(str(renderer(logger, method, event)))

    return render


def _redact_value(value: object) -> object:
    """The value with every text in it redacted; unknown types become text, as when rendered."""
    if value is None or isinstance(value, int | float):
        return value
    if isinstance(value, Mapping):
        return {_redact_value(key): _redact_value(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_redact_value(item) for item in value]
    return redact_text(_text(value))


def _text(value: object) -> str:
    """Text in which a secret stands as it is: a repr of str or bytes would escape parts of it."""
    if isinstance(value, str):
        return value
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    if isinstance(value, BaseException):
        return f"{type(value).__name__}: {value}"
    return repr(value)


def redact_text(text: str) -> str:
    """The text with every registered secret replaced: for what goes elsewhere than to the log."""
    for secret in _secrets:
        text = text.replace(secret, REDACTED)
    return text


class _Bridge(logging.Handler):
    """Passes records of the standard library's loggers on to structlog."""

    def emit(self, record: logging.LogRecord) -> None:
        logger = structlog.get_logger()
        try:
            message = record.getMessage()
        except (TypeError, ValueError):  # a call with the wrong arguments, in somebody's library
            message = str(record.msg)
        level = min(max(record.levelno // 10 * 10, logging.DEBUG), logging.CRITICAL)
        logger.log(level, message, logger=record.name, exc_info=record.exc_info)
