"""Until when a role may log in, asked of a real server by the role itself."""

from __future__ import annotations

from datetime import UTC, datetime

from tests.fix_postgres import MakeCluster
from walkeeper.postgres.role import RoleValidity, ask_validity
from walkeeper.postgres.server import Server

UNTIL = {
    "'2030-02-03 04:05:06+00'": datetime(2030, 2, 3, 4, 5, 6, tzinfo=UTC),
    "'2001-01-01 00:00:00+00'": datetime(2001, 1, 1, tzinfo=UTC),
    "'infinity'": None,
    "'294000-01-01 00:00:00+00'": None,
    "'-infinity'": datetime(1970, 1, 1, tzinfo=UTC),
}


async def test_a_role_without_rights_knows_its_own_end(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(fsync=False)
    dsn = cluster.dsn.replace("postgres@", "Wal%20Keeper@")
    assert dsn != cluster.dsn
    cluster.sql('CREATE ROLE "Wal Keeper" LOGIN')
    async with await Server.connect(dsn, deadline_s=30) as server:
        assert await ask_validity(server) == RoleValidity("Wal Keeper", None)
        for until, ends_at in UNTIL.items():
            cluster.sql(f'ALTER ROLE "Wal Keeper" VALID UNTIL {until}')
            assert await ask_validity(server) == RoleValidity("Wal Keeper", ends_at)
