"""What the bench asks of a program, and where the program is to work."""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from scratch import ScriptError, Workplace

ZSTD_LEVEL = 1
PROCESSES = 2


@dataclass(frozen=True, slots=True)
class Bucket:
    """An S3 bucket on loopback; without one the repository is a directory."""

    port: int
    name: str
    access_key: str
    secret_key: str
    ca_file: Path
    tls: bool = True

    @property
    def endpoint(self) -> str:
        return f"http{'s' if self.tls else ''}://localhost:{self.port}"


@dataclass(frozen=True, slots=True)
class Site:
    """A directory for the program's own files, the cluster it works on, and where it stores.

    ``processes`` is how much it may do at once (0: its own default), ``more`` further lines of
    walkeeper's configuration.
    """

    place: Workplace
    data_dir: Path
    bucket: Bucket | None = None
    processes: int = 0
    more: str = ""

    @property
    def socket_dir(self) -> str:
        return self.place.environment["PGHOST"]


class CannotCompareError(ScriptError):
    """This program cannot do this; the message says why."""


class Contender(Protocol):
    """A program that archives, backs up and restores the cluster of its site."""

    name: str

    def __init__(self, site: Site) -> None:
        """Raises CannotCompareError where it cannot use the store."""

    def prepare(self) -> str:
        """Make repository and services ready while nothing is archived; the archive_command."""

    def backup(self) -> None:
        """Take a full base backup."""

    def stop(self) -> None:
        """End what runs beside PostgreSQL."""

    def restore(self, target: Path) -> float:
        """Rebuild the newest state in a new directory, ready to be started.

        Returns how many seconds of it went into the first WAL that a recovery asks for.
        """

    def belongs(self, argv: list[str]) -> bool:
        """Whether a process is one of this program."""
