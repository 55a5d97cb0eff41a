"""A file system that takes no more: files beyond a size are refused in the middle of a write."""

from __future__ import annotations

import resource
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest

LimitFileSize = Callable[[int], AbstractContextManager[None]]


@pytest.fixture
def limit_file_size() -> LimitFileSize:
    """Within the context a file of this process grows to so many bytes at most (EFBIG)."""

    @contextmanager
    def limited(size_bytes: int) -> Iterator[None]:
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, before[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    return limited
