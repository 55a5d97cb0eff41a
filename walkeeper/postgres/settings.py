"""Settings of a server as pg_settings and its files have them, and changing them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, cast

from walkeeper.errors import PostgresError
from walkeeper.postgres.server import Server

HIDDEN: Final = "(disabled)"
"""What is shown for archive_command as long as archive_mode is off
(src/backend/access/transam/xlog.c, show_archive_command)."""


@dataclass(frozen=True, slots=True)
class Setting:
    """A setting; ``value`` is in its base unit.

    ``pending_restart``: the files say something else, which counts from the next start.
    ``source`` is where the value comes from: "default", "configuration file", "command line" ...
    """

    value: str
    pending_restart: bool
    source: str


async def read_settings(server: Server, names: Sequence[str]) -> dict[str, Setting]:
    """Those of the settings that this server has and that the role may see."""
    row = await server.fetch_row(
        "SELECT array_agg(name) AS names, array_agg(setting) AS settings,"
        " array_agg(pending_restart) AS pending, array_agg(source) AS sources"
        " FROM pg_catalog.pg_settings WHERE name = ANY($1::text[])",
        list(names),
        doing="read the server's settings",
    )
    rows = zip(
        cast("list[str] | None", row["names"]) or [],
        cast("list[str] | None", row["settings"]) or [],
        cast("list[bool] | None", row["pending"]) or [],
        cast("list[str] | None", row["sources"]) or [],
        strict=True,
    )
    return {name: Setting(value, pending, source) for name, value, pending, source in rows}


async def find_in_files(server: Server, name: str) -> str | None:
    """What the configuration files say of a setting, "" when nothing.

    None when the role may not know. The last entry counts: postgresql.auto.conf comes last.
    """
    try:
        row = await server.fetch_row(
            "SELECT coalesce((SELECT setting FROM pg_catalog.pg_file_settings WHERE name = $1"
            " ORDER BY seqno DESC LIMIT 1), '')",
            name,
            doing=f"read {name} from the configuration files",
        )
    except PostgresError as error:
        if error.retryable:
            raise
        return None
    return cast(str, row[0])


async def alter_system(server: Server, name: str, value: str) -> None:
    """Write a setting into postgresql.auto.conf; it counts from the next reload or start."""
    doing = f"set {name}"
    row = await server.fetch_row(
        "SELECT pg_catalog.quote_ident($1), pg_catalog.quote_literal($2)", name, value, doing=doing
    )
    await server.execute(
        f"ALTER SYSTEM SET {row[0]} = {row[1]}",
        doing=doing,
        rights_hint="only a superuser may: run the statement as one, or edit postgresql.conf",
    )


async def reload_configuration(server: Server) -> None:
    """Make every process of the server read its files again; returns before they have."""
    await server.fetch_row(
        "SELECT pg_catalog.pg_reload_conf()",
        doing="reload the configuration",
        rights_hint="only a superuser may: run pg_ctl reload",
    )


async def find_missing_rights(server: Server, functions: Sequence[str]) -> list[str]:
    """Which of these functions, written with their argument types, the role may not execute."""
    row = await server.fetch_row(
        "SELECT coalesce(array_agg(f ORDER BY f), '{}') FROM unnest($1::text[]) AS f"
        " WHERE NOT has_function_privilege('pg_catalog.' || f, 'EXECUTE')",
        list(functions),
        doing="ask for the role's rights",
    )
    return cast("list[str]", row[0])
