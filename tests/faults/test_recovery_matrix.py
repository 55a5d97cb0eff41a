"""Whatever the store does and whenever: a recovery ends where it should, or stops and says why.

It never promotes early. Each cell of {fault} x {moment} x {target} is one real recovery through the
restore_command that ``restore`` wrote. A recovery that stopped is begun again when the fault is
gone, and must then end where it should; a standby must live through what will pass.

The default run takes one target for each pair of fault and moment, so that every pair of any two
of the three is met. The others: ``scripts/test -m exhaustive``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.fix_postgres import wait_until
from tests.fix_recovery import TARGETS, Recovery, RecoveryBed, recovery_bed
from tests.fix_s3 import S3Server

ALWAYS = 1_000_000
ROWS = {"time": [1, 2, 3, 4, 5], "latest": [1, 2, 3, 4, 5, 6], "standby": [1, 2, 3, 4, 5, 6]}

# What the proxy does with requests for one object, and what the server's log says of it.
STORE_FAULTS: dict[str, tuple[dict[str, Any], str]] = {
    "refuses connections": ({"refuse": True}, "Could not connect"),
    "answers 500": ({"status": 500, "code": "InternalError"}, "500"),
    "answers 503": ({"status": 503, "code": "SlowDown"}, "503"),
    "hangs": ({"hang": True}, "Read timeout|no answer within"),
    "answers 403": ({"status": 403, "code": "AccessDenied"}, "403 AccessDenied"),
    "cuts bodies": ({"cut_body_at": 300}, ""),
    "answers 404 for a moment": ({"status": 404, "code": "NoSuchKey", "times": 1}, ""),
}
# What is done to one object in the bucket.
OBJECT_FAULTS = {
    "is damaged": "damaged",
    "is another object": "moved or swapped",
    "is sealed for another key": "none of the identities at hand opens it",
    "is missing": "is missing, and",
}
HEALS = {"cuts bodies", "answers 404 for a moment"}
"""Faults that a recovery does not even notice."""

MOMENTS = ("start", "middle", "last", "history", "promotion")
BEHIND_PROMOTION = {"cuts bodies", "answers 404 for a moment", *OBJECT_FAULTS}
"""What cannot happen to the probe for a timeline that does not exist."""


def cells() -> Iterator[Any]:
    for f, fault in enumerate([*STORE_FAULTS, *OBJECT_FAULTS]):
        for m, moment in enumerate(MOMENTS):
            if moment == "promotion" and fault in BEHIND_PROMOTION:
                continue
            targets = [one for one in TARGETS if (moment, one) != ("promotion", "standby")]
            for t, target in enumerate(targets):
                chosen = t == (f + m) % len(targets)
                marks = [] if chosen else [pytest.mark.exhaustive]
                yield pytest.param(fault, moment, target, marks=marks)


@pytest.fixture(scope="module")
def bed(walkeeper_bin: Path, moto: S3Server) -> Iterator[RecoveryBed]:
    """The archive and the restored directories; each has been recovered once without a fault."""
    with recovery_bed(walkeeper_bin, moto) as made:
        for target in TARGETS:
            with made.recovery(target) as recovery:
                recovery.cluster.spawn()
                made.ends[target] = finished(recovery)
        yield made


def file_of(bed: RecoveryBed, moment: str) -> str:
    """The WAL file that is asked for at this moment."""
    return {
        "start": bed.first,
        "middle": bed.segments[4],
        "last": bed.segments[5],
        "history": "00000002.history",
        "promotion": "00000003.history",
    }[moment]


def disturb(bed: RecoveryBed, fault: str, file: str) -> None:
    """From now on this happens to the file."""
    bucket = bed.bucket
    if fault in STORE_FAULTS:
        behaviour, _ = STORE_FAULTS[fault]
        bed.proxy.add(**{"times": ALWAYS, "path_contains": f"{file}.zst.age", **behaviour})
    elif fault == "is damaged":
        body = bytearray(bucket.read(bucket.key(file)))
        body[-20] ^= 1
        bucket.write(bucket.key(file), bytes(body))
    elif fault == "is another object":
        bucket.write(bucket.key(file), bucket.read(bucket.key(bed.segments[3])))
    elif fault == "is sealed for another key":
        bed.seal_for_somebody_else(file)
    else:
        bucket.delete(bucket.key(file))


def finished(recovery: Recovery) -> str:
    """Wait for the proper end of a recovery, look at it, and return where it is."""
    cluster = recovery.cluster
    if recovery.standby:
        recovery.wait_caught_up()
        assert cluster.running, cluster.log
        assert cluster.value("SELECT pg_is_in_recovery()") == "t"
        assert not recovery.promoted
        return cluster.value("SELECT pg_last_wal_replay_lsn()")
    recovery.wait_over()
    assert cluster.running, cluster.log
    assert recovery.promoted
    assert recovery.rows == ROWS[recovery.target]
    assert cluster.value("SELECT timeline_id FROM pg_control_checkpoint()") == "3"
    return recovery.forked_at


def stopped_because(recovery: Recovery, fault: str, file: str) -> None:
    """The server has ended with the reason, on the file, and is still to be recovered."""
    cluster = recovery.cluster
    assert not cluster.running, cluster.log
    assert not recovery.promoted
    control = cluster.control()["Database cluster state"]
    assert control in {"in archive recovery", "in production", "shut down in recovery"}, control
    signal_file = "standby.signal" if recovery.standby else "recovery.signal"
    assert (recovery.cluster.data_dir / signal_file).exists()
    reason = STORE_FAULTS[fault][1] if fault in STORE_FAULTS else OBJECT_FAULTS[fault]
    if (fault, file) == ("is missing", "00000002.history"):
        reason = "but no history of 2"
    said = [line for line in cluster.log.splitlines() if line.startswith("walkeeper: ")]
    assert re.search(reason, said[-1]), said
    named = "" if fault == "refuses connections" else file  # it may be met while fetching ahead
    assert f'could not restore file "{named}' in cluster.log


def is_felt(recovery: Recovery, fault: str, moment: str) -> bool:
    """Whether a standby has met the fault, and lives with it."""
    if (fault, moment) == ("is missing", "last"):  # it is as if it had not been archived yet
        return recovery.cluster.accepts_connections() and recovery.rows == [1, 2, 3, 4, 5]
    return "fetch_failed_in_standby_mode" in recovery.service_log


@pytest.mark.parametrize(("fault", "moment", "target"), list(cells()))
def test_a_recovery_ends_where_it_should_or_stops_with_the_reason(
    bed: RecoveryBed, fault: str, moment: str, target: str
) -> None:
    file = file_of(bed, moment)
    with bed.recovery(target) as recovery:
        disturb(bed, fault, file)
        if fault not in HEALS:
            bed.give_up_soon()
        recovery.cluster.spawn()
        if fault not in HEALS:
            if not recovery.standby:
                recovery.wait_over()
                stopped_because(recovery, fault, file)
            else:
                wait_until(
                    lambda: not recovery.cluster.running or is_felt(recovery, fault, moment),
                    f"the standby to meet the fault:\n{recovery.cluster.log}",
                    60,
                )
                if moment == "history":
                    stopped_because(recovery, fault, file)
                assert not recovery.promoted
            bed.heal()
            if not recovery.cluster.running:
                recovery.cluster.spawn()
        assert finished(recovery) == bed.ends[target]
