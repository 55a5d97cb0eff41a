"""An agent whose HTTP port is on, and somebody who asks it."""

from __future__ import annotations

import http.client
import json
import re
from dataclasses import dataclass
from typing import Any

import pytest

from tests.fix_cli import Installation
from tests.fix_postgres import wait_until

SOME_PORT = "127.0.0.1:0"


@dataclass(frozen=True)
class Reply:
    """What came back; the names of ``headers`` are in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()

    def json(self) -> dict[str, Any]:
        found = json.loads(self.body)
        assert isinstance(found, dict)
        return found


def ask(address: str, path: str, method: str = "GET", **headers: str) -> Reply:
    """Ask a server; in the names of headers ``_`` stands for ``-``."""
    connection = http.client.HTTPConnection(address, timeout=30)
    try:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, headers=named)
        response = connection.getresponse()
        found = {name.lower(): value for name, value in response.getheaders()}
        return Reply(response.status, found, response.read())
    finally:
        connection.close()


def http_address(installation: Installation) -> str:
    """Where the agent that was started last answers, once it does."""
    found: list[str] = []

    def listens() -> bool:
        log = installation.agent_log[installation.agent_log_begin :]
        found[:] = re.findall(r'"address": ?"([^"]+)", "event": "http_listening"', log)
        return bool(found)

    wait_until(listens, f"the agent to serve HTTP:\n{installation.agent_log}", 60)
    return found[-1]


def wait_ready(installation: Installation, *, ready: bool = True) -> Reply:
    """Wait until the agent says that it is ready, or that it is not; what it says."""
    address = http_address(installation)
    wanted = 200 if ready else 503
    replies: list[Reply] = []

    def said() -> bool:
        replies[:] = [ask(address, "/readyz")]
        return replies[0].status == wanted

    wait_until(said, f"/readyz to say {wanted}:\n{installation.agent_log}", 60)
    return replies[0]


@pytest.fixture
def watched(installation: Installation) -> Installation:
    """An installation that archives, whose agent answers HTTP and looks every five seconds."""
    installation.http = SOME_PORT
    installation.configure_agent('look_every = "5s"')
    installation.initialise()
    installation.start_agent()
    installation.wait_recognised()
    return installation
