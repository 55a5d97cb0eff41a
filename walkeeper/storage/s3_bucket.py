"""Single requests to a bucket: one attempt each, errors translated, answers checked.

An answer is believed only when it looks like S3's own: a proxy's "200 OK" must not become a stored
object, an empty listing or an empty body.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from walkeeper.errors import StorageError, StorageUnavailable
from walkeeper.storage.base import READ_CHUNK_BYTES
from walkeeper.storage.s3_client import Body, new_client
from walkeeper.storage.s3_errors import s3_errors
from walkeeper.storage.s3_piece import Piece
from walkeeper.storage.settings import StorageSettings

if TYPE_CHECKING:
    from aiobotocore.response import StreamingBody
    from types_aiobotocore_s3.client import S3Client
    from types_aiobotocore_s3.type_defs import (
        CompletedPartTypeDef,
        GetObjectOutputTypeDef,
        HeadObjectOutputTypeDef,
        ListObjectsV2OutputTypeDef,
    )

_REFUSED_RANGE: Final = 416
_CONTENT_RANGE: Final = re.compile(r"bytes ([0-9]+)-([0-9]+)/([0-9]+)")  # RFC 9110, 14.4


@dataclass(frozen=True, slots=True)
class StoredKey:
    """What the store says of one key."""

    key: str
    size_bytes: int
    modified_at: datetime
    storage_class: str | None
    etag: str


class Bucket:
    """The bucket of ``settings``; connects when first used.

    Every method raises `StorageError` or `ConfigError`, and names bucket and key in the message.
    """

    def __init__(self, name: str, settings: StorageSettings) -> None:
        self.name = name
        self._settings = settings
        self._stack = AsyncExitStack()
        self._opening = asyncio.Lock()
        self._client: S3Client | None = None

    async def put(self, key: str, piece: Piece, *, conditional: bool) -> None:
        """One PutObject; ``conditional``: only if there is none of that key."""
        options = _check(piece) | ({"IfNoneMatch": "*"} if conditional else {})
        with s3_errors("put", self._at(key)):
            client = await self._connected()
            with Body(piece.data, piece.sha256) as body:
                answer = await client.put_object(
                    Bucket=self.name,
                    Key=key,
                    Body=body,
                    **options,  # type: ignore[arg-type]
                )
        self._require("put", key, answer.get("ETag"))

    async def head(self, key: str) -> StoredKey:
        """One HeadObject, and when that says 404, a GetObject that says what is missing."""
        with s3_errors("head", self._at(key)):
            client = await self._connected()
            answer = await _head_or_explain(client, self.name, key)
        self._require("head", key, answer.get("LastModified"))
        return StoredKey(
            key,
            answer["ContentLength"],
            answer["LastModified"],
            answer.get("StorageClass"),
            answer.get("ETag", ""),
        )

    @asynccontextmanager
    async def get(
        self, key: str, offset: int, length: int | None
    ) -> AsyncIterator[AsyncGenerator[bytes, None]]:
        """One GetObject of at least one byte; empty when ``offset`` is beyond the end."""
        wanted = _range(offset, length)
        with s3_errors("read", self._at(key)):
            client = await self._connected()
            answer = await _get_or_nothing(client, self.name, key, wanted)
        if answer is None:
            nothing = _no_chunks()
            yield nothing
            return
        body = answer["Body"]
        try:
            yield self._chunks(key, body, self._expected(key, answer, offset, length))
        finally:
            body.close()

    async def list_page(
        self, prefix: str, *, after: str = "", delimiter: str = "", token: str = ""
    ) -> ListObjectsV2OutputTypeDef:
        """One ListObjectsV2; ``token`` continues the page before."""
        options: dict[str, str] = {}
        if token:
            options["ContinuationToken"] = token
        if after:
            options["StartAfter"] = after
        if delimiter:
            options["Delimiter"] = delimiter
        with s3_errors("list", self._at(prefix)):
            client = await self._connected()
            page = await client.list_objects_v2(Bucket=self.name, Prefix=prefix, **options)  # type: ignore[arg-type]
        self._require("list", prefix, page.get("IsTruncated"))
        if page["IsTruncated"] and not page.get("NextContinuationToken"):
            raise StorageUnavailable(
                f"list {self._at(prefix)}: the answer does not say how to go on"
            )
        return page

    async def delete(self, key: str) -> None:
        """One DeleteObject; success when there is none."""
        with s3_errors("delete", self._at(key)):
            client = await self._connected()
            await client.delete_object(Bucket=self.name, Key=key)

    async def begin_upload(self, key: str) -> str:
        """One CreateMultipartUpload; returns the upload's id."""
        with s3_errors("begin upload", self._at(key)):
            client = await self._connected()
            answer = await client.create_multipart_upload(Bucket=self.name, Key=key)
        return str(self._require("begin upload", key, answer.get("UploadId")))

    async def upload_part(self, key: str, upload: str, number: int, piece: Piece) -> str:
        """One UploadPart; returns the part's entity tag."""
        with s3_errors(f"upload part {number} of", self._at(key)):
            client = await self._connected()
            with Body(piece.data, piece.sha256) as body:
                answer = await client.upload_part(
                    Bucket=self.name,
                    Key=key,
                    UploadId=upload,
                    PartNumber=number,
                    Body=body,
                    **_check(piece),  # type: ignore[arg-type]
                )
        return str(self._require("upload part of", key, answer.get("ETag")))

    async def complete_upload(
        self, key: str, upload: str, parts: list[CompletedPartTypeDef], *, conditional: bool
    ) -> None:
        """One CompleteMultipartUpload; ``conditional``: only if there is none of that key."""
        condition = {"IfNoneMatch": "*"} if conditional else {}
        with s3_errors("complete upload", self._at(key)):
            client = await self._connected()
            answer = await client.complete_multipart_upload(
                Bucket=self.name,
                Key=key,
                UploadId=upload,
                MultipartUpload={"Parts": parts},
                **condition,  # type: ignore[arg-type]
            )
        # Ceph 16 leaves the ETag empty here, so it is the key that tells S3's answer from others.
        self._require("complete upload", key, answer.get("Key"))

    async def abort_upload(self, key: str, upload: str) -> None:
        """One AbortMultipartUpload."""
        with s3_errors("abort upload", self._at(key)):
            client = await self._connected()
            await client.abort_multipart_upload(Bucket=self.name, Key=key, UploadId=upload)

    async def aclose(self) -> None:
        """Close all connections; idempotent. A later request connects again."""
        self._client = None
        await self._stack.aclose()

    async def _connected(self) -> S3Client:
        if self._client is not None:
            return self._client
        async with self._opening:
            if self._client is None:
                self._client = await self._stack.enter_async_context(new_client(self._settings))
            return self._client

    def _at(self, key: str) -> str:
        return f"s3://{self.name}/{key}"

    def _require(self, operation: str, key: str, value: Any) -> Any:
        if value is None or value == "":
            raise StorageUnavailable(
                f"{operation} {self._at(key)}: answered with success, but not as S3 does",
                hint="is endpoint_url that of an S3 store?",
            )
        return value

    def _expected(
        self, key: str, answer: GetObjectOutputTypeDef, offset: int, length: int | None
    ) -> int:
        """How many bytes the body must have, by what the store said."""
        self._require("read", key, answer.get("LastModified"))
        size: int = self._require("read", key, answer.get("ContentLength"))
        if offset > 0 or length is not None:
            text = answer.get("ContentRange", "")
            if not _is_asked_range(text, size, offset, length):
                raise StorageError(
                    f"read {self._at(key)}: asked for {_range(offset, length)}, got {text!r}",
                    hint="the store does not serve ranges as S3 does",
                )
        return size

    async def _chunks(
        self, key: str, body: StreamingBody, expected: int
    ) -> AsyncGenerator[bytes, None]:
        received = 0
        while True:
            with s3_errors("read", self._at(key)):
                chunk = await body.read(READ_CHUNK_BYTES)
            if not chunk:
                break
            received += len(chunk)
            yield chunk
        if received != expected:
            raise StorageUnavailable(
                f"read {self._at(key)}: cut off after {received} of {expected} bytes"
            )


