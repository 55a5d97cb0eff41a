"""Alerts: a blip tells nobody, trouble is told once, repeated at its interval, and cleared."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from walkeeper.core.alerts import (
    Alert,
    Condition,
    Entry,
    Notice,
    Severity,
    advance,
    find_due,
    reconcile,
    record,
)

BEGIN = datetime(2026, 11, 20, 10, tzinfo=UTC)
HOLD = timedelta(seconds=60)
REPEAT = timedelta(hours=4)
STORE = Condition("store", Severity.CRITICAL, "the store is away", "look at the network")
GAP = Condition("gap:1", Severity.WARNING, "a segment is missing")
CLOCK = Condition("clock", Severity.INFO, "worth knowing")


@dataclass
class Story:
    """One sink and its agent; ``step`` is one look at what is wrong."""

    hold: timedelta = HOLD
    now: datetime = BEGIN
    alerts: dict[str, Alert] = field(default_factory=dict)
    ledger: dict[str, Entry] = field(default_factory=dict)
    told: list[Notice] = field(default_factory=list)

    def step(
        self,
        *conditions: Condition,
        seconds: float = 0,
        unknown: frozenset[str] = frozenset(),
        hears: Callable[[Notice], bool] = lambda _: True,
    ) -> list[str]:
        """So much later this is wrong; returns what the sink heard of it."""
        self.now += timedelta(seconds=seconds)
        self.alerts = advance(self.alerts, conditions, unknown, self.now, self.hold)
        self.ledger = reconcile(self.ledger, self.alerts, self.now)
        heard = [one for one in find_due(self.ledger, self.now, REPEAT) if hears(one)]
        for notice in heard:
            self.ledger = record(self.ledger, notice, self.now)
        self.told += heard
        return [f"{one.event} {one.alert.key}" for one in heard]


def test_a_blip_tells_nobody() -> None:
    story = Story()
    assert story.step(STORE) == []
    assert story.step(STORE, seconds=59) == []
    assert story.step(seconds=1) == []
    assert story.step(STORE, seconds=5) == []
    assert story.step(STORE, seconds=59) == []


def test_trouble_is_told_once_repeated_at_the_interval_and_cleared_with_how_long_it_took() -> None:
    story = Story()
    story.step(STORE)
    assert story.step(STORE, seconds=60) == ["raised store"]
    assert story.step(STORE, seconds=5) == []
    assert story.step(STORE, seconds=REPEAT.total_seconds() - 6) == []
    assert story.step(STORE, seconds=1) == ["repeated store"]
    assert story.step(STORE, seconds=5) == []
    assert story.step(seconds=5) == []
    assert story.step(seconds=60) == ["recovered store"]
    assert story.told[-1].lasted == timedelta(hours=4, seconds=60 + 5 + 5 - 1 + 1)
    assert story.step(seconds=600) == []
    assert (story.alerts, story.ledger) == ({}, {})


def test_trouble_that_comes_and_goes_is_one_alert() -> None:
    story = Story()
    story.step(STORE)
    assert story.step(STORE, seconds=60) == ["raised store"]
    for _ in range(20):
        assert story.step(seconds=30) == []
        assert story.step(STORE, seconds=29) == []
    assert story.alerts["store"].since == BEGIN


def test_what_nobody_could_look_at_neither_begins_nor_ends() -> None:
    story = Story()
    story.step(GAP)
    assert story.step(GAP, seconds=60) == ["raised gap:1"]
    for _ in range(3):
        assert story.step(seconds=600, unknown=frozenset({"gap"})) == []
    story.step(seconds=1)
    assert story.step(seconds=60) == ["recovered gap:1"]


def test_an_unknown_pending_alert_is_not_raised_unseen() -> None:
    story = Story()
    story.step(GAP)
    assert story.step(seconds=600, unknown=frozenset({"gap"})) == []
    assert story.alerts["gap:1"].raised_at is None
    assert story.step(GAP) == ["raised gap:1"]


def test_what_gets_worse_is_told_at_once_and_what_gets_better_is_not() -> None:
    story = Story(hold=timedelta())
    assert story.step(GAP) == ["raised gap:1"]
    worse = Condition("gap:1", Severity.CRITICAL, "two segments are missing")
    assert story.step(worse, seconds=5) == ["raised gap:1"]
    assert story.step(GAP, seconds=5) == []
    assert story.step(worse, seconds=5) == []


def test_information_is_told_once_and_never_repeated() -> None:
    story = Story(hold=timedelta())
    assert story.step(CLOCK) == ["raised clock"]
    assert story.step(CLOCK, seconds=10 * REPEAT.total_seconds()) == []
    assert story.step(seconds=1) == ["recovered clock"]


def test_the_worst_is_told_first() -> None:
    story = Story(hold=timedelta())
    assert story.step(CLOCK, GAP, STORE) == ["raised store", "raised gap:1", "raised clock"]


def test_of_two_conditions_with_one_key_the_first_counts() -> None:
    story = Story(hold=timedelta())
    other = Condition("store", Severity.INFO, "something else")
    assert story.step(STORE, other) == ["raised store"]
    assert story.told[0].alert.summary == "the store is away"


def test_a_sink_that_was_away_hears_what_came_and_went_as_recovered_and_owes_no_more() -> None:
    story = Story(hold=timedelta())
    for _ in range(50):
        story.step(STORE, GAP, seconds=5, hears=lambda _: False)
    story.step(GAP, seconds=5, hears=lambda _: False)
    assert len(story.ledger) == 2
    assert story.step(GAP, seconds=5) == ["recovered store", "raised gap:1"]
    assert story.told[0].lasted == timedelta(seconds=50 * 5)


def test_trouble_that_returns_before_its_all_clear_was_heard_is_told_as_new_trouble() -> None:
    story = Story(hold=timedelta())
    story.step(STORE)
    story.step(seconds=5, hears=lambda _: False)
    assert story.step(STORE, seconds=5) == ["raised store"]
    assert story.step(seconds=5) == ["recovered store"]


def test_a_sink_that_is_new_hears_what_is_wrong() -> None:
    story = Story(hold=timedelta())
    story.step(STORE)
    story.ledger = {}
    assert story.step(STORE, seconds=5) == ["raised store"]


def test_what_is_heard_of_an_alert_that_was_replaced_meanwhile_does_not_count() -> None:
    story = Story(hold=timedelta())
    story.step(STORE, hears=lambda _: False)
    (old,) = find_due(story.ledger, story.now, REPEAT)
    story.step(seconds=5, hears=lambda _: False)
    story.step(STORE, seconds=5, hears=lambda _: False)
    story.ledger = record(story.ledger, old, story.now)
    assert story.step(STORE, seconds=5) == ["raised store"]
    assert record({}, old, story.now) == {}


def test_a_clock_that_was_far_ahead_silences_nothing() -> None:
    story = Story()
    story.now = BEGIN + timedelta(days=3650)
    story.step(STORE)
    story.step(STORE, seconds=60)
    story.now = BEGIN
    assert story.step(STORE) == ["repeated store"]
    assert story.told[-1].lasted == timedelta()
    story.step()
    assert story.step(seconds=60) == ["recovered store"]


class Document(msgspec.Struct):
    alerts: dict[str, Alert]
    ledger: dict[str, Entry]


_CONDITIONS = [STORE, GAP, CLOCK, Condition("gap:1", Severity.CRITICAL, "worse")]
_STEPS = st.lists(
    st.tuples(
        st.lists(st.sampled_from(_CONDITIONS), max_size=3),
        st.floats(0, 20_000),
        st.sets(st.sampled_from(["store", "gap"])),
        st.booleans(),  # whether the sink can be reached
        st.booleans(),  # whether the agent is started anew before
    ),
    max_size=40,
)


@given(_STEPS)
def test_whatever_happens_a_sink_hears_a_sound_story_of_each_alert(
    steps: list[tuple[list[Condition], float, set[str], bool, bool]],
) -> None:
    """Told as raised before repeated, never repeated early, and in the end all is clear."""
    story = Story()
    for conditions, seconds, unknown, reachable, restart in steps:
        if restart:
            kept = msgspec.json.encode(Document(story.alerts, story.ledger))
            document = msgspec.json.decode(kept, type=Document)
            assert (document.alerts, document.ledger) == (story.alerts, story.ledger)
            story.alerts, story.ledger = document.alerts, document.ledger
        story.step(
            *conditions, seconds=seconds, unknown=frozenset(unknown), hears=lambda _, h=reachable: h
        )
        assert len(story.ledger) <= 3
    story.step(seconds=1)
    story.step(seconds=60)
    assert (story.alerts, story.ledger) == ({}, {})
    last: dict[str, Notice] = {}
    for notice in story.told:
        before = last.get(notice.alert.key)
        if notice.event == "repeated":
            assert before is not None
            assert before.event != "recovered"
            assert notice.at - before.at >= REPEAT
            assert notice.alert.severity is not Severity.INFO
        if notice.event == "raised":
            assert notice.lasted >= HOLD
        if notice.event == "raised" and before is not None and before.event != "recovered":
            same = notice.alert.raised_at == before.alert.raised_at
            assert not same or notice.alert.severity is Severity.CRITICAL
        last[notice.alert.key] = notice
    assert all(one.event == "recovered" for one in last.values())
