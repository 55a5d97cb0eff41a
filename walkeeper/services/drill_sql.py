"""Checks that ask the recovered server: the user's own, and the rows of the largest tables."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from typing import Final, cast

import msgspec

from walkeeper.errors import PostgresError, PostgresUnavailable
from walkeeper.postgres.instance import Instance
from walkeeper.postgres.server import Server
from walkeeper.services.drill_report import CheckResult, Outcome, TableCount

_COUNTED_TABLES: Final = 10
_LARGEST: Final = """
SELECT coalesce(pg_catalog.json_agg(t ORDER BY size_bytes DESC), '[]')::text FROM (
    SELECT pg_catalog.format('%I.%I', n.nspname, c.relname) AS "table",
           pg_catalog.pg_table_size(c.oid) AS size_bytes
    FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relkind IN ('r', 'm') AND c.relpersistence = 'p' AND c.relispopulated
      AND n.nspname NOT IN ('pg_catalog', 'information_schema')
    ORDER BY 2 DESC LIMIT $1
) t
"""
_DATABASES: Final = """
SELECT coalesce(pg_catalog.json_agg(datname ORDER BY datname), '[]')::text
FROM pg_catalog.pg_database WHERE datallowconn AND NOT datistemplate
"""
_SUPERUSER: Final = """
SELECT pg_catalog.min(rolname::text) FROM pg_catalog.pg_roles WHERE oid = (
    SELECT pg_catalog.min(oid) FROM pg_catalog.pg_roles WHERE rolsuper AND rolcanlogin
)
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class SqlCheck:
    """A query of the user's with one value as its result, and what that must be.

    The value is compared as PostgreSQL writes it; ``least`` and ``most`` take it as a number.
    """

    sql: str
    database: str
    expect: str | None = None
    least: float | None = None
    most: float | None = None

    @property
    def expected(self) -> str:
        """What is wanted, in words."""
        words = [] if self.expect is None else [repr(self.expect)]
        words += [] if self.least is None else [f"at least {self.least:g}"]
        words += [] if self.most is None else [f"at most {self.most:g}"]
        return " and ".join(words)

    def judge(self, values: list[str | None]) -> str | None:
        """Why what the query returned is not what was wanted; None when it is."""
        if len(values) != 1:
            return "it returned no row" if not values else "it returned more than one row"
        (value,) = values
        if self.expect is not None and value != self.expect:
            return f"it returned {_shown(value)}, not {self.expect!r}"
        return self._judge_number(value)

    def _judge_number(self, value: str | None) -> str | None:
        if self.least is None and self.most is None:
            return None
        try:
            number = Decimal(value or "")
        except InvalidOperation:
            number = Decimal("NaN")
        if number.is_nan():
            return f"it returned {_shown(value)}, which is no number"
        if self.least is not None and number < Decimal(repr(self.least)):
            return f"it returned {value}, less than {self.least:g}"
        if self.most is not None and number > Decimal(repr(self.most)):
            return f"it returned {value}, more than {self.most:g}"
        return None

    @property
    def wrapped(self) -> str:
        """One row with an array of at most two results, as text; only a first column counts."""
        query = self.sql.strip().rstrip(";")
        # The line ends where a comment of the query's would otherwise go on.
        return (
            "SELECT pg_catalog.array_agg(found.value::text) FROM"  # noqa: S608 - the operator's own
            f" (SELECT answer.value FROM (\n{query}\n)"
            " AS answer(value) LIMIT 2) AS found"
        )


def _shown(value: str | None) -> str:
    return "NULL" if value is None else repr(value)


async def find_superuser(instance: Instance) -> str:
    """A role that may do everything; the one that follows recovery may not be one.

    Raises PostgresError where none may log in.
    """
    async with await instance.connect() as server:
        row = await server.fetch_row(_SUPERUSER, doing="look for a superuser")
    if row[0] is None:
        raise PostgresError("no superuser of the cluster may log in, so it cannot be checked")
    return cast(str, row[0])