def _check(piece: Piece) -> dict[str, str]:
    """What tells the store how to check it; a SHA-256 goes with the body, see `Body`."""
    return {"ContentMD5": piece.md5} if piece.md5 else {}


async def _head_or_explain(client: S3Client, bucket: str, key: str) -> HeadObjectOutputTypeDef:
    try:
        return await client.head_object(Bucket=bucket, Key=key)
    except client.exceptions.ClientError as error:
        if error.response["ResponseMetadata"]["HTTPStatusCode"] != 404:
            raise
    # The answer to a HEAD has no body: it may be the key, the bucket or a proxy's page that is not
    # found. A GET tells which.
    answer = await client.get_object(Bucket=bucket, Key=key, Range="bytes=0-0")
    answer["Body"].close()
    return await client.head_object(Bucket=bucket, Key=key)


async def _get_or_nothing(
    client: S3Client, bucket: str, key: str, wanted: str
) -> GetObjectOutputTypeDef | None:
    options = {"Range": wanted} if wanted else {}
    try:
        return await client.get_object(Bucket=bucket, Key=key, **options)  # type: ignore[arg-type]
    except client.exceptions.ClientError as error:
        if error.response["ResponseMetadata"]["HTTPStatusCode"] != _REFUSED_RANGE:
            raise
    return None


def _range(offset: int, length: int | None) -> str:
    if offset == 0 and length is None:
        return ""
    return f"bytes={offset}-" if length is None else f"bytes={offset}-{offset + length - 1}"


def _is_asked_range(text: str, size: int, offset: int, length: int | None) -> bool:
    """Whether ``text`` says that the ``size`` bytes sent are all that was asked for."""
    match = _CONTENT_RANGE.fullmatch(text)
    if match is None:
        return False
    first, last, total = (int(number) for number in match.groups())
    end = total if length is None else min(total, offset + length)
    return first == offset and last + 1 == end and size == end - offset


async def _no_chunks() -> AsyncGenerator[bytes, None]:
    for nothing in tuple[bytes, ...]():
        yield nothing
