"""A repository in a bucket: ``s3://bucket/prefix``, on AWS and on what behaves like it.

Creates are conditional (``If-None-Match: *``) unless `probe` has shown that the store ignores it.
Then every create asks for the name first and looks at the size afterwards, which protects against
mistakes, not against two writers at the same moment.

The store checks each body on arrival, by its MD5 or, once `probe` has seen that it does, by its
SHA-256: for half of the CPU, but not every store that reads the header compares it.

An upload whose beginning was cancelled in flight can stay behind without our knowing its id: a
bucket wants a lifecycle rule that aborts incomplete multipart uploads.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from walkeeper.errors import (
    DifferentContent,
    ObjectExists,
    ObjectNotFound,
    StorageError,
)
from walkeeper.storage.base import (
    Buffer,
    Capabilities,
    ObjectInfo,
    Page,
    check_folder,
    check_name,
    check_range,
    is_valid_name,
)
from walkeeper.storage.retry import Retrier
from walkeeper.storage.s3_bucket import Bucket, StoredKey
from walkeeper.storage.s3_multipart import MultipartUpload
from walkeeper.storage.s3_piece import (
    Digest,
    Piece,
    PieceCutter,
    make_piece,
    with_md5,
    with_sha256,
)
from walkeeper.storage.s3_probe import Probe
from walkeeper.storage.settings import StorageSettings

if TYPE_CHECKING:
    from types_aiobotocore_s3.type_defs import ListObjectsV2OutputTypeDef


class S3Storage:
    """Objects under a prefix of a bucket.

    ``executor`` computes digests and stays the caller's; ``retrier`` repeats the single requests of
    a multipart upload. Connects when first used.
    """

    def __init__(
        self, settings: StorageSettings, executor: ThreadPoolExecutor, retrier: Retrier
    ) -> None:
        parts = urlsplit(settings.url)
        prefix = parts.path.strip("/")
        self._prefix = prefix + "/" if prefix else ""
        self._bucket = Bucket(parts.netloc, settings)
        self._piece_bytes = settings.piece_size_bytes
        self._executor = executor
        self._retrier = retrier
        self._capabilities = Capabilities()
        self._digest: Digest = with_md5

    @property
    def url(self) -> str:
        """Bucket and prefix as a URL."""
        return f"s3://{self._bucket.name}/{self._prefix}".rstrip("/")

    @property
    def capabilities(self) -> Capabilities:
        """What `probe` has found."""
        return self._capabilities

    async def put(self, name: str, body: Buffer) -> None:
        """See `Storage.put`: one PutObject, and where it is not conditional a HeadObject before
        and after."""
        key = self._key(name)
        data = body if isinstance(body, bytes) else memoryview(body).cast("B")
        await self._put_piece(key, await make_piece(data, self._digest, self._executor))

    async def put_stream(self, name: str, chunks: AsyncIterator[Buffer]) -> int:
        """See `Storage.put_stream`: one PutObject if all fits one piece, else a multipart upload
        with a HeadObject after it."""
        key = self._key(name)
        cutter = PieceCutter(chunks, self._piece_bytes, self._digest, self._executor)
        first = await cutter.next_piece()
        if cutter.is_done:
            size_bytes = len(first.data)
            attempt = partial(self._put_piece, key, first)
            await self._retrier.call(f"put {self.url}/{name}", attempt, size_bytes=size_bytes)
            return size_bytes
        conditional = self._capabilities.conditional_multipart is not False
        upload = MultipartUpload(self._bucket, key, self._retrier, conditional=conditional)
        return await upload.send(first, cutter)

    @asynccontextmanager
    async def read(
        self, name: str, *, offset: int = 0, length: int | None = None
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        """See `Storage.read`: one GetObject (of nothing: a HeadObject, S3 has no empty ranges)."""
        check_range(offset, length)
        key = self._key(name)
        if length == 0:
            await self._bucket.head(key)
            yield _nothing()
            return
        async with self._bucket.get(key, offset, length) as chunks:
            try:
                yield chunks
            finally:
                await chunks.aclose()

    async def head(self, name: str) -> ObjectInfo:
        """See `Storage.head`."""
        return _info(name, await self._bucket.head(self._key(name)))

    async def list_objects(self, prefix: str, *, after: str = "") -> AsyncIterator[ObjectInfo]:
        """See `Storage.list_objects`."""
        async for page in self.list_pages(prefix, after=after):
            for info in page.infos():
                yield info

    async def list_pages(
        self,
        prefix: str,
        *,
        after: str = "",
        names_only: bool = False,  # noqa: ARG002 - the store sends all of it
    ) -> AsyncIterator[Page]:
        """See `Storage.list_pages`."""
        begin = self._prefix + after if after else ""
        latest = after
        async for answer in self._pages(self._prefix + _check_prefix(prefix), after=begin):
            page = self._page(answer)
            if any(first >= second for first, second in pairwise([latest, *page.names]) if second):
                raise StorageError(f"list {self.url}/{prefix}: the names are not in order")
            if page.names:
                latest = page.names[-1]
                yield page

    async def folders(self, prefix: str) -> list[str]:
        """See `Storage.folders`."""
        found = set()
        async for page in self._pages(self._prefix + check_folder(prefix), delimiter="/"):
            for common in page.get("CommonPrefixes", []):
                name = common["Prefix"].removeprefix(self._prefix)
                if is_valid_name(name.removesuffix("/")):
                    found.add(name)
        return sorted(found)

    async def delete(self, name: str) -> None:
        """See `Storage.delete`."""
        await self._bucket.delete(self._key(name))

    async def sync(self, name: str) -> None:
        """See `Storage.sync`: what a store has acknowledged is durable; one HeadObject."""
        await self.head(name)

    async def probe(self, name: str, body: Buffer) -> Capabilities:
        """See `Storage.probe`: a PutObject and a multipart upload of one part are tried.

        From then on bodies go with a signed SHA-256 where the store was found to check it.
        """
        key = self._key(name)
        await self._refuse_other_content(name, body)
        probe = Probe(self._bucket, key, memoryview(body).cast("B"))
        put = await probe.enforces_put()
        multipart = await probe.enforces_multipart()
        self._digest = with_sha256 if probe.checks_sha256 else with_md5
        self._capabilities = Capabilities(conditional_put=put, conditional_multipart=multipart)
        return self._capabilities

    async def aclose(self) -> None:
        """See `Storage.aclose`."""
        await self._bucket.aclose()

    def _key(self, name: str) -> str:
        return self._prefix + check_name(name)

    async def _put_piece(self, key: str, piece: Piece) -> None:
        conditional = self._capabilities.conditional_put is not False
        if not conditional:
            await self._refuse_existing(key)
        await self._bucket.put(key, piece, conditional=conditional)
        if not conditional:
            stored = await self._bucket.head(key)
            if stored.size_bytes != len(piece.data):
                raise StorageError(
                    f"s3://{self._bucket.name}/{key}: {len(piece.data)} bytes were written,"
                    f" {stored.size_bytes} are stored"
                )

    async def _refuse_existing(self, key: str) -> None:
        with suppress(ObjectNotFound):
            await self._bucket.head(key)
            raise ObjectExists(f"s3://{self._bucket.name}/{key} exists")

    async def _refuse_other_content(self, name: str, body: Buffer) -> None:
        async with self.read(name, length=memoryview(body).nbytes + 1) as chunks:
            if b"".join([chunk async for chunk in chunks]) != bytes(body):
                raise DifferentContent(f"{self.url}/{name} holds other bytes than expected")

    async def _pages(
        self, prefix: str, *, after: str = "", delimiter: str = ""
    ) -> AsyncIterator[ListObjectsV2OutputTypeDef]:
        token = ""
        while True:
            page = await self._bucket.list_page(
                prefix, after=after, delimiter=delimiter, token=token
            )
            yield page
            if not page["IsTruncated"]:
                return
            token = page["NextContinuationToken"]

    def _page(self, answer: ListObjectsV2OutputTypeDef) -> Page:
        found = [
            (name, one)
            for one in answer.get("Contents", [])
            if is_valid_name(name := one["Key"].removeprefix(self._prefix))
        ]
        return Page(
            [name for name, _ in found],
            [one["Size"] for _, one in found],
            [one["LastModified"].timestamp() for _, one in found],
            [one.get("StorageClass") for _, one in found],
        )


def _info(name: str, stored: StoredKey) -> ObjectInfo:
    return ObjectInfo(name, stored.size_bytes, stored.modified_at, stored.storage_class)


def _check_prefix(prefix: str) -> str:
    check_folder(prefix[: prefix.rfind("/") + 1])
    return prefix


async def _nothing() -> AsyncIterator[bytes]:
    for nothing in tuple[bytes, ...]():
        yield nothing
