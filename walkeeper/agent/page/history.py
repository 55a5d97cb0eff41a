"""The last hours as small charts, each with a table of the same."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from walkeeper.agent.observer import Sample
from walkeeper.agent.page.markup import Markup, moment, tag
from walkeeper.core.wording import counted, size_text, span_text

_HOURS: Final = 6
_COLUMNS: Final = 180
_ROWS: Final = 12


@dataclass(frozen=True, slots=True)
class Measure:
    """One of the figures, how it is called and written, and what is at least the chart's top."""

    name: str
    of: Callable[[Sample], float]
    text: Callable[[float], str]
    least_top: float


_MEASURES: Final = (
    Measure("RPO", lambda one: one.rpo_s, span_text, 5.0),
    Measure("Backlog", lambda one: one.backlog_files, lambda n: counted(round(n), "file"), 4.0),
    Measure(
        "Backlog in bytes", lambda one: one.backlog_bytes, lambda n: size_text(round(n)), 1024.0**2
    ),
)


def draw_history(samples: Sequence[Sample], now: datetime) -> Markup:
    """A figure for each measure; without samples a sentence."""
    if not samples:
        return tag("p", "Nothing has been measured yet.", class_="quiet")
    begin = now - timedelta(hours=_HOURS)
    return tag(
        "div",
        [_figure(measure, samples, begin, now) for measure in _MEASURES],
        _table(samples, begin, now),
        class_="charts",
    )


def _figure(measure: Measure, samples: Sequence[Sample], begin: datetime, now: datetime) -> Markup:
    values = highest(samples, measure.of, begin, now, _COLUMNS)
    most = max((value for _, value in values), default=0.0)
    top = max(most, measure.least_top)
    points = " ".join(f"{x * 100:.2f},{39 - 37 * value / top:.2f}" for x, value in values)
    area = f"{values[0][0] * 100:.2f},40 {points} {values[-1][0] * 100:.2f},40" if values else ""
    latest = measure.text(measure.of(samples[-1]))
    drawing = tag(
        "svg",
        tag("title", f"{measure.name} over the last {_HOURS} hours"),
        tag("polygon", points=area, class_="area"),
        tag("polyline", points=points, class_="curve"),
        viewBox="0 0 100 40",
        preserveAspectRatio="none",
        width="100%",
        height=72,
        role="img",
        class_="spark",
    )
    return tag(
        "figure",
        tag("figcaption", tag("span", measure.name), tag("b", latest)),
        drawing,
        tag(
            "p",
            tag("span", f"{_HOURS} hours ago"),
            tag("span", f"at most {measure.text(most)}"),
            tag("span", "now"),
            class_="scale",
        ),
    )


def highest(
    samples: Sequence[Sample],
    of: Callable[[Sample], float],
    begin: datetime,
    end: datetime,
    columns: int,
) -> list[tuple[float, float]]:
    """Where each column with samples ends, 0 to 1, and the highest of its values."""
    found: dict[int, float] = {}
    for one in samples:
        if begin <= one.at <= end:
            column = min(int((one.at - begin) / (end - begin) * columns), columns - 1)
            found[column] = max(found.get(column, 0.0), of(one))
    return [((column + 1) / columns, found[column]) for column in sorted(found)]


def _table(samples: Sequence[Sample], begin: datetime, now: datetime) -> Markup:
    columns = [dict(highest(samples, one.of, begin, now, _ROWS)) for one in _MEASURES]
    rows = [
        tag(
            "tr",
            tag("td", moment(begin + (now - begin) * part)),
            [
                tag("td", measure.text(values[part]), class_="number")
                for measure, values in zip(_MEASURES, columns, strict=True)
            ],
        )
        for part in sorted(columns[0], reverse=True)
    ]
    head = tag(
        "tr",
        tag("th", "until", scope="col"),
        [tag("th", one.name, scope="col", class_="number") for one in _MEASURES],
    )
    return tag(
        "details",
        tag("summary", "The same as a table: the highest of each half hour"),
        tag(
            "div",
            tag("table", tag("thead", head), tag("tbody", rows)),
            class_="wide",
            tabindex=0,
            role="region",
            aria_label="RPO and backlog as a table",
        ),
        id="history-table",
    )
