"""A request as the agent sees it, and its reply."""

from __future__ import annotations

import array
import asyncio
import os
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from walkeeper.errors import UsageError, WalkeeperError, error_of
from walkeeper.hooks import wire

_MAX_DESCRIPTORS = 1


@dataclass(frozen=True, slots=True)
class Reply:
    """The answer to a request: ``status`` is wire.OK, wire.ABSENT or wire.FAILED.

    The message of a wal-fetch's ``ok`` is the number of bytes written; elsewhere it is a sentence
    or, for the command line, one JSON document of at most 5 KiB (longer ones go by progress).
    """

    status: str
    exit_code: int = 0
    message: str = ""
    hint: str = ""

    @classmethod
    def ok(cls, message: str = "") -> Self:
        """Done; for wal-push: durable."""
        return cls(wire.OK, message=message)

    @classmethod
    def absent(cls) -> Self:
        """The archive answered that it holds no such file; never for "could not tell"."""
        return cls(wire.ABSENT, exit_code=13)

    @classmethod
    def failed(cls, message: str, *, hint: str = "", exit_code: int = 1) -> Self:
        """Not done, and why."""
        return cls(wire.FAILED, exit_code, message, hint)

    @classmethod
    def of_error(cls, error: WalkeeperError) -> Self:
        """The failure that an error of ours stands for, its exit code and hint kept."""
        return cls.failed(error.message, hint=error.hint or "", exit_code=error.exit_code)

    def raise_failure(self) -> None:
        """Raise what failed, as the agent told it, its exit code kept; nothing for ``ok``."""
        if self.status == wire.FAILED:
            raise error_of(self.exit_code, self.message, self.hint)

    def encode(self) -> bytes:
        """The reply's frame; over-long texts are cut."""
        return wire.encode_reply(self.status, self.exit_code, self.message, self.hint)


class Request:
    """One request: ``command``, its fields, at most one file descriptor, and a way to report.

    Values are bytes as sent; the readers below raise UsageError when a field is missing or not
    what it should be. As a context manager it closes the descriptor unless somebody took it.
    """

    def __init__(self, command: str, fields: dict[str, bytes], descriptors: list[int]) -> None:
        self.command = command
        self.fields = fields
        self._descriptors = descriptors
        self._send: Callable[[bytes], Awaitable[None]] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        while self._descriptors:
            os.close(self._descriptors.pop())

    def attach(self, send: Callable[[bytes], Awaitable[None]]) -> None:
        """Gives the request the way to its client; the server does this."""
        self._send = send

    async def progress(self, document: bytes) -> None:
        """Sends a JSON document of at most 64 KiB in front of the reply, one call at a time."""
        if self._send is not None:
            await self._send(wire.encode_frame(wire.PROGRESS, document))

    def take_descriptor(self) -> int:
        """Hands over the descriptor that came with the request: the caller closes it.

        Close it where no thread can still be writing to it: a cancelled handler's worker thread
        may run on, and a number that was closed under it may already be another file's.
        """
        if not self._descriptors:
            raise UsageError(f"{self.command} came without a file descriptor")
        return self._descriptors.pop()

    def optional_text(self, name: str) -> str | None:
        """A field as text, None when it was not sent."""
        value = self.fields.get(name)
        if value is None:
            return None
        try:
            return value.decode("utf-8")
        except UnicodeDecodeError:
            raise UsageError(f"{self.command}: {name} is not UTF-8") from None

    def text(self, name: str) -> str:
        """A field as text."""
        value = self.optional_text(name)
        if value is None:
            raise UsageError(f"{self.command}: {name} is missing")
        return value

    def number(self, name: str) -> int:
        """A field as a number that is not negative."""
        text = self.text(name)
        if not (text.isascii() and text.isdigit() and len(text) <= 20):
            raise UsageError(f"{self.command}: {name} is not a number")
        return int(text)

    def flag(self, name: str) -> bool:
        """A field that is 0 or 1."""
        return self.number(name) == 1

    def path(self, name: str) -> Path:
        """A field as an absolute path, whatever its bytes."""
        value = self.fields.get(name, b"")
        if not value.startswith(b"/"):
            raise UsageError(f"{self.command}: {name} is not an absolute path")
        return Path(os.fsdecode(value))


async def wait_readable(source: socket.socket) -> None:
    """Returns when a non-blocking socket has bytes, or its end, to read."""
    readable = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_reader(source, readable.set)
    try:
        await readable.wait()
    finally:
        loop.remove_reader(source)


async def receive_request(connection: socket.socket) -> Request | None:
    """The request that arrives, None when the client leaves without one.

    Raises wire.WireError on anything else; then nothing that came with it stays open.
    """
    descriptors: list[int] = []
    try:
        payload = await _receive_payload(connection, descriptors)
        if payload is None:
            return None
        command, fields = wire.decode_request(payload)
    except BaseException:
        while descriptors:
            os.close(descriptors.pop())
        raise
    return Request(command, fields, descriptors)


async def _receive_payload(connection: socket.socket, descriptors: list[int]) -> bytes | None:
    header = await _receive(connection, wire.HEADER_SIZE, descriptors)
    if not header:
        return None
    kind, length = wire.decode_header(header)
    if kind != wire.REQUEST:
        raise wire.WireError("not a request")
    payload = await _receive(connection, length, descriptors)
    if len(payload) < length or len(descriptors) > _MAX_DESCRIPTORS:
        raise wire.WireError("a request that was cut short, or with too many descriptors")
    return payload


async def _receive(connection: socket.socket, size: int, descriptors: list[int]) -> bytes:
    """``size`` bytes, or fewer when the client ends; descriptors that come along are appended."""
    received = b""
    room = socket.CMSG_SPACE(4 * _MAX_DESCRIPTORS)
    while len(received) < size:
        try:
            data, control, _, _ = connection.recvmsg(
                size - len(received), room, socket.MSG_CMSG_CLOEXEC
            )
        except BlockingIOError:
            await wait_readable(connection)
            continue
        for level, kind, rights in control:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                numbers = array.array("i")
                numbers.frombytes(rights[: len(rights) - len(rights) % numbers.itemsize])
                descriptors.extend(numbers)
        if not data:
            break
        received += data
    return received
