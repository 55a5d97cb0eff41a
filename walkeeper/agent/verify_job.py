"""Verifying as the configuration wants it, for the agent's schedule and the command alike."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from typing import Final

from walkeeper.agent.compose import Workshop
from walkeeper.agent.state_file import keep_state, read_state
from walkeeper.core.backup_id import BackupId
from walkeeper.core.read_cycle import ReadCycle
from walkeeper.repository.archive import Archive
from walkeeper.services.verify import Verifier, VerifySettings
from walkeeper.services.verify_report import VerifyProgress, VerifyReport

_SEED_BYTES: Final = 8


async def run_verify(
    shop: Workshop,
    archive: Archive,
    progress: Callable[[VerifyProgress], None],
    *,
    share: float,
    quick: bool = False,
    backup: BackupId | None = None,
) -> VerifyReport:
    """Verify, or only one backup, and remember in ``state_dir`` what was read.

    Where that cannot be remembered the next sample is taken as if nothing had been read.
    """
    config = shop.config
    path = config.agent.state_dir / "verify" / f"{archive.record.archive}.json"
    loop = asyncio.get_running_loop()
    kept = await loop.run_in_executor(shop.pool, read_state, path, ReadCycle)
    cycle = kept or ReadCycle(seed=secrets.token_hex(_SEED_BYTES))
    verifier = Verifier(
        archive,
        shop.backups(archive),
        shop.pool,
        settings=VerifySettings(
            share=share, quick=quick, only=backup, parallel=config.verify.parallel
        ),
        cycle=cycle,
        progress=progress,
    )
    done = await verifier.run()
    if done.cycle != cycle:
        await keep_state(shop.pool, path, done.cycle)
    return done.report
