"""What the page says beside the axis: health, jobs, problems, facts."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from walkeeper.agent.page.markup import Content, Markup, join, moment, tag
from walkeeper.agent.page.problems import Problem
from walkeeper.core.wording import age_text, counted, moment_text, size_text, span_text
from walkeeper.repository.drills import DrillRecord
from walkeeper.services.agent_status import AgentStatus, JobStatus
from walkeeper.services.chart import Chart
from walkeeper.services.status_findings import Finding


def show_findings(findings: Sequence[Finding], notices: Sequence[str]) -> Markup:
    """What needs somebody, with the next step; then what is only worth knowing."""
    findings = sorted(findings, key=lambda one: not one.urgent)
    return join(
        tag("ul", [_finding(one) for one in findings], class_="findings") if findings else None,
        tag("p", "Nothing needs your attention.", class_="allwell") if not findings else None,
        tag("ul", [tag("li", one) for one in notices], class_="notices") if notices else None,
    )


def _finding(one: Finding) -> Markup:
    return tag(
        "li",
        tag("p", one.what, None if one.urgent else " (it can wait for the day)"),
        tag("p", tag("b", "Next: "), one.hint, class_="hint") if one.hint else None,
        class_=None if one.urgent else "later",
    )


def show_tiles(
    chart: Chart | None, agent: AgentStatus, proven: DrillRecord | None, now: datetime
) -> Markup:
    """The four answers that are wanted first."""
    return tag(
        "div",
        _rpo_tile(agent),
        _window_tile(chart),
        _backup_tile(chart, now),
        _proof_tile(proven, now),
        class_="tiles",
    )


def _tile(name: str, figure: Content, more: Content, *, bad: bool = False) -> Markup:
    return tag(
        "div",
        tag("h3", name),
        tag("p", figure, class_="figure"),
        tag("p", more, class_="more"),
        class_="tile bad" if bad else "tile",
    )


def _rpo_tile(agent: AgentStatus) -> Markup:
    archiving = agent.archiving
    if archiving is None:
        return _tile("RPO now", "unknown", "the server has not been recognised", bad=True)
    return _tile(
        "RPO now",
        span_text(archiving.rpo_s),
        f"at most {span_text(archiving.rpo_max_s)} in the last hour; "
        f"{counted(archiving.backlog, 'file')} waiting",
    )


def _window_tile(chart: Chart | None) -> Markup:
    name = "Restorable without a gap"
    if chart is None:
        return _tile(name, "unknown", "the repository has not been read yet")
    live = next((one for one in chart.windows if one.live), None)
    if live is not None:
        return _tile(
            name,
            span_text((live.end_at - live.begin_at).total_seconds()),
            ["up to now: every moment since ", moment(live.begin_at)],
        )
    if chart.windows:
        newest = max(chart.windows, key=lambda one: one.end_at)
        return _tile(
            name, "not of now", ["the newest moment in reach is ", moment(newest.end_at)], bad=True
        )
    return _tile(name, "nothing", "there is no backup with all of its WAL", bad=True)


def _backup_tile(chart: Chart | None, now: datetime) -> Markup:
    name = "Last backup"
    if chart is None:
        return _tile(name, "unknown", "the repository has not been read yet")
    if not chart.backups:
        return _tile(name, "none", [tag("code", "walkeeper backup")], bad=True)
    last = chart.backups[-1]
    age = age_text((now - last.stopped_at).total_seconds())
    more = f"{size_text(last.size_bytes)}, stored as {size_text(last.stored_bytes)}"
    return _tile(name, age, more, bad=not last.usable)


def _proof_tile(proven: DrillRecord | None, now: datetime) -> Markup:
    if proven is None:
        return _tile("Proven", "nothing yet", [tag("code", "walkeeper drill")])
    return _tile(
        "Proven",
        age_text((now - proven.at).total_seconds()),
        f"a drill restored it in {span_text(proven.rto_s)}",
    )


def show_jobs(jobs: Sequence[JobStatus]) -> Markup:
    """The schedule, one job a row."""
    if not jobs:
        return tag(
            "p", "Nothing is scheduled: see ", tag("code", "[schedule]"), ".", class_="quiet"
        )
    head = tag("tr", [tag("th", name, scope="col") for name in ("Job", "Last run", "Next run")])
    return tag(
        "div",
        tag("table", tag("thead", head), tag("tbody", [_job(one) for one in jobs])),
        class_="wide",
        tabindex=0,
        role="region",
        aria_label="Jobs",
    )


def _job(job: JobStatus) -> Markup:
    if job.running:
        last: Content = [tag("b", "running"), " since ", moment(job.last_started_at)]
    elif job.last_started_at is None:
        last = "has not run yet"
    else:
        class_ = "good" if job.last_outcome == "done" else "bad"
        last = [
            tag("span", job.last_outcome, class_=f"verdict {class_}"),
            " ",
            moment(job.last_started_at),
            tag("span", job.last_detail, class_="detail") if job.last_detail else None,
        ]
    overdue = None
    if job.overdue_since is not None:
        since = f"overdue since {moment_text(job.overdue_since)}"
        overdue = tag("span", since, class_="verdict bad")
    plan = tag("span", f"{job.expression} {job.timezone}", class_="detail")
    return tag(
        "tr",
        tag("th", job.name, scope="row"),
        tag("td", last),
        tag("td", moment(job.next_at), " ", overdue, plan),
    )


def show_problems(problems: Sequence[Problem]) -> Markup:
    """The last day's, newest first, with what to do where one still stands."""
    if not problems:
        return tag(
            "p", "None since the agent was started, or in the last 24 hours.", class_="quiet"
        )
    return tag("ul", [_problem(one) for one in problems], class_="problems")


def _problem(one: Problem) -> Markup:
    state = "over" if one.over else "stands"
    when: Content = ["since ", moment(one.first_at)]
    if one.over:
        when = [moment(one.first_at), " to ", moment(one.last_at)]
    return tag(
        "li",
        tag("p", tag("span", state, class_=f"verdict {'good' if one.over else 'bad'}"), " ", when),
        tag("p", one.finding.what),
        tag("p", tag("b", "Next: "), one.finding.hint, class_="hint") if one.finding.hint else None,
    )
