"""The private server of a drill: its settings, and a configuration that owes the backup nothing.

What comes out of a backup is data to recover, not instructions: neither its postgresql.conf nor
its postgresql.auto.conf, pg_hba.conf or pg_ident.conf is read, and what could run a program or
load a library is also overridden on the command line, which counts more than any file. Settings
that the catalog keeps for databases and roles count more than that; those that could load or run
something are overridden again in each session of ours.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from walkeeper.core.plan import RestorePlan
from walkeeper.postgres.private_server import ServerFiles
from walkeeper.postgres.recovery_conf import RecoveryConf, edit_auto_conf
from walkeeper.services.drill_scratch import Scratch
from walkeeper.services.restore_config import (
    AUTO_CONF,
    HBA_CONF,
    IDENT_CONF,
    MAIN_CONF,
)
from walkeeper.services.restore_write import write_file

_FIRST_WITH_ARCHIVE_LIBRARY: Final = 15
_FIRST_WITH_EVENT_TRIGGERS: Final = 17
_LEAST_WAL_BYTES: Final = 256 << 20
_MIB: Final = 1 << 20
_HBA: Final = b"local all all trust\n"
"""The socket lies in a directory that only the server's user can enter."""
_HEADER: Final = b"# Written by walkeeper drill. All settings are on the server's command line.\n"


@dataclass(frozen=True, slots=True)
class ServerLimits:
    """``memory_bytes`` are the server's shared buffers; ``preload`` are the libraries that
    recovery cannot do without (those of extensions with WAL records of their own)."""

    memory_bytes: int
    preload: tuple[str, ...] = ()


def server_settings(plan: RestorePlan, limits: ServerLimits) -> dict[str, str]:
    """What goes on the private server's command line."""
    major = plan.backup.server_version // 10_000
    segment_mib = plan.segment_size.bytes // _MIB
    settings = {
        "recovery_end_command": "",
        "archive_cleanup_command": "",
        "ssl_passphrase_command": "",
        "ssl_passphrase_command_supports_reload": "off",
        "archive_mode": "off",
        "archive_command": "",
        "shared_preload_libraries": ",".join(limits.preload),
        "dynamic_library_path": "$libdir",
        "primary_conninfo": "",
        "max_logical_replication_workers": "0",
        "restart_after_crash": "off",  # a crash must not pass for a recovery
        "autovacuum": "off",
        "jit": "off",
        "max_parallel_workers": "0",
        "max_parallel_maintenance_workers": "0",
        "shared_buffers": f"{max(limits.memory_bytes // 1024, 128)}kB",
        "maintenance_work_mem": "64MB",
        "work_mem": "4MB",
        # The defaults that the server was built with do not go with large segments.
        "min_wal_size": f"{2 * segment_mib}MB",
        "max_wal_size": f"{max(_LEAST_WAL_BYTES // _MIB, 4 * segment_mib)}MB",
    }
    if major >= _FIRST_WITH_ARCHIVE_LIBRARY:
        settings["archive_library"] = ""
    return settings | session_settings(major)


def session_settings(major: int) -> dict[str, str]:
    """What every session of ours sets for itself, whatever the catalog says."""
    settings = {"session_preload_libraries": "", "local_preload_libraries": ""}
    if major >= _FIRST_WITH_EVENT_TRIGGERS:
        settings["event_triggers"] = "off"  # those at login would run in our sessions
    return settings


def write_configuration(scratch: Scratch, plan: RestorePlan, restore_command: str) -> ServerFiles:
    """Replace the cluster's configuration by one of our own. Blocks.

    postgresql.auto.conf is read from the data directory whatever the command line says, so the
    restored one is replaced by the recovery settings alone. Raises RecoveryError, StorageFull.
    """
    conf = RecoveryConf(
        major=plan.backup.server_version // 10_000,
        restore_command=restore_command,
        timeline=plan.timeline,
        target=plan.request.target,
        action=plan.request.action,
    )
    own = scratch.conf_dir
    write_file(own / MAIN_CONF, [_HEADER], scratch.owner)
    write_file(own / HBA_CONF, [_HBA], scratch.owner)
    write_file(own / IDENT_CONF, [], scratch.owner)
    auto = edit_auto_conf("", conf).encode("utf-8", "surrogateescape")
    write_file(scratch.data_dir / AUTO_CONF, [auto], scratch.owner)
    return ServerFiles(own / MAIN_CONF, own / IDENT_CONF, own / HBA_CONF)
