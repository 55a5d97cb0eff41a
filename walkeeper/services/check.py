"""The steps of ``check``: each tries one thing end to end and says what it found.

They raise what fails. Nothing is written that would have to be deleted: the only objects that
appear are segments which PostgreSQL archives anyway.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Final

from walkeeper.core.layout import BACKUPS_PREFIX, wal_object
from walkeeper.core.wal import WalSegment
from walkeeper.core.walpage import LongPageHeader, parse_long_header
from walkeeper.errors import (
    IntegrityError,
    NoSuchSegment,
    ObjectNotFound,
    PostgresError,
    WalkeeperError,
)
from walkeeper.postgres.facts import ServerFacts
from walkeeper.postgres.server import Server
from walkeeper.postgres.settings import find_missing_rights
from walkeeper.repository.archive import Archive
from walkeeper.repository.identity import probe_archive
from walkeeper.services.agent_status import AgentStatus
from walkeeper.services.checklist import Remark
from walkeeper.services.source_rules import require_source

_POLL_S: Final = 0.25
_HEADER_BYTES: Final = 8192
_FLOW_RIGHTS: Final = ("pg_create_restore_point(text)", "pg_switch_wal()")
_BACKUP_RIGHTS: Final = ("pg_backup_start(text,boolean)", "pg_backup_stop(boolean)")
_BACKUP_RIGHTS_14: Final = (
    "pg_start_backup(text,boolean,boolean)",
    "pg_stop_backup(boolean,boolean)",
)
_NAMED_SINCE: Final = 15


async def check_archive(archive: Archive) -> Remark:
    """The archive, whose record was read and verified, can be listed too."""
    folders = await archive.folders(BACKUPS_PREFIX)
    count = len(folders)
    return Remark(
        f"{archive.folder} in {archive.storage.url} is readable, {count} "
        f"folder{'' if count == 1 else 's'} of backups"
    )


async def check_creates(archive: Archive) -> Remark:
    """Whether the store refuses to overwrite; writes the archive's record over itself."""
    found = await probe_archive(archive.storage, archive.folder)
    if found.conditional_put and found.conditional_multipart:
        return Remark("may write, and the store refuses to overwrite")
    which = "multipart uploads" if found.conditional_put else "objects"
    return Remark(
        "may write",
        f"the store does not refuse to overwrite {which}: promise 2 is not enforced here",
        "let only one host write into this repository",
    )


async def check_same_server(
    server: Server, facts: ServerFacts, data_dir: Path | None, pool: ThreadPoolExecutor
) -> Remark:
    """The dsn leads to the server that runs on the local data directory."""
    await server.check_same_server(data_dir or facts.data_directory, pool)
    role = "standby" if facts.in_recovery else "primary"
    return Remark(
        f"PostgreSQL {_version_text(facts.version_num)} on {facts.data_directory}, {role} on "
        f"timeline {facts.timeline}"
    )


async def check_settings(facts: ServerFacts, archive: Archive, command: str) -> Remark:
    """The server belongs to the archive and archives through ``command``."""
    require_source(facts, archive.record)
    if facts.archive_command != command:
        return Remark(
            "the server archives through walkeeper",
            f"archive_command is not this installation's: {facts.archive_command}",
            "walkeeper init --apply sets it",
        )
    if not facts.archive_timeout:
        return Remark(
            "the server archives through walkeeper",
            "archive_timeout is 0: a quiet server keeps its last changes to itself",
            "walkeeper init --apply sets it",
        )
    seconds = facts.archive_timeout.total_seconds()
    return Remark(f"the server archives through walkeeper, every {seconds:.0f} s at least")


async def check_rights(server: Server) -> Remark:
    """The role may do what backups and this check need."""
    backup = _BACKUP_RIGHTS if server.major >= _NAMED_SINCE else _BACKUP_RIGHTS_14
    missing = await find_missing_rights(server, [*_FLOW_RIGHTS, *backup])
    if missing:
        raise PostgresError(
            f"the role may not execute {', '.join(missing)}",
            hint="; ".join(f"GRANT EXECUTE ON FUNCTION {name} TO the role" for name in missing),
        )
    return Remark("the role may take backups, create restore points and switch segments")


