"""A host whose WAL grows byte by byte, and stores that fail in the ways that matter."""

from __future__ import annotations

import hashlib
import random
import shutil
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryFile
from typing import BinaryIO, cast

import pytest

from tests.fix_archive import ONE_MIB, TestKeys, make_archive
from walkeeper.core.layout import wal_object
from walkeeper.core.lsn import Lsn
from walkeeper.core.rpo import RpoMeter
from walkeeper.core.wal import SegmentSize, WalSegment
from walkeeper.core.walpage import PAGE_SIZE
from walkeeper.errors import StorageDenied, StorageUnavailable
from walkeeper.repository.archive import Archive
from walkeeper.services.lineage import Lineage, Position, check_lineage
from walkeeper.services.tail import TailShipper
from walkeeper.services.tail_chain import TailChain
from walkeeper.storage.base import Buffer, ObjectInfo
from walkeeper.storage.memory import MemoryStorage

SYSTEM = 7_000_000_000_000_000_001
LONGEST_PAGE_HEADER = 40
MAGIC = 0xD110  # PostgreSQL 15


class FaultyStorage(MemoryStorage):
    """Memory that counts what it is asked, and fails on demand.

    ``fail_puts`` is taken from the front, one for each put: "" lets it pass, "lost" stores it and
    raises as for a time-out, "down" does not store it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.fail_puts: list[str] = []
        self.down = False
        self.may_delete = True
        self.requests: list[str] = []

    def _ask(self, what: str, name: str) -> None:
        self.requests.append(f"{what} {name}")
        if self.down:
            raise StorageUnavailable("the store is down")

    async def put(self, name: str, body: Buffer) -> None:
        self._ask("PUT", name)
        fault = self.fail_puts.pop(0) if self.fail_puts else ""
        if fault == "down":
            raise StorageUnavailable("the store is down")
        await super().put(name, body)
        if fault == "lost":
            raise StorageUnavailable("no answer came in time")

    @asynccontextmanager
    async def read(
        self, name: str, *, offset: int = 0, length: int | None = None
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        self._ask("GET", name)
        async with super().read(name, offset=offset, length=length) as chunks:
            yield chunks

    async def head(self, name: str) -> ObjectInfo:
        self._ask("HEAD", name)
        return await super().head(name)

    async def list_objects(self, prefix: str, *, after: str = "") -> AsyncIterator[ObjectInfo]:
        self._ask("LIST", prefix)
        async for info in super().list_objects(prefix, after=after):
            yield info

    async def delete(self, name: str) -> None:
        self._ask("DELETE", name)
        if not self.may_delete:
            raise StorageDenied("not allowed")
        await super().delete(name)

    def names(self, part: str = "/tail/") -> list[str]:
        return sorted(name for name in self._objects if part in name)

    def cut(self, name: str) -> None:
        """Damage an object: its last byte is gone."""
        body, at = self._objects[name]
        self._objects[name] = (body[:-1], at)

    def spoil(self, name: str) -> None:
        """Damage an object: it is nothing that a writer has signed."""
        self._objects[name] = (b"garbage", self._objects[name][1])


def segment_bytes(segment: WalSegment, size: SegmentSize, chance: random.Random) -> bytearray:
    """What a segment may hold: page headers as PostgreSQL writes them, noise between."""
    content = bytearray(chance.randbytes(1 << 16) * (size.bytes >> 16))
    begin = segment.begin(size).value
    for offset in range(0, size.bytes, PAGE_SIZE):
        head = MAGIC.to_bytes(2, "little") + (0 if offset else 2).to_bytes(2, "little")
        head += segment.timeline.to_bytes(4, "little") + (begin + offset).to_bytes(8, "little")
        head += bytes(8)
        if not offset:
            head += SYSTEM.to_bytes(8, "little") + size.bytes.to_bytes(4, "little")
            head += PAGE_SIZE.to_bytes(4, "little")
        content[offset : offset + len(head)] = head
    return content


@dataclass
class Host:
    """One server's pg_wal: what is flushed is in the files, zeros follow."""

    pg_wal: Path
    size: SegmentSize = ONE_MIB
    timeline: int = 1
    flushed: int = 3 << 20
    seed: int = 0
    rpo: RpoMeter = field(default_factory=RpoMeter)
    left: list[WalSegment] = field(default_factory=list)

    @property
    def position(self) -> Position:
        return Position(self.timeline, Lsn(self.flushed))

    @property
    def segment(self) -> WalSegment:
        return self.position.segment(self.size)

    def content(self, segment: WalSegment) -> bytes:
        """What the file of a segment holds now."""
        return (self.pg_wal / str(segment)).read_bytes()

    def flushed_content(self) -> bytes:
        """The flushed bytes of the current segment."""
        end = self.flushed % self.size.bytes
        return self.content(self.segment)[:end] if end else b""

    def write(self, count: int) -> None:
        """PostgreSQL writes and flushes so many bytes, and never a part of a page's header."""
        end = self.flushed + count
        if count and end % PAGE_SIZE < LONGEST_PAGE_HEADER:
            end += LONGEST_PAGE_HEADER
        while self.flushed < end:
            segment = self.segment
            begin = segment.begin(self.size).value
            stop = min(end - begin, self.size.bytes)
            path = self.pg_wal / str(segment)
            old = path.read_bytes() if path.exists() else bytes(self.size.bytes)
            chance = random.Random(f"{self.seed} {segment}")
            new = segment_bytes(segment, self.size, chance)
            at = self.flushed - begin
            path.write_bytes(old[:at] + new[at:stop] + bytes(self.size.bytes - stop))
            self.flushed = begin + stop

    def copy(self, path: Path, seed: int = 1) -> Host:
        """A snapshot of the host; what it writes from now on are other bytes."""
        shutil.copytree(self.pg_wal, path)
        return Host(path, self.size, self.timeline, self.flushed, seed)

    def shipper(self, archive: Archive, pool: ThreadPoolExecutor) -> TailShipper:
        return TailShipper(
            archive, self.pg_wal, pool, rpo=self.rpo, spool=open_spool, leave=self.left.append
        )

    def recycle(self, until: WalSegment) -> None:
        """What a checkpoint does with the segments before one: old content under names to come."""
        begin = until.begin(self.size).value
        names = sorted(WalSegment.parse(path.name) for path in self.pg_wal.iterdir())
        later = max(*names, self.segment).next(self.size)
        for segment in names:
            if segment.begin(self.size).value < begin:
                (self.pg_wal / str(segment)).rename(self.pg_wal / str(later))
                later = later.next(self.size)

    async def check(
        self,
        archive: Archive,
        pool: ThreadPoolExecutor,
        accept_gap: WalSegment | None = None,
        lost: WalSegment | None = None,
    ) -> Lineage:
        """What the guard does before anything is written."""

        async def where() -> Position:
            return self.position

        return await check_lineage(
            archive, where, self.pg_wal, pool, accept_gap=accept_gap, lost=lost
        )

    async def archive_segment(self, archive: Archive, segment: WalSegment) -> None:
        """Store a whole segment as the archiver does."""
        sealed = archive.sealer.seal(wal_object(segment), [self.content(segment)])
        await archive.put(sealed)


def open_spool() -> BinaryIO:
    return cast("BinaryIO", TemporaryFile())


async def join(archive: Archive, chain: TailChain) -> bytes:
    """The bytes of a chain; each piece's running digest is checked on the way."""
    content = b""
    for piece in chain.pieces:
        assert piece.begin in {0, len(content)}
        async with archive.open(piece.name) as blocks:
            data = b"".join([block async for block in blocks])
        content = content[: piece.begin] + data
        assert len(content) == piece.end
        assert blocks.frames == (hashlib.sha256(content).digest(),)
    return content


@pytest.fixture
def host(tmp_path: Path) -> Host:
    path = tmp_path / "pg_wal"
    path.mkdir()
    return Host(path)


@pytest.fixture
def faulty() -> FaultyStorage:
    return FaultyStorage()


@pytest.fixture
async def tail_archive(faulty: FaultyStorage, keys: TestKeys, pool: ThreadPoolExecutor) -> Archive:
    """An archive of the host's cluster in memory."""
    archive = await make_archive(faulty, keys, pool, system_identifier=SYSTEM)
    faulty.requests.clear()
    return archive
