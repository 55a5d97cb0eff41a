"""What each option alone cannot show: values out of range, and options that contradict."""

from __future__ import annotations

import math
from typing import Final

from walkeeper.config import (
    AgentConfig,
    Config,
    RepositoryConfig,
    RetentionConfig,
    ScheduleConfig,
)
from walkeeper.config_alerts import check_alerts
from walkeeper.core.layout import ARCHIVE_NAME
from walkeeper.core.schedule import Schedule

_MIB: Final = 1024**2
_MIN_MEMORY: Final = 16 * _MIB
"""One segment of PostgreSQL's default size must fit."""
_MIN_PART: Final = 16 * _MIB
_MAX_PART: Final = 5 * 1024 * _MIB
"""The largest object that S3 takes in one piece."""
_MIN_INTERVAL: Final = 0.2
_MAX_INTERVAL: Final = 600
_MAX_GRACE: Final = 3600
_MIN_LOOK: Final = 5
_MAX_LOOK: Final = 3600
_KEEP_ALL: Final = RetentionConfig()
_ANY_TIME: Final = "0 0 * * *"
_MAX_JITTER: Final = 86_400
_MAX_SOCKET_PATH: Final = 107
"""Bytes in sun_path without its NUL, unix(7)."""


def find_contradictions(config: Config) -> list[str]:
    """A sentence for each thing that is wrong with the values taken together."""
    problems = _check_repository(config.repository) + _check_encryption(config)
    archive = config.cluster.archive
    if archive is not None and ARCHIVE_NAME.fullmatch(archive) is None:
        problems.append("[cluster] archive: 1 to 63 of a-z, 0-9 and - are allowed")
    try:
        _ = config.cluster.accepted_gap
    except ValueError:
        problems.append("[cluster] accept_gap is no name of a WAL segment: 24 of 0-9 and A-F")
    if config.cluster.dsn is not None and not config.cluster.dsn.reveal():
        problems.append("[cluster] dsn is empty")
    if config.archive.memory < _MIN_MEMORY:
        problems.append('[archive] memory is under "16MiB", the size of one segment')
    interval = config.tail.interval
    if interval and not _MIN_INTERVAL <= interval <= _MAX_INTERVAL:
        problems.append('[tail] interval is neither "0s" nor between "200ms" and "10min"')
    if not _MIN_PART <= config.backup.part_size <= _MAX_PART:
        problems.append('[backup] part_size is not between "16MiB" and "5GiB"')
    problems += _check_retention(config.retention)
    problems += _check_schedule(config.schedule)
    if config.schedule.expire is not None and config.retention.window is None:
        problems.append("[schedule] expire does nothing without [retention] window")
    problems += _check_agent(config.agent) + _check_drill(config)
    return problems + check_alerts(config.alerts)


def _check_agent(agent: AgentConfig) -> list[str]:
    problems: list[str] = []
    if len(bytes(agent.socket)) > _MAX_SOCKET_PATH:
        problems.append(f"[agent] socket is over {_MAX_SOCKET_PATH} bytes, too long for a socket")
    guarded = agent.http_token_file is not None or agent.http_trusted_proxy
    if agent.http.is_on and not agent.http.is_loopback and not guarded:
        problems.append(
            f"[agent] http {agent.http} is open to others: it needs http_token_file, or "
            "http_trusted_proxy = true where only a proxy that asks who they are can reach it"
        )
    if not _MIN_LOOK <= agent.look_every <= _MAX_LOOK:
        problems.append('[agent] look_every is not between "5s" and "1h"')
    return problems


def _check_drill(config: Config) -> list[str]:
    problems: list[str] = []
    drill = config.drill
    for number, check in enumerate(drill.checks, 1):
        if check.expect is None and check.min is None and check.max is None:
            problems.append(f"[drill] checks: number {number} has none of expect, min and max")
        if any(bound is not None and math.isnan(bound) for bound in (check.min, check.max)):
            problems.append(f"[drill] checks: number {number} has a bound that is no number")
        if not check.sql.strip():
            problems.append(f"[drill] checks: number {number} has no sql")
    problems += [
        f"[drill] {name} must be longer than nothing"
        for name in ("recovery_timeout", "check_timeout")
        if getattr(drill, name) <= 0
    ]
    if drill.memory < _MIB:
        problems.append('[drill] memory is under "1MiB"')
    if any("," in name for name in drill.preload):
        problems.append("[drill] preload: each library is an entry of its own")
    return problems


def _check_repository(repository: RepositoryConfig) -> list[str]:
    problems: list[str] = []
    scheme, separator, place = repository.url.partition("://")
    if not separator or scheme not in {"s3", "file"} or not place:
        problems.append('[[repository]] url is neither "s3://bucket/prefix" nor "file:///path"')
    elif scheme == "file" and not place.startswith("/"):
        problems.append("[[repository]] url: a file URL has three slashes, file:///path")
    elif scheme == "file":
        problems += [
            f"[[repository]] {key} means nothing for a file URL"
            for key in ("endpoint_url", "region", "ca_file", "access_key_id_file")
            if getattr(repository, key) is not None
        ]
    if (repository.access_key_id_file is None) != (repository.secret_access_key_file is None):
        problems.append("[[repository]] access_key_id_file and secret_access_key_file go together")
    endpoint = repository.endpoint_url
    if endpoint is not None and not endpoint.startswith(("https://", "http://")):
        problems.append("[[repository]] endpoint_url begins with https:// or http://")
    problems += [
        f"[[repository]] {name} must be longer than nothing"
        for name in ("connect_timeout", "read_timeout", "deadline")
        if getattr(repository, name) <= 0
    ]
    return problems


def _check_retention(retention: RetentionConfig) -> list[str]:
    problems: list[str] = []
    given = [name for name in RetentionConfig.__struct_fields__ if name != "window"]
    changed = [name for name in given if getattr(retention, name) != getattr(_KEEP_ALL, name)]
    if retention.window is None and changed:
        problems.append(
            f"[retention] {changed[0]} means nothing without window: say in which time every "
            'moment must be recoverable, for instance window = "14d"'
        )
    if retention.grace > _MAX_GRACE:
        problems.append('[retention] grace is over "1h"')
    return problems


def _check_schedule(schedule: ScheduleConfig) -> list[str]:
    problems: list[str] = []
    if schedule.jitter > _MAX_JITTER:
        problems.append('[schedule] jitter is over "1d"')
    try:
        Schedule.parse(_ANY_TIME, schedule.timezone)
    except ValueError as error:
        return [*problems, f"[schedule] timezone: {error}"]
    for name in sorted({*ScheduleConfig.__struct_fields__} - {"timezone", "jitter"}):
        try:
            Schedule.parse(getattr(schedule, name) or _ANY_TIME, schedule.timezone)
        except ValueError as error:
            problems.append(f"[schedule] {name}: {error}")
    return problems


def _check_encryption(config: Config) -> list[str]:
    encryption = config.encryption
    problems: list[str] = []
    if bool(encryption.recipients) != (encryption.writer_key_file is not None):
        problems.append(
            "[encryption] recipients and writer_key_file go together: what is written is"
            " encrypted and signed"
        )
    if encryption.identity_file is not None and encryption.identity_command:
        problems.append("[encryption] has both identity_file and identity_command")
    return problems
