"""What the errors of botocore, aiohttp and S3 mean."""

from __future__ import annotations

import inspect

import aiohttp
import botocore.exceptions
import pytest
from botocore.exceptions import ClientError
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
from walkeeper.storage.s3_errors import DENIED, MISCONFIGURED, MISUSED, UNAVAILABLE, s3_errors

KNOWN = (*UNAVAILABLE, *DENIED, *MISCONFIGURED, *MISUSED)
THEIR_CLASSES = [
    kind
    for _, kind in inspect.getmembers(botocore.exceptions, inspect.isclass)
    if issubclass(kind, Exception)
    and not issubclass(kind, Warning)
    and kind.__module__ == "botocore.exceptions"
    and kind not in {botocore.exceptions.BotoCoreError, ClientError}
]


def answer(status: int, code: str, headers: dict[str, str] | None = None) -> ClientError:
    return ClientError(
        {
            "Error": {"Code": code, "Message": ""},
            "ResponseMetadata": {"HTTPStatusCode": status, "HTTPHeaders": headers or {}},
        },  # type: ignore[typeddict-item]
        "SomeOperation",
    )


def translated(error: BaseException) -> WalkeeperError:
    with pytest.raises(WalkeeperError) as caught, s3_errors("put", "s3://bucket/key"):
        raise error
    return caught.value


@pytest.mark.parametrize("kind", THEIR_CLASSES, ids=lambda kind: kind.__name__)
def test_every_class_of_botocore_has_a_meaning(kind: type[Exception]) -> None:
    assert issubclass(kind, KNOWN), f"decide what {kind.__name__} means in s3_errors.py"


@pytest.mark.parametrize("kind", KNOWN, ids=lambda kind: kind.__name__)
def test_no_class_of_botocore_has_two_meanings(kind: type[Exception]) -> None:
    groups = [UNAVAILABLE, DENIED, MISCONFIGURED]
    assert sum(issubclass(kind, group) for group in groups) <= 1


@pytest.mark.parametrize(
    ("status", "code", "expected"),
    [
        (404, "NoSuchKey", ObjectNotFound),
        (404, "NoSuchBucket", StorageError),
        (404, "NoSuchUpload", StorageError),
        (404, "404", StorageUnavailable),
        (404, "", StorageUnavailable),
        (412, "PreconditionFailed", ObjectExists),
        (412, "412", ObjectExists),
        (409, "ConditionalRequestConflict", StorageUnavailable),
        (409, "OperationAborted", StorageUnavailable),
        (403, "AccessDenied", StorageDenied),
        (403, "403", StorageDenied),
        (403, "SignatureDoesNotMatch", StorageDenied),
        (403, "RequestTimeTooSkewed", StorageDenied),
        (403, "InvalidObjectState", ObjectFrozen),
        (403, "QuotaExceeded", StorageFull),
        (400, "ExpiredToken", StorageDenied),
        (401, "", StorageDenied),
        (400, "BadDigest", StorageUnavailable),
        (400, "RequestTimeout", StorageUnavailable),
        (400, "InvalidArgument", StorageError),
        (400, "EntityTooSmall", StorageError),
        (301, "PermanentRedirect", StorageError),
        (405, "MethodNotAllowed", StorageError),
        (411, "MissingContentLength", StorageError),
        (416, "InvalidRange", StorageError),
        (429, "TooManyRequests", StorageUnavailable),
        (500, "InternalError", StorageUnavailable),
        (500, "", StorageUnavailable),
        (501, "NotImplemented", StorageError),
        (502, "502", StorageUnavailable),
        (503, "SlowDown", StorageUnavailable),
        (503, "503", StorageUnavailable),
        (504, "504", StorageUnavailable),
        (507, "InsufficientStorage", StorageFull),
        (200, "InternalError", StorageUnavailable),
        (200, "SomethingNew", StorageUnavailable),
    ],
)
def test_status_and_code_decide(status: int, code: str, expected: type[StorageError]) -> None:
    error = translated(answer(status, code))
    assert isinstance(error, expected)
    assert error.retryable == (expected is StorageUnavailable)
    if expected is not ObjectNotFound:
        assert not isinstance(error, ObjectNotFound)


def test_a_message_names_operation_key_status_and_code_though_the_store_said_nothing() -> None:
    error = translated(answer(403, "QuotaExceeded"))
    assert str(error) == "put s3://bucket/key: 403 QuotaExceeded"


def test_what_can_be_done_is_said() -> None:
    assert "clock" in (translated(answer(403, "RequestTimeTooSkewed")).hint or "")
    assert "bucket" in (translated(answer(404, "NoSuchBucket")).hint or "")


@pytest.mark.parametrize(
    ("value", "expected"),
    [("7", 7.0), ("0", 0.0), ("", None), ("Wed, 21 Oct 2026", None), ("-1", None), ("9e9", None)],
)
def test_the_pause_that_a_store_asks_for_is_kept(value: str, expected: float | None) -> None:
    error = translated(answer(503, "SlowDown", {"retry-after": value}))
    assert isinstance(error, StorageUnavailable)
    assert error.retry_after_s == expected


@pytest.mark.parametrize(
    "error",
    [
        aiohttp.ClientPayloadError("cut"),
        aiohttp.ServerDisconnectedError(),
        aiohttp.ClientOSError(104, "reset"),
        ConnectionResetError(),
        TimeoutError(),
        ResponseParserError("not XML"),
        botocore.exceptions.ReadTimeoutError(endpoint_url="http://x"),
        botocore.exceptions.EndpointConnectionError(endpoint_url="http://x"),
        botocore.exceptions.IncompleteReadError(actual_bytes=1, expected_bytes=2),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_never_arrived_is_unavailable(error: Exception) -> None:
    assert isinstance(translated(error), StorageUnavailable)
    assert str(translated(error)).startswith("put s3://bucket/key: ")
    assert not str(translated(error)).endswith(": ")


def test_missing_credentials_are_denied_and_a_wrong_profile_is_configuration() -> None:
    assert isinstance(translated(botocore.exceptions.NoCredentialsError()), StorageDenied)
    profile = botocore.exceptions.ProfileNotFound(profile="x")
    assert isinstance(translated(profile), ConfigError)
    assert isinstance(translated(aiohttp.InvalidURL("x")), ConfigError)


def test_errors_of_the_program_pass_untouched() -> None:
    with pytest.raises(KeyError), s3_errors("put", "s3://bucket/key"):
        raise KeyError("mistake")
