"""What the hooks ask, typed: the fields that hooks/wire.py lists."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Self

from walkeeper.agent.control_request import Request


@dataclass(frozen=True, slots=True)
class FileIdentity:
    """Device and inode: which file or directory it is, whatever path led there."""

    device: int
    inode: int


@dataclass(frozen=True, slots=True)
class WalPushRequest:
    """A WAL file offered for archiving.

    ``directory`` identifies the directory that holds it: only the agent's own pg_wal is served.
    ``timeout_s`` is how long the hook will still wait.
    """

    path: Path
    directory: FileIdentity
    file: FileIdentity
    size_bytes: int
    mtime_ns: int
    timeout_s: float

    @classmethod
    def parse(cls, request: Request) -> Self:
        """Reads the request. Raises UsageError when a field is missing or malformed."""
        return cls(
            path=request.path("path"),
            directory=FileIdentity(request.number("dir_dev"), request.number("dir_ino")),
            file=FileIdentity(request.number("dev"), request.number("ino")),
            size_bytes=request.number("size"),
            mtime_ns=request.number("mtime_ns"),
            timeout_s=request.number("timeout_ms") / 1000,
        )


@dataclass(frozen=True, slots=True)
class WalFetchRequest:
    """A WAL file asked for; the descriptor to write into is the request's own.

    ``temporary`` is the name of that descriptor's file, if another file may take its place there.
    ``timeline`` and ``end`` are text as given to the hook, which sends them only while
    recovery.signal exists, never in standby mode and never for a history file. ``present``: the
    directory of ``path`` already holds a file called ``name``. ``run`` differs from one run of its
    server to the next. ``guard`` refuses WAL whose replay creates a tablespace where another
    cluster has files.
    """

    name: str
    path: Path
    data_directory: FileIdentity
    standby: bool
    recovery: bool
    present: bool
    timeout_s: float
    timeline: str | None
    end: str | None
    run: str
    guard: bool
    temporary: Path | None

    @classmethod
    def parse(cls, request: Request) -> Self:
        """Reads the request. Raises UsageError when a field is missing or malformed."""
        return cls(
            name=request.text("name"),
            path=request.path("path"),
            data_directory=FileIdentity(request.number("data_dev"), request.number("data_ino")),
            standby=request.flag("standby"),
            recovery=request.flag("recovery"),
            present=request.flag("present"),
            timeout_s=request.number("timeout_ms") / 1000,
            timeline=request.optional_text("timeline"),
            end=request.optional_text("end"),
            run=request.optional_text("run") or "",
            guard=request.optional_text("guard") == "1",
            temporary=request.path("temporary") if "temporary" in request.fields else None,
        )
