"""A test machine is left as it was found: no shared memory of servers that were killed."""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from scripts import shared_memory
from scripts.shared_memory import free_of_killed, segments_of
from tests.fix_postgres import Cluster, MakeCluster, Owner, versions_at_hand

LIBC = ctypes.CDLL(None)
IPC_PRIVATE, IPC_RMID, MODE = 0, 0, 0o600
MAGIC = 679834894
NOBODY = 0  # no process has this id


def segment_of(cluster: Cluster) -> int:
    """The server's segment, as the second number in line 7 of its postmaster.pid."""
    return int((cluster.data_dir / "postmaster.pid").read_text().split("\n")[6].split()[1])


def files_of(cluster: Cluster) -> set[Path]:
    """The files in /dev/shm that the server has mapped."""
    assert cluster.process is not None
    maps = Path(f"/proc/{cluster.process.pid}/maps").read_text().splitlines()
    return {Path(line.split()[5]) for line in maps if "/dev/shm/PostgreSQL." in line}


@pytest.fixture
def segment() -> Iterator[int]:
    """A segment of ours to which nobody is attached, as long as PostgreSQL's and empty."""
    made = LIBC.shmget(IPC_PRIVATE, 56, MODE)
    assert made >= 0
    yield made
    LIBC.shmctl(made, IPC_RMID, None)


def write_header(segment: int, creator: int, magic: int = MAGIC) -> None:
    """Let it begin as PostgreSQL's do."""
    LIBC.shmat.restype = ctypes.c_void_p
    address = LIBC.shmat(segment, None, 0)
    ctypes.memmove(address, struct.pack("=iiQQI", magic, creator, 56, 56, 0), 28)
    LIBC.shmdt(ctypes.c_void_p(address))


@pytest.mark.parametrize("version", versions_at_hand())
def test_a_killed_server_leaves_no_shared_memory_behind(
    make_cluster: MakeCluster, version: int
) -> None:
    cluster = make_cluster(version=version, fsync=False)
    cluster.sql("CREATE TABLE t AS SELECT g FROM generate_series(1, 1000) g; ANALYZE t")
    segment, files = segment_of(cluster), files_of(cluster)
    assert segment in segments_of(Owner.current().uid)
    assert any(file.exists() for file in files)

    cluster.kill9()

    assert segment not in segments_of(Owner.current().uid)
    assert [file for file in files if file.exists()] == []


def test_a_server_that_runs_keeps_its_shared_memory(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(fsync=False)
    files = files_of(cluster)

    free_of_killed(Owner.current().uid)

    assert segment_of(cluster) in segments_of(Owner.current().uid)
    assert all(file.exists() for file in files)
    cluster.restart()


def test_a_segment_that_is_not_postgresqls_is_left_alone(segment: int) -> None:
    free_of_killed(os.getuid())
    assert segment in segments_of(os.getuid())


def test_a_segment_of_another_user_is_left_alone(
    segment: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Tests that run beside this one free what is PostgreSQL's.
    monkeypatch.setattr(shared_memory, "_MAGIC", MAGIC + 1)
    write_header(segment, creator=NOBODY, magic=MAGIC + 1)
    free_of_killed(os.getuid() + 1)
    assert segment in segments_of(os.getuid())
    assert free_of_killed(os.getuid()) >= 1
    assert segment not in segments_of(os.getuid())


def test_a_segment_whose_server_is_about_to_attach_itself_is_left_alone(segment: int) -> None:
    write_header(segment, creator=os.getpid())
    free_of_killed(os.getuid())
    assert segment in segments_of(os.getuid())
