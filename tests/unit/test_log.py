"""The log, as lines on a stream."""

import io
import json
import logging
import warnings
from collections.abc import Iterator

import pytest
import structlog

from walkeeper import log

PLANTED = 'pl"ant\\ed-\u00fc-secret'


@pytest.fixture(autouse=True)
def untouched() -> Iterator[None]:
    """Gives the process back the logging that it had."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    known = log._secrets[:]
    yield
    log._secrets[:] = known
    structlog.reset_defaults()
    logging.captureWarnings(capture=False)
    root.handlers[:] = handlers
    root.setLevel(level)


def lines(stream: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_off_a_terminal_each_line_is_one_json_document() -> None:
    stream = io.StringIO()
    log.configure_logging("info", "auto", stream)
    logger = structlog.get_logger()
    with structlog.contextvars.bound_contextvars(cluster="letta"):
        logger.info("wal_archived", segment="000000010000000000000001", size_bytes=5)
    logger.debug("not heard")
    (line,) = lines(stream)
    assert line.pop("timestamp")
    assert line == {
        "event": "wal_archived", "level": "info", "cluster": "letta",
        "segment": "000000010000000000000001", "size_bytes": 5,
    }  # fmt: skip


def test_on_a_terminal_lines_are_for_people() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    stream = Terminal()
    log.configure_logging("info", "auto", stream)
    structlog.get_logger().info("agent_ready", socket="/run/s")
    assert not stream.getvalue().startswith("{")
    assert "agent_ready" in stream.getvalue()


def test_other_libraries_are_heard_from_warning_on() -> None:
    stream = io.StringIO()
    log.configure_logging("debug", "json", stream)
    botocore = logging.getLogger("botocore.endpoint")
    botocore.info("chatter")
    botocore.warning("slow: %s s", 5)
    botocore.log(35, "odd level")
    botocore.warning("wrong arguments %d", "x")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("deprecated", UserWarning, stacklevel=1)
    found = [(line["logger"], line["level"], str(line["event"])) for line in lines(stream)]
    assert found[:3] == [
        ("botocore.endpoint", "warning", "slow: 5 s"),
        ("botocore.endpoint", "warning", "odd level"),
        ("botocore.endpoint", "warning", "wrong arguments %d"),
    ]
    assert found[3][0] == "py.warnings"


class Careless:
    def __repr__(self) -> str:
        return f"Careless({PLANTED})"


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_a_planted_secret_is_nowhere_in_the_log(log_format: str) -> None:
    stream = io.StringIO()
    log.configure_logging("debug", log_format, stream)  # type: ignore[arg-type]
    log.register_secret(PLANTED)
    logger = structlog.get_logger()
    logger.info("connecting", dsn=f"password={PLANTED}")
    event = f"event with {PLANTED}"
    logger.info(event)
    logger.info("nested", a=[{"b": (PLANTED, {PLANTED}), PLANTED: 1}], c=PLANTED.encode())
    logger.info("error", error=ValueError(PLANTED), careless=Careless())
    try:
        raise ValueError(f"cannot connect with {PLANTED}")
    except ValueError:
        logger.exception("failed")
        logging.getLogger("asyncio").exception("failed with %s", PLANTED)
    text = stream.getvalue()
    assert text.count(log.REDACTED) >= 10
    for form in (PLANTED, json.dumps(PLANTED), json.dumps(PLANTED, ensure_ascii=False)):
        assert form.strip('"') not in text
    assert "ed-" not in text
    assert "-secret" not in text


def test_the_longest_secret_goes_first_and_very_short_ones_are_left() -> None:
    for secret in ("abcd", "abcd-efgh", "x"):
        log.register_secret(secret)
    event = log.redact(None, "info", {"event": "x abcd-efgh abcd"})
    assert event["event"] == f"x {log.REDACTED} {log.REDACTED}"


def test_of_a_secret_address_its_path_is_kept_back_unless_it_is_but_a_word() -> None:
    log.register_secret_url("https://example.org/hook")
    log.register_secret_url("https://example.org/services/T0/B0/abcdef")
    assert log.redact_text("webhook 1 at example.org") == "webhook 1 at example.org"
    assert log.redact_text("to https://example.org/hook") == f"to {log.REDACTED}"
    assert log.redact_text("POST /services/T0/B0/abcdef") == f"POST /{log.REDACTED}"
