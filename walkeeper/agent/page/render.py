"""The whole page from what the agent knows; nothing here waits for anybody."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from importlib.resources import files
from typing import Final

from walkeeper.agent.observer import Sample
from walkeeper.agent.page.axis import Scale, draw_axis, lanes_of, scale_of
from walkeeper.agent.page.facts import show_facts
from walkeeper.agent.page.history import draw_history
from walkeeper.agent.page.markup import Content, Markup, join, moment, tag
from walkeeper.agent.page.problems import Problem
from walkeeper.agent.page.restoring import show_form, show_moment, show_spans, show_suggestions
from walkeeper.agent.page.sections import (
    show_findings,
    show_jobs,
    show_problems,
    show_tiles,
)
from walkeeper.agent.page.tables import show_tables
from walkeeper.agent.page.view import View
from walkeeper.core.wording import age_text, counted
from walkeeper.repository.drills import DrillRecord
from walkeeper.services.agent_status import AgentStatus
from walkeeper.services.moment import CommandWords, plan_moment
from walkeeper.services.status_findings import Finding
from walkeeper.services.time_axis import TimeAxis

_REFRESH_S: Final = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class PageContent:
    """What a page is made of. ``axis`` is None until the repository has been read once.

    ``complaint`` is what was wrong with the request.
    """

    now: datetime
    agent: AgentStatus
    axis: TimeAxis | None
    proven: DrillRecord | None
    findings: Sequence[Finding]
    notices: Sequence[str]
    problems: Sequence[Problem]
    samples: Sequence[Sample]
    words: CommandWords
    complaint: str | None = None


@cache
def style() -> Markup:
    """The style sheet: the same bytes each time, so that a policy can name them."""
    return Markup(files(__package__).joinpath("page.css").read_text())


@cache
def script() -> Markup:
    """The script, likewise."""
    return Markup(files(__package__).joinpath("page.js").read_text())


def render_page(content: PageContent, view: View) -> str:
    """The document."""
    name = content.agent.folder
    state = _state(content)
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("meta", name="referrer", content="no-referrer"),
        tag("link", rel="icon", href="data:,"),
        tag("title", f"{state} · {name} · walkeeper"),
        tag("style", style()),
        tag("noscript", tag("meta", http_equiv="refresh", content=_REFRESH_S * 3)),
    )
    body = tag(
        "body",
        tag("a", "To the restore command", href="#restore", class_="skip"),
        _header(content, state),
        tag("main", _health(content), _restore(content, view), _below(content)),
        tag(
            "footer",
            tag(
                "p",
                "Read-only. The same as documents: ",
                tag("a", "status", href="/api/v1/status"),
                ", ",
                tag("a", "timeline", href="/api/v1/timeline"),
                ". All times are UTC.",
            ),
        ),
        tag("script", script()),
        data_refresh_s=_REFRESH_S,
    )
    return f"<!doctype html>\n{tag('html', head, body, lang='en')}\n"


def _state(content: PageContent) -> str:
    if content.findings:
        return counted(len(content.findings), "finding")
    return "All is well"


def _header(content: PageContent, state: str) -> Markup:
    class_ = "bad" if content.findings else "good"
    looked = None
    if content.axis is not None:
        age_s = (content.now - content.axis.looked_at).total_seconds()
        looked = f"; repository read {age_text(age_s)}"
    return tag(
        "header",
        tag("h1", "walkeeper ", tag("span", content.agent.folder, class_="archive")),
        tag(
            "p",
            tag("strong", state, class_=f"state {class_}"),
            tag("span", "as of ", moment(content.now), looked, class_="asof"),
            id="state",
        ),
    )


def _health(content: PageContent) -> Markup:
    chart = None if content.axis is None else content.axis.chart()
    return tag(
        "section",
        tag("h2", "Health", id="health-title"),
        show_findings(content.findings, content.notices),
        show_tiles(chart, content.agent, content.proven, content.now),
        id="health",
        aria_labelledby="health-title",
        data_live=True,
    )


def _restore(content: PageContent, view: View) -> Markup:
    title = tag("h2", "What can be restored", id="restore-title")
    axis = content.axis
    if axis is None:
        body: Content = tag("p", "The repository has not been read yet.", class_="quiet")
    else:
        body = _axis(content, axis, view, scale_of(axis.chart(), view))
    return tag("section", title, body, id="restore", aria_labelledby="restore-title")


def _axis(content: PageContent, axis: TimeAxis, view: View, scale: Scale) -> Markup:
    chart = axis.chart()
    hidden = len(chart.timelines) - len(lanes_of(chart, scale))
    chosen = view.at or axis.now
    at = max((one.end_at for one in axis.tracks if one.live), default=axis.now)
    words = content.words
    found = plan_moment(axis, view.at or at, words, view.timeline)
    figure = tag(
        "div",
        draw_axis(chart, scale, view),
        id="axis",
        class_="axisbox",
        data_live=True,
        data_begin=int(scale.begin.timestamp() * 1000),
        data_end=int(scale.end.timestamp() * 1000),
        data_chosen=int(chosen.timestamp() * 1000),
    )
    complaint = content.complaint and tag("p", content.complaint, class_="complaint", role="alert")
    return join(
        show_spans(view, scale, axis),
        tag(
            "p",
            moment(max(scale.begin, chart.begin_at)),
            " to ",
            moment(min(scale.end, axis.now)),
            class_="range",
            id="range",
            data_live=True,
        ),
        figure,
        _legend(),
        tag("p", f"{counted(hidden, 'timeline')} not shown here: see the tables.", class_="quiet")
        if hidden
        else None,
        complaint,
        tag("div", show_form(view, axis, words), show_moment(found, view, axis), class_="choice"),
        tag(
            "details",
            tag("summary", "Moments to choose, with their commands"),
            tag("div", show_suggestions(axis, view, words), id="suggested", data_live=True),
            id="suggestions",
        ),
        tag("div", show_tables(chart), id="tables", data_live=True),
    )


def _legend() -> Markup:
    marks = [
        ("reach", "every moment can be restored"),
        ("gap", "gap: WAL is missing"),
        ("beyond", "stored, but behind a gap"),
        ("life", "written, not restorable"),
        ("behind", "not in the archive yet"),
        ("backup", "base backup"),
        ("proven", "proven by a drill"),
        ("failed", "drill that failed"),
    ]
    return tag(
        "ul",
        [
            tag("li", tag("svg", _key(class_), width=18, height=14, aria_hidden="true"), name)
            for class_, name in marks
        ],
        class_="legend",
        aria_label="Legend",
    )


def _key(class_: str) -> Markup:
    shapes = {
        "backup": ("M4 2H14V11H4Z M4 5H14", "backup"),
        "proven": ("M9 0L15 7L9 14L3 7Z", "drill proven"),
        "failed": ("M4 2L14 12M14 2L4 12", "drill failed"),
    }
    if class_ in shapes:
        shape, classes = shapes[class_]
        return tag("path", d=shape, class_=classes)
    return tag("rect", x=1, y=1, width=16, height=12, rx=2, class_=class_)


def _below(content: PageContent) -> Markup:
    sections = [
        ("history", "The last hours", draw_history(content.samples, content.now)),
        ("jobs", "Jobs", show_jobs(content.agent.schedule)),
        ("problems", "Recent problems", show_problems(content.problems)),
        ("facts", "Agent, server and store", show_facts(content.agent)),
    ]
    return join(
        tag(
            "section",
            tag("h2", title, id=f"{name}-title"),
            body,
            id=name,
            aria_labelledby=f"{name}-title",
            data_live=True,
        )
        for name, title, body in sections
    )
