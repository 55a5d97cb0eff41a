"""Every kind of store that the contract holds for, ready to be used by one test."""

from __future__ import annotations

from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.fix_s3 import S3Server
from walkeeper.storage.base import Capabilities, Storage
from walkeeper.storage.filesystem import FilesystemStorage
from walkeeper.storage.limit import LimitedStorage
from walkeeper.storage.memory import MemoryStorage
from walkeeper.storage.observe import ObservedStorage, StorageCounters
from walkeeper.storage.open import open_storage
from walkeeper.storage.retry import Retrier, RetryingStorage, RetryPolicy
from walkeeper.storage.s3 import S3Storage

_ALL = Capabilities(conditional_put=True, conditional_multipart=True)


@dataclass(frozen=True)
class Store:
    """A store under test and what it is known to enforce."""

    kind: str
    storage: Storage
    enforces: Capabilities


@pytest.fixture(
    params=["memory", "filesystem", "ceph", "rclone", "moto", "wrapped memory", "opened ceph"]
)
async def store(
    request: pytest.FixtureRequest, tmp_path: Path, executor: ThreadPoolExecutor
) -> AsyncIterator[Store]:
    """Each kind in turn; empty, and probed."""
    kind: str = request.param
    if kind in {"memory", "wrapped memory"}:
        memory = MemoryStorage()
        yield Store(kind, memory if kind == "memory" else wrapped(memory), _ALL)
    elif kind == "filesystem":
        yield Store(kind, FilesystemStorage(tmp_path, executor), _ALL)
    else:
        server: S3Server = request.getfixturevalue(kind.rsplit(maxsplit=1)[-1])
        settings = server.settings(server.new_bucket(), "some/prefix")
        if kind.startswith("opened"):
            storage = open_storage(settings, executor)
        else:
            storage = S3Storage(settings, executor, Retrier(RetryPolicy()))
        await storage.put("probe.json", b"{}")
        await storage.probe("probe.json", b"{}")
        await storage.delete("probe.json")
        yield Store(kind, storage, server.enforces)
        await storage.aclose()


def wrapped(storage: Storage) -> Storage:
    """All wrappers, in the order of ``open_storage``."""
    observed = ObservedStorage(storage, StorageCounters())
    return LimitedStorage(RetryingStorage(observed, Retrier(RetryPolicy())), 4)
