"""The time axis as SVG: widths in percent, so that it fits any screen, heights in pixels."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from walkeeper.agent.page.markup import Markup, percent, tag
from walkeeper.agent.page.view import SPANS, View
from walkeeper.core.wording import moment_text, span_text
from walkeeper.services.chart import Chart, TimelineRow

_TOP: Final = 22
_LANE: Final = 76
_BAR: Final = (30, 16)
"""Where a lane's bar begins, from the lane's top, and its height."""
_FOOT: Final = 26
_MOST_LANES: Final = 12
_MOST_TICKS: Final = 8
_MARGIN: Final = 0.03
"""Of the width, behind the present."""
_STEPS: Final = tuple(
    timedelta(seconds=seconds)
    for seconds in (
        *(1, 2, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 7200, 10800, 21600, 43200),
        *(86400 * days for days in (1, 2, 7, 14, 28, 91, 182, 364, 1820, 3640)),
    )
)


@dataclass(frozen=True, slots=True)
class Scale:
    """The part of time that is shown."""

    begin: datetime
    end: datetime

    def part(self, at: datetime) -> float:
        """Where a moment lies, 0 to 1, cut off at the ends."""
        return min(max((at - self.begin) / (self.end - self.begin), 0.0), 1.0)

    def shows(self, begin: datetime, end: datetime) -> bool:
        """Whether some of it lies within."""
        return begin <= self.end and self.begin <= end


def scale_of(chart: Chart, view: View) -> Scale:
    """What the view asks for; all of it begins a little before the first thing."""
    span = SPANS[view.span][0]
    whole = max(chart.at - chart.begin_at, timedelta(seconds=10))
    if span is None:
        return Scale(chart.begin_at - whole * _MARGIN, chart.at + whole * _MARGIN)
    end = chart.at + span * _MARGIN
    if view.end_at is not None:
        end = min(view.end_at, end)
    elif view.at is not None:
        end = min(view.at + span / 2, end)
    return Scale(end - span, end)


def lanes_of(chart: Chart, scale: Scale) -> list[TimelineRow]:
    """The timelines that have something to show, the newest of them when they are many."""
    shown = [row for row in chart.timelines if scale.shows(row.begin_at, row.end_at)]
    return shown[-_MOST_LANES:]


def draw_axis(chart: Chart, scale: Scale, view: View) -> Markup:
    """The whole drawing."""
    lanes = lanes_of(chart, scale)
    tops = {row.timeline: _TOP + number * _LANE for number, row in enumerate(lanes)}
    height = _TOP + len(lanes) * _LANE + _FOOT
    return tag(
        "svg",
        tag("title", "What can be restored, over time; the tables below say the same"),
        _patterns(),
        _ticks(scale, height),
        [_lane(row, tops[row.timeline], scale) for row in lanes],
        [_fork(row, tops, scale) for row in lanes],
        list(_windows(chart, tops, scale)),
        list(_gaps(chart, tops, scale)),
        list(_backups(chart, tops, scale)),
        list(_drills(chart, tops, scale)),
        [_name(row, tops[row.timeline]) for row in lanes],
        _now(chart, tops, scale, height),
        _chosen(view, scale, height),
        class_="axis",
        width="100%",
        height=height,
        role="img",
    )


def _patterns() -> Markup:
    hatch = tag("path", d="M0 8L8 0M-2 2L2 -2M6 10L10 6", class_="hatch")
    return tag(
        "defs",
        tag(
            "pattern",
            tag("rect", width=8, height=8, class_="hatched"),
            hatch,
            id="beyond",
            width=8,
            height=8,
            patternUnits="userSpaceOnUse",
        ),
    )


def _ticks(scale: Scale, height: int) -> list[Markup]:
    whole = scale.end - scale.begin
    step = next((one for one in _STEPS if whole / one <= _MOST_TICKS), _STEPS[-1])
    found = []
    epoch = datetime(2001, 1, 1, tzinfo=UTC)  # a Monday
    number = -(-(scale.begin - epoch) // step)
    while (at := epoch + number * step) <= scale.end:
        part = scale.part(at)
        odd = " odd" if number % 2 else ""
        place = percent(part)
        found.append(
            tag("line", x1=place, x2=place, y1=_TOP - 4, y2=height - _FOOT + 4, class_="tick")
        )
        if 0.04 < part < 0.96:
            found.append(
                tag("text", _tick_text(at, step), x=place, y=height - 6, class_=f"ticktext{odd}")
            )
        number += 1
    return found


def _tick_text(at: datetime, step: timedelta) -> str:
    if step >= timedelta(days=1) or (at.hour, at.minute, at.second) == (0, 0, 0):
        return f"{at.day} {at:%b}" if step < timedelta(days=300) else f"{at:%b %Y}"
    return f"{at:%H:%M:%S}" if step < timedelta(minutes=1) else f"{at:%H:%M}"


def _lane(row: TimelineRow, top: int, scale: Scale) -> Markup:
    begin, end = scale.part(row.begin_at), scale.part(row.end_at)
    bar, height = _BAR
    return tag(
        "rect",
        x=percent(begin),
        width=percent(end - begin),
        y=top + bar,
        height=height,
        rx=3,
        class_="life lane",
        data_timeline=row.timeline,
        data_top=top,
        data_bottom=top + _LANE,
    )


def _name(row: TimelineRow, top: int) -> Markup:
    """Drawn after the lines that may cross it."""
    words = [f"Timeline {row.timeline}"]
    if row.live:
        words.append("written now")
    if row.parent is not None:
        words.append(f"from {row.parent}, {row.begin_at.day} {row.begin_at:%b %H:%M:%S}")
    more = tag("tspan", "".join(f" · {one}" for one in words[1:]), class_="more")
    return tag("text", words[0], more, x=0, y=top + 12, class_="lanename")


def _fork(row: TimelineRow, tops: dict[int, int], scale: Scale) -> Markup | None:
    """From where the parent was left to where this one was first written."""
    if row.parent not in tops or row.left_at is None or row.begin_at < scale.begin:
        return None
    bar, height = _BAR
    begin, end = percent(scale.part(row.left_at)), percent(scale.part(row.begin_at))
    parent, own = tops[row.parent] + bar + height, tops[row.timeline] + bar + height // 2
    return tag(
        "g",
        tag("title", f"timeline {row.timeline} left {row.parent} at {moment_text(row.left_at)}"),
        tag("line", x1=begin, x2=begin, y1=parent, y2=own, class_="fork"),
        tag("line", x1=begin, x2=end, y1=own, y2=own, class_="fork"),
    )


def _box(
    scale: Scale, span: tuple[datetime, datetime], top: int, class_: str, title: str
) -> Markup:
    bar, height = _BAR
    begin, end = scale.part(span[0]), scale.part(span[1])
    return tag(
        "rect",
        tag("title", title),
        x=percent(begin),
        width=percent(max(end - begin, 0.001)),
        y=top + bar,
        height=height,
        class_=class_,
    )


def _windows(chart: Chart, tops: dict[int, int], scale: Scale) -> Iterator[Markup]:
    for window in chart.windows:
        for one in window.stretches:
            if one.timeline in tops and scale.shows(one.begin_at, one.end_at):
                span = one.begin_at, one.end_at
                title = (
                    f"every moment from {moment_text(one.begin_at)} to {moment_text(one.end_at)}"
                )
                yield _box(scale, span, tops[one.timeline], "reach", title)


def _gaps(chart: Chart, tops: dict[int, int], scale: Scale) -> Iterator[Markup]:
    for gap in chart.gaps:
        if gap.timeline not in tops or not scale.shows(gap.begin_at, gap.end_at):
            continue
        top = tops[gap.timeline]
        title = f"missing: {', '.join(gap.missing)}"
        beyond = f"stored, but behind the gap: {', '.join(gap.stranded)}"
        yield _box(scale, (gap.missing_until, gap.end_at), top, "beyond", beyond)
        yield _box(scale, (gap.begin_at, gap.missing_until), top, "gap", title)
        # A gap of one segment in a month is narrower than a pixel, and must be seen.
        bar, height = _BAR
        shape = f"M-1 -3H3V{height + 3}H-1Z"
        yield _mark(scale, gap.begin_at, top + bar, class_="gap", shape=shape, title=title)


def _backups(chart: Chart, tops: dict[int, int], scale: Scale) -> Iterator[Markup]:
    for one in chart.backups:
        if one.timeline in tops and scale.shows(one.stopped_at, one.stopped_at):
            title = f"backup {one.id}, ended {moment_text(one.stopped_at)}"
            if not one.usable:
                title += ": it cannot be restored, WAL is missing"
            class_ = "backup" if one.usable else "backup useless"
            shape = "M-5 0H5V9H-5Z M-5 3H5"
            top = tops[one.timeline] + 50
            yield _mark(scale, one.stopped_at, top, class_=class_, shape=shape, title=title)


def _drills(chart: Chart, tops: dict[int, int], scale: Scale) -> Iterator[Markup]:
    for one in reversed(chart.drills):
        if one.timeline in tops and scale.shows(one.point_at, one.point_at):
            point = moment_text(one.point_at)
            title = f"a drill at {moment_text(one.at)} has proven {point} in {span_text(one.rto_s)}"
            class_, shape = "drill proven", "M0 -7L6 0L0 7L-6 0Z"
            if not one.proven:
                title = f"a drill at {moment_text(one.at)} failed at {one.failed_phase}: {point}"
                class_, shape = "drill failed", "M-5 -5L5 5M5 -5L-5 5"
            top = tops[one.timeline] + 22
            yield _mark(scale, one.point_at, top, class_=class_, shape=shape, title=title)


def _mark(scale: Scale, at: datetime, y: int, *, class_: str, shape: str, title: str) -> Markup:
    """A shape of a fixed size at a moment: a nested drawing takes its place in percent."""
    return tag(
        "svg",
        tag("path", tag("title", title), d=shape, class_=class_),
        x=percent(scale.part(at)),
        y=y,
        width=1,
        height=1,
        overflow="visible",
    )


def _now(chart: Chart, tops: dict[int, int], scale: Scale, height: int) -> list[Markup]:
    """The present, and what of it is not yet in the archive."""
    if not scale.shows(chart.at, chart.at):
        return []
    place, edge = percent(scale.part(chart.at)), chart.edge
    text = "now" if edge is None else f"now · RPO {span_text(edge.rpo_s)}"
    drawn = [
        tag("line", x1=place, x2=place, y1=_TOP - 4, y2=height - _FOOT + 4, class_="now"),
        tag("text", text, x=place, y=_TOP - 10, class_="nowtext"),
    ]
    if edge is not None and edge.timeline in tops:
        title = f"not yet in the archive: the last {span_text(edge.rpo_s)}"
        drawn.insert(0, _box(scale, (edge.at, chart.at), tops[edge.timeline], "behind", title))
    return drawn


def _chosen(view: View, scale: Scale, height: int) -> Markup | None:
    if view.at is None or not scale.shows(view.at, view.at):
        return None
    place = percent(scale.part(view.at))
    return tag("line", x1=place, x2=place, y1=_TOP - 4, y2=height - _FOOT + 4, class_="chosen")
