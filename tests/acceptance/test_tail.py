"""The tail: the repository is never more than about an interval behind the server."""

from __future__ import annotations

import time
from collections.abc import Callable

from tests.fix_backup import ByHand
from tests.fix_cli import Installation
from tests.fix_postgres import wait_until
from tests.fix_shipping import (
    ask_agent,
    make_shipping,
    opened,
    still,
    tail_objects,
    wait_noted,
    wait_shipped,
    wait_tail,
)


def test_what_is_committed_is_in_the_archive_before_the_segment_is_full(
    shipping: Installation,
) -> None:
    shipping.cluster.sql("INSERT INTO t VALUES (1)")
    name, _ = wait_shipped(shipping)
    assert not list(shipping.archive_dir.glob(f"wal/*/*/{name}*"))


def test_an_idle_server_costs_nothing(shipping: Installation) -> None:
    wait_shipped(shipping)
    with still(shipping.cluster):
        wait_noted(shipping)
        before = ask_agent(shipping)
        time.sleep(1.5)
        after = ask_agent(shipping)
    assert after.store == before.store
    assert after.tail == before.tail
    assert after.tail is not None
    assert after.tail.state == "shipping"
    assert after.archiving is not None
    assert after.archiving.rpo_s == 0


def test_the_tail_goes_when_its_segment_is_durable(shipping: Installation) -> None:
    shipping.cluster.sql("INSERT INTO t VALUES (1)")
    name, _ = wait_shipped(shipping)
    shipping.archive_now()
    shipping.cluster.sql("INSERT INTO t VALUES (2)")
    wait_shipped(shipping)
    wait_until(
        lambda: not any(name in tail for tail in tail_objects(shipping)),
        f"the tail of {name} to be deleted",
    )


def test_a_restarted_agent_goes_on_where_the_chain_ends(shipping: Installation) -> None:
    shipping.cluster.sql("INSERT INTO t VALUES (1)")
    name, before = wait_shipped(shipping)
    shipping.stop_agent()
    shipping.cluster.sql("INSERT INTO t SELECT generate_series(1, 100)")
    shipping.start_agent()
    same, after = wait_shipped(shipping)
    assert same == name
    assert after.startswith(before)
    assert len(after) > len(before)


def test_an_interval_of_zero_turns_it_off_and_the_rpo_is_measured_all_the_same(
    installation: Installation,
) -> None:
    def is_measured() -> bool:
        nonlocal rpo_s
        archiving = ask_agent(installation).archiving
        assert archiving is not None
        rpo_s = archiving.rpo_s
        return rpo_s > 1

    rpo_s, began = 0.0, time.monotonic()
    make_shipping(installation, '[tail]\ninterval = "0s"')
    said = wait_tail(installation, "off")
    assert "0s" in str(said.reason)
    wait_until(is_measured, "an RPO of more than a second")
    assert rpo_s < time.monotonic() - began
    assert not tail_objects(installation)


def test_status_shows_what_the_tail_does(shipping: Installation) -> None:
    wait_shipped(shipping)
    with still(shipping.cluster):
        said = wait_noted(shipping)
        assert said.interval_s == 0.2
        assert said.shipped_lsn == shipping.cluster.value("SELECT pg_current_wal_flush_lsn()")
        assert said.links == len(tail_objects(shipping))
        text = shipping.run("status", code=None).stdout
    assert "tail" in text
    assert f"shipping every 0.2 s; stored up to {said.shipped_lsn}" in text
    assert "in the last hour at most" in text


def test_a_tail_is_joined_by_hand_as_the_page_of_the_format_says(
    shipping: Installation, by_hand: Callable[[Installation], ByHand]
) -> None:
    def join() -> bytes:
        hand.run(hand.step(": > ").replace("SEGMENT", name))
        return (hand.root / "tail").read_bytes()

    def is_merged() -> bool:
        shipping.cluster.sql("INSERT INTO t VALUES (1)")
        return any("merged-" in name for name in tail_objects(shipping))

    hand = by_hand(shipping)
    shipping.cluster.sql("INSERT INTO t VALUES (1)")
    with still(shipping.cluster):
        name, tail = wait_shipped(shipping)
        assert join() == tail
    wait_until(is_merged, "64 links to be merged", 120)
    with still(shipping.cluster):
        name, tail = wait_shipped(shipping)
        merged = next(shipping.archive_dir.glob("tail/*/merged-*"))
        end = int(merged.name.removeprefix("merged-")[:8], 16)
        assert opened(shipping.identity_file, merged) == tail[:end]
        for link in merged.parent.glob("[0-9A-F]*"):
            if int(link.name[:8], 16) < end:
                link.unlink()  # the merged one is enough
        assert join() == tail
