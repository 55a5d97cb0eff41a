"""What S3, botocore and aiohttp raise, in the words of `walkeeper.errors`.

Decided on status and code alone: Ceph answers with an empty message, proxies with a page of HTML.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import aiohttp
import botocore.exceptions as boto
from botocore.parsers import ResponseParserError

from walkeeper.errors import (
    ConfigError,
    ObjectExists,
    ObjectFrozen,
    ObjectNotFound,
    StorageDenied,
    StorageError,
    StorageFull,
    StorageUnavailable,
    WalkeeperError,
)
from walkeeper.log import redact_text

_EXPIRED: Final = "credentials are still expired."
"""How the RuntimeError ends that botocore raises (credentials.py, RefreshableCredentials)."""


class UploadGone(StorageError):
    """The multipart upload does not exist (any more): completed before, or aborted by others."""


class DigestMismatch(StorageUnavailable):
    """What arrived is not what the digest was made of: damaged on the way."""


class NotImplementedByStore(StorageError):
    """The store knows the request, or a condition in it, not at all (501)."""


_BY_CODE: Final[dict[str, type[StorageError]]] = {
    "NoSuchKey": ObjectNotFound,
    "NoSuchUpload": UploadGone,
    "NoSuchBucket": StorageError,
    "PreconditionFailed": ObjectExists,
    "InvalidObjectState": ObjectFrozen,
    "QuotaExceeded": StorageFull,
    "XMinioStorageFull": StorageFull,
    "ExpiredToken": StorageDenied,
    "InvalidToken": StorageDenied,
    "TokenRefreshRequired": StorageDenied,
    # Damaged or cut on the way to the store, or too slow: another attempt may succeed.
    "BadDigest": DigestMismatch,
    "IncompleteBody": StorageUnavailable,
    "XAmzContentSHA256Mismatch": DigestMismatch,
    "RequestTimeout": StorageUnavailable,
    "InternalError": StorageUnavailable,
    "SlowDown": StorageUnavailable,
    "ServiceUnavailable": StorageUnavailable,
}
_BY_STATUS: Final[dict[int, type[StorageError]]] = {
    401: StorageDenied,
    403: StorageDenied,
    # No code that says what is missing: a proxy, a wrong endpoint. Not an answer about the object.
    404: StorageUnavailable,
    408: StorageUnavailable,
    409: StorageUnavailable,  # two conditional writes met, or one met a deletion: ask again
    412: ObjectExists,
    425: StorageUnavailable,
    429: StorageUnavailable,
    501: NotImplementedByStore,
    507: StorageFull,
}
_HINTS: Final[dict[str, str]] = {
    "NoSuchBucket": "create the bucket, or correct the repository's url",
    "RequestTimeTooSkewed": "set the clock: the store and this host differ by minutes",
    "SignatureDoesNotMatch": "check the secret access key",
    "InvalidAccessKeyId": "check the access key id",
    "PermanentRedirect": "check region and endpoint_url",
    "AuthorizationHeaderMalformed": "check the region",
    "InvalidObjectState": "restore the object from its cold storage class first",
    "EntityTooSmall": "the store wants larger pieces: raise piece_size",
}

UNAVAILABLE: Final = (
    boto.HTTPClientError,
    boto.ConnectionError,
    boto.IncompleteReadError,
    boto.ChecksumError,
    boto.FlexibleChecksumError,
    boto.AwsChunkedWrapperError,
    boto.MetadataRetrievalError,
    boto.CredentialRetrievalError,
    boto.EventStreamError,
    boto.CapacityNotAvailableError,
)
"""The store, or the service that gives out credentials, could not be asked or did not answer."""

DENIED: Final = (
    boto.NoCredentialsError,
    boto.PartialCredentialsError,
    boto.NoAuthTokenError,
    boto.TokenRetrievalError,
    boto.SSOError,
    boto.LoginError,
    boto.RefreshWithMFAUnsupportedError,
    boto.UnknownCredentialError,
)
"""There are no usable credentials."""

MISCONFIGURED: Final = (
    boto.ProfileNotFound,
    boto.ConfigParseError,
    boto.ConfigNotFound,
    boto.BaseEndpointResolverError,
    boto.EndpointProviderError,
    boto.UnknownRegionError,
    boto.ServiceNotInRegionError,
    boto.InvalidRegionError,
    boto.InvalidIMDSEndpointError,
    boto.InvalidIMDSEndpointModeError,
    boto.UnknownTokenProviderError,
    boto.UnknownSignatureVersionError,
    boto.UnsupportedSignatureVersionError,
    boto.InvalidDNSNameError,
    boto.InvalidHostLabelError,
    boto.InvalidS3AddressingStyleError,
    boto.UnsupportedS3ArnError,
    boto.UnsupportedS3ControlArnError,
    boto.UnsupportedOutpostResourceError,
    boto.UnsupportedS3ConfigurationError,
    boto.UnsupportedS3AccesspointConfigurationError,
    boto.UnsupportedS3ControlConfigurationError,
    boto.InvalidEndpointDiscoveryConfigurationError,
    boto.InvalidEndpointConfigurationError,
    boto.InvalidRetryConfigurationError,
    boto.InvalidS3UsEast1RegionalEndpointConfigError,
    boto.InvalidSTSRegionalEndpointsConfigError,
    boto.InvalidConfigError,
    boto.InvalidProxiesConfigError,
    boto.InvalidDefaultsMode,
    boto.InvalidChecksumConfigError,
    boto.MissingDependencyException,
)
"""A profile, an environment variable or a setting makes no sense."""

MISUSED: Final = (
    boto.ParamValidationError,
    boto.ValidationError,
    boto.AliasConflictParameterError,
    boto.MissingParametersError,
    boto.DataNotFoundError,
    boto.ApiVersionNotFoundError,
    boto.UnknownServiceStyle,
    boto.UnknownClientMethodError,
    boto.UnsupportedServiceProtocolsError,
    boto.PaginationError,
    boto.OperationNotPageableError,
    boto.UnseekableStreamError,
    boto.WaiterError,
    boto.WaiterConfigError,
    boto.InvalidExpressionError,
    boto.StubResponseError,
    boto.MD5UnavailableError,
    boto.UndefinedModelAttributeError,
)
"""The request could not be made at all: a mistake of ours or of the installation."""


@contextmanager
def s3_errors(operation: str, target: str) -> Iterator[None]:
    """Turns whatever the block's request raises into a `WalkeeperError` that names ``operation``
    and ``target``; both become part of the message."""
    what = f"{operation} {target}"
    try:
        yield
    except boto.ClientError as error:
        raise from_answer(what, error) from error
    except (boto.BotoCoreError, boto.UndefinedModelAttributeError) as error:
        raise from_botocore(what, error) from error
    except RuntimeError as error:
        if not str(error).endswith(_EXPIRED):
            raise
        raise StorageDenied(
            f"{what}: the credentials have expired", hint="give the agent's user new ones"
        ) from error
    except ResponseParserError as error:
        text = redact_text(str(error))
        raise StorageUnavailable(f"{what}: the answer is not S3's: {text}") from error
    except aiohttp.InvalidURL as error:
        raise ConfigError(f"{what}: not a URL: {error}") from error
    except (aiohttp.ClientError, OSError) as error:
        text = str(error) or type(error).__name__
        raise StorageUnavailable(f"{what}: {text}") from error


def from_answer(what: str, error: boto.ClientError) -> StorageError:
    """What an error that the store itself sent means."""
    answer = error.response
    metadata = answer.get("ResponseMetadata", {})
    status = metadata.get("HTTPStatusCode", 0)
    code = answer.get("Error", {}).get("Code") or ""
    said = answer.get("Error", {}).get("Message") or ""  # None for an empty element
    text = redact_text(said)  # some repeat what they were sent
    message = " ".join(f"{what}: {status} {code if code != str(status) else ''} {text}".split())
    kind = _BY_CODE.get(code) or _BY_STATUS.get(status) or _by_range(status)
    result = kind(message, hint=_HINTS.get(code))
    if isinstance(result, StorageUnavailable):
        result.retry_after_s = _retry_after(metadata.get("HTTPHeaders", {}))
    return result


def from_botocore(what: str, error: Exception) -> WalkeeperError:
    """What an error that botocore made itself means."""
    message = redact_text(f"{what}: {error}")  # what a credential process has printed, for one
    if isinstance(error, boto.SSLError) and _is_distrust(error):
        return StorageError(message, hint="is ca_file the authority that signed the store's key?")
    if isinstance(error, UNAVAILABLE):
        return StorageUnavailable(message)
    if isinstance(error, DENIED):
        return StorageDenied(message, hint="give the AWS credentials of the agent's user")
    if isinstance(error, MISCONFIGURED):
        return ConfigError(message)
    return StorageError(message)


def _by_range(status: int) -> type[StorageError]:
    # 200: an error inside a successful answer. 3xx and 4xx: refused, and will be again.
    return StorageError if 300 <= status < 500 else StorageUnavailable


def _is_distrust(error: boto.SSLError) -> bool:
    cause = error.kwargs.get("error")
    return isinstance(
        cause, (aiohttp.ClientConnectorCertificateError, ssl.SSLCertVerificationError)
    )


def _retry_after(headers: dict[str, str]) -> float | None:
    """The pause in seconds that was asked for; the form with a date is not used by S3 stores."""
    value = headers.get("retry-after", "")
    return float(value) if value.isascii() and value.isdecimal() and len(value) < 5 else None
