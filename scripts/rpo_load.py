"""Those who write into a server while disasters and costs are measured."""

import asyncio
import contextlib
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import asyncpg
from scratch import Workplace

SERVER_GONE = (
    asyncio.CancelledError,
    OSError,
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
)


@dataclass
class Client:
    """Commits rows 1, 2, 3 ... and remembers when it was told so; runs in a thread."""

    socket_dir: Path
    pause_s: float = 0.0
    acknowledged: list[float] = field(default_factory=list)

    async def commit(self) -> None:
        connection = await asyncpg.connect(host=str(self.socket_dir), user="postgres")
        try:
            while True:
                number = len(self.acknowledged) + 1
                await connection.execute("INSERT INTO committed VALUES ($1)", number)
                self.acknowledged.append(time.monotonic())
                await asyncio.sleep(self.pause_s)
        finally:
            connection.terminate()


@contextlib.contextmanager
def committing(client: Client) -> Iterator[None]:
    """The client at work, until the block ends or the server does."""
    loop = asyncio.new_event_loop()
    working = loop.create_task(client.commit())

    def run() -> None:
        with contextlib.closing(loop), contextlib.suppress(*SERVER_GONE):
            loop.run_until_complete(working)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield
    finally:
        with contextlib.suppress(RuntimeError):  # it has ended with the server
            loop.call_soon_threadsafe(working.cancel)
        thread.join()


@contextlib.contextmanager
def full_speed(place: Workplace) -> Iterator[None]:
    argv = ["pgbench", "-n", "-c", "4", "-j", "2", "-T", "100000"]
    process = place.spawn(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.kill()
        process.wait()
