"""What systemd is told, received on real sockets."""

import os
import secrets
import socket
import time
from pathlib import Path

import pytest

from walkeeper.agent.systemd import SystemdNotifier


@pytest.fixture(params=["file", "abstract"])
def manager(request: pytest.FixtureRequest, short_dir: Path) -> tuple[socket.socket, str]:
    name = os.fspath(short_dir / "notify")
    if request.param == "abstract":
        name = f"@walkeeper-{secrets.token_hex(8)}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(name.replace("@", "\0"))
        receiver.settimeout(5)
        yield receiver, name


def test_each_state_is_one_datagram(manager: tuple[socket.socket, str]) -> None:
    receiver, name = manager
    notifier = SystemdNotifier({"NOTIFY_SOCKET": name})
    notifier.ready("archiving\nwell")
    assert receiver.recv(1000) == b"READY=1\nSTATUS=archiving well"
    notifier.status("3 segments behind")
    assert receiver.recv(1000) == b"STATUS=3 segments behind"
    notifier.stopping()
    assert receiver.recv(1000) == b"STOPPING=1"
    notifier.watchdog()
    assert receiver.recv(1000) == b"WATCHDOG=1"
    before = time.monotonic_ns() // 1000
    notifier.reloading()
    state, usec = receiver.recv(1000).split(b"\n")
    assert state == b"RELOADING=1"
    assert before <= int(usec.removeprefix(b"MONOTONIC_USEC=")) <= time.monotonic_ns() // 1000


@pytest.mark.parametrize("address", ["", "/nowhere/at/all", "vsock:2:1234"])
def test_without_a_manager_nothing_happens(address: str) -> None:
    SystemdNotifier({"NOTIFY_SOCKET": address}).ready()
    SystemdNotifier({}).ready()


def test_a_manager_that_does_not_read_never_blocks_the_agent(
    manager: tuple[socket.socket, str],
) -> None:
    _, name = manager
    notifier = SystemdNotifier({"NOTIFY_SOCKET": name})
    began = time.monotonic()
    for _ in range(2000):
        notifier.status("x" * 1000)
    assert time.monotonic() - began < 60


def test_the_watchdog_is_fed_twice_in_its_time_and_only_by_its_own_process() -> None:
    mine = {"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}
    assert SystemdNotifier(mine).watchdog_interval_s == 15
    assert SystemdNotifier(mine | {"WATCHDOG_PID": "1"}).watchdog_interval_s is None
    assert SystemdNotifier({}).watchdog_interval_s is None
