"""The status page as it is sent: what it says, and that it says nothing it was told to run."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from pathlib import PurePosixPath
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fix_core_plan import at
from tests.fix_history import Past, backup_at, drill_record
from tests.unit.test_services_status_findings import AGENT
from tests.unit.test_services_time_axis import axes
from walkeeper.agent.http_answer import Answer
from walkeeper.agent.observer import Sample
from walkeeper.agent.page.history import highest
from walkeeper.agent.page.markup import Markup, join, tag
from walkeeper.agent.page.problems import ProblemLog
from walkeeper.agent.page.render import PageContent, render_page, script, style
from walkeeper.agent.page.view import SPANS, View, parse_view
from walkeeper.errors import UsageError
from walkeeper.services.moment import CommandWords
from walkeeper.services.status_findings import Finding
from walkeeper.services.time_axis import TimeAxis

EVIL = "</style><script>alert(1)</script><img src=x onerror=alert(2)>\" onclick='x' \x1b[31m"
BARE = Past(wal={1: range(1, 50)}, now=50.5)
BACKUP = msgspec.structs.replace(backup_at(BARE, 1, 2, 2.5), label=EVIL)
PAST = replace(BARE, backups=(BACKUP,))


class Read(HTMLParser):
    """The elements and the text of a page; fails where elements do not nest."""

    VOID = ("br", "input", "link", "meta")

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words = ""
        self._open: list[str] = []
        self.feed(page)
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words += data

    @property
    def ids(self) -> list[str | None]:
        return [found["id"] for _, found in self.elements if "id" in found]


def content(axis: TimeAxis | None = None, **more: Any) -> PageContent:
    """A page about an archive in which all is well."""
    known: dict[str, Any] = {
        "now": at(50.5),
        "agent": AGENT,
        "axis": axis,
        "proven": None,
        "findings": (),
        "notices": (),
        "problems": (),
        "samples": (),
        "words": CommandWords(("walkeeper",), PurePosixPath("/data/new")),
    }
    return PageContent(**(known | more))


def test_what_others_wrote_is_text_wherever_it_stands() -> None:
    log = ProblemLog()
    log.note([Finding(EVIL, EVIL)], at(50))
    drill = msgspec.structs.replace(drill_record(45, BACKUP, 30), target=EVIL, failed_phase=EVIL)
    agent = msgspec.structs.replace(
        AGENT,
        folder=EVIL,
        repository=EVIL,
        source=msgspec.structs.replace(AGENT.source, verified=False, reason=EVIL),
    )
    shown = content(
        PAST.axis(live=1, drills=(drill,)),
        agent=agent,
        findings=[Finding(EVIL, EVIL)],
        notices=[EVIL],
        problems=log.newest_first,
        complaint=EVIL,
        words=CommandWords((EVIL,), PurePosixPath(EVIL)),
    )
    read = Read(render_page(shown, View(at=at(30), target_dir=PurePosixPath(EVIL))))
    assert [name for name, _ in read.elements if name in {"script", "style", "img"}] == [
        "style",
        "script",
    ]
    assert {key for _, found in read.elements for key in found if key.startswith("on")} == set()
    assert read.words.count("<img src=x onerror=alert(2)>") >= 7
    assert "\x1b" not in read.words


def test_nothing_in_the_page_leads_elsewhere_and_nothing_is_styled_in_place() -> None:
    read = Read(render_page(content(PAST.axis(live=1)), View(at=at(30))))
    links = [found.get(key) for _, found in read.elements for key in ("href", "src", "action")]
    assert {link for link in links if link and not link.startswith(("/", "#", "data:,"))} == set()
    assert [found for _, found in read.elements if "style" in found] == []
    for text in (style(), script()):
        assert "http" not in text
        assert "</" not in text


def test_ids_are_unique_and_labels_lead_somewhere() -> None:
    read = Read(render_page(content(PAST.axis(live=1)), View(at=at(30))))
    assert len(read.ids) == len(set(read.ids))
    for _, found in read.elements:
        for key in ("for", "aria-labelledby"):
            assert found.get(key) in {None, *read.ids}


def test_what_is_urgent_stands_first() -> None:
    findings = [Finding("the backup is old", urgent=False), Finding("nothing is archived")]
    words = Read(render_page(content(findings=findings), View())).words
    assert words.index("nothing is archived") < words.index("the backup is old (it can wait")


def test_before_the_first_look_the_page_says_so() -> None:
    read = Read(render_page(content(), View()))
    assert "has not been read yet" in read.words


def test_a_page_without_scripts_refreshes_itself() -> None:
    read = Read(render_page(content(), View()))
    at_noscript = [name for name, _ in read.elements].index("noscript")
    assert read.elements[at_noscript + 1] == ("meta", {"http-equiv": "refresh", "content": "30"})


@given(axis=axes(), minutes=st.floats(-100, 300), span=st.sampled_from(sorted(SPANS)))
def test_any_part_of_any_past_can_be_drawn(axis: TimeAxis, minutes: float, span: str) -> None:
    moment = at(0) + timedelta(minutes=minutes)
    page = render_page(content(axis, now=axis.now), View(span=span, at=moment))
    for _, found in Read(page).elements:
        for key in ("x", "x1", "x2", "width"):
            value = found.get(key)
            if value is not None and value.endswith("%"):
                assert 0 <= float(value[:-1]) <= 100


def test_a_view_survives_being_linked() -> None:
    view = View("1h", at(20), at(10), 3, PurePosixPath("/a b&c"))
    from urllib.parse import parse_qsl, urlsplit

    assert parse_view(dict(parse_qsl(urlsplit(view.link()).query))) == view
    assert View().link() == "/"


@pytest.mark.parametrize(
    "query",
    [
        {"span": "2h"},
        {"time": "yesterday"},
        {"time": "0001-01-01 00:00:00Z"},
        {"timeline": "latest"},
        {"timeline": "-1"},
        {"dir": "relative"},
        {"dir": "/a\nb"},
        {"dir": "/" + "a" * 1000},
    ],
)
def test_a_query_without_a_meaning_is_refused(query: dict[str, str]) -> None:
    with pytest.raises(UsageError):
        parse_view(query)


@given(st.dictionaries(st.sampled_from(["span", "time", "end", "timeline", "dir"]), st.text()))
def test_any_other_query_is_read_or_refused(query: dict[str, str]) -> None:
    try:
        view = parse_view(query)
    except UsageError:
        return
    render_page(content(PAST.axis(live=1)), view)


def test_markup_escapes_all_but_markup() -> None:
    assert tag("p", "<b>", Markup("<i>"), class_='"', hidden=True, id=None) == (
        '<p class="&quot;" hidden>&lt;b&gt;<i></p>'
    )
    assert join(1, None, ["a", ["&"]]) == "1a&amp;"


def test_a_curve_keeps_the_highest_of_what_it_leaves_out() -> None:
    begin = datetime(2026, 11, 20, tzinfo=UTC)
    samples = [
        Sample(begin + timedelta(minutes=minute), float(minute == 7), 0, 0) for minute in range(60)
    ]
    found = highest(samples, lambda one: one.rpo_s, begin, begin + timedelta(hours=1), 6)
    assert [value for _, value in found] == [1.0, 0.0, 0.0, 0.0, 0.0, 0.0]
    assert found[-1][0] == 1.0


def test_a_problem_that_is_over_stays_for_a_day_and_is_one_whatever_its_figures() -> None:
    log = ProblemLog()
    log.note([Finding("WAL of the last 31 s is missing")], at(0))
    log.note([Finding("WAL of the last 46 s is missing", "do")], at(1))
    log.note([], at(2))
    (problem,) = log.newest_first
    assert (problem.first_at, problem.last_at, problem.over) == (at(0), at(1), True)
    assert problem.finding.hint == "do"
    log.note([Finding("WAL of the last 31 s is missing")], at(3))
    (again,) = log.newest_first
    assert (again.first_at, again.over) == (at(3), False)
    log.note([], at(4))
    log.note([], at(4 + 24 * 60))
    assert log.newest_first == ()


def test_problems_do_not_pile_up() -> None:
    log = ProblemLog()
    for number in range(100):
        log.note([Finding("x" * number)], at(number / 10))
    assert len(log.newest_first) == 50


def test_a_directive_that_a_page_opens_is_not_closed_before() -> None:
    policy = Answer(b"", policy=("form-action 'self'",)).all_headers()["Content-Security-Policy"]
    assert [one for one in policy.split("; ") if one.startswith("form-action")] == [
        "form-action 'self'"
    ]
    assert "default-src 'none'" in policy
