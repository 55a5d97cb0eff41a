"""A TCP proxy on loopback that makes a store as far away as a cloud is."""

import asyncio
import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from functools import partial

READ_BYTES = 256 * 1024
IN_FLIGHT = 256


@contextlib.contextmanager
def delayed(port: int, latency_s: float) -> Iterator[int]:
    """The port of a proxy before ``port``: an answer takes ``latency_s`` longer, as on a long line.

    Bandwidth stays what it is.
    """
    listener = socket.create_server(("127.0.0.1", 0))
    started: Future[Callable[[], object]] = Future()
    serving = serve(listener, port, latency_s / 2, started)
    thread = threading.Thread(target=asyncio.run, args=(serving,), daemon=True)
    thread.start()
    stop = started.result()
    try:
        yield int(listener.getsockname()[1])
    finally:
        stop()
        thread.join()


async def serve(
    listener: socket.socket, port: int, delay_s: float, started: "Future[Callable[[], object]]"
) -> None:
    """Until the function that ``started`` gets is called, in any thread."""

    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            there, back = await asyncio.open_connection("127.0.0.1", port)
            async with asyncio.TaskGroup() as group:
                group.create_task(pump(reader, back, delay_s))
                group.create_task(pump(there, writer, delay_s))

    over = asyncio.Event()
    loop = asyncio.get_running_loop()
    server = await asyncio.start_server(forward, sock=listener)
    started.set_result(partial(loop.call_soon_threadsafe, over.set))
    await over.wait()
    server.close()


async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, delay_s: float) -> None:
    """Each piece goes on so long after it came; pieces behind it wait with it, not for it."""
    clock = asyncio.get_running_loop().time
    queue: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(IN_FLIGHT)

    async def deliver() -> None:
        while True:
            due, data = await queue.get()
            await asyncio.sleep(due - clock())
            if not data:
                return
            with contextlib.suppress(OSError):
                writer.write(data)
                await writer.drain()

    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(deliver())
            with contextlib.suppress(OSError):
                while data := await reader.read(READ_BYTES):
                    await queue.put((clock() + delay_s, data))
            await queue.put((clock() + delay_s, b""))
    finally:
        writer.close()
