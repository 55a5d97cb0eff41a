"""``wal-fetch``: one WAL file from the archive to where PostgreSQL wants it.

The file is opened here and written by the service, through a descriptor that travels with the
request; or the service puts one in its place that it has fetched ahead. It gets its name only when
it is whole, by a rename in its own directory: PostgreSQL opens %p as soon as the hook has answered
0. Nothing is synced: PostgreSQL does that when it keeps the file (xlogarchive.c,
KeepFileRestoredFromArchive), and asks again after a crash.
"""

import posix

from walkeeper.hooks import private_service, wire
from walkeeper.hooks.channel import (
    Failure,
    NobodyListens,
    Unanswered,
    ask,
    deadline_in,
    environment,
)
from walkeeper.hooks.options import Options, absolute, encoded, exists, parent

FETCH_DEADLINE_S = 600.0
"""How long ``wal-fetch`` waits unless ``--timeout`` says otherwise. The service bounds its own
retries far below that; only a service that hangs is met by this deadline."""

FETCH_DEADLINE_LIMIT_S = 86_400.0
_ATTEMPTS = 3
"""Questions to a private service that may be just ending as we ask."""


def fetch(options: Options) -> None:
    """Returns when the file lies at its destination, whole.

    Raises Absent when the archive has answered that it holds no such file, Failure for everything
    else; then nothing is left behind and an older file at the destination is as it was.
    """
    name, destination = encoded(options.operands[0]), absolute(encoded(options.operands[1]))
    fields = ask_for(name, destination, options, b"%d" % posix.getpid())
    deadline = deadline_in(int(fields["timeout_ms"]) / 1000)
    temporary = fields["temporary"]
    frame = wire.encode_request("wal-fetch", fields)
    remove_stale(destination)
    flags = posix.O_RDWR | posix.O_CREAT | posix.O_EXCL | posix.O_NOFOLLOW | posix.O_CLOEXEC
    descriptor = posix.open(temporary, flags, 0o600)
    try:
        message = ask_service(options, frame, deadline, descriptor)
        check_written(message, descriptor, temporary)
        posix.rename(temporary, destination)
    except BaseException:
        remove(temporary)
        raise


def fetch_ahead(options: Options) -> None:
    """Returns when the service has begun to fetch what a recovery will ask for, this file first.

    The service is there then and the archive open. Raises Failure.
    """
    name, destination = encoded(options.operands[0]), absolute(encoded(options.operands[1]))
    fields = ask_for(name, destination, options, b"0")
    deadline = deadline_in(int(fields["timeout_ms"]) / 1000)
    ask_service(options, wire.encode_request("wal-ahead", fields), deadline)


def ask_for(name: bytes, destination: bytes, options: Options, pid: bytes) -> dict[str, bytes]:
    """The fields of the request that a hook with this process id makes. Raises Failure."""
    timeout_s = options.timeout_s(FETCH_DEADLINE_S, FETCH_DEADLINE_LIMIT_S)
    if b"/" in name:
        raise Failure("the first argument is %f, a name without a directory")
    fields = describe(name, destination, options)
    fields["timeout_ms"] = b"%d" % (timeout_s * 1000)
    fields["temporary"] = destination + b".walkeeper." + pid
    return fields


def check_written(message: str, descriptor: int, temporary: bytes) -> None:
    """Raises Failure unless the file under the name is the one that was answered, in its size."""
    ours, named = posix.fstat(descriptor), posix.lstat(temporary)
    try:
        size, inode = wire.decode_written(message)
    except wire.WireError as error:
        raise Failure(f"the service answered {error}") from None
    if size != named.st_size or not size:
        raise Failure(f"the service wrote {named.st_size} bytes and answered {message!r}")
    if facts_of(named) != (ours.st_ino if inode is None else inode, *facts_of(ours)[1:]):
        raise Failure("another process replaced the temporary file")


def facts_of(status: posix.stat_result) -> tuple[int, ...]:
    """The inode; and what a file that takes another one's place must have in common with it."""
    return status.st_ino, status.st_dev, status.st_mode, status.st_uid, status.st_gid


