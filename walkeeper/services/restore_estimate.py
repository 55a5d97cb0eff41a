"""How long a restore will take, going by what drills took."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Final

import msgspec

from walkeeper.core.backup import BackupFacts
from walkeeper.core.lsn import Lsn
from walkeeper.repository.drills import DrillRecord

_FIXED: Final = ("plan", "try", "configure")
"""Phases that do not depend on how much there is to restore."""


class Estimate(msgspec.Struct, frozen=True, kw_only=True):
    """Expected seconds, in all and of each phase, from ``drills`` drills, the last at ``last_at``.

    ``recover_known`` is false where no drill tells how fast WAL is replayed.
    """

    seconds: float
    phases: dict[str, float]
    drills: int
    last_at: datetime
    recover_known: bool


def estimate(
    drills: Iterable[DrillRecord],
    backups: Mapping[str, BackupFacts],
    *,
    size_bytes: int,
    wal_bytes: int,
) -> Estimate | None:
    """For a backup of ``size_bytes`` and so many bytes of WAL; None without a drill that proved.

    Fetching is taken to cost the same for each byte of the backup, replay for each byte of WAL.
    """
    proofs = [one for one in drills if one.proven and one.size_bytes > 0]
    if not proofs:
        return None
    fetched = sum(one.size_bytes for one in proofs)
    replayed, replay_s = 0, 0.0
    for one in proofs:
        backup = backups.get(one.backup)
        if backup is not None and one.reached_lsn is not None:
            replayed += max(Lsn.parse(one.reached_lsn) - backup.start, 1)
            replay_s += one.seconds.get("recover", 0.0)
    # A server needs its time to start, however little there is to replay.
    least_s = min(one.seconds.get("recover", 0.0) for one in proofs)
    fetch_s = sum(one.seconds.get("fetch", 0.0) for one in proofs) * size_bytes / fetched
    recover_s = max(replay_s * wal_bytes / replayed if replayed else 0.0, least_s)
    phases = {
        "prepare": sum(one.seconds.get(name, 0.0) for one in proofs for name in _FIXED)
        / len(proofs),
        "fetch": fetch_s,
        "recover": recover_s,
    }
    return Estimate(
        seconds=round(sum(phases.values()), 1),
        phases={name: round(seconds, 1) for name, seconds in phases.items()},
        drills=len(proofs),
        last_at=max(one.at for one in proofs),
        recover_known=replayed > 0,
    )
