"""Until when the role of a session may log in."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Final

from walkeeper.postgres.server import Server

_QUERY: Final = (
    "SELECT rolname::text AS name, CASE WHEN rolvaliduntil < '9999-01-01 00:00:00+00'"
    " THEN greatest(rolvaliduntil, '1970-01-01 00:00:00+00') END AS ends_at"
    " FROM pg_catalog.pg_roles WHERE rolname = session_user"
)
"""PostgreSQL knows years, and two infinities, for which there is no Python date."""


@dataclass(frozen=True, slots=True)
class RoleValidity:
    """``VALID UNTIL`` of a role: its password is refused from then on; None for no end.

    Other ways to log in (peer, a certificate) know no such end.
    """

    name: str
    ends_at: datetime | None


async def ask_validity(server: Server) -> RoleValidity:
    """Of the role that has logged in; everybody may read that."""
    row = await server.fetch_row(_QUERY, doing="ask until when the role is valid")
    return RoleValidity(row["name"], row["ends_at"])
