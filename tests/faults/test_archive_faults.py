"""Agent and store go away, hang, refuse and are killed: nothing acknowledged is ever missing."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.fix_archiving import (
    FileShelf,
    MakeS3Archiving,
    Pushed,
    Shelf,
    StockTools,
    Witness,
    finish_segment,
    push,
    set_archive_command,
    stored_as,
    wait_archived,
    waiting,
    watch_archiving,
    write_segments,
)
from tests.fix_ceph import Ceph
from tests.fix_cli import Installation
from tests.fix_postgres import wait_until
from tests.fix_tree import set_folder_modes

ALWAYS = 1_000_000


def require_stored(
    installation: Installation, shelf: Shelf, witness: Witness, stock: StockTools
) -> None:
    """Every acknowledged file is there, byte for byte what PostgreSQL had."""
    assert witness.acknowledged
    for file in witness.acknowledged:
        (name,) = stored_as(shelf, file)
        assert stock.open(installation, shelf, name) == witness.content(file), file


def test_without_an_agent_the_hook_says_so_and_everything_catches_up_when_it_is_back(
    segments_only: Installation, stock: StockTools
) -> None:
    witness = watch_archiving(segments_only)
    cluster = segments_only.cluster
    write_segments(cluster, 3)
    cluster.wait_for_log(f"walkeeper: no agent listens on {segments_only.socket}")
    assert len(waiting(cluster)) >= 3
    assert witness.acknowledged == []
    segments_only.start_agent()
    wait_archived(segments_only)
    require_stored(segments_only, FileShelf(segments_only.repository), witness, stock)


def refused(installation: Installation, file: str) -> Pushed:
    """A hook that fails within its deadline, as the agent has told it.

    A hook gives up by itself where a busy host had no time for the agent just then.
    """
    while True:
        pushed = push(installation, file, cwd=installation.cluster.data_dir, timeout_s=2)
        assert pushed.code == 1
        assert pushed.elapsed_s < 20  # the store is tried for much longer
        if "no answer before the deadline" not in pushed.message:
            return pushed


def close_folder(repository: Path) -> None:
    set_folder_modes(repository, 0o500)


def open_folder(repository: Path) -> None:
    set_folder_modes(repository, 0o700)


def unmount(repository: Path) -> None:
    """The mount has gone; what is left is the empty directory that it was mounted on."""
    repository.rename(repository.with_name("mounted"))
    repository.mkdir()


def mount(repository: Path) -> None:
    repository.rmdir()
    repository.with_name("mounted").rename(repository)


def remove(repository: Path) -> None:
    repository.rename(repository.with_name("mounted"))


def put_back(repository: Path) -> None:
    repository.with_name("mounted").rename(repository)


@pytest.mark.parametrize(
    ("breaks", "heals", "reason"),
    [(close_folder, open_folder, "denied"), (unmount, mount, "repo"), (remove, put_back, "repo")],
    ids=["read only", "another directory in its place", "gone"],
)
def test_a_directory_that_cannot_be_written_to_fails_the_hook_and_catches_up_later(
    segments_only: Installation,
    stock: StockTools,
    breaks: Callable[[Path], None],
    heals: Callable[[Path], None],
    reason: str,
) -> None:
    witness = watch_archiving(segments_only)
    cluster, repository = segments_only.cluster, segments_only.repository
    segments_only.start_agent()
    segments_only.archive_now()
    wait_archived(segments_only)
    before = witness.acknowledged
    command = cluster.value("SHOW archive_command")
    breaks(repository)
    try:
        set_archive_command(cluster, "exit 1 # in place of walkeeper wal-push")
        file = finish_segment(cluster)
        pushed = refused(segments_only, file)
        assert reason in pushed.message.lower(), pushed.message
        assert waiting(cluster) == [file]
        assert witness.acknowledged == before
        if breaks is unmount:
            assert list(repository.iterdir()) == []  # nothing was written below the mount point
    finally:
        heals(repository)
    set_archive_command(cluster, command)
    wait_archived(segments_only)
    assert file in witness.acknowledged
    require_stored(segments_only, FileShelf(repository), witness, stock)


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ({"status": 403, "code": "AccessDenied"}, "AccessDenied"),
        ({"status": 503, "code": "SlowDown"}, "SlowDown"),
        ({"hang": True}, "not durable after"),
        ({"status": 500, "code": "InternalError", "after": True}, "InternalError"),
    ],
    ids=["refused", "overloaded", "hanging", "acting and failing"],
)
def test_a_store_in_trouble_fails_the_hook_within_its_deadline_and_catches_up_later(
    make_s3_archiving: MakeS3Archiving, stock: StockTools, fault: dict[str, object], reason: str
) -> None:
    archiving = make_s3_archiving()
    installation, cluster = archiving.installation, archiving.installation.cluster
    witness = watch_archiving(installation)
    installation.environment["WALKEEPER_REPOSITORY_READ_TIMEOUT"] = "4s"
    installation.start_agent()
    installation.archive_now()
    wait_archived(installation)
    trouble = archiving.proxy.add(times=ALWAYS, kind="PUT", **fault)
    file = finish_segment(cluster)
    wait_until(lambda: trouble.times < ALWAYS, "the store to be asked")
    pushed = refused(installation, file)
    assert reason in pushed.message, pushed.message
    assert file in waiting(cluster)
    assert file not in witness.acknowledged
    trouble.times = 0
    wait_archived(installation)
    assert file in witness.acknowledged
    require_stored(installation, archiving.shelf, witness, stock)


@contextmanager
def load(installation: Installation, seconds: float) -> Iterator[None]:
    """WAL being written while the block runs, and for so long at least."""
    failed: list[BaseException] = []

    def write() -> None:
        try:
            until = time.monotonic() + seconds
            while time.monotonic() < until:
                write_segments(installation.cluster, 2)
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=write)
    thread.start()
    try:
        yield
    finally:
        thread.join()
    assert failed == []


def test_an_agent_killed_during_pushes_has_acknowledged_nothing_that_is_missing(
    make_s3_archiving: MakeS3Archiving, stock: StockTools
) -> None:
    archiving = make_s3_archiving()
    installation = archiving.installation
    witness = watch_archiving(installation)
    installation.start_agent()
    with load(installation, 4):
        for pause_s in (0.3, 0.5, 0.2, 0.7, 0.1):
            time.sleep(pause_s)
            installation.kill_agent()
            require_present(archiving.shelf, witness)
            installation.start_agent()
    wait_archived(installation)
    require_stored(installation, archiving.shelf, witness, stock)


def test_an_agent_killed_while_it_writes_files_has_acknowledged_nothing_that_is_missing(
    segments_only: Installation, stock: StockTools
) -> None:
    witness = watch_archiving(segments_only)
    shelf = FileShelf(segments_only.repository)
    segments_only.start_agent()
    with load(segments_only, 3):
        for pause_s in (0.3, 0.5, 0.2, 0.4):
            time.sleep(pause_s)
            segments_only.kill_agent()
            require_present(shelf, witness)
            segments_only.start_agent()
    wait_archived(segments_only)
    require_stored(segments_only, shelf, witness, stock)


def require_present(shelf: Shelf, witness: Witness) -> None:
    """What was acknowledged by now is stored by now."""
    acknowledged = witness.acknowledged
    names = shelf.names()
    missing = [file for file in acknowledged if not any(f"/{file}.zst" in name for name in names)]
    assert missing == []


def test_a_postgresql_killed_during_pushes_loses_no_segment_that_was_acknowledged(
    segments_only: Installation, stock: StockTools
) -> None:
    witness = watch_archiving(segments_only)
    cluster = segments_only.cluster
    segments_only.start_agent()
    for _ in range(3):
        write_segments(cluster, 3)
        cluster.kill9()
        (cluster.data_dir / "postmaster.pid").unlink(missing_ok=True)
        cluster.start()
    segments_only.archive_now()
    wait_archived(segments_only)
    require_stored(segments_only, FileShelf(segments_only.repository), witness, stock)


def is_asked(installation: Installation) -> bool:
    """Whether the agent has let a client in: a socket of its name that is connected, 03."""
    lines = Path("/proc/net/unix").read_text().splitlines()
    return any(
        words[5] == "03" and words[7:] == [str(installation.socket)]
        for words in (line.split() for line in lines)
    )


def test_an_agent_told_to_stop_ends_the_push_that_is_under_way(
    make_s3_archiving: MakeS3Archiving, ceph_cluster: Ceph, stock: StockTools
) -> None:
    archiving = make_s3_archiving()
    installation, cluster = archiving.installation, archiving.installation.cluster
    witness = watch_archiving(installation)
    installation.start_agent()
    installation.archive_now()
    wait_archived(installation)
    before = witness.acknowledged
    ceph_cluster.freeze()
    try:
        archiving.proxy.forget()
        file = finish_segment(cluster)
        wait_until(lambda: archiving.proxy.counts["PUT"] > 0, "the upload to begin")
        # Whoever asks at the door is served there for two seconds only, and then asks here.
        wait_until(lambda: is_asked(installation), f"the hook to ask for {file}")
        assert installation.agent is not None
        installation.agent.terminate()
        wait_until(lambda: not installation.agent_listens(), "the agent to drain")
        assert "agent_draining" in installation.agent_log
        time.sleep(0.5)
        assert installation.agent_running
        assert witness.acknowledged == before
    finally:
        ceph_cluster.thaw()
    assert installation.agent.wait(60) == 0
    wait_until(lambda: waiting(cluster) == [], f"{file} to be archived")
    assert file in witness.acknowledged
    require_stored(installation, archiving.shelf, witness, stock)
