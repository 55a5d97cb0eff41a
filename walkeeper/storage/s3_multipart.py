"""One object in pieces: a multipart upload that is completed or leaves nothing behind."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Final, TypeVar

from walkeeper.errors import ObjectExists, ObjectNotFound, StorageError, WalkeeperError
from walkeeper.storage.retry import Retrier
from walkeeper.storage.s3_bucket import Bucket
from walkeeper.storage.s3_errors import UploadGone
from walkeeper.storage.s3_piece import Piece, PieceCutter
from walkeeper.storage.settings import MIB

if TYPE_CHECKING:
    from types_aiobotocore_s3.type_defs import CompletedPartTypeDef

T = TypeVar("T")

PIECES_IN_MEMORY: Final = 2
"""One is being filled or all are being sent: a full one waits for nothing."""

_MAX_PIECES: Final = 10_000  # AWS S3, "Amazon S3 multipart upload limits"
_ABORT_WITHIN_S: Final = 10.0
_SLOWLY_ASSEMBLED_BYTES: Final = 64 * MIB
"""For the time limit, a completion counts like a body of at most this: it can take minutes."""


class MultipartUpload:
    """One object being uploaded to ``key`` in pieces; used once.

    ``conditional``: the store refuses the completion when the key is taken; otherwise we ask for
    the key just before it.
    """

    def __init__(self, bucket: Bucket, key: str, retrier: Retrier, *, conditional: bool) -> None:
        self._bucket = bucket
        self._key = key
        self._retrier = retrier
        self._conditional = conditional
        self._upload = ""
        self._tags: dict[int, str] = {}
        self._size_bytes = 0
        self._completions = 0

    async def send(self, first: Piece, cutter: PieceCutter) -> int:
        """Uploads ``first`` and all that ``cutter`` still has; returns the object's size."""
        begin = partial(self._bucket.begin_upload, self._key)
        self._upload = await self._call("begin upload", begin)
        try:
            await self._send_pieces(first, cutter)
            assembled = min(self._size_bytes, _SLOWLY_ASSEMBLED_BYTES)
            await self._call("complete upload", self._complete, assembled)
            await self._call("check upload", self._check_size)
        except BaseException:
            await self._abort()
            raise
        return self._size_bytes

    async def _send_pieces(self, first: Piece, cutter: PieceCutter) -> None:
        slots = asyncio.Semaphore(PIECES_IN_MEMORY)
        await slots.acquire()
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._send_piece(1, first, cutter, slots))
                del first
                number = 1
                while not cutter.is_done:
                    await slots.acquire()
                    number += 1
                    self._check_number(number)
                    piece = await cutter.next_piece()
                    group.create_task(self._send_piece(number, piece, cutter, slots))
                    del piece
        except BaseExceptionGroup as errors:
            raise _first_of(errors) from None

    async def _send_piece(
        self, number: int, piece: Piece, cutter: PieceCutter, slots: asyncio.Semaphore
    ) -> None:
        attempts = 0

        async def upload() -> str:
            nonlocal attempts
            attempts += 1
            return await self._bucket.upload_part(self._key, self._upload, number, piece)

        size = len(piece.data)
        self._tags[number] = await self._call(f"upload part {number} of", upload, size)
        self._size_bytes += size
        if attempts == 1:  # else a connection that was given up may still send from there
            cutter.reuse(piece)
        slots.release()

    def _check_number(self, number: int) -> None:
        if number > _MAX_PIECES:
            raise StorageError(
                f"{self._key} has more than {_MAX_PIECES} pieces", hint="raise piece_size"
            )

    async def _complete(self) -> None:
        self._completions += 1
        if not self._conditional:
            if await self._was_completed():
                return
            await self._refuse_existing()
        parts: list[CompletedPartTypeDef] = [
            {"PartNumber": number, "ETag": self._tags[number]} for number in sorted(self._tags)
        ]
        try:
            await self._bucket.complete_upload(
                self._key, self._upload, parts, conditional=self._conditional
            )
        except (ObjectExists, UploadGone):
            if await self._was_completed():
                return
            if self._completions > 1:
                # Ours or not, we cannot tell: the caller decides by content.
                await self._refuse_existing()
            raise

    async def _refuse_existing(self) -> None:
        with suppress(ObjectNotFound):
            await self._bucket.head(self._key)
            raise ObjectExists(f"s3://{self._bucket.name}/{self._key} exists")

    async def _was_completed(self) -> bool:
        """Whether an earlier attempt did it and its answer was lost: the object is there, with our
        size and the entity tag that S3 computes from those of exactly these pieces."""
        if self._completions == 1:
            return False
        try:
            stored = await self._bucket.head(self._key)
        except ObjectNotFound:
            return False
        tags = [self._tags[number] for number in sorted(self._tags)]
        return stored.size_bytes == self._size_bytes and stored.etag.strip('"') == _tag_of(tags)

    async def _check_size(self) -> None:
        stored = await self._bucket.head(self._key)
        if stored.size_bytes != self._size_bytes:
            raise StorageError(
                f"s3://{self._bucket.name}/{self._key}: {self._size_bytes} bytes were uploaded,"
                f" {stored.size_bytes} are stored"
            )

    async def _abort(self) -> None:
        """Gives the pieces up, whatever else is cancelled meanwhile; within 10 s."""
        aborting = asyncio.ensure_future(self._abort_quietly())
        cancelled: asyncio.CancelledError | None = None
        while not aborting.done():
            try:
                await asyncio.shield(aborting)
            except asyncio.CancelledError as error:
                cancelled = error
        if cancelled is not None:
            raise cancelled

    async def _abort_quietly(self) -> None:
        # The error that led here is the one to tell. What stays is removed by the bucket's rule for
        # incomplete uploads.
        with suppress(WalkeeperError, TimeoutError):
            async with asyncio.timeout(_ABORT_WITHIN_S):
                await self._bucket.abort_upload(self._key, self._upload)

    async def _call(self, operation: str, attempt: Callable[[], Awaitable[T]], size: int = 0) -> T:
        what = f"{operation} s3://{self._bucket.name}/{self._key}"
        return await self._retrier.call(what, attempt, size_bytes=size)


def _tag_of(tags: list[str]) -> str | None:
    """The entity tag of an object of parts with these: the MD5 of theirs, which are MD5s too.

    None where they are not, as with keys of AWS KMS: then nothing is known of it.
    """
    try:
        md5s = b"".join(bytes.fromhex(tag.strip('"')) for tag in tags)
    except ValueError:
        return None
    return f"{hashlib.md5(md5s, usedforsecurity=False).hexdigest()}-{len(tags)}"


def _first_of(errors: BaseExceptionGroup[BaseException]) -> BaseException:
    first = errors.exceptions[0]
    return _first_of(first) if isinstance(first, BaseExceptionGroup) else first