@dataclass(slots=True)
class SqlChecks:
    """Asks one recovered server, each question for at most ``timeout_s``."""

    instance: Instance
    superuser: str
    timeout_s: float
    clock: Callable[[], float] = time.monotonic
    _counts: list[TableCount] = field(default_factory=list)

    async def run(self, check: SqlCheck, name: str) -> CheckResult:
        """Ask one of the user's questions, in a transaction that may not write."""
        begun, found = self.clock(), None
        try:
            async with await self._connect(check.database) as server:
                values = await self._ask(server, check)
            problem = check.judge(values)
            found = values[0] if values else None
        except (PostgresError, PostgresUnavailable) as error:
            problem = error.message
        return CheckResult(
            name=name,
            outcome="ok" if problem is None else "failed",
            detail=problem or f"as expected: {check.expected}",
            seconds=round(self.clock() - begun, 3),
            database=check.database,
            sql=check.sql,
            expected=check.expected,
            found=found,
        )

    async def count_tables(self) -> tuple[CheckResult, tuple[TableCount, ...]]:
        """Count the rows of the largest tables of all databases, for as long as there is time.

        To count is also to read: what cannot be read is a failure.
        """
        begun = self.clock()
        outcome: Outcome = "ok"
        detail = ""
        try:
            tables = await self._largest()
            for database, table, size in tables:
                left = self.timeout_s - (self.clock() - begun)
                if left <= 0:
                    outcome, detail = "unfinished", "there was no time for the others"
                    break
                rows = await self._count(database, table, left)
                if rows is None:
                    outcome, detail = "unfinished", f"there was no time for {table}"
                    break
                self._counts.append(
                    TableCount(database=database, table=table, size_bytes=size, rows=rows)
                )
        except (PostgresError, PostgresUnavailable) as error:
            outcome, detail = "failed", error.message
        counted = f"{len(self._counts)} of the largest tables counted"
        result = CheckResult(
            name="row counts",
            outcome=outcome,
            detail=f"{counted}; {detail}" if detail else counted,
            seconds=round(self.clock() - begun, 3),
        )
        return result, tuple(self._counts)

    async def _largest(self) -> list[tuple[str, str, int]]:
        async with await self._connect("template1") as server:
            row = await server.fetch_row(_DATABASES, doing="list the databases")
        found: list[tuple[str, str, int]] = []
        for database in msgspec.json.decode(cast(str, row[0]), type=list[str]):
            async with await self._connect(database) as server:
                row = await server.fetch_row(
                    _LARGEST, _COUNTED_TABLES, doing=f"list the tables of {database}"
                )
            listed = msgspec.json.decode(cast(str, row[0]), type=list[_Table])
            found += [(database, one.table, one.size_bytes) for one in listed]
        return sorted(found, key=lambda one: one[2], reverse=True)[:_COUNTED_TABLES]

    async def _count(self, database: str, table: str, left_s: float) -> int | None:
        """The rows of a table; None when that takes too long."""
        begun = self.clock()
        try:
            async with await self._connect(database) as server:
                row = await server.fetch_row(
                    f"SELECT count(*) FROM ONLY {table}",  # noqa: S608 - the server has quoted it
                    doing=f"count the rows of {database}: {table}",
                    deadline_s=left_s,
                )
        except PostgresUnavailable:
            if self.clock() - begun >= left_s:
                return None
            raise
        return cast(int, row[0])

    async def _ask(self, server: Server, check: SqlCheck) -> list[str | None]:
        await server.execute("BEGIN READ ONLY", doing="begin a transaction")
        row = await server.fetch_row(
            check.wrapped, doing="run the check", deadline_s=self.timeout_s
        )
        return cast("list[str | None] | None", row[0]) or []

    async def _connect(self, database: str) -> Server:
        return await self.instance.connect(database, self.superuser)


class _Table(msgspec.Struct, frozen=True):
    table: str
    size_bytes: int
