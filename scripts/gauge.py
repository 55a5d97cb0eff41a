"""What a program costs: wall time, CPU time and memory of all its processes, read from /proc."""

import contextlib
import os
import resource
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from scratch import find_children

SAMPLE_S = 0.05
TICKS_PER_S = os.sysconf("SC_CLK_TCK")
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")

# Says of a process's arguments whether the process belongs to the program that is measured.
Belongs = Callable[[list[str]], bool]


@dataclass(frozen=True, slots=True)
class Usage:
    """The cost of one phase; ``peak_rss_bytes`` is the largest sum over processes at one moment.

    Pages that processes share count for each of them.
    """

    wall_s: float
    cpu_s: float
    peak_rss_bytes: int


class Gauge:
    """Measures between entering and leaving; ``usage`` is there afterwards.

    Counted are the commands that we run, what they leave in the background (orphans come to us, see
    scratch.open_workplace), services that go on running, and what PostgreSQL's archiver starts.
    """

    def __init__(self, belongs: Belongs, data_dir: Path) -> None:
        self.usage = Usage(0.0, 0.0, 0)
        self._belongs = belongs
        self._archiver = find_child(data_dir, "archiver")
        self._peak_pages = 0
        self._over = threading.Event()
        self._sampler = threading.Thread(target=self._sample, daemon=True)
        self._finished_s: float | None = None

    def __enter__(self) -> Self:
        reap_orphans()
        self._alive = self._alive_cpu_s()
        self._hooks_s = self._archiver_children_s()
        self._reaped_s = reaped_cpu_s()
        self._sampler.start()
        self._began = time.monotonic()
        return self

    def stop_clock(self) -> None:
        """The work is done for the one who waits; the program may still tidy up behind it."""
        self._finished_s = time.monotonic() - self._began

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._finished_s is None:
            self.stop_clock()
        self._over.set()
        self._sampler.join()
        if error is None:
            self.usage = Usage(
                self._finished_s or 0.0, self._cpu_s(), self._peak_pages * PAGE_BYTES
            )

    def _cpu_s(self) -> float:
        reap_orphans()
        services = sum(
            seconds - self._alive.get(pid, 0.0) for pid, seconds in self._alive_cpu_s().items()
        )
        hooks = self._archiver_children_s() - self._hooks_s
        return services + hooks + reaped_cpu_s() - self._reaped_s

    def _alive_cpu_s(self) -> dict[int, float]:
        """CPU seconds of each living process of the program, children that it waited for included.

        Not of children of a living one that live themselves: each is counted under its own number.
        """
        return {pid: sum(read_times(pid)) for pid in self._find_processes()}

    def _archiver_children_s(self) -> float:
        return read_times(self._archiver)[1] if self._archiver else 0.0

    def _find_processes(self) -> list[int]:
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                argv = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
                if argv[0] and self._belongs(argv):
                    found.append(int(entry.name))
        return found

    def _sample(self) -> None:
        while not self._over.wait(SAMPLE_S):
            pages = 0
            for pid in self._find_processes():
                with contextlib.suppress(OSError, IndexError):
                    pages += int(Path(f"/proc/{pid}/statm").read_text().split()[1])
            self._peak_pages = max(self._peak_pages, pages)


def read_times(pid: int) -> tuple[float, float]:
    """CPU seconds of a process itself, and of the children that it has waited for (proc(5))."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    except OSError:
        return 0.0, 0.0
    own, children = (int(fields[at]) + int(fields[at + 1]) for at in (11, 13))
    return own / TICKS_PER_S, children / TICKS_PER_S


def reaped_cpu_s() -> float:
    """CPU seconds of all our children that have ended and were waited for."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def reap_orphans() -> None:
    """Wait for whatever has come to us and has ended; their times are in reaped_cpu_s() then."""
    for pid in find_children():
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)


def find_child(data_dir: Path, kind: str) -> int | None:
    """The process of this cluster's server that does one thing; None while there is no server."""
    try:
        postmaster = (data_dir / "postmaster.pid").read_text().split("\n", 1)[0]
    except FileNotFoundError:
        return None
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            parent = (entry / "stat").read_text().rpartition(") ")[2].split()[1]
            if parent == postmaster and kind.encode() in (entry / "cmdline").read_bytes():
                return int(entry.name)
    return None


@dataclass(frozen=True, slots=True)
class Resident:
    """Bytes of a process that are in memory now, at most so far, and now of its own.

    The rest of what it has now are pages of programs and libraries as they lie in their files,
    which it shares with whoever runs them, and which the system takes back when it needs them.
    """

    now: int
    peak: int
    own: int


def read_memory(pid: int) -> Resident:
    """See proc(5): VmRSS, VmHWM and RssAnon."""
    found = {}
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        key, _, value = line.partition(":")
        if key in {"VmRSS", "VmHWM", "RssAnon"}:
            found[key] = int(value.split()[0]) * 1024
    return Resident(found["VmRSS"], found["VmHWM"], found["RssAnon"])
