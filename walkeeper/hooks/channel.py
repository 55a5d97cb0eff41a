"""One question to the agent and its answer, within a deadline, over ``_socket`` alone."""

import _socket
import posix
import sys
import time

from walkeeper.hooks import wire

_PAUSE_S = 0.02
"""Between two attempts to connect while the listener's queue is full."""


class Failure(Exception):
    """Why a hook could not do its work: a sentence for an operator, and what to do next."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class NobodyListens(Failure):
    """No process listens on the socket; nothing has been asked."""


class Unanswered(Failure):
    """The listener closed the connection without a word, as one does that is just ending."""


class Absent(Exception):
    """The archive has answered that it holds no such file."""


def deadline_in(seconds: float) -> float:
    """The moment that many seconds from now, on the monotonic clock."""
    return time.monotonic() + seconds


def environment(name: str) -> str:
    """An environment variable, '' when it is not set."""
    value = posix.environ.get(name.encode(), b"")
    return value.decode(sys.getfilesystemencoding(), sys.getfilesystemencodeerrors())


def ask(path: str, frame: bytes, deadline: float, descriptor: int | None = None) -> str:
    """Sends a request, waits for the reply and returns its message if the answer is ``ok``.

    The descriptor goes with the request and stays the caller's. Raises Absent for ``absent``,
    NobodyListens, Unanswered, and Failure for everything else, the deadline included.
    """
    connection = connect(path, deadline)
    try:
        send(connection, frame, deadline, descriptor)
        payload = receive_reply(connection, deadline)
        status, _, message, hint = wire.decode_reply(payload)
    except TimeoutError:
        raise Failure("no answer before the deadline", f"the agent on {path} is busy") from None
    except wire.VersionMismatch as error:
        raise Failure(str(error), f"restart what listens on {path}: it was upgraded") from None
    except wire.WireError as error:
        raise Failure(f"{path} answered with {error}", "is it walkeeper's socket?") from None
    except OSError as error:
        raise Failure(f"the connection to {path} broke: {error.strerror}") from None
    finally:
        connection.close()
    if status == wire.OK:
        return message
    if status == wire.ABSENT:
        raise Absent
    raise Failure(message or "the agent refused without a reason", hint)


def connect(path: str, deadline: float) -> _socket.socket:
    """A connection to the socket. Raises NobodyListens or Failure."""
    connection = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
    try:
        while True:
            connection.settimeout(remaining(deadline))
            try:
                connection.connect(path)
            except BlockingIOError:  # the queue of the listener is full: unix(7), EAGAIN
                time.sleep(_PAUSE_S)
            else:
                return connection
    except BaseException as error:
        connection.close()
        if isinstance(error, FileNotFoundError | ConnectionRefusedError | NotADirectoryError):
            raise NobodyListens(
                f"no agent listens on {path}: {error.strerror}",
                "start it with: walkeeper agent; --socket names another one",
            ) from None
        if isinstance(error, TimeoutError):
            raise Failure(f"{path} accepts no connection", "the agent is busy or stopped") from None
        if isinstance(error, OSError):
            raise Failure(f"cannot connect to {path}: {error.strerror or error}") from None
        raise


def send(connection: _socket.socket, frame: bytes, deadline: float, descriptor: int | None) -> None:
    """Sends all of the frame. An agent that refuses at once may close early: its reply counts."""
    connection.settimeout(remaining(deadline))
    rights = []
    if descriptor is not None:
        packed = descriptor.to_bytes(4, sys.byteorder, signed=True)
        rights = [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, packed)]
    try:
        sent = connection.sendmsg([frame], rights)
        connection.sendall(frame[sent:])
    except BrokenPipeError:
        return


def receive_reply(connection: _socket.socket, deadline: float) -> bytes:
    """The payload of the reply; progress in front of it is passed over."""
    while True:
        header = receive_exactly(connection, wire.HEADER_SIZE, deadline)
        kind, length = wire.decode_header(header)
        payload = receive_exactly(connection, length, deadline)
        if kind == wire.REPLY:
            return payload
        if kind != wire.PROGRESS:
            raise wire.WireError("a malformed reply")


def receive_exactly(connection: _socket.socket, size: int, deadline: float) -> bytes:
    """That many bytes. Raises Unanswered when the connection ends before they are there."""
    received = b""
    while len(received) < size:
        connection.settimeout(remaining(deadline))
        piece = connection.recv(size - len(received))
        if not piece:
            raise Unanswered("the agent closed the connection without an answer", "see its log")
        received += piece
    return received


def remaining(deadline: float) -> float:
    """Seconds until the deadline. Raises TimeoutError when it has passed."""
    seconds = deadline - time.monotonic()
    if seconds <= 0:
        raise TimeoutError
    return seconds
