"""The fetch service that ``wal-fetch`` starts where no agent runs.

One for each configuration and archive, and apart for those who believe unsigned objects; it
prefetches, serves the later calls of the same recovery, and ends when it has been idle. Before its
recovery begins, ``restore`` has asked it for a segment, and has it fetch the first ones ahead.
Its socket, lock and log lie in a directory that only its user can enter.
"""

import posix
import sys
import time

from walkeeper.hooks import wire
from walkeeper.hooks.channel import Failure, NobodyListens, connect, environment
from walkeeper.hooks.options import absolute, encoded, exists

IDLE_S = 60
"""Seconds without a request after which the service ends."""

START_DEADLINE_S = 60.0
"""For a service to listen: its imports, on a cold and busy host."""

DEFAULT_CONFIG = "/etc/walkeeper/walkeeper.toml"
_POLL_S = 0.02
_LOCKED = 11
"""The exit code of a service that finds another one listening: both were started at once."""
_MAX_SOCKET_PATH = 107
"""Bytes of a socket's name without its NUL: sun_path, unix(7)."""
_MAX_LOG = 1024 * 1024
_MAX_DESCRIPTOR = 65_536
"""PostgreSQL opens far fewer; the system's own limit may be a thousand million."""
_S_IFMT, _S_IFDIR = 0o170000, 0o040000


class Choice:
    """Which archive is asked, and whether objects are believed that no known writer signed."""

    def __init__(self, config: str | None, archive: str | None, unsigned: bool) -> None:  # noqa: FBT001 - as the options are
        self.config = config
        self.archive = archive
        self.unsigned = unsigned

    @property
    def is_made(self) -> bool:
        """Whether the agent, which goes by its own configuration, cannot answer."""
        return self.config is not None or self.archive is not None or self.unsigned


class Service:
    """Where a private service listens and how it is started."""

    def __init__(self, socket: str, arguments: list[str]) -> None:
        self.socket = socket
        self.log = socket.removesuffix(".sock") + ".log"
        self.arguments = arguments


def describe(choice: Choice) -> Service:
    """The service for one choice.

    Its socket's name also depends on the state of the configuration file and on the protocol, so
    that a corrected file and an upgraded hook are served by a new service, not by the old one.
    Raises Failure when no private directory can be had.
    """
    chosen = choice.config or environment("WALKEEPER_CONFIG") or DEFAULT_CONFIG
    config_path = absolute(encoded(chosen))
    try:
        status = posix.stat(config_path)
        state = f"{status.st_dev} {status.st_ino} {status.st_size} {status.st_mtime_ns}"
    except OSError as error:
        state = f"errno {error.errno}"
    identity = [config_path, state.encode(), encoded(choice.archive or "")]
    identity.append(b"%d" % choice.unsigned)
    key = fingerprint(b"\0".join(identity))
    name = f"fetch-{wire.VERSION}-{key:032x}.sock"
    socket = private_directory(len(name)) + "/" + name
    arguments = ["fetch-service", "--listen", socket, "--idle", str(IDLE_S)]
    if choice.config is not None:
        path = config_path.decode(sys.getfilesystemencoding(), sys.getfilesystemencodeerrors())
        arguments += ["--config", path]
    if choice.archive is not None:
        arguments += ["--archive", choice.archive]
    if choice.unsigned:
        arguments.append("--unsigned")
    return Service(socket, arguments)


def fingerprint(data: bytes) -> int:
    """FNV-1a of 128 bits (the hash's reference page): tells names apart, protects nothing."""
    value = 0x6C62272E07BB014262B821756295C58D
    for byte in data:
        value = ((value ^ byte) * 0x0000000001000000000000000000013B) & (1 << 128) - 1
    return value


def private_directory(name_length: int) -> str:
    """A directory of ours that nobody else can enter, made when it is missing.

    Raises Failure when what is there belongs to another user, is open to others or is a link.
    """
    user = posix.geteuid()
    candidates = [f"/tmp/walkeeper-{user}"]
    runtime = environment("XDG_RUNTIME_DIR")
    if runtime.startswith("/") and len(encoded(runtime)) + name_length < _MAX_SOCKET_PATH - 20:
        candidates.insert(0, runtime + "/walkeeper")
    reason = ""
    for path in candidates:
        reason = refusal(path, user)
        if not reason:
            return path
    raise Failure(
        f"no place for the fetch service's socket: {reason}", "remove it, or use --socket"
    )


def refusal(path: str, user: int) -> str:
    """Why this is no directory that only ``user`` can enter, '' when it is; made when missing."""
    try:
        if not exists(path):
            posix.mkdir(path, 0o700)
    except FileExistsError:
        pass  # another hook was faster
    except OSError as error:
        return f"{path}: {error.strerror}"
    status = posix.lstat(path)
    ours = status.st_uid == user and status.st_mode & _S_IFMT == _S_IFDIR
    if ours and not status.st_mode & 0o077:
        return ""
    return f"{path} is not a directory that only user {user} can enter"


def start(service: Service, deadline: float) -> None:
    """Starts the service and returns when it listens.

    When another hook has started it at the same moment, that one is waited for. Raises Failure
    with the last line of its log when it ends instead.
    """
    deadline = min(deadline, time.monotonic() + START_DEADLINE_S)
    log = posix.open(
        service.log,
        posix.O_RDWR | posix.O_CREAT | posix.O_APPEND | posix.O_NOFOLLOW | posix.O_CLOEXEC,
        0o600,
    )
    if posix.fstat(log).st_size > _MAX_LOG:
        posix.ftruncate(log, 0)
    begin = posix.fstat(log).st_size
    child: int | None = posix.fork()
    if child == 0:
        become(service.arguments, log)
    while time.monotonic() < deadline:
        try:
            connect(service.socket, deadline).close()
        except NobodyListens:
            time.sleep(_POLL_S)
        else:
            return
        if child is not None:
            ended, status = posix.waitpid(child, posix.WNOHANG)
            if ended and posix.waitstatus_to_exitcode(status) != _LOCKED:
                raise Failure(f"the fetch service ended: {last_line(log, begin)}", service.log)
            child = None if ended else child
    raise Failure("the fetch service does not listen", f"see {service.log}")


def become(arguments: list[str], log: int) -> None:
    """Turns a forked child into the service; never returns.

    A session of its own, so that PostgreSQL's signals to the hook's process group do not reach it,
    and none of PostgreSQL's descriptors: a service that kept the pipe of its logging collector
    would keep the collector alive.
    """
    try:
        posix.setsid()
        posix.umask(0o077)
        posix.chdir("/")
        posix.dup2(posix.open("/dev/null", posix.O_RDONLY), 0)
        posix.dup2(log, 1)
        posix.dup2(log, 2)
        posix.closerange(3, _MAX_DESCRIPTOR)
        posix.execv(sys.executable, [sys.executable, "-P", "-m", "walkeeper", *arguments])
    except BaseException as error:  # noqa: BLE001 - a forked child must not return into the hook
        posix.write(2, f"{sys.executable}: {error}\n".encode("utf-8", "replace"))
    finally:
        posix._exit(1)  # noqa: SLF001


def last_line(log: int, begin: int) -> str:
    """The last line, hints apart, that was written since the log was ``begin`` bytes long."""
    size = posix.fstat(log).st_size
    start_at = max(begin, size - 4096)
    lines = posix.pread(log, size - start_at, start_at).decode("utf-8", "replace").split("\n")
    stripped = (line.strip() for line in lines)
    written = [line for line in stripped if line and not line.startswith("hint:")]
    return written[-1] if written else "it wrote nothing"
