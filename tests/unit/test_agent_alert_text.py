"""An alert in words and in fields."""

from __future__ import annotations

import json

from tests.fix_sinks import ORIGIN, make_notice
from walkeeper.agent.alert_text import Origin, document_of, fields_of, text_of
from walkeeper.config_alerts import TEMPLATE_FIELDS


def test_the_text_says_how_bad_where_what_and_what_next() -> None:
    assert text_of(make_notice(), ORIGIN) == (
        "CRITICAL: walkeeper letta on db1: RPO is 22 min, target 15 min. "
        "Next: look at walkeeper status"
    )


def test_the_all_clear_says_how_long_it_lasted_and_asks_for_nothing() -> None:
    assert text_of(make_notice("recovered"), ORIGIN) == (
        "RECOVERED after 12 min: walkeeper letta on db1: RPO is 22 min, target 15 min."
    )


def test_what_goes_on_says_so() -> None:
    text = text_of(make_notice("repeated", minutes=240), ORIGIN)
    assert text.startswith("STILL CRITICAL after 4.0 h: ")


def test_every_field_of_templates_has_a_value() -> None:
    fields = fields_of(make_notice(hint=None), ORIGIN)
    assert tuple(fields) == TEMPLATE_FIELDS
    assert fields["since"] == "2026-11-21T03:00:00Z"
    assert fields["at"] == "2026-11-21T03:12:00Z"
    assert fields["hint"] == ""


def test_the_document_has_the_fields_and_the_seconds() -> None:
    document = json.loads(document_of(make_notice(), ORIGIN))
    assert set(document) == {*TEMPLATE_FIELDS, "version", "lasted_s"}
    assert document["lasted_s"] == 720


def test_no_field_holds_a_secret(canary: str) -> None:
    notice = make_notice(summary=f"no {canary}", hint=f"try {canary}", key=f"gap:{canary}")
    origin = Origin(canary, f"s3://{canary}/", canary)
    assert canary not in str(fields_of(notice, origin))
    assert canary not in document_of(notice, origin).decode()
    assert canary not in text_of(notice, origin)


def test_texts_from_strange_file_names_can_be_sent() -> None:
    fields = fields_of(make_notice(summary="a \udcff b \0 c"), ORIGIN)
    assert fields["summary"] == "a ? b ? c"
