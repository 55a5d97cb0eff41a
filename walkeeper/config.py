"""The configuration: one frozen struct for each section of walkeeper.toml, defaults included.

``config_load.load_config`` makes it. Seen only by the command line and the agent, which pass to
each service what it needs. ``conf/walkeeper.toml`` explains every option and is checked against
these structs by a test.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import msgspec

from walkeeper.config_alerts import AlertsConfig
from walkeeper.config_values import Dsn, Duration, Listen, Share, Size
from walkeeper.core.wal import WalSegment
from walkeeper.errors import ConfigError
from walkeeper.hooks.wire import DEFAULT_SOCKET

Level = Annotated[int, msgspec.Meta(ge=1, le=19)]
"""A zstd level; from 20 on the window is over the 8 MiB that a reader must allow for."""


class ClusterConfig(msgspec.Struct, frozen=True, kw_only=True):
    """``[cluster]``: the PostgreSQL cluster. A host that only restores leaves out the dsn.

    ``accept_gap`` names a stored segment behind which WAL was lost for good.
    """

    dsn: Dsn | None = None
    archive: str | None = None
    data_directory: Path | None = None
    accept_gap: str | None = None

    @property
    def accepted_gap(self) -> WalSegment | None:
        """``accept_gap`` as a segment."""
        return None if self.accept_gap is None else WalSegment.parse(self.accept_gap)


class RepositoryConfig(msgspec.Struct, frozen=True, kw_only=True):
    """``[[repository]]``: where the archive is kept. Times are seconds.

    ``deadline`` is how long one operation is tried again before its failure is believed.
    """

    url: str
    endpoint_url: str | None = None
    region: str | None = None
    addressing_style: Literal["auto", "path", "virtual"] = "auto"
    ca_file: Path | None = None
    access_key_id_file: Path | None = None
    secret_access_key_file: Path | None = None
    connect_timeout: Duration = Duration(5)
    read_timeout: Duration = Duration(30)
    deadline: Duration = Duration(120)


class EncryptionConfig(msgspec.Struct, frozen=True, kw_only=True):
    """``[encryption]``: recipients and the writer key to write, an identity to read."""

    recipients: tuple[str, ...] = ()
    writer_key_file: Path | None = None
    identity_file: Path | None = None
    identity_command: tuple[str, ...] = ()
    writers: tuple[str, ...] = ()


class AgentConfig(msgspec.Struct, frozen=True, kw_only=True):
    """``[agent]``: where it listens and keeps what it may lose.

    ``http`` is for people and monitoring, read-only. Beyond loopback it asks for the token in
    ``http_token_file``, unless ``http_trusted_proxy`` says that a reverse proxy asks already.
    ``look_every``: how often the archive is looked at for it, in seconds.
    """

    socket: Path = Path(DEFAULT_SOCKET)
    state_dir: Path = Path("/var/lib/walkeeper")
    http: Listen = Listen("127.0.0.1:9188")
    http_token_file: Path | None = None
    http_trusted_proxy: bool = False
    look_every: Duration = Duration(600)


class ArchiveConfig(msgspec.Struct, frozen=True, kw_only=True):
    """``[archive]``: how WAL goes up. ``memory`` bounds the ciphertext held at once."""

    level: Level = 1
    uploads: Annotated[int, msgspec.Meta(ge=1, le=64)] = 4
    memory: Size = Size(48 * 1024**2)


class TailConfig(msgspec.Struct, frozen=True, kw_only=True):
    """``[tail]``: how often the growing segment is shipped, in seconds; 0 turns it off."""

    interval: Duration = Duration(1)


class BackupConfig(msgspec.Struct, frozen=True, kw_only=True):
    """``[backup]``: how base backups are taken. ``part_size`` is before compression.

    ``wal_patience``: how long nothing of the backup's own WAL may arrive before it is given up.
    """

    readers: Annotated[int, msgspec.Meta(ge=1, le=64)] = 2
    part_size: Size = Size(512 * 1024**2)
    level: Level = 1
    wal_patience: Duration = Duration(300)


class VerifyConfig(msgspec.Struct, frozen=True, kw_only=True):
    """``[verify]``: how the archive is read through.

    ``sample`` is the share that a scheduled run reads; ``parallel`` objects are read at once.
    """

    sample: Share = Share(0.05)
    parallel: Annotated[int, msgspec.Meta(ge=1, le=64)] = 4


class ScheduleConfig(msgspec.Struct, frozen=True, kw_only=True):
    """``[schedule]``: when the agent does what by itself, as cron expressions; None is never."""

    backup: str | None = None
    verify: str | None = None
    drill: str | None = None
    expire: str | None = None
    timezone: str = "UTC"
    jitter: Duration = Duration(0)


class FetchConfig(msgspec.Struct, frozen=True, kw_only=True):
    """``[fetch]``: how WAL comes back. ``prefetch`` counts segments; 0 turns it off."""

    prefetch: Annotated[int, msgspec.Meta(ge=0, le=64)] = 8


class RetentionConfig(msgspec.Struct, frozen=True, kw_only=True):
    """``[retention]``: what `expire` keeps, in seconds; without ``window`` it deletes nothing.

    ``grace`` lies between marking a backup and deleting it.
    """

    window: Duration | None = None
    hourly: Duration = Duration(0)
    daily: Duration = Duration(0)
    weekly: Duration = Duration(0)
    monthly: Duration = Duration(0)
    minimum_backups: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 2
    grace: Duration = Duration(60)


class DrillCheckConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An entry of ``checks``: a query with one value as its result, and what that must be.

    ``expect`` is the value as PostgreSQL writes it; ``min`` and ``max`` bound it as a number.
    """

    sql: str
    database: str = "postgres"
    expect: str | None = None
    min: int | float | None = None
    max: int | float | None = None


