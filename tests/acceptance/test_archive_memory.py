"""What the agent holds in memory, however much WAL waits and however slow the store is."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from tests.fix_archiving import (
    NO_TAIL,
    BucketShelf,
    resident,
    use_bucket,
    wait_archived,
    waiting,
    write_segments,
)
from tests.fix_cli import MakeInstallation
from tests.fix_proxy import TcpProxy
from tests.fix_s3 import S3Server

LIMIT_MIB = 150
SEGMENTS = 60


@pytest.mark.slow
def test_sixty_segments_before_a_slow_store_stay_within_the_limit(
    ceph: S3Server, make_installation: MakeInstallation, tcp_proxy: Callable[[str], TcpProxy]
) -> None:
    bucket = ceph.new_bucket()
    proxy = tcp_proxy(ceph.endpoint_url)
    installation = make_installation(
        url=f"s3://{bucket}",
        more=NO_TAIL,
        segment_size_mb=16,
        settings={"max_wal_size": "4GB", "checkpoint_timeout": "1h"},
    )
    use_bucket(installation, ceph, f"http://127.0.0.1:{proxy.port}")
    installation.initialise()
    write_segments(installation.cluster, SEGMENTS)
    assert len(waiting(installation.cluster)) >= SEGMENTS
    proxy.bytes_per_s = 24 << 20
    installation.start_agent()
    assert installation.agent is not None
    idle = resident(installation.agent)
    samples = []
    while len(waiting(installation.cluster)) > 10:
        samples.append(resident(installation.agent)["VmRSS"])
        time.sleep(0.1)
    peak = resident(installation.agent)["VmHWM"]
    proxy.bytes_per_s = None
    wait_archived(installation)
    after = resident(installation.agent)
    print(
        f"at start {idle['VmRSS']:.0f} MiB, pushing {sorted(samples)[len(samples) // 2]:.0f} "
        f"(median), {peak:.0f} at most; afterwards {after['VmRSS']:.0f}, never more than "
        f"{after['VmHWM']:.0f}"
    )
    assert len(BucketShelf(ceph, bucket).names()) > SEGMENTS
    assert peak < LIMIT_MIB
