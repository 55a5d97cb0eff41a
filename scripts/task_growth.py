"""Growth: push, status, backups and a plan while the archive holds more and more segments.

What fills the archive are hard links to one stored segment under the names of others: listings
cannot tell them from segments, and nothing here reads them. PostgreSQL is moved on behind them with
pg_resetwal, and then archives and backs up as ever.
"""

import os
import shutil
import statistics
import time
from pathlib import Path

from contender import PROCESSES, Site
from contender_walkeeper import Walkeeper
from datasets import NAME_LENGTH
from figures import US, Case
from scratch import ScriptError, Workplace, open_workplace
from server import (
    ask,
    count_ready,
    hold_back,
    make_cluster,
    offer,
    set_archive_command,
    start_server,
    stop_server,
    wait_archived,
    warm_up,
)
from settings import MIB, Bench
from task_archive import NO_TAIL, SEGMENT_BYTES

SETTINGS = """
listen_addresses = ''
unix_socket_directories = '{root}'
max_wal_size = '4GB'
wal_keep_size = '200GB'
autovacuum = off
archive_mode = on
archive_command = ''
fsync = off
synchronous_commit = off
"""
WORK = """
DROP TABLE IF EXISTS work;
CREATE TABLE work AS SELECT number, md5(number::text) FROM generate_series(1, 1000000) AS number
"""
A_LOG = 256  # segments of 16 MiB in what their names call a log: 4 GiB
LINKS = 60_000  # ext4 allows 65,000 names for one file
BACKLOG = 32
ASKED = 3


def run_growth(bench: Bench) -> None:
    """One archive that grows from step to step. Raises ScriptError."""
    with open_workplace("walkeeper-growth-", bench.run_user, bench.work_dir) as place:
        data_dir = place.root / "data"
        make_cluster(place, data_dir, SETTINGS.format(root=place.root))
        start_server(place, data_dir)
        walkeeper = Walkeeper(Site(place, data_dir, processes=PROCESSES, more=NO_TAIL))
        command = walkeeper.prepare()
        set_archive_command(place, data_dir, command)
        walkeeper.backup()
        for number in bench.growth:
            walkeeper.stop()
            stop_server(place, data_dir)
            fill(place, number)
            skip(place, data_dir)
            grown(bench, place, walkeeper, command, number)


def grown(bench: Bench, place: Workplace, walkeeper: Walkeeper, command: str, number: int) -> None:
    """What it is like with so many segments."""
    data_dir = place.root / "data"
    start_server(place, data_dir)
    set_archive_command(place, data_dir, "")
    while count_ready(data_dir) < BACKLOG:
        ask(place, WORK)
    waiting = hold_back(data_dir)
    walkeeper.start_agent()
    set_archive_command(place, data_dir, command)
    warm_up(place, data_dir, bench.give_up_s)
    offer(data_dir, waiting)
    took_s = wait_archived(data_dir, bench.give_up_s)
    if took_s is None:
        raise ScriptError(f"the backlog was not archived in {bench.give_up_s:.0f} s")
    walkeeper.backup()
    wait_archived(data_dir, bench.give_up_s)
    plan = ["walkeeper", "restore", "--plan", "--target-dir", str(place.root / "nowhere")]
    oldest = min(path.name for path in (archive_of(place) / "backups").iterdir())
    figures = {
        "push_mib_per_s": len(waiting) * SEGMENT_BYTES / MIB / took_s,
        "first_status_s": time_command(place, ["walkeeper", "status"]),
        "status_s": median_time(place, ["walkeeper", "status"]),
        "backups_s": median_time(place, ["walkeeper", "backups"]),
        "plan_s": median_time(place, plan),
        "plan_of_oldest_s": time_command(place, [*plan, "--backup", oldest]),
    }
    bench.note(Case("growth", f"{number:,} segments", "file"), US, figures)


def median_time(place: Workplace, argv: list[str]) -> float:
    return statistics.median(time_command(place, argv) for _ in range(ASKED))


def time_command(place: Workplace, argv: list[str]) -> float:
    """Seconds of a command from start to end; 3 is an end with findings."""
    began = time.monotonic()
    place.run(["sh", "-c", '"$@" || [ $? = 3 ]', "sh", *argv])
    return time.monotonic() - began


def archive_of(place: Workplace) -> Path:
    """The only archive of the repository."""
    return next(path.parent for path in (place.root / "repository").glob("*/archive.json"))


def fill(place: Workplace, number: int) -> None:
    """Make the archive hold so many segments, without a gap."""
    wal = archive_of(place) / "wal/00000001"
    stored = sorted(path for path in wal.glob("*/*.zst.age") if len(path.name) == NAME_LENGTH + 8)
    source, last = stored[0], segment_number(stored[-1].name)
    for one in range(last + 1, last + 1 + number - len(stored)):
        folder = wal / f"{one // A_LOG:08X}"
        if not folder.exists():
            folder.mkdir(mode=0o700)
            place.give_away(folder)
        if source.stat().st_nlink > LINKS:
            source = copy_of(place, source)
        os.link(source, folder / f"{segment_name(one)}.zst.age")


def copy_of(place: Workplace, source: Path) -> Path:
    """The same bytes as another file, which has no name in the archive."""
    fresh = place.root / "fresh"
    shutil.copy2(source, fresh)
    place.give_away(fresh)
    return fresh.replace(place.root / "spare")


def skip(place: Workplace, data_dir: Path) -> None:
    """Let the server go on behind the last segment of the archive."""
    folders = (archive_of(place) / "wal/00000001").iterdir()
    last = max(path.name[:NAME_LENGTH] for path in max(folders).iterdir())
    behind = segment_name(segment_number(last) + 1)
    place.run(["pg_resetwal", "-f", "-l", behind, "-D", data_dir])


def segment_number(name: str) -> int:
    """Segments of a timeline counted from LSN 0."""
    return int(name[8:16], 16) * A_LOG + int(name[16:24], 16)


def segment_name(number: int) -> str:
    """On timeline 1, for segments of 16 MiB."""
    return f"00000001{number // A_LOG:08X}{number % A_LOG:08X}"
