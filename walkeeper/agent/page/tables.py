"""What the axis draws, as tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from walkeeper.agent.page.markup import Content, Markup, moment, tag
from walkeeper.core.wording import size_text, span_text
from walkeeper.services.chart import Chart

_MOST_ROWS: Final = 200


def show_tables(chart: Chart) -> Markup:
    """Windows, gaps, timelines, backups and drills, the newest first."""
    tables = [
        _table(
            "Windows in which every moment can be restored",
            ("Timeline", "From", "To", "WAL", "Backups"),
            [
                (
                    one.timeline,
                    moment(one.begin_at),
                    "now, and it goes on" if one.live else moment(one.end_at),
                    f"{one.begin_lsn} to {one.end_lsn}",
                    len(one.backups),
                )
                for one in chart.windows
            ],
        ),
        _table(
            "Gaps: moments that cannot be restored",
            ("Timeline", "From", "To", "Missing", "Stored behind it"),
            [
                (
                    one.timeline,
                    moment(one.begin_at),
                    moment(one.end_at),
                    ", ".join(one.missing),
                    ", ".join(one.stranded),
                )
                for one in chart.gaps
            ],
        ),
        _table(
            "Timelines",
            ("Timeline", "Came from", "Left it in the state of", "Written from", "To"),
            [
                (
                    one.timeline,
                    "" if one.parent is None else f"timeline {one.parent}",
                    moment(one.left_at, ""),
                    moment(one.begin_at),
                    "now" if one.live else moment(one.end_at),
                )
                for one in chart.timelines
            ],
        ),
        _table(
            "Base backups",
            ("Backup", "Timeline", "Ended", "Size", "Stored", "Usable", "Label"),
            [
                (
                    tag("code", one.id),
                    one.timeline,
                    moment(one.stopped_at),
                    size_text(one.size_bytes),
                    size_text(one.stored_bytes),
                    "yes" if one.usable else "no: WAL is missing",
                    one.label,
                )
                for one in chart.backups
            ],
        ),
        _table(
            "Drills",
            ("Drill", "Proven", "Moment", "Timeline", "Took", "Backup"),
            [
                (
                    moment(one.at),
                    "yes" if one.proven else f"no: failed at {one.failed_phase}",
                    moment(one.point_at),
                    one.timeline,
                    span_text(one.rto_s),
                    tag("code", one.backup),
                )
                for one in reversed(chart.drills)
            ],
        ),
    ]
    return tag("details", tag("summary", "The axis as tables"), tables, id="axis-tables")


def _table(name: str, columns: Sequence[str], rows: Sequence[Sequence[Content]]) -> Markup | None:
    if not rows:
        return None
    head = tag("tr", [tag("th", column, scope="col") for column in columns])
    body = [tag("tr", [tag("td", cell) for cell in row]) for row in rows[-_MOST_ROWS:][::-1]]
    return tag(
        "div",
        tag("table", tag("caption", name), tag("thead", head), tag("tbody", body)),
        class_="wide",
        tabindex=0,
        role="region",
        aria_label=name,
    )
