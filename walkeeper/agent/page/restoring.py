"""A moment: the command for it and what it takes; and moments worth choosing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from walkeeper.agent.page.axis import Scale
from walkeeper.agent.page.markup import Markup, join, moment, tag
from walkeeper.agent.page.view import SPANS, View
from walkeeper.core.wording import age_text, counted, size_text, span_text
from walkeeper.services.moment import CommandWords, Moment, plan_backup, plan_moment
from walkeeper.services.restore_estimate import Estimate
from walkeeper.services.time_axis import TimeAxis

_MOST_BACKUPS: Final = 10


def show_moment(found: Moment, view: View, axis: TimeAxis) -> Markup:
    """The panel for one moment; takes the place of the one before."""
    body = _reachable(found, axis) if found.reachable else _unreachable(found, view)
    verdict = "can be restored" if found.reachable else "cannot be restored"
    class_ = "verdict good" if found.reachable else "verdict bad"
    return tag(
        "div",
        tag("h3", moment(found.at), " ", tag("span", verdict, class_=class_), id="moment-title"),
        body,
        id="moment",
        data_time=found.at.isoformat(),
        data_timeline=found.timeline,
    )


def _reachable(found: Moment, axis: TimeAxis) -> Markup:
    assert found.command is not None and found.backup_at is not None  # noqa: PT018 - narrows
    fetched = f"{size_text(found.fetch_bytes)} are read from the store"
    facts = [
        (
            "Timeline",
            f"{found.timeline}"
            if found.timeline == found.target_timeline
            else f"{found.timeline}, on the way to {found.target_timeline}",
        ),
        ("Backup", join(tag("code", found.backup), ", ended ", moment(found.backup_at))),
        (
            "WAL",
            (
                f"about {counted(found.wal_segments, 'segment')}, {size_text(found.wal_bytes)} "
                "unpacked"
            ),
        ),
        ("Size", f"{size_text(found.size_bytes)} on disk; {fetched}"),
        ("Takes", _expected(found.estimate, axis)),
    ]
    otherwise = found.otherwise and tag(
        "div",
        tag(
            "p", "Should it say that no transaction ended after that time, this is the same state:"
        ),
        _command(found.otherwise, "otherwise"),
        class_="otherwise",
    )
    return join(
        _command(found.command, "command"),
        found.note and tag("p", found.note, class_="note"),
        tag(
            "dl",
            [tag("div", tag("dt", name), tag("dd", text)) for name, text in facts],
            class_="facts",
        ),
        otherwise,
        tag(
            "p",
            "Run it as the user who owns the database files. It shows its plan first; ",
            tag("code", "--plan"),
            " stops there, ",
            tag("code", "--start"),
            " boots the copy. The copy does not archive.",
            class_="quiet",
        ),
    )


def _command(text: str, name: str) -> Markup:
    return tag(
        "div",
        tag(
            "pre",
            tag("code", text),
            tabindex=0,
            role="region",
            aria_label="the restore command" if name == "command" else "another command",
            id=f"moment-{name}",
        ),
        tag(
            "button",
            "Copy",
            type="button",
            class_="copy",
            data_copies=f"moment-{name}",
            hidden=True,
        ),
        class_="command",
    )


def _expected(known: Estimate | None, axis: TimeAxis) -> Markup:
    if known is None:
        return join(
            "not known: no drill has proven anything yet (", tag("code", "walkeeper drill"), ")"
        )
    parts = ", ".join(f"{name} {span_text(seconds)}" for name, seconds in known.phases.items())
    basis = age_text((axis.now - known.last_at).total_seconds())
    unsure = "" if known.recover_known else "; how fast WAL is replayed is not known"
    return join(
        tag("b", f"about {span_text(known.seconds)}"),
        f" ({parts}), going by {counted(known.drills, 'drill')}, the last {basis}{unsure}",
    )


def _unreachable(found: Moment, view: View) -> Markup:
    nearest = [
        tag(
            "li",
            tag("a", moment(one.at), href=view.link(at=one.at, timeline=one.timeline)),
            f" on timeline {one.timeline}: {one.what}",
        )
        for one in found.nearest
    ]
    return join(
        tag("p", found.why, class_="why"),
        tag("p", "The nearest moments that can be restored:") if nearest else None,
        tag("ul", nearest) if nearest else None,
    )


def show_form(view: View, axis: TimeAxis, words: CommandWords) -> Markup:
    """Which moment, which timeline, where to: works without scripts."""
    numbers = sorted({one.timeline for track in axis.tracks for one in track.stretches})
    options = [tag("option", "the one written then", value="")]
    options += [
        tag("option", f"timeline {number}", value=number, selected=number == view.timeline)
        for number in numbers
    ]
    written = "" if view.at is None else view.at.strftime("%Y-%m-%d %H:%M:%S.%f").rstrip("0")
    return tag(
        "form",
        tag(
            "p",
            tag("label", "Moment, in UTC", for_="time"),
            tag(
                "input",
                name="time",
                id="time",
                value=written.rstrip("."),
                autocomplete="off",
                placeholder=f"{axis.now:%Y-%m-%d %H:%M:%S}",
                spellcheck="false",
            ),
        ),
        tag(
            "p",
            tag("label", "Timeline", for_="timeline"),
            tag("select", options, name="timeline", id="timeline"),
        ),
        tag(
            "p",
            tag("label", "Restore into", for_="dir"),
            tag(
                "input",
                name="dir",
                id="dir",
                value=str(words.target_dir),
                autocomplete="off",
                spellcheck="false",
            ),
        ),
        tag("input", type="hidden", name="span", value=view.span),
        tag("p", tag("button", "Show", type="submit")),
        method="get",
        action="/",
        id="choose",
    )


def show_spans(view: View, scale: Scale, axis: TimeAxis) -> Markup:
    """Links to more or less of the axis, and along it."""
    whole = axis.now - axis.chart().begin_at
    links = [
        tag(
            "a",
            name,
            href=view.link(span=key, end_at=None),
            aria_current="true" if key == view.span else None,
        )
        for key, (span, name) in SPANS.items()
        if span is None or span < whole
    ]
    width = scale.end - scale.begin
    if view.span != "all":
        links.insert(0, tag("a", "← earlier", href=view.link(end_at=scale.end - width / 2)))
        if scale.end < axis.now:
            links.append(tag("a", "later →", href=view.link(end_at=scale.end + width / 2)))
    return tag("nav", links, aria_label="Part of the axis", class_="spans")


def show_suggestions(axis: TimeAxis, view: View, words: CommandWords) -> Markup:
    """Moments with their commands: the newest, the ends of each window, the newest backups."""
    rows = [
        tag(
            "tr",
            tag(
                "td",
                tag("a", moment(found.at), href=view.link(at=found.at, timeline=found.timeline)),
            ),
            tag("td", what),
            tag("td", tag("code", found.command)),
        )
        for what, found in _suggested(axis, words)
    ]
    if not rows:
        return tag("p", "Nothing can be restored yet.", class_="quiet")
    head = tag("tr", [tag("th", name, scope="col") for name in ("Moment", "What", "Command")])
    return tag(
        "div",
        tag(
            "table",
            tag("caption", "Moments to restore, each with its command"),
            tag("thead", head),
            tag("tbody", rows),
        ),
        class_="wide",
        tabindex=0,
        role="region",
        aria_label="Moments to restore",
    )


def _suggested(axis: TimeAxis, words: CommandWords) -> Iterator[tuple[str, Moment]]:
    """What each moment is, and the moment; no moment of a timeline twice."""
    seen = set()
    for what, found in _candidates(axis, words):
        if (found.at, found.timeline) not in seen:
            seen.add((found.at, found.timeline))
            yield what, found


def _candidates(axis: TimeAxis, words: CommandWords) -> Iterator[tuple[str, Moment]]:
    for track in sorted(axis.tracks, key=lambda one: (one.live, one.end_at), reverse=True):
        first, last = track.stretches[0], track.stretches[-1]
        what = "the newest moment" if track.live else "the end of a window"
        found = plan_moment(axis, track.end_at, words, last.timeline)
        yield f"{what}, timeline {last.timeline}", found
        found = plan_moment(axis, first.begin_at, words, first.timeline)
        yield f"the beginning of a window, timeline {first.timeline}", found
    for backup in reversed(axis.health.backups[-_MOST_BACKUPS:]):
        at_end = plan_backup(axis, backup, words)
        if at_end is not None:
            yield f"the end of backup {backup.id}", at_end
