"""What a store enforces, found out with bytes that it holds already: nothing changes by it."""

from __future__ import annotations

from collections.abc import Coroutine
from contextlib import suppress
from dataclasses import replace

from walkeeper.errors import ObjectExists, StorageError
from walkeeper.storage.s3_bucket import Bucket
from walkeeper.storage.s3_errors import DigestMismatch, NotImplementedByStore
from walkeeper.storage.s3_piece import Piece, with_md5, with_sha256


class Probe:
    """Asks a store what it enforces, by writing ``data`` to ``key``, which holds just that.

    Every method raises `StorageError` for what says nothing about its question.
    """

    def __init__(self, bucket: Bucket, key: str, data: memoryview) -> None:
        self._bucket = bucket
        self._key = key
        self._data = data
        self.checks_sha256 = False
        """Whether a signed SHA-256 is compared with the body; see `enforces_multipart`."""

    async def enforces_put(self) -> bool:
        """Whether a conditional PutObject is refused."""
        piece = with_md5(self._data)
        return await _is_refused(self._bucket.put(self._key, piece, conditional=True))

    async def enforces_multipart(self) -> bool:
        """Whether a conditional CompleteMultipartUpload is refused.

        On the way to it a part is sent with the SHA-256 of something else. A store that does not
        notice (rclone), or wants another check beside it (AWS for a bucket with Object Lock), goes
        on to be given an MD5.
        """
        upload = await self._bucket.begin_upload(self._key)
        try:
            tag = await self._upload_by_sha256(upload)
            self.checks_sha256 = bool(tag)
            if not tag:
                tag = await self._upload(upload, with_md5(self._data))
            return await _is_refused(
                self._bucket.complete_upload(
                    self._key, upload, [{"PartNumber": 1, "ETag": tag}], conditional=True
                )
            )
        finally:
            with suppress(StorageError):
                await self._bucket.abort_upload(self._key, upload)

    async def _upload_by_sha256(self, upload: str) -> str:
        """The entity tag of the part; empty where its SHA-256 does not do, or nobody can tell."""
        right, other = with_sha256(self._data), with_sha256(bytes(self._data) + b"!")
        with suppress(StorageError):  # an MD5 is no worse, and whoever sends it sees what is wrong
            try:
                await self._upload(upload, replace(right, sha256=other.sha256))
            except DigestMismatch:
                return await self._upload(upload, right)
        return ""

    async def _upload(self, upload: str, piece: Piece) -> str:
        return await self._bucket.upload_part(self._key, upload, 1, piece)


async def _is_refused(write: Coroutine[object, object, None]) -> bool:
    """Whether a conditional write was refused as it should be.

    A store that does not know the condition ignores it, or answers 501 (not implemented).
    """
    try:
        await write
    except ObjectExists:
        return True
    except NotImplementedByStore:
        return False
    return False
