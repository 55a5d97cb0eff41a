"""Writing past the page cache: the same bytes as a plain write, whatever the file system takes."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.fix_file_size import LimitFileSize
from walkeeper.storage.direct import STAGE_BYTES, SequentialWriter, Stages, is_on_device, make_stage

CONTENT = os.urandom(3 * STAGE_BYTES + 4097)


@contextmanager
def new_file(folder: Path) -> Iterator[int]:
    path = folder / "new"
    path.unlink(missing_ok=True)
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        yield fd
    finally:
        os.close(fd)


def can_write_directly(folder: Path) -> bool:
    try:
        os.close(os.open(folder / "probe", os.O_WRONLY | os.O_CREAT | os.O_DIRECT, 0o600))
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return False
    return True


def is_direct(fd: int) -> bool:
    return bool(fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_DIRECT)


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    sizes=st.lists(st.integers(0, 20_000) | st.sampled_from([4096, 8192, 16384]), max_size=12),
    pages=st.integers(1, 4),
    direct=st.booleans(),
)
@example(sizes=[8192, 8192], pages=2, direct=True)
@example(sizes=[8191, 1, 4095], pages=2, direct=True)
def test_any_blocks_make_the_file_that_a_plain_write_makes(
    tmp_path: Path, sizes: list[int], pages: int, direct: bool
) -> None:
    content, at = bytes(CONTENT[: sum(sizes)]), 0
    with new_file(tmp_path) as fd:
        writer = SequentialWriter(fd, make_stage()[: pages * 4096], direct=direct)
        for size in sizes:
            writer.write(content[at : at + size])
            at += size
        writer.finish()
    assert (tmp_path / "new").read_bytes() == content


@pytest.mark.parametrize(
    "size", [0, 1, 4096, 128 << 10, (128 << 10) + 1, STAGE_BYTES, STAGE_BYTES + 1, len(CONTENT)]
)
def test_a_body_in_one_piece_comes_out_whole(tmp_path: Path, size: int) -> None:
    with new_file(tmp_path) as fd:
        writer = SequentialWriter(fd, make_stage(), direct=True)
        writer.write(memoryview(CONTENT)[:size])
        writer.finish()
    assert (tmp_path / "new").read_bytes() == CONTENT[:size]


def test_what_is_large_goes_past_the_cache_and_its_last_bytes_through_it(tmp_path: Path) -> None:
    with new_file(tmp_path) as fd:
        writer = SequentialWriter(fd, make_stage(), direct=True)
        writer.write(CONTENT[: STAGE_BYTES - 1])
        assert not is_direct(fd)
        writer.write(CONTENT[STAGE_BYTES - 1 :])
        assert is_direct(fd) == can_write_directly(tmp_path)
        writer.finish()
        assert not is_direct(fd)
    assert (tmp_path / "new").read_bytes() == CONTENT


def test_without_a_device_all_goes_through_the_cache(tmp_path: Path) -> None:
    with new_file(tmp_path) as fd:
        writer = SequentialWriter(fd, make_stage(), direct=False)
        writer.write(CONTENT)
        assert not is_direct(fd)
        writer.finish()
    assert (tmp_path / "new").read_bytes() == CONTENT


def test_a_file_system_without_a_device_of_its_own_is_known() -> None:
    in_memory = os.memfd_create("walkeeper")  # tmpfs
    try:
        assert not is_on_device(in_memory)
    finally:
        os.close(in_memory)
    with Path("/proc/self/status").open() as file:
        assert not is_on_device(file.fileno())


def test_a_block_may_change_once_it_was_taken(tmp_path: Path) -> None:
    block = bytearray(b"first")
    with new_file(tmp_path) as fd:
        writer = SequentialWriter(fd, make_stage(), direct=True)
        writer.write(block)
        block[:] = b"other"
        writer.finish()
    assert (tmp_path / "new").read_bytes() == b"first"


def test_where_only_the_write_is_refused_the_bytes_go_through_the_cache(tmp_path: Path) -> None:
    with new_file(tmp_path) as fd:
        os.write(fd, b"x")  # no offset from here on is a whole block
        writer = SequentialWriter(fd, make_stage(), direct=True)
        writer.write(CONTENT)
        assert not is_direct(fd) or not can_write_directly(tmp_path)
        writer.finish()
    assert (tmp_path / "new").read_bytes() == b"x" + CONTENT


def test_where_it_cannot_be_asked_for_the_bytes_go_through_the_cache() -> None:
    ours, theirs = socket.socketpair()  # a socket has no O_DIRECT, and says EINVAL
    received = bytearray()

    def receive() -> None:
        while block := theirs.recv(1 << 20):
            received.extend(block)

    reader = threading.Thread(target=receive)
    reader.start()
    with theirs:
        with ours:
            writer = SequentialWriter(ours.fileno(), make_stage(), direct=True)
            writer.write(CONTENT)
            writer.finish()
        reader.join()
    assert received == CONTENT


@pytest.mark.parametrize("limit", [4096, STAGE_BYTES, STAGE_BYTES + 4096, 2 * STAGE_BYTES + 100])
def test_a_disk_that_fills_up_in_the_middle_of_a_write_is_an_error(
    tmp_path: Path, limit_file_size: LimitFileSize, limit: int
) -> None:
    with new_file(tmp_path) as fd:
        writer = SequentialWriter(fd, make_stage(), direct=True)
        with limit_file_size(limit), pytest.raises(OSError, match=os.strerror(errno.EFBIG)):
            writer.write(CONTENT)
    written = (tmp_path / "new").read_bytes()
    assert written == CONTENT[: len(written)]


def test_stages_are_used_again_while_others_are_out() -> None:
    stages = Stages()
    first, second = stages.take(), stages.take()
    first[:5] = b"trace"
    stages.give(first)
    assert bytes(stages.take()[:5]) == b"trace"
    stages.give(second)
    stages.give(first)


def test_when_no_stage_is_out_none_is_kept() -> None:
    stages = Stages()
    stage = stages.take()
    stage[:5] = b"trace"
    stages.give(stage)
    assert bytes(stages.take()[:5]) == bytes(5)
