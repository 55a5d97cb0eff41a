"""The settings of a server that runs on a restored directory and touches nothing else."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, TypedDict

from walkeeper.errors import RecoveryError
from walkeeper.postgres.control_file import read_control_file
from walkeeper.postgres.programs import ProcessOwner

PORT: Final = "5432"
"""It only names the socket: there is no TCP port."""

_ANSWER_TIMEOUT_S: Final = 30.0
_PRIVATE: Final = {
    "port": PORT,
    "listen_addresses": "",
    "unix_socket_permissions": "0700",
    "unix_socket_group": "",
    "external_pid_file": "",  # Debian's would be that of the source
    "ssl": "off",  # its certificates may not be on this host
    "logging_collector": "off",
    "log_destination": "stderr",
    "lc_messages": "C",
}
# Sockets are limited to 107 bytes (struct sockaddr_un), so TMPDIR is not asked.
RUN_DIR_PARENT: Final = Path("/tmp")
_RUN_DIR_PREFIX: Final = "walkeeper-"


@dataclass(frozen=True, slots=True)
class ServerFiles:
    """Where the configuration of a restored cluster lies; the data directory may not hold it.

    All are given on the command line: a configuration outside the data directory names the data
    directory of the source. ``hba_file`` None lets in whoever can reach the private socket.
    """

    config_file: Path
    ident_file: Path
    hba_file: Path | None = None


class ProcessOptions(TypedDict, total=False):
    """What subprocess needs to start a child as another user."""

    user: int
    group: int
    extra_groups: list[int]


def process_options(owner: ProcessOwner | None) -> ProcessOptions:
    """Arguments for subprocess that make a child run as ``owner``; None: as ourselves."""
    if owner is None:
        return {}
    return {"user": owner.uid, "group": owner.gid, "extra_groups": list(owner.groups)}


def make_run_dir(owner: ProcessOwner | None, parent: Path = RUN_DIR_PARENT) -> Path:
    """A new directory, closed to all but ``owner``, for the socket and the log. Blocks."""
    path = Path(tempfile.mkdtemp(prefix=_RUN_DIR_PREFIX, dir=parent))
    try:
        hba_file = path / "pg_hba.conf"
        hba_file.write_text("local all all trust\n")
        if owner is not None:
            for item in (hba_file, path):
                os.chown(item, owner.uid, owner.gid)
    except BaseException:
        shutil.rmtree(path)
        raise
    return path


def is_run_dir(path: Path) -> bool:
    """Whether a directory bears the name of one that `make_run_dir` makes by default."""
    return path.parent == RUN_DIR_PARENT and path.name.startswith(_RUN_DIR_PREFIX)


def private_settings(
    data_dir: Path,
    program: Path,
    *,
    files: ServerFiles,
    run_dir: Path,
    owner: ProcessOwner | None,
    settings: Mapping[str, str],
) -> dict[str, str]:
    """Everything that goes on the command line, ``settings`` last. Blocks.

    A standby refuses to replay WAL of a server with larger settings (CheckRequiredParameterValues
    in src/backend/access/transam/xlogrecovery.c), so those of pg_control are the least. Raises
    RecoveryError when PostgreSQL does not accept the configuration.
    """
    options = {
        "data_directory": str(data_dir),
        "config_file": str(files.config_file),
        "hba_file": str(files.hba_file or run_dir / "pg_hba.conf"),
        "ident_file": str(files.ident_file),
        "unix_socket_directories": str(run_dir),
        **_PRIVATE,
        **settings,
    }
    least = asdict(read_control_file(data_dir).standby_settings)
    for name, value in least.items():
        if int(_ask(program, data_dir, options, name, owner)) < value:
            options[name] = str(value)
    return options


def command_line(program: Path, data_dir: Path, options: Mapping[str, str]) -> list[str]:
    """The words that start ``postgres`` with these settings."""
    words = [str(program), "-D", str(data_dir)]
    for name, value in options.items():
        words += ["-c", f"{name}={value}"]
    return words


def _ask(
    program: Path,
    data_dir: Path,
    options: Mapping[str, str],
    name: str,
    owner: ProcessOwner | None,
) -> str:
    """The value that a setting would have, asked of ``postgres -C``."""
    argv = [*command_line(program, data_dir, options), "-C", name]
    answer = subprocess.run(
        argv,
        capture_output=True,
        text=True,
        check=False,
        cwd="/",
        timeout=_ANSWER_TIMEOUT_S,
        **process_options(owner),
    )
    if answer.returncode != 0:
        raise RecoveryError(
            f"PostgreSQL does not accept the restored configuration: {answer.stderr.strip()}",
            hint=f"look at {options['config_file']} and postgresql.auto.conf",
        )
    return answer.stdout.strip()
