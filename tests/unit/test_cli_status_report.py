"""What ``status`` says on a terminal."""

from __future__ import annotations

import io
from datetime import UTC, datetime, timedelta

import pytest
from rich.console import Console

from tests.fix_planted import Counting, Planted
from tests.fix_status import AGENT, HEALTHY
from walkeeper.cli.render import Page
from walkeeper.cli.status_report import show
from walkeeper.services.look import Look
from walkeeper.services.status_report import Subject, make_report

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)


@pytest.fixture
def subject(large: tuple[Planted, Counting]) -> Subject:
    archive = large[0].archive
    return Subject(repository="file:///r", folder=archive.folder, record=archive.record)


def shown(subject: Subject, listed_at: datetime) -> str:
    look = Look(at=NOW, listed_at=listed_at, health=HEALTHY)
    out = io.StringIO()
    page = Page(Console(file=out, width=80, highlight=False, markup=False))
    show(page, make_report(subject, look, AGENT, NOW))
    return out.getvalue()


def test_windows_that_rest_on_older_listings_say_how_old_the_oldest_is(subject: Subject) -> None:
    text = shown(subject, NOW - timedelta(hours=5))
    assert "as full folders of WAL were listed, the oldest 5.0 h ago" in text


def test_windows_of_a_look_that_listed_everything_say_nothing_of_listings(subject: Subject) -> None:
    text = shown(subject, NOW)
    assert "Recoverable, without a gap" in text
    assert "were listed" not in text
