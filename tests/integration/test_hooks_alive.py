"""The container's health check against agents that live, hang and are gone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

from tests.fix_cli import Installation
from tests.fix_http import http_address
from tests.fix_postgres import BARE_ENVIRONMENT, free_port, wait_until


def ended(installation: Installation, http: str) -> int:
    names = {"WALKEEPER_SOCKET": str(installation.socket), "WALKEEPER_AGENT_HTTP": http}
    command = [sys.executable, "-I", "-m", "walkeeper.hooks.alive"]
    return subprocess.run(
        command, check=False, capture_output=True, env=BARE_ENVIRONMENT | names
    ).returncode


def test_an_agent_is_alive_until_it_hangs_or_ends(watched: Installation) -> None:
    address = http_address(watched)
    wait_until(lambda: ended(watched, address) == 0, "it to be alive")
    assert watched.agent is not None
    os.kill(watched.agent.pid, signal.SIGSTOP)
    try:
        assert ended(watched, address) == 1
    finally:
        os.kill(watched.agent.pid, signal.SIGCONT)
    wait_until(lambda: ended(watched, address) == 0, "it to be alive again")
    watched.stop_agent()
    assert ended(watched, address) == 1


def test_without_http_the_socket_shows_that_the_agent_lives(archiving: Installation) -> None:
    for http in ("", f"127.0.0.1:{free_port()}"):
        assert ended(archiving, http) == 0
    archiving.stop_agent()
    assert ended(archiving, "") == 1
