"""A drill as the configuration has it: for the command line and for the scheduler."""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final
from urllib.parse import unquote, urlsplit

from walkeeper.agent.compose import Workshop
from walkeeper.agent.drill_fetch import serve_drill
from walkeeper.agent.program import find_program
from walkeeper.config import Config, DrillConfig
from walkeeper.core.backup_id import BackupId
from walkeeper.core.target import RecoveryRequest
from walkeeper.repository.archive import Archive
from walkeeper.repository.drills import DrillStore
from walkeeper.services.drill import Drill, DrillSettings
from walkeeper.services.drill_boot import BootSettings
from walkeeper.services.drill_report import DrillReport
from walkeeper.services.drill_server import ServerLimits
from walkeeper.services.drill_sql import SqlCheck
from walkeeper.services.restore import RestoreProgress

_USER_OF_KEYWORDS: Final = re.compile(r"(?:^|\s)user\s*=\s*'?([^'\s]+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class DrillWish:
    """What is asked for; ``request`` None draws a point by chance."""

    request: RecoveryRequest | None
    backup: BackupId | None = None
    keep: bool = False


def configured_request(config: Config) -> RecoveryRequest | None:
    """The point that ``[drill] target`` names; None is one by chance."""
    return None if config.drill.target == "random" else RecoveryRequest()


async def run_drill(
    shop: Workshop,
    archive: Archive,
    wish: DrillWish,
    progress: Callable[[RestoreProgress], None],
) -> DrillReport:
    """Make one drill; raises what `Drill.run` raises."""
    config = shop.config
    settings = DrillSettings(
        scratch_dir=config.drill.scratch_dir or config.agent.state_dir / "drill",
        boot=_boot_settings(config.drill, config.drill.role or role_of(config)),
        request=wish.request,
        backup=wish.backup,
        max_bytes=config.drill.max_size,
        bin_dir=config.drill.bin_dir,
        keep=wish.keep,
    )
    drill = Drill(
        archive=archive,
        backups=shop.backups(archive),
        store=DrillStore(archive, shop.pool),
        pool=shop.pool,
        settings=settings,
        open_fetch=partial(serve_drill, archive, shop.pool, config.fetch, find_program()),
        progress=progress,
        chance=secrets.randbelow,
    )
    return await drill.run()


def _boot_settings(config: DrillConfig, role: str) -> BootSettings:
    return BootSettings(
        role=role,
        limits=ServerLimits(config.memory, config.preload),
        recovery_timeout_s=config.recovery_timeout,
        check_timeout_s=config.check_timeout,
        checks=tuple(
            SqlCheck(
                sql=check.sql,
                database=check.database,
                expect=check.expect,
                least=check.min,
                most=check.max,
            )
            for check in config.checks
        ),
    )


def role_of(config: Config) -> str:
    """The role that the dsn names, else postgres: it asks a restored server how far it is."""
    dsn = config.cluster.dsn
    if dsn is None:
        return "postgres"
    text = dsn.reveal()
    if "://" in text:
        return unquote(urlsplit(text).username or "") or "postgres"
    match = _USER_OF_KEYWORDS.search(text)
    return "postgres" if match is None else match[1]
