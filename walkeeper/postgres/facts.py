"""What a server says about itself, as values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from walkeeper.core.wal import SegmentSize
from walkeeper.errors import PostgresError


@dataclass(frozen=True, slots=True)
class ServerFacts:
    """A server and its settings at one moment; paths are the server's own."""

    version_num: int
    system_identifier: int
    data_directory: Path
    config_file: Path
    hba_file: Path
    ident_file: Path
    in_recovery: bool
    postmaster_started_at: datetime
    timeline: int
    archive_mode: str
    archive_command: str
    archive_library: str
    archive_timeout: timedelta
    wal_level: str
    max_wal_senders: int
    segment_size: SegmentSize
    block_size: int
    data_checksums: bool

    @property
    def major(self) -> int:
        """The major version: 15 for 15.18."""
        return self.version_num // 10_000


def parse_facts(
    settings: Mapping[str, str],
    *,
    system_identifier: int,
    in_recovery: bool,
    postmaster_started_at: datetime,
    timeline: int,
) -> ServerFacts:
    """Make facts of rows of pg_settings (values in the setting's base unit).

    Raises PostgresError naming what the role was not shown.
    """
    try:
        return ServerFacts(
            version_num=int(settings["server_version_num"]),
            system_identifier=system_identifier,
            data_directory=Path(settings["data_directory"]),
            config_file=Path(settings["config_file"]),
            hba_file=Path(settings["hba_file"]),
            ident_file=Path(settings["ident_file"]),
            in_recovery=in_recovery,
            postmaster_started_at=postmaster_started_at,
            timeline=timeline,
            archive_mode=settings["archive_mode"],
            archive_command=settings["archive_command"],
            archive_library=settings.get("archive_library", ""),  # since 15
            archive_timeout=timedelta(seconds=int(settings["archive_timeout"])),
            wal_level=settings["wal_level"],
            max_wal_senders=int(settings["max_wal_senders"]),
            segment_size=SegmentSize(int(settings["wal_segment_size"])),
            block_size=int(settings["block_size"]),
            data_checksums=settings["data_checksums"] == "on",
        )
    except KeyError as error:
        raise PostgresError(
            f"the role of the dsn may not see the setting {error.args[0]}",
            hint="GRANT pg_monitor TO the role, or use a superuser",
        ) from None
