"""An aiobotocore client that sends each request once and does not hold up the event loop."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from aiobotocore.config import AioConfig
from aiobotocore.httpsession import AIOHTTPSession
from aiobotocore.session import AioSession, get_session
from botocore.auth import AUTH_TYPE_MAPS, S3SigV4Auth
from botocore.credentials import RefreshableCredentials
from botocore.utils import parse_timestamp

from walkeeper.errors import ConfigError
from walkeeper.storage.s3_data import LeanFiles
from walkeeper.storage.settings import StorageSettings

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer
    from botocore.awsrequest import AWSPreparedRequest
    from types_aiobotocore_s3.client import S3Client

_DEFAULT_REGION: Final = "us-east-1"  # what S3 look-alikes call themselves
_LARGE_BODY_BYTES: Final = 512 * 1024  # aiohttp takes up to 1 MiB in one go
_BLOCK_BYTES: Final = 256 * 1024
_SIGNATURE: Final = "s3v4-walkeeper"
_CONNECTIONS_PER_OPERATION: Final = 3  # two pieces in flight and a request beside them


class Body(io.RawIOBase):
    """Bytes of the caller's as the file that botocore wants, without a copy of them.

    A BytesIO copies what is not ``bytes``, 16 MiB for each segment on its way. Closing it lets go
    of the bytes: what botocore keeps of a request lives on until the garbage collector comes.
    ``sha256`` of the bytes, in hexadecimal, is signed; without it the payload is not.
    """

    def __init__(self, data: bytes | memoryview, sha256: str = "") -> None:
        super().__init__()
        self.view = memoryview(data)
        self.sha256 = sha256
        self._at = 0

    def readable(self) -> bool:
        """It is."""
        return True

    def seekable(self) -> bool:
        """It is, so that its length can be found and it can be sent again."""
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        """See `io.RawIOBase`."""
        target = memoryview(buffer)
        piece = self.view[self._at : self._at + len(target)]
        target[: len(piece)] = piece
        self._at += len(piece)
        return len(piece)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """See `io.RawIOBase`."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: len(self.view)}[whence]
        self._at = base + offset
        return self._at

    def tell(self) -> int:
        """See `io.RawIOBase`."""
        return self._at

    def close(self) -> None:
        """Let go of the bytes."""
        self.view = memoryview(b"")
        super().close()


class _Signer(S3SigV4Auth):
    """Signs the digest that a body brings along; its own would be computed on the event loop."""

    def payload(self, request: Any) -> str:
        body = request.body
        if isinstance(body, Body) and body.sha256:
            return body.sha256
        return str(super().payload(request))


AUTH_TYPE_MAPS[_SIGNATURE] = _Signer


def _choose_signer(signature_version: Any, **_: Any) -> str | None:
    """Ours where botocore's for S3 would be taken, not for S3 Express and the like."""
    return _SIGNATURE if signature_version in {"v4", "s3v4"} else None


class _Session(AIOHTTPSession):  # type: ignore[misc]
    """Sends every request once, large bodies without a copy, small ones without asking first.

    botocore asks with ``Expect: 100-continue`` before any body. For a large one that is well: a
    refusal (412, 503) comes before megabytes were sent in vain. For the rest it doubles the delay.
    aiohttp repeats a request by itself when a connection breaks; that is ours to decide.
    """

    async def send(self, request: AWSPreparedRequest) -> Any:
        if isinstance(request.body, Body):
            body = request.body
            if len(body.view) < _LARGE_BODY_BYTES:
                request.body = bytes(body.view)
                del request.headers["Expect"]  # not part of what is signed; none is no error
            else:
                request.body = _in_blocks(body)
        return await super().send(request)

    async def _get_session(self, proxy_url: str | None) -> Any:
        session = await super()._get_session(proxy_url)
        session._retry_connection = False  # noqa: SLF001  # no public switch in aiohttp 3
        return session


async def _in_blocks(body: Body) -> AsyncIterator[memoryview]:
    """Lets others have their turn while megabytes go out, and TLS encrypt them in small steps."""
    for begin in range(0, len(body.view), _BLOCK_BYTES):
        if body.closed:  # answered before all was sent: the connection is of no use any more
            raise ConnectionAbortedError("the request has ended")
        yield body.view[begin : begin + _BLOCK_BYTES]
        await asyncio.sleep(0)  # a fast socket takes everything without a pause


@asynccontextmanager
async def new_client(settings: StorageSettings) -> AsyncIterator[S3Client]:
    """A client for the store of ``settings``; leaving the context closes its connections."""
    session = new_session(settings)
    session.get_component("data_loader").file_loader = LeanFiles()
    parsers = session.get_component("response_parser_factory")
    parsers.set_parser_defaults(timestamp_parser=parse_moment)
    if settings.access_key_id is None:
        await load_credentials(session.get_credentials())  # which the session keeps
    secret, token = settings.secret_access_key, settings.session_token
    region = settings.region or session.get_config_variable("region") or _DEFAULT_REGION
    async with session.create_client(
        "s3",
        region_name=region,
        endpoint_url=settings.endpoint_url,
        verify=None if settings.ca_file is None else str(settings.ca_file),
        aws_access_key_id=settings.access_key_id,
        aws_secret_access_key=None if secret is None else secret.reveal(),
        aws_session_token=None if token is None else token.reveal(),
        config=_client_config(settings),
    ) as client:
        for operation in ("PutObject", "UploadPart"):
            client.meta.events.register(f"choose-signer.s3.{operation}", _choose_signer)
        yield client


def new_session(settings: StorageSettings) -> AioSession:
    """What finds credentials and makes clients."""
    session = get_session()
    if settings.profile is not None:
        session.set_config_variable("profile", settings.profile)
    return session


def parse_moment(value: Any) -> datetime:
    """A moment as a store writes it, aware.

    The form of listings is read at once; botocore tries others first, which takes five times as
    long as all the rest of what a listing says of an object.
    """
    try:
        moment = datetime.fromisoformat(value)
    except (TypeError, ValueError):
        return parse_timestamp(value)
    return moment if moment.tzinfo else parse_timestamp(value)


async def load_credentials(found: Awaitable[Any]) -> Any:
    """What a session or its chain finds, None for nothing; raises ConfigError for what is broken.

    botocore reads a date in it, and stumbles over one without a zone at each request.
    """
    try:
        credentials = await found
        if isinstance(credentials, RefreshableCredentials):
            credentials.refresh_needed()
    except (ValueError, TypeError) as error:
        raise ConfigError(
            f"the credentials of the store cannot be used: {error}",
            hint="AWS_CREDENTIAL_EXPIRATION and the like are of the form 2026-11-21T03:00:00Z",
        ) from None
    return credentials


def _client_config(settings: StorageSettings) -> AioConfig:
    return AioConfig(
        http_session_cls=_Session,
        warm_up_loader_caches=True,  # megabytes of service description, read in a thread
        connect_timeout=settings.connect_timeout_s,
        read_timeout=settings.read_timeout_s,
        max_pool_connections=settings.max_concurrent * _CONNECTIONS_PER_OPERATION,
        retries={"total_max_attempts": 1, "mode": "standard"},
        # Look-alikes refuse the trailing checksums that are botocore's default; a body has a digest
        # of ours, which was computed in a thread.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        s3={
            "addressing_style": settings.addressing_style,
            # SHA-256 of 16 MiB would hold up the event loop; see `_Signer`.
            "payload_signing_enabled": False,
        },
    )
