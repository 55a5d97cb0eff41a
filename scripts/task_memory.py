"""Memory: the agent at rest, and with sixteen uploads at once. No peer has a process to compare."""

import time
from contextlib import ExitStack

from contender import Site
from contender_walkeeper import Walkeeper
from datasets import Dataset
from figures import US, Case
from gauge import read_memory
from scratch import ScriptError, open_workplace
from server import (
    offer,
    set_archive_command,
    start_server,
    stop_server,
    wait_archived,
    warm_up,
)
from settings import MIB, Bench
from stores import open_store
from task_archive import NO_TAIL

UPLOADS = 16
CALM_S = 3.0


def run_memory(bench: Bench, dataset: Dataset, store_name: str) -> None:
    """What is resident before, at most during, and after a backlog. Raises ScriptError."""
    user, parent = bench.run_user, bench.work_dir
    with ExitStack() as stack:
        store = stack.enter_context(open_store(store_name, user, parent))
        place = stack.enter_context(open_workplace("walkeeper-memory-", user, parent))
        place.environment["PGHOST"] = str(dataset.place.root)
        more = f"{NO_TAIL}\n[archive]\nuploads = {UPLOADS}\n"
        walkeeper = Walkeeper(Site(place, dataset.data_dir, store.bucket, more=more))
        dataset.rewind()
        start_server(dataset.place, dataset.data_dir)
        command = walkeeper.prepare()
        set_archive_command(place, dataset.data_dir, command)
        warm_up(place, dataset.data_dir, bench.give_up_s)
        time.sleep(CALM_S)
        idle = read_memory(walkeeper.agent_pid)
        offer(dataset.data_dir, dataset.segments)
        if wait_archived(dataset.data_dir, bench.give_up_s) is None:
            raise ScriptError(f"the backlog was not archived in {bench.give_up_s:.0f} s")
        time.sleep(CALM_S)
        after = read_memory(walkeeper.agent_pid)
        walkeeper.stop()
        stop_server(dataset.place, dataset.data_dir)
    figures = {
        "idle_mib": idle.now / MIB,
        "idle_own_mib": idle.own / MIB,
        "busy_mib": after.peak / MIB,
        "after_mib": after.now / MIB,
    }
    bench.note(Case("memory", f"{dataset.wal}, {UPLOADS} uploads", store_name), US, figures)
