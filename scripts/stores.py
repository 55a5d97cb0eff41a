"""The stores that are measured: a directory, and Ceph's RGW near, with TLS, and far away."""

import contextlib
import dataclasses
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from contender import Bucket
from delay import delayed
from rgw import count_requests, start_rgw
from scratch import Workplace, open_workplace

STORES = {
    "file": "a directory on this machine's disk",
    "rgw": "Ceph's RGW on loopback without TLS",
    "rgw-tls": "Ceph's RGW on loopback with TLS",
    "rgw-20ms": "the same behind a proxy: every answer takes 20 ms longer",
}
LATENCY_S = 0.020
BUCKET = "bench"


@dataclass(frozen=True, slots=True)
class Store:
    """An empty store for one run: nobody works beside another's garbage."""

    bucket: Bucket | None
    shelf: Workplace | None

    def requests(self) -> int | None:
        """How many it has been asked so far; None where nothing can be counted."""
        return None if self.shelf is None else count_requests(self.shelf, BUCKET).total()


@contextlib.contextmanager
def open_store(name: str, user: str, parent: Path) -> Iterator[Store]:
    """Start it, and stop it again with all that was started after it."""
    if name == "file":
        yield Store(None, None)
        return
    with ExitStack() as stack:
        shelf = stack.enter_context(open_workplace("walkeeper-rgw-", user, parent))
        bucket = start_rgw(shelf, BUCKET, tls=name != "rgw")
        if name == "rgw-20ms":
            port = stack.enter_context(delayed(bucket.port, LATENCY_S))
            bucket = dataclasses.replace(bucket, port=port)
        yield Store(bucket, shelf)
