"""The protocol between a hook, or the command line, and the agent: frames on a Unix stream socket.

Both ends share this module, and a hook is started once per WAL segment, so it imports nothing at
all. A frame is a header of eight bytes and a payload::

    "WK"    version   kind: Q request, P progress, R reply    payload length, big endian
    2       1         1                                       4 bytes

The header keeps its shape in every version, so that an old hook and a new agent can tell each
other why they do not understand each other. File descriptors travel beside a request's bytes
(SCM_RIGHTS).

The payload of a request and of a reply is a list of fields separated by NUL, which no path can
hold. A request: the command, then ``key=value`` fields. A reply: ``ok``, ``absent`` or ``failed``;
the exit code of the error as decimal; a message; a hint. A progress frame is one JSON document.

Commands of the hooks and their fields (integers as decimal, times in nanoseconds, paths absolute):

``wal-push``
    ``path`` of the file; ``dir_dev`` ``dir_ino`` of the directory that holds it (the client's
    ``pg_wal``); ``dev`` ``ino`` ``size`` ``mtime_ns`` of the file; ``timeout_ms`` that the hook
    will still wait. ``ok`` means durable; the hook answers 0 for nothing else.
``wal-fetch``
    ``name`` asked for (%f); ``path`` it is to get (%p); ``data_dev`` ``data_ino`` of the directory
    above %p's; ``standby`` and ``recovery``: 1 where PostgreSQL is in standby mode (or
    ``--standby`` says so) and where recovery.signal exists; ``present``: 1 when the directory of
    %p already holds a file of that name with its WAL in it, not a recycled one; ``timeout_ms``;
    optionally ``timeline`` and ``end``, and ``run``, which differs from one run of the server on
    that directory to the next, and ``guard``: 1 to refuse WAL that creates a tablespace in a
    directory that another cluster uses. One descriptor: an empty file to write into. ``temporary``,
    optional, is its name, under which the service may put another file instead, of the same owner
    and mode, if it sees that very file there. The message of ``ok`` is the number of bytes written,
    and behind a blank the inode of the file that took its place, if one did; ``absent`` means that
    the archive answered that it holds no such file.
``wal-ahead``
    The same fields, for a recovery that will ask for this segment and those that follow it. ``ok``
    means that they are being fetched; nothing is written and no descriptor goes along.
"""

VERSION = 1
"""Of the protocol: raised when an older end would misunderstand a newer one."""

DEFAULT_SOCKET = "/run/walkeeper/agent.sock"
"""Where the agent listens unless told otherwise."""

HEADER_SIZE = 8
MAX_REQUEST = 64 * 1024
MAX_REPLY = 8 * 1024
MAX_PROGRESS = 64 * 1024

REQUEST = ord("Q")
PROGRESS = ord("P")
REPLY = ord("R")

OK = "ok"
ABSENT = "absent"
FAILED = "failed"

_MAGIC = b"WK"
_LIMITS = {REQUEST: MAX_REQUEST, PROGRESS: MAX_PROGRESS, REPLY: MAX_REPLY}


class WireError(Exception):
    """What arrived is not a frame of this protocol, or what was to be sent does not fit in one."""


class VersionMismatch(WireError):
    """The other end speaks ``version`` of the protocol and this one does not."""

    def __init__(self, version: int) -> None:
        super().__init__(f"the other end speaks version {version} of the protocol, this {VERSION}")
        self.version = version


def encode_frame(kind: int, payload: bytes) -> bytes:
    """The bytes of one frame. Raises WireError when the payload is over its kind's limit."""
    if len(payload) > _LIMITS[kind]:
        raise WireError(f"a message of {len(payload)} bytes is over the limit of {_LIMITS[kind]}")
    return _MAGIC + bytes((VERSION, kind)) + len(payload).to_bytes(4, "big") + payload


def decode_header(header: bytes) -> tuple[int, int]:
    """``(kind, payload length)`` of the frame that these HEADER_SIZE bytes begin.

    Raises VersionMismatch when another version wrote them, WireError when nobody of ours did.
    """
    if len(header) != HEADER_SIZE or header[:2] != _MAGIC:
        raise WireError("not a message of walkeeper")
    if header[2] != VERSION:
        raise VersionMismatch(header[2])
    kind = header[3]
    length = int.from_bytes(header[4:], "big")
    if kind not in _LIMITS or length > _LIMITS[kind]:
        raise WireError("a malformed message")
    return kind, length


def encode_request(command: str, fields: dict[str, bytes]) -> bytes:
    """A request's frame. Raises WireError when a value holds NUL or the whole is too long."""
    parts = [command.encode()] + [key.encode() + b"=" + value for key, value in fields.items()]
    for part in parts:
        if b"\0" in part:
            raise WireError("a value holds a NUL byte")
    return encode_frame(REQUEST, b"\0".join(parts))


def decode_request(payload: bytes) -> tuple[str, dict[str, bytes]]:
    """``(command, fields)`` of a request's payload. Raises WireError on anything else."""
    command, *parts = payload.split(b"\0")
    fields: dict[str, bytes] = {}
    for part in parts:
        key, equals, value = part.partition(b"=")
        if not equals or not key.isascii() or key.decode() in fields:
            raise WireError("a malformed request")
        fields[key.decode()] = value
    if not command or not command.isascii():
        raise WireError("a request without a command")
    return command.decode(), fields


def encode_reply(status: str, exit_code: int, message: str, hint: str) -> bytes:
    """A reply's frame. Over-long texts are cut, never refused: a reply must always get through."""
    texts = [
        text.replace("\0", " ").encode("utf-8", "replace")[:limit]
        for text, limit in ((message, 5 * 1024), (hint, 2 * 1024))
    ]
    return encode_frame(REPLY, b"\0".join([status.encode(), b"%d" % exit_code, *texts]))


def decode_reply(payload: bytes) -> tuple[str, int, str, str]:
    """``(status, exit code, message, hint)``. Raises WireError unless it is one of ours, whole."""
    parts = payload.split(b"\0")
    if len(parts) != 4 or not parts[1].isdigit() or len(parts[1]) > 3:
        raise WireError("a malformed reply")
    status = parts[0].decode("ascii", "replace")
    code = int(parts[1])
    if status not in {OK, ABSENT, FAILED} or (status == OK) != (code == 0):
        raise WireError("a malformed reply")
    return status, code, parts[2].decode("utf-8", "replace"), parts[3].decode("utf-8", "replace")


def encode_written(size_bytes: int, inode: int | None) -> str:
    """The message of a wal-fetch's ``ok``."""
    return f"{size_bytes}" if inode is None else f"{size_bytes} {inode}"


def decode_written(message: str) -> tuple[int, int | None]:
    """``(size, inode)`` of the message of a wal-fetch's ``ok``. Raises WireError on another one."""
    size, blank, inode = message.partition(" ")
    numbers = [size, inode] if blank else [size]
    if not all(number.isascii() and number.isdigit() for number in numbers):
        raise WireError(f"{message!r}, which is no size")
    return int(size), int(inode) if blank else None
