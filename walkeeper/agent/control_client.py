"""The command line's end of the agent's socket."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path

from walkeeper.agent.control_request import Reply
from walkeeper.errors import WalkeeperError
from walkeeper.hooks import wire

_CONNECT_TIMEOUT_S = 5.0


async def control_request(
    path: Path,
    command: str,
    fields: Mapping[str, str],
    *,
    timeout_s: float | None,
    on_progress: Callable[[bytes], None] | None = None,
) -> Reply | None:
    """Asks the agent and returns its reply, also a failed one; None when no agent listens.

    ``timeout_s`` bounds the whole request (None: as long as it takes, as a backup does). Each
    document the agent reports on the way goes to ``on_progress``. Cancelling this ends the
    connection, and with it the request. Raises WalkeeperError when the agent cannot be understood
    or goes away.
    """
    try:
        async with asyncio.timeout(_CONNECT_TIMEOUT_S):
            reader, writer = await asyncio.open_unix_connection(path)
    except (FileNotFoundError, NotADirectoryError, ConnectionRefusedError):
        return None
    except (OSError, TimeoutError) as error:
        raise WalkeeperError(f"cannot connect to {path}: {_reason(error)}") from error
    values = {name: value.encode() for name, value in fields.items()}
    try:
        async with asyncio.timeout(timeout_s):
            writer.write(wire.encode_request(command, values))
            await writer.drain()
            return await _receive(reader, on_progress)
    except TimeoutError as error:
        raise WalkeeperError(f"no answer from the agent within {timeout_s:g} s") from error
    except (wire.WireError, OSError, EOFError) as error:
        raise WalkeeperError(
            f"the agent on {path} did not answer: {_reason(error)}", hint="see the agent's log"
        ) from error
    finally:
        writer.close()


async def _receive(
    reader: asyncio.StreamReader, on_progress: Callable[[bytes], None] | None
) -> Reply:
    while True:
        kind, length = wire.decode_header(await reader.readexactly(wire.HEADER_SIZE))
        payload = await reader.readexactly(length)
        if kind == wire.REPLY:
            return Reply(*wire.decode_reply(payload))
        if kind != wire.PROGRESS:
            raise wire.WireError("a malformed reply")
        if on_progress is not None:
            on_progress(payload)


def _reason(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error) or "timed out"
