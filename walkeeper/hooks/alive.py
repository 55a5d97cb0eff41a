"""Whether the agent is alive, for a health check: ``python -I -m walkeeper.hooks.alive``.

Asks ``/healthz`` where the HTTP port is as $WALKEEPER_AGENT_HTTP says or by default; where nobody
listens there, whether the agent listens on its socket. No request to the store is paid for.
"""

from __future__ import annotations

import http.client
import os
import socket
import sys

from walkeeper.hooks.wire import DEFAULT_SOCKET

_TIMEOUT_S = 5.0
_DEFAULT_HTTP = "127.0.0.1:9188"


def main() -> int:
    """0 when it lives, else 1 and the reason on stderr."""
    address = os.environ.get("WALKEEPER_AGENT_HTTP", _DEFAULT_HTTP)
    try:
        if not (address and _answers(address)):
            path = os.environ.get("WALKEEPER_SOCKET") or DEFAULT_SOCKET
            with socket.socket(socket.AF_UNIX) as agent:
                agent.settimeout(_TIMEOUT_S)
                agent.connect(path)
    except (OSError, http.client.HTTPException, ValueError) as error:
        print(f"the agent does not answer: {error}", file=sys.stderr)  # noqa: T201
        return 1
    return 0


def _answers(address: str) -> bool:
    """Whether somebody listens there; raises when it is not the agent, or one that hangs."""
    connection = http.client.HTTPConnection(address, timeout=_TIMEOUT_S)
    try:
        connection.connect()
    except ConnectionRefusedError:
        return False
    try:
        connection.request("GET", "/healthz")
        status = connection.getresponse().status
    finally:
        connection.close()
    if status != http.client.OK:
        raise OSError(f"/healthz of {address} says {status}")
    return True


if __name__ == "__main__":
    sys.exit(main())
