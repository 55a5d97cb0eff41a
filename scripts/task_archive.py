"""Push, hook, backup and restore: one program on one cluster, from an empty store to a copy."""

import os
import shlex
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from contender import PROCESSES, Contender, Site
from contenders import CONTENDERS
from datasets import Dataset
from figures import Case
from gauge import Gauge, Usage, find_child
from scratch import ScriptError, Workplace, open_workplace
from server import (
    ask,
    hold_back,
    offer,
    set_archive_command,
    start_server,
    stop_server,
    wait_archived,
    warm_up,
)
from settings import GIB, MIB, Bench
from stores import Store, open_store

SEGMENT_BYTES = 16 * MIB
CALLS, CALLS_S = 30, 10.0
NO_TAIL = '[tail]\ninterval = "0s"\n'  # nobody else has one


@dataclass(frozen=True, slots=True)
class Session:
    """One program at work on one data set in one store."""

    bench: Bench
    dataset: Dataset
    store_name: str
    store: Store
    place: Workplace
    contender: Contender

    def note(self, task: str, data: str, figures: dict[str, float]) -> None:
        self.bench.note(Case(task, data, self.store_name), self.contender.name, figures)

    def gauge(self) -> Gauge:
        return Gauge(self.contender.belongs, self.dataset.data_dir)


def run_session(
    bench: Bench, dataset: Dataset, store_name: str, program: str, tasks: frozenset[str]
) -> None:
    """Do the tasks one after the other. Raises ScriptError."""
    user, parent = bench.run_user, bench.work_dir
    with ExitStack() as stack:
        store = stack.enter_context(open_store(store_name, user, parent))
        place = stack.enter_context(open_workplace("walkeeper-bench-", user, parent))
        place.environment["PGHOST"] = str(dataset.place.root)
        site = Site(place, dataset.data_dir, store.bucket, PROCESSES, NO_TAIL)
        contender = CONTENDERS[program](site)
        session = Session(bench, dataset, store_name, store, place, contender)
        dataset.rewind()
        start_server(dataset.place, dataset.data_dir)
        command = contender.prepare()
        set_archive_command(place, dataset.data_dir, command)
        warm_up(place, dataset.data_dir, bench.give_up_s)
        if "push" in tasks:
            measure_push(session)
        if "hook" in tasks:
            measure_hook(session, command)
        if "backup" in tasks:
            measure_backup(session)
        contender.stop()
        stop_server(dataset.place, dataset.data_dir)
        if "restore" in tasks:
            measure_restore(session)


def measure_push(session: Session) -> None:
    """From the moment when all segments wait until none waits any more.

    Who is slow is stopped after a while: what counts is how much was archived until then.
    """
    data_dir, waiting = session.dataset.data_dir, session.dataset.segments
    read_all(data_dir / "pg_wal" / name for name in waiting)
    os.sync()
    asked_before = session.store.requests()
    with session.gauge() as gauge:
        offer(data_dir, waiting)
        wait_archived(data_dir, session.bench.give_up_s)
        gauge.stop_clock()
        left = hold_back(data_dir)
        time.sleep(1)  # an asynchronous process notices that its queue is empty
    done = len(waiting) - len(left)
    if done < 1:
        raise ScriptError(f"it archived nothing in {session.bench.give_up_s:.0f} s")
    figures = describe_usage(gauge.usage, done * SEGMENT_BYTES)
    figures |= {"segments": done, "mib_per_s": done * SEGMENT_BYTES / MIB / gauge.usage.wall_s}
    asked = session.store.requests()
    if asked is not None and asked_before is not None:
        figures["requests_per_segment"] = (asked - asked_before) / done
    session.note("push", f"{session.dataset.wal}, {len(waiting)} segments", figures)


def measure_hook(session: Session, command: str) -> None:
    """archive_command as PostgreSQL runs it, for a segment that is stored; a bare interpreter.

    Stored ahead of PostgreSQL's question, that is: its archiver is kept from asking meanwhile.
    """
    data_dir, name = session.dataset.data_dir, session.dataset.segments[0]
    archiver = find_child(data_dir, "archiver")
    if archiver is None:
        raise ScriptError("PostgreSQL has no archiver")
    said = command.replace("%p", f"pg_wal/{name}").replace("%f", name)
    hook, bare = ["sh", "-c", said], [sys.executable, "-I", "-S", "-c", "pass"]
    took: dict[str, list[float]] = {"hook": [], "bare": []}
    os.kill(archiver, signal.SIGSTOP)
    try:
        offer(data_dir, [name])
        time_call(session, hook)
        end = time.monotonic() + CALLS_S
        while len(took["hook"]) < CALLS and time.monotonic() < end:
            took["bare"].append(time_call(session, bare))
            took["hook"].append(time_call(session, hook))
    finally:
        os.kill(archiver, signal.SIGCONT)
    wait_archived(data_dir, session.bench.give_up_s)
    hook_s, bare_s = statistics.median(took["hook"]), statistics.median(took["bare"])
    figures = {"hook_ms": hook_s * 1000, "bare_ms": bare_s * 1000, "of_bare": hook_s / bare_s}
    session.note("hook", "a durable segment", figures)


def time_call(session: Session, argv: list[str]) -> float:
    place = session.place
    began = time.monotonic()
    done = subprocess.run(
        argv,
        cwd=session.dataset.data_dir,
        env=place.environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        **place.owner(),
    )
    took = time.monotonic() - began
    if done.returncode != 0:
        raise ScriptError(f"{shlex.join(argv)} ended with {done.returncode}: {done.stderr}")
    return took


def measure_backup(session: Session) -> None:
    read_all(sorted((session.dataset.data_dir / "base").rglob("*")))
    os.sync()
    asked_before = session.store.requests()
    with session.gauge() as gauge:
        session.contender.backup()
    figures = describe_usage(gauge.usage, session.dataset.size_bytes)
    asked = session.store.requests()
    if asked is not None and asked_before is not None:
        figures["requests"] = asked - asked_before
    session.note("backup", session.dataset.files, figures)


def read_all(paths: Iterable[Path]) -> None:
    """Put files into the page cache, as far as they fit.

    What the program before has displaced would cost the next one: up to 2 s of CPU a GiB on a
    virtual machine whose memory comes from its host page by page.
    """
    block = bytearray(MIB)
    for path in paths:
        if path.is_file():
            with path.open("rb", buffering=0) as file:
                while file.readinto(block):
                    pass


def measure_restore(session: Session) -> None:
    """Until the files are there; then the copy is started and compared, which takes no part."""
    os.sync()
    target = session.place.directory("restored")
    with session.gauge() as gauge:
        session.contender.restore(target)
    check_restored(session.place, target, session.dataset)
    figures = describe_usage(gauge.usage, session.dataset.size_bytes)
    session.note("restore", session.dataset.files, figures)


def describe_usage(usage: Usage, size_bytes: int) -> dict[str, float]:
    """The figures of one run that moved so many bytes."""
    gib = size_bytes / GIB
    return {
        "wall_s": usage.wall_s,
        "cpu_s": usage.cpu_s,
        "peak_mib": usage.peak_rss_bytes / MIB,
        "s_per_gib": usage.wall_s / gib,
        "cpu_s_per_gib": usage.cpu_s / gib,
    }


def check_restored(place: Workplace, target: Path, dataset: Dataset) -> None:
    """A fast restore of something else would not count."""
    start_server(place, target, "-c archive_mode=off")
    found = ask(place, dataset.query)
    stop_server(place, target)
    if found != dataset.fingerprint:
        raise ScriptError(f"restored {found}, not {dataset.fingerprint}")
