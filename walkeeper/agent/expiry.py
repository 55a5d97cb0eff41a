"""From ``[retention]`` to the service that applies it, for the agent's schedule and the command."""

from __future__ import annotations

from datetime import timedelta

from walkeeper.agent.compose import Workshop
from walkeeper.config import RetentionConfig
from walkeeper.core.retention_policy import RetentionPolicy
from walkeeper.errors import ConfigError
from walkeeper.repository.archive import Archive
from walkeeper.services.expire import ExpireService, ExpireSettings


def retention_policy(config: RetentionConfig) -> RetentionPolicy:
    """The policy; raises ConfigError when there is none: nothing is deleted unasked."""
    if config.window is None:
        raise ConfigError(
            "[retention] window is not set, so everything is kept: nothing was deleted",
            hint='say what to keep, for instance window = "14d" and weekly = "1y"',
        )
    return RetentionPolicy(
        window=timedelta(seconds=config.window),
        hourly=timedelta(seconds=config.hourly),
        daily=timedelta(seconds=config.daily),
        weekly=timedelta(seconds=config.weekly),
        monthly=timedelta(seconds=config.monthly),
        minimum_backups=config.minimum_backups,
    )


def expire_service(shop: Workshop, archive: Archive) -> ExpireService:
    """The service for an archive; raises ConfigError as `retention_policy`."""
    retention = shop.config.retention
    settings = ExpireSettings(retention_policy(retention), retention.grace)
    return ExpireService(shop.backups(archive), shop.pool, settings)