def describe(name: bytes, destination: bytes, options: Options) -> dict[str, bytes]:
    """The fields that say who asks for what.

    ``--timeline`` and ``--end`` belong to a recovery that ``restore`` has prepared; they are sent
    only while its recovery.signal exists, and never in standby mode (which wins when both signal
    files exist, xlogrecovery.c readRecoverySignalFile) or for a history file.
    """
    data_directory = parent(parent(destination))
    standby = options.get("--standby") is not None or exists(data_directory + b"/standby.signal")
    recovery = exists(data_directory + b"/recovery.signal")
    status = posix.stat(data_directory)
    fields = {
        "name": name,
        "path": destination,
        "data_dev": b"%d" % status.st_dev,
        "data_ino": b"%d" % status.st_ino,
        "standby": b"%d" % standby,
        "recovery": b"%d" % recovery,
        "present": b"%d" % holds(parent(destination) + b"/" + name, name),
    }
    if options.get("--guard-tablespaces") is not None and (standby or recovery):
        fields["guard"] = b"1"
    run = find_run(data_directory)
    if run:
        fields["run"] = run
    timeline, end = options.get("--timeline"), options.get("--end")
    if timeline is not None and not (timeline.isascii() and timeline.isdigit()):
        raise Failure(f"--timeline {timeline} is not a number")
    if recovery and not standby and not name.endswith(b".history"):
        if timeline is not None:
            fields["timeline"] = encoded(timeline)
        if end is not None:
            fields["end"] = encoded(end)
    return fields


def find_run(data_directory: bytes) -> bytes:
    """Process id and start of the server there, from postmaster.pid; empty when none runs."""
    try:
        descriptor = posix.open(data_directory + b"/postmaster.pid", posix.O_RDONLY)
    except FileNotFoundError:
        return b""
    try:
        lines = posix.read(descriptor, 8192).split(b"\n")
    finally:
        posix.close(descriptor)
    # Its lines: src/include/utils/pidfile.h.
    words = lines[0:1] + lines[2:3]
    return b".".join(words) if all(word.lstrip(b"-").isdigit() for word in words) else b""


def holds(path: bytes, name: bytes) -> bool:
    """Whether there is a file of that name with the WAL that belongs to it.

    Before 15 PostgreSQL recycles segments while it recovers (xlog.c, CreateRestartPoint): a file
    of a name to come may hold any older segment, which no one misses. Its first page tells:
    xlp_info, xlp_pageaddr, xlp_seg_size at 2, 8 and 32 (xlog_internal.h, XLogLongPageHeaderData).
    """
    if not exists(path):
        return False
    if len(name) != 24:
        return True
    descriptor = posix.open(path, posix.O_RDONLY | posix.O_CLOEXEC)
    try:
        header = posix.read(descriptor, 40)
    finally:
        posix.close(descriptor)
    size = int.from_bytes(header[32:36], "little")
    if len(header) < 40 or not header[2] & 2:
        return any(header)  # of no segment that we know: to be kept, unless it is zeros
    begin = (int(name[8:16], 16) << 32) + int(name[16:], 16) * size
    return int.from_bytes(header[8:16], "little") == begin


def ask_service(
    options: Options, frame: bytes, deadline: float, descriptor: int | None = None
) -> str:
    """Asks whoever is responsible and returns the message of an ``ok``.

    ``--socket`` names the only one; ``--config``, ``--archive`` or ``--unsigned`` a private service
    of their own; otherwise it is the agent, and where no agent listens a private service.
    """
    explicit = options.get("--socket")
    choice = private_service.Choice(
        options.get("--config"), options.get("--archive"), options.get("--unsigned") is not None
    )
    if explicit is not None and choice.is_made:
        raise Failure("--socket goes with none of --config, --archive and --unsigned")
    if explicit is not None:
        return ask(explicit, frame, deadline, descriptor)
    if not choice.is_made:
        try:
            agent = environment("WALKEEPER_SOCKET") or wire.DEFAULT_SOCKET
            return ask(agent, frame, deadline, descriptor)
        except NobodyListens:
            pass
    service = private_service.describe(choice)
    for _ in range(_ATTEMPTS):
        try:
            return ask(service.socket, frame, deadline, descriptor)
        except NobodyListens:
            private_service.start(service, deadline)
        except Unanswered:  # it was just ending
            if descriptor is not None:
                posix.ftruncate(descriptor, 0)
                posix.lseek(descriptor, 0, 0)
    return ask(service.socket, frame, deadline, descriptor)


def remove_stale(destination: bytes) -> None:
    """Removes what hooks for the same destination left that were killed: SIGTERM is not caught."""
    directory, _, name = destination.rpartition(b"/")
    prefix = name + b".walkeeper."
    for entry in posix.listdir(directory or b"/"):
        pid = entry[len(prefix) :].removesuffix(b".whole")  # FetchFile puts that behind a name
        if entry.startswith(prefix) and pid.isdigit() and not runs(int(pid)):
            remove(directory + b"/" + entry)


def runs(pid: int) -> bool:
    """Whether another process of that number exists."""
    try:
        posix.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        return True
    return pid != posix.getpid()


def remove(path: bytes) -> None:
    """Removes a temporary file; one that cannot be removed hides no other error."""
    try:
        posix.unlink(path)
    except OSError:
        return
