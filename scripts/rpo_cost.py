"""What the tail costs in S3: its requests and bytes under three loads, at list prices."""

import argparse
import contextlib
import json
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table
from rpo_load import Client, committing, full_speed
from scratch import Workplace
from server import ask

CALM_S, CALM_DEADLINE_S = 25.0, 120.0
HOURS_A_MONTH = 730
# S3 Standard, list prices of us-east-1: for 1000 requests of each kind, and for a GB and a month.
PRICE_PUT, PRICE_GET, PRICE_GB = 0.005, 0.0004, 0.023


@dataclass(frozen=True, slots=True)
class Cost:
    """What the tail has asked of the store under one load, for an hour."""

    load: str
    requests: float
    stored_bytes: float

    @property
    def dollars_a_month(self) -> float:
        """All requests as PUT; stored for an hour, though a tail goes with its segment."""
        puts = self.requests * HOURS_A_MONTH * PRICE_PUT / 1000
        return puts + self.stored_bytes / 1e9 * PRICE_GB


def measure_costs(place: Workplace, seconds: float, console: Console) -> list[Cost]:
    """The tail's requests and bytes under three loads."""

    @contextlib.contextmanager
    def idle() -> Iterator[None]:
        yield

    loads: dict[str, Callable[[], contextlib.AbstractContextManager[None]]] = {
        "idle": idle,
        "1 commit a second": lambda: committing(Client(place.root, pause_s=1.0)),
        "full speed": lambda: full_speed(place),
    }
    found = []
    for name, load in loads.items():
        ask(place, "TRUNCATE committed")
        wait_calm(place)
        with console.status(f"what the tail costs: {name}"), load():
            before, began = ask_tail(place), time.monotonic()
            time.sleep(seconds)
            after, hours = ask_tail(place), (time.monotonic() - began) / 3600
        requests, size = (later - earlier for earlier, later in zip(before, after, strict=True))
        found.append(Cost(name, requests / hours, size / hours))
    return found


def wait_calm(place: Workplace) -> None:
    """Until the server writes nothing of its own any more: it tidies up behind a load."""
    ask(place, "CHECKPOINT")
    ask(place, "SELECT pg_switch_wal()")
    deadline = time.monotonic() + CALM_DEADLINE_S
    end, since = "", time.monotonic()
    while time.monotonic() - since < CALM_S and time.monotonic() < deadline:
        now = ask(place, "SELECT pg_current_wal_flush_lsn()")
        if now != end:
            end, since = now, time.monotonic()
        time.sleep(1)


def ask_tail(place: Workplace) -> tuple[int, int]:
    """Requests and stored bytes of the agent's tail so far."""
    said = place.run(["sh", "-c", "walkeeper status --json 2>/dev/null || [ $? = 3 ]"])
    tail = json.loads(re.sub(r"^[^{]*", "", said))["agent"]["tail"]
    return int(tail["requests"]), int(tail["stored_bytes"])


def show_costs(costs: list[Cost], arguments: argparse.Namespace, console: Console) -> None:
    if not costs:
        return
    table = Table(title=f"What the tail costs, every {arguments.interval}")
    for column in ("load", "requests an hour", "MB an hour", "$ a month"):
        table.add_column(column, justify="left" if column == "load" else "right")
    for cost in costs:
        figures = f"{cost.requests:.0f}", f"{cost.stored_bytes / 1e6:.1f}"
        table.add_row(cost.load, *figures, f"{cost.dollars_a_month:.2f}")
    console.print(table)
    console.print(
        f"At ${PRICE_PUT} per 1000 PUT or LIST, ${PRICE_GET} per 1000 GET and ${PRICE_GB} per GB "
        "and month (S3 Standard); DELETE and what goes in are free. Every other counts as a PUT, "
        "and what is stored in an hour as held for good, though a tail goes with its segment.",
        soft_wrap=True,
    )