async def check_agent(agent: AgentStatus | None, socket: Path, archive: Archive | None) -> Remark:
    """An agent runs, has recognised its server, and archives into this archive."""
    if agent is None:
        raise WalkeeperError(
            f"no agent answers on {socket}", hint="systemctl start walkeeper, or: walkeeper agent"
        )
    if archive is not None and agent.archive != archive.record.archive:
        raise WalkeeperError(
            f"the agent archives into another archive: {agent.folder} in {agent.repository}",
            hint="was the configuration changed? restart the agent",
        )
    if not agent.source.verified:
        raise WalkeeperError(f"the agent archives nothing: {agent.source.reason}")
    return Remark(f"process {agent.pid} archives {agent.source.data_directory}")


class FlowCheck:
    """Makes a restore point and follows its segment into the archive and back.

    ``timeout_s`` bounds the wait for the segment.
    """

    def __init__(
        self,
        server: Server,
        archive: Archive,
        timeout_s: float,
        *,
        now: Callable[[], datetime],
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._server = server
        self._archive = archive
        self._timeout_s = timeout_s
        self._now = now
        self._sleep = sleep
        self._segment: WalSegment | None = None

    async def send(self) -> Remark:
        """Wait until the segment of a new restore point is durable, header and size checked.

        Raises NoSuchSegment when it does not arrive in time.
        """
        facts = await self._server.facts()
        name = f"walkeeper check {self._now():%Y-%m-%dT%H:%M:%SZ}"
        end = await self._server.create_restore_point(name)
        await self._server.switch_wal()
        segment = WalSegment.before(facts.timeline, end, self._archive.segment_size)
        clock = asyncio.get_running_loop().time
        started_s = clock()
        try:
            async with asyncio.timeout(self._timeout_s) as scope:
                while not await self._arrived(segment):
                    await self._sleep(_POLL_S)
        except TimeoutError:
            if not scope.expired():
                raise
            raise await self._missing(segment) from None
        self._segment = segment
        return Remark(f"{segment} was durable {clock() - started_s:.1f} s after {name!r}")

    async def read_back(self) -> Remark:
        """Open that segment, where there is an identity, and look whether it is what it should be.

        ``send`` has to have succeeded. Raises IntegrityError.
        """
        segment = self._segment
        assert segment is not None
        if not self._archive.opener.can_open:
            return Remark(f"{segment}: header, signature and size; no identity here to open it")
        size_bytes = 0
        head = b""
        async with self._archive.open(wal_object(segment)) as blocks:
            async for block in blocks:
                size_bytes += len(block)
                head += block[: max(0, _HEADER_BYTES - len(head))]
        header = _parse_header(segment, head)
        record = self._archive.record
        found = (size_bytes, str(header.system_identifier), header.address)
        size = self._archive.segment_size
        if found != (size.bytes, record.system_identifier, segment.begin(size)):
            raise IntegrityError(f"{segment} was stored, and is not that segment")
        return Remark(f"{segment} was decrypted and is whole")

    async def _arrived(self, segment: WalSegment) -> bool:
        name = wal_object(segment)
        try:
            header = await self._archive.read_header(name)
        except ObjectNotFound:
            return False
        info = await self._archive.storage.head(self._archive.path(name))
        if info.size_bytes != header.implied_size():
            raise IntegrityError(
                f"{name} is damaged: {info.size_bytes} bytes are stored where its header implies "
                f"{header.implied_size()}"
            )
        return True

    async def _missing(self, segment: WalSegment) -> NoSuchSegment:
        counted = await self._server.archiver_statistics()
        what = f"{segment} is not in the archive after {self._timeout_s:.0f} s"
        failed = counted.last_failed_at
        if failed is not None and failed >= (counted.last_archived_at or failed):
            what += f"; PostgreSQL's archiver failed with {counted.last_failed_wal}"
        return NoSuchSegment(
            what, hint="see the server's log for what archive_command said, and: walkeeper status"
        )


def _parse_header(segment: WalSegment, head: bytes) -> LongPageHeader:
    try:
        return parse_long_header(head)
    except ValueError as error:
        raise IntegrityError(f"{segment} was stored, and is no WAL segment: {error}") from error


def _version_text(version_num: int) -> str:
    return f"{version_num // 10_000}.{version_num % 10_000}"
