"""PostgreSQL servers of the scripts: started, asked, stopped."""

import os
import signal
import time
from collections.abc import Iterable
from pathlib import Path

from scratch import ScriptError, Workplace


def make_cluster(place: Workplace, data_dir: Path, settings: str, *options: str) -> None:
    """A new cluster with data checksums, not started."""
    words = " ".join(["-U postgres -A trust -k -E UTF8 --locale=C", *options])
    place.run(["pg_ctl", "-s", "initdb", "-D", data_dir, "-o", words])
    with (data_dir / "postgresql.conf").open("a") as conf:
        conf.write(settings)


def start_server(place: Workplace, data_dir: Path, options: str = "", *, wait: bool = True) -> None:
    log = place.root / f"{data_dir.name}.log"
    argv: list[str | Path] = ["pg_ctl", "-s", "-D", data_dir, "-l", log, "-o", options, "-t", "600"]
    place.run([*argv, "-w" if wait else "-W", "start"])


def stop_server(place: Workplace, data_dir: Path) -> None:
    place.run(["pg_ctl", "-s", "-D", data_dir, "-m", "fast", "-t", "600", "stop"])


def ask(place: Workplace, query: str) -> str:
    return place.run(["psql", "-XAtc", query]).strip()


def find_postmaster(data_dir: Path) -> int:
    return int((data_dir / "postmaster.pid").read_text().split("\n", 1)[0])


def count_ready(data_dir: Path) -> int:
    """How many WAL files wait to be archived."""
    return len(list((data_dir / "pg_wal/archive_status").glob("*.ready")))


def hold_back(data_dir: Path) -> list[str]:
    """Let nothing wait to be archived; returns the names of what did."""
    waiting = sorted((data_dir / "pg_wal/archive_status").glob("*.ready"))
    for path in waiting:
        path.rename(path.with_suffix(".done"))
    return [path.stem for path in waiting]


def offer(data_dir: Path, names: Iterable[str]) -> None:
    """Let these wait to be archived, and wake the archiver up; the server runs."""
    status = data_dir / "pg_wal/archive_status"
    for name in names:
        (status / f"{name}.done").rename(status / f"{name}.ready")
    os.kill(find_postmaster(data_dir), signal.SIGHUP)


def set_archive_command(place: Workplace, data_dir: Path, command: str) -> None:
    quoted = command.replace("'", "''")
    place.run(["psql", "-Xqc", f"ALTER SYSTEM SET archive_command = '{quoted}'"])
    os.kill(find_postmaster(data_dir), signal.SIGHUP)


def wait_archived(data_dir: Path, within_s: float) -> float | None:
    """Seconds until nothing waits to be archived; None when that takes too long."""
    began = time.monotonic()
    while count_ready(data_dir):
        if time.monotonic() - began > within_s:
            return None
        time.sleep(0.02)
    return time.monotonic() - began


def warm_up(place: Workplace, data_dir: Path, within_s: float) -> None:
    """Have one segment archived, so that whatever happens once has happened."""
    ask(place, "SELECT txid_current()")
    ask(place, "SELECT pg_switch_wal()")
    if wait_archived(data_dir, within_s) is None:
        raise ScriptError(f"nothing was archived in {within_s:.0f} s")


def size_of(data_dir: Path) -> int:
    """Bytes of the files of a cluster, its WAL left out."""
    total = 0
    for folder, below, names in os.walk(data_dir):
        if "pg_wal" in below:
            below.remove("pg_wal")
        total += sum((Path(folder) / name).lstat().st_size for name in names)
    return total
