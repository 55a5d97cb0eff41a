"""Replay: how much of a recovery PostgreSQL spends waiting for restore_command.

The startup process runs restore_command with system(3) and waits for it in the kernel's do_wait,
which /proc says of a process at no cost to it.
"""

import contextlib
import os
import statistics
import time
from contextlib import ExitStack
from pathlib import Path

from contender import PROCESSES, Site
from contenders import CONTENDERS
from datasets import QUICKLY, Dataset, work
from figures import Case
from gauge import find_child
from scratch import ScriptError, Workplace, open_workplace
from server import ask, set_archive_command, start_server, stop_server, wait_archived
from settings import Bench
from stores import open_store
from task_archive import NO_TAIL

SAMPLE_S = 0.001
EDGE = 6
"""So many hooks at each end are counted apart."""
STARTED_S = 60.0
RECOVERED_S = 3600.0
END_OF_WAL = "SELECT pg_walfile_name(pg_switch_wal())"
WRITTEN = "SELECT (pg_current_wal_lsn() - '{}'::pg_lsn) / 16777216 >= {}"


def run_replay(bench: Bench, base: Dataset, store_name: str, program: str) -> None:
    """A backup, then WAL, then a recovery that reads it from the store. Raises ScriptError."""
    user, parent = bench.run_user, bench.work_dir
    with ExitStack() as stack:
        store = stack.enter_context(open_store(store_name, user, parent))
        place = stack.enter_context(open_workplace("walkeeper-replay-", user, parent))
        data_dir = place.root / "data"
        place.run(["cp", "-a", base.data_dir, data_dir])
        with (data_dir / "postgresql.conf").open("a") as conf:
            conf.write(f"unix_socket_directories = '{place.root}'\n")
        start_server(place, data_dir, QUICKLY)
        contender = CONTENDERS[program](Site(place, data_dir, store.bucket, PROCESSES, NO_TAIL))
        set_archive_command(place, data_dir, contender.prepare())
        contender.backup()
        write_wal(place, bench)
        if wait_archived(data_dir, bench.give_up_s) is None:
            raise ScriptError(f"it did not archive the WAL in {bench.give_up_s:.0f} s")
        fingerprint = ask(place, base.query)
        contender.stop()
        stop_server(place, data_dir)
        target = place.directory("restored")
        os.sync()  # not behind the restore: what it has begun to fetch would come meanwhile
        prepared_s = contender.restore(target)
        figures = watch_recovery(place, target, prepared_s)
        if ask(place, base.query) != fingerprint:
            raise ScriptError("what was recovered is not what was there")
        stop_server(place, target)
    case = Case("replay", f"pgbench, {bench.replay_segments} segments", store_name)
    bench.note(case, program, figures)


def write_wal(place: Workplace, bench: Bench) -> None:
    begin = ask(place, "SELECT pg_current_wal_lsn()")
    turn = 0
    while ask(place, WRITTEN.format(begin, bench.replay_segments)) != "t":
        turn += 1
        work(place, bench.seed + turn)
    ask(place, END_OF_WAL)


def watch_recovery(place: Workplace, target: Path, prepared_s: float) -> dict[str, float]:
    """Start a restored cluster; from its first look at WAL until it is open for writing.

    The seconds in which the restore prepared that count as if PostgreSQL had waited for them.
    """
    start_server(place, target, "-c archive_mode=off", wait=False)
    deadline = time.monotonic() + STARTED_S
    while (startup := find_child(target, "startup")) is None:
        if time.monotonic() > deadline:
            raise ScriptError(f"no recovery began:\n{tail_of(place, target)}")
    began = last = time.monotonic()
    waits = [0.0]
    while (is_wait := is_waiting(startup)) is not None and last - began < RECOVERED_S:
        time.sleep(SAMPLE_S)
        now = time.monotonic()
        if is_wait:
            waits[-1] += now - last
        elif waits[-1]:
            waits.append(0.0)
        last = now
    while (state := ask_recovery(place)) != "f":
        if time.monotonic() > last + STARTED_S:
            raise ScriptError(f"the recovery ended with {state}:\n{tail_of(place, target)}")
        time.sleep(0.1)
    took_s = prepared_s + last - began
    restored = (place.root / f"{target.name}.log").read_text().count("restored log file")
    waits[0] += prepared_s
    waited_s = sum(waits)
    figures = {"replay_s": took_s, "waited_s": waited_s, "wait_share": waited_s / took_s}
    figures |= {"fetched": restored, "segments_per_s": restored / took_s}
    return figures | share_out(waits)


def share_out(waits: list[float]) -> dict[str, float]:
    """What the waiting was for, hook by hook as they came.

    The first and the last few find the path, start what prefetches and look for the end. Between
    them ``hook_ms`` is the usual one, a hook that finds its segment there; what others took beyond
    that is ``late_s``: the segment was not there yet, or the machine was busy.
    """
    first, usual, last = waits[:EDGE], waits[EDGE:-EDGE], waits[-EDGE:]
    hook_s = statistics.median(usual) if usual else 0.0
    late_s = sum(max(0.0, wait - hook_s) for wait in usual)
    return {
        "start_s": sum(first),
        "hook_ms": hook_s * 1000,
        "hooks_s": sum(usual) - late_s,
        "late_s": late_s,
        "end_s": sum(last),
    }


def is_waiting(pid: int) -> bool | None:
    """Whether a process waits for a child of its own; None when it is gone."""
    try:
        return Path(f"/proc/{pid}/wchan").read_text() == "do_wait"
    except (FileNotFoundError, ProcessLookupError):
        return None


def ask_recovery(place: Workplace) -> str:
    with contextlib.suppress(ScriptError):  # it may not listen yet
        return ask(place, "SELECT pg_is_in_recovery()")
    return "no answer"


def tail_of(place: Workplace, target: Path) -> str:
    return (place.root / f"{target.name}.log").read_text(errors="replace")[-2000:]