class DrillConfig(msgspec.Struct, frozen=True, kw_only=True):
    """``[drill]``: how restores are tried out. Timeouts are seconds.

    ``scratch_dir`` None is a folder of ``[agent] state_dir``; ``memory`` are the shared buffers of
    the private server, ``preload`` the libraries that it loads.
    """

    scratch_dir: Path | None = None
    max_size: Size | None = None
    target: Literal["latest", "random"] = "latest"
    checks: tuple[DrillCheckConfig, ...] = ()
    recovery_timeout: Duration = Duration(86_400)
    check_timeout: Duration = Duration(3_600)
    memory: Size = Size(64 * 1024**2)
    preload: tuple[str, ...] = ()
    role: str | None = None
    bin_dir: Path | None = None


class LogConfig(msgspec.Struct, frozen=True, kw_only=True):
    """``[log]``: what goes to standard error, and how."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "json", "console"] = "auto"


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """The whole configuration, checked. ``repositories`` holds exactly one entry for now."""

    repositories: tuple[RepositoryConfig, ...]
    cluster: ClusterConfig = ClusterConfig()
    encryption: EncryptionConfig = EncryptionConfig()
    agent: AgentConfig = AgentConfig()
    archive: ArchiveConfig = ArchiveConfig()
    tail: TailConfig = TailConfig()
    backup: BackupConfig = BackupConfig()
    fetch: FetchConfig = FetchConfig()
    verify: VerifyConfig = VerifyConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    retention: RetentionConfig = RetentionConfig()
    drill: DrillConfig = DrillConfig()
    alerts: AlertsConfig = AlertsConfig()
    log: LogConfig = LogConfig()

    @property
    def repository(self) -> RepositoryConfig:
        """The one repository."""
        return self.repositories[0]

    def require_dsn(self) -> Dsn:
        """How to connect to PostgreSQL. Raises ConfigError when the dsn was left out."""
        if self.cluster.dsn is None:
            raise ConfigError(
                "[cluster] dsn is missing",
                hint='set it, for instance to "postgresql://postgres@/postgres'
                '?host=/var/run/postgresql", or name a file with dsn_file',
            )
        return self.cluster.dsn

    def require_writer_key_file(self) -> Path:
        """The writer key's file. Raises ConfigError where nothing can be written.

        With it there are recipients too: loading has checked that.
        """
        if self.encryption.writer_key_file is None:
            raise ConfigError(
                "[encryption] recipients and writer_key_file are missing",
                hint="make them with: walkeeper keygen",
            )
        return self.encryption.writer_key_file
